"""What the tools for data take, print and how they end."""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from fla.data.importers.options import Options, read_exclusions
from fla.data.importers.report import ImportReport
from fla.data.importers.report_text import summarize
from fla.errors import FlaError
from fla.progress import count_progress

# What shells give for Ctrl-C: 128 and the number of the signal.
_STOPPED = 130

_SPLITS = ("train", "dev", "test")

Import = Callable[[Options, Callable[[int, int], None]], ImportReport]
"""Imports a corpus as asked for; calls a function with the units done so far and their total."""


def import_parser(
    *, description: str, source: str, labels: str, defaults: Options
) -> argparse.ArgumentParser:
    """The words that every importer takes; `run_import` understands them.

    Args:
        description: What the tool does.
        source: Which folder is imported.
        labels: Whose label files can be read.
        defaults: What holds where the user says nothing.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("source_dir", type=Path, help=source)
    parser.add_argument("output_dir", type=Path, help="folder for the manifests and the report")
    parser.add_argument(
        "--labels",
        nargs=len(_SPLITS),
        metavar=("TRAIN", "DEV", "TEST"),
        default=(),
        help=f"label files of {labels} in place of the annotation's sentences; "
        "- keeps the annotation of a split",
    )
    parser.add_argument(
        "--exclude",
        type=Path,
        metavar="FILE",
        help="rows to leave out: a TSV file with the header id, reason",
    )
    parser.add_argument(
        "--min-frames",
        type=_positive,
        metavar="N",
        default=defaults.min_frames,
        help="leave out clips of fewer frames (default: %(default)s)",
    )
    parser.add_argument(
        "--repair-mojibake",
        action="store_true",
        help="repair train sentences that are UTF-8 read as Latin-1; dev and test stay as they are",
    )
    return parser


def run_import(import_corpus: Import, words: argparse.Namespace, *, unit: str) -> int:
    """Import with progress, print the summary or the one sentence of an error.

    Args:
        import_corpus: Does it.
        words: Of `import_parser`.
        unit: What is counted, plural.

    Returns:
        The exit code.
    """

    def work() -> int:
        report = import_corpus(_read_options(words), count_progress("read", unit=unit))
        print(summarize(report))
        print(f"Every dropped row and why: {words.output_dir / 'report.txt'}")
        return 0

    return run_tool(work)


def run_tool(work: Callable[[], int]) -> int:
    """Do a tool's work with its log on stdout; an error or Ctrl-C is one sentence on stderr.

    Args:
        work: Gives the exit code.

    Returns:
        The exit code: that of `work`, of its error, or 130 for Ctrl-C.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        return work()
    except FlaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        # A full disk names no file.
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped by Ctrl-C.", file=sys.stderr)
        return _STOPPED


def _read_options(words: argparse.Namespace) -> Options:
    labels = zip(_SPLITS, words.labels, strict=False)
    return Options(
        labels={split: Path(name) for split, name in labels if name != "-"},
        excluded=read_exclusions(words.exclude) if words.exclude else {},
        min_frames=words.min_frames,
        repair_mojibake=words.repair_mojibake,
    )


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return number

"""What the tools for data print and how they end."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from fla.data.importers.report import ImportReport
from fla.errors import FlaError
from fla.progress import count_progress

# What shells give for Ctrl-C: 128 and the number of the signal.
_STOPPED = 130

Import = Callable[[Callable[[int, int], None]], ImportReport]
"""Imports a corpus; takes a function to call with the units done so far and their total."""


def run_import(import_corpus: Import, *, output: Path, unit: str) -> int:
    """Import with progress, print the summary or the one sentence of an error.

    Args:
        import_corpus: Does it.
        output: Folder that the report is in.
        unit: What is counted, plural.

    Returns:
        The exit code.
    """

    def work() -> int:
        report = import_corpus(count_progress("read", unit=unit))
        print(report.summary())
        print(f"Every dropped row and why: {output / 'report.txt'}")
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
        print(f"error: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped by Ctrl-C.", file=sys.stderr)
        return _STOPPED

"""Turn a How2Sign download into manifests: python tools/import_how2sign.py SOURCE_DIR OUT_DIR."""

import argparse
import sys
import time
from pathlib import Path

from fla.data.importers.how2sign import import_how2sign
from fla.errors import FlaError

SECONDS_BETWEEN_LINES = 3.0


class Progress:
    """One line that is drawn over on a terminal, else a new line every few seconds."""

    def __init__(self) -> None:
        self.last_s = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        line = f"read {done} of {total} recordings"
        if sys.stdout.isatty():
            print(f"\r{line}", end="\n" if done == total else "", flush=True)
            return
        if done == total or time.monotonic() - self.last_s >= SECONDS_BETWEEN_LINES:
            self.last_s = time.monotonic()
            print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Write train.tsv, dev.tsv, test.tsv and a report about every row of How2Sign. "
        "No video is cut or copied: a sample is a range of a recording.",
    )
    parser.add_argument(
        "source", type=Path, help="folder that holds video_level/ and sentence_level/"
    )
    parser.add_argument("output", type=Path, help="folder for the manifests and the report")
    arguments = parser.parse_args()
    try:
        report = import_how2sign(arguments.source, arguments.output, on_progress=Progress())
    except FlaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 1
    print(report.summary())
    print(f"Every dropped row and why: {arguments.output / 'report.txt'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Turn a How2Sign download into manifests: python tools/import_how2sign.py SOURCE_DIR OUT_DIR."""

import argparse
import logging
import sys
from pathlib import Path

from fla.data.importers.how2sign import import_how2sign
from fla.errors import FlaError
from fla.progress import count_progress


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
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    on_progress = count_progress("read", unit="recordings")
    try:
        report = import_how2sign(arguments.source, arguments.output, on_progress=on_progress)
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

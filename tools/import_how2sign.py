"""Turn a How2Sign download into manifests: python tools/import_how2sign.py SOURCE_DIR OUT_DIR."""

import argparse
import sys
from pathlib import Path

from fla.data.command import run_import
from fla.data.importers.how2sign import import_how2sign


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Write train.tsv, dev.tsv, test.tsv and a report about every row of How2Sign. "
        "No video is cut or copied: a sample is a range of a recording.",
    )
    parser.add_argument(
        "source", type=Path, help="folder that holds video_level/ and sentence_level/"
    )
    parser.add_argument("output", type=Path, help="folder for the manifests and the report")
    words = parser.parse_args()
    return run_import(
        lambda on_progress: import_how2sign(words.source, words.output, on_progress=on_progress),
        output=words.output,
        unit="recordings",
    )


if __name__ == "__main__":
    sys.exit(main())

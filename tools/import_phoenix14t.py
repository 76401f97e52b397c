"""PHOENIX14T to manifests: python tools/import_phoenix14t.py SOURCE_DIR OUT_DIR."""

import argparse
import sys
from pathlib import Path

from fla.data.command import run_import
from fla.data.importers.phoenix14t import SPLITS, import_phoenix14t


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Write train.tsv, dev.tsv, test.tsv and a report about every row of "
        "PHOENIX14T. No image is copied: a sample is a folder of images.",
    )
    parser.add_argument("source", type=Path, help="the folder PHOENIX-2014-T, or one around it")
    parser.add_argument("output", type=Path, help="folder for the manifests and the report")
    parser.add_argument(
        "--labels",
        type=Path,
        nargs=len(SPLITS),
        metavar=("TRAIN", "DEV", "TEST"),
        default=(),
        help="label files of GFSLT-VLP or SLRT instead of the official annotation",
    )
    words = parser.parse_args()
    labels = dict(zip(SPLITS, words.labels, strict=False))
    return run_import(
        lambda on_progress: import_phoenix14t(
            words.source, words.output, labels=labels, on_progress=on_progress
        ),
        output=words.output,
        unit="folders",
    )


if __name__ == "__main__":
    sys.exit(main())

"""CSL-Daily to manifests: python tools/import_csl_daily.py SOURCE_DIR OUT_DIR."""

import argparse
import sys
from pathlib import Path

from fla.data.command import run_import
from fla.data.importers.csl_daily import SPLITS, import_csl_daily


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Write train.tsv, dev.tsv, test.tsv and a report about every row of "
        "CSL-Daily. No image is copied: a sample is a folder of images.",
    )
    parser.add_argument(
        "source", type=Path, help="folder that holds sentence_frames-512x512/ and sentence_label/"
    )
    parser.add_argument("output", type=Path, help="folder for the manifests and the report")
    parser.add_argument(
        "--labels",
        type=Path,
        nargs=len(SPLITS),
        metavar=("TRAIN", "DEV", "TEST"),
        default=(),
        help="label files of Uni-Sign or SLRT instead of the official annotation",
    )
    words = parser.parse_args()
    labels = dict(zip(SPLITS, words.labels, strict=False))
    return run_import(
        lambda on_progress: import_csl_daily(
            words.source, words.output, labels=labels, on_progress=on_progress
        ),
        output=words.output,
        unit="folders",
    )


if __name__ == "__main__":
    sys.exit(main())

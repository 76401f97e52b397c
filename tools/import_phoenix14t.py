"""PHOENIX14T to manifests: python tools/import_phoenix14t.py SOURCE_DIR OUT_DIR."""

import sys

from fla.data.command import import_parser, run_import
from fla.data.importers.phoenix14t import DEFAULTS, import_phoenix14t


def main() -> int:
    parser = import_parser(
        description="Write train.tsv, dev.tsv, test.tsv and a report about every row of "
        "PHOENIX14T. No image is copied: a sample is a folder of images.",
        source="the folder PHOENIX-2014-T, or one around it",
        labels="GFSLT-VLP or SLRT",
        defaults=DEFAULTS,
    )
    words = parser.parse_args()
    return run_import(
        lambda options, on_progress: import_phoenix14t(
            words.source_dir, words.output_dir, options=options, on_progress=on_progress
        ),
        words,
        unit="folders",
    )


if __name__ == "__main__":
    sys.exit(main())

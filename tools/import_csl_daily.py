"""CSL-Daily to manifests: python tools/import_csl_daily.py SOURCE_DIR OUT_DIR."""

import sys

from fla.data.command import import_parser, run_import
from fla.data.importers.csl_daily import DEFAULTS, import_csl_daily


def main() -> int:
    parser = import_parser(
        description="Write train.tsv, dev.tsv, test.tsv and a report about every row of "
        "CSL-Daily. Nothing is copied: a sample is a folder of images, or a video.",
        source="folder that holds sentence_label/ and sentence_frames-512x512/ or sentence-crop/",
        labels="Uni-Sign or SLRT",
        defaults=DEFAULTS,
    )
    words = parser.parse_args()
    return run_import(
        lambda options, on_progress: import_csl_daily(
            words.source_dir, words.output_dir, options=options, on_progress=on_progress
        ),
        words,
        unit="clips",
    )


if __name__ == "__main__":
    sys.exit(main())

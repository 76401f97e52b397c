"""Turn a How2Sign download into manifests: python tools/import_how2sign.py SOURCE_DIR OUT_DIR."""

import sys

from fla.data.command import import_parser, run_import
from fla.data.importers.how2sign import DEFAULTS, import_how2sign
from fla.data.importers.how2sign_files import VARIANTS


def main() -> int:
    parser = import_parser(
        description="Write train.tsv, dev.tsv, test.tsv and a report about every row of How2Sign. "
        "No video is cut or copied: a sample is a range of a recording, or a clip.",
        source="folder that holds video_level/ and sentence_level/",
        labels="Uni-Sign",
        defaults=DEFAULTS,
    )
    parser.add_argument(
        "--source",
        choices=tuple(VARIANTS),
        default="realigned",
        help="realigned: whole recordings with the re-aligned stamps (default); original: whole "
        "recordings with the original stamps; clips: the pre-cut clips. The latter two do not "
        "match what is signed",
    )
    words = parser.parse_args()
    return run_import(
        lambda options, on_progress: import_how2sign(
            words.source_dir,
            words.output_dir,
            variant=words.source,
            options=options,
            on_progress=on_progress,
        ),
        words,
        unit="recordings",
    )


if __name__ == "__main__":
    sys.exit(main())

"""Decode every clip of manifests before a run does: python tools/check_data.py train.tsv ..."""

import argparse
import sys
from pathlib import Path

from fla.data.check import find_bad_clips
from fla.data.command import run_tool
from fla.data.manifest import check_manifest, read_manifest
from fla.progress import count_progress


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Decode every frame of every clip on all cores, and name those that fail. "
        "Exit code 1 where one does. A check that was stopped goes on where it was.",
    )
    parser.add_argument("manifest", type=Path, nargs="+", help="file that an importer wrote")
    parser.add_argument(
        "--video-root", default="", metavar="DIR", help="folder of the videos, if they moved"
    )
    words = parser.parse_args()

    def work() -> int:
        bad = 0
        for path in words.manifest:
            manifest = read_manifest(path, video_root=words.video_root)
            check_manifest(manifest)
            faults = find_bad_clips(manifest, on_progress=count_progress(str(path), unit="clips"))
            print("".join(f"{fault}\n" for fault in faults), end="")
            print(f"{path}: {len(manifest.samples)} clips, {len(faults)} do not decode.")
            bad += len(faults)
        return 1 if bad else 0

    return run_tool(work)


if __name__ == "__main__":
    sys.exit(main())

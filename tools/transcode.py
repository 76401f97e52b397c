"""Encode a corpus' recordings anew, smaller, so that training decodes them faster.

The copies in OUT_DIR have the recordings' relative paths: train with the same manifests and
data.video_root=OUT_DIR. Frames keep their number and times, colors and orientation; sound is left
out. A job that was stopped goes on; what is done and has not changed is left as it is. Exit code 1
where a recording does not decode; the others have their copies.
"""

import argparse
import sys
from pathlib import Path

from fla.data.command import run_tool
from fla.data.decode.encode import ENCODERS, Target
from fla.data.manifest import check_manifest, read_manifest
from fla.data.transcode import (
    check_containers,
    check_space,
    check_target,
    find_waiting,
    list_recordings,
    transcode,
)
from fla.data.transcode_forecast import forecast
from fla.progress import count_progress


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path, nargs="+", help="file that an importer wrote")
    parser.add_argument("output", type=Path, metavar="OUT_DIR", help="folder of the copies")
    parser.add_argument(
        "--video-root", default="", metavar="DIR", help="folder of the videos, if they moved"
    )
    parser.add_argument(
        "--short-side-px",
        type=int,
        default=256,
        metavar="N",
        help="width or height of the copies, whichever is less; smaller recordings keep their "
        "size. Default 256: crops of 224 pixels have room to move",
    )
    parser.add_argument(
        "--key-frame-every",
        type=int,
        default=12,
        metavar="N",
        help="a clip is decoded from the key frame before it; more of them cost bytes. "
        "Default 12: half a second at 25 frames a second",
    )
    parser.add_argument(
        "--codec",
        choices=tuple(ENCODERS),
        default="h264",
        help="default h264: the fastest to encode and to decode on a CPU, and every GPU decodes "
        "it; vp9 is what DALI decodes on a CPU; av1 is not decoded by A100 and H100; mjpeg takes "
        "several times the bytes",
    )
    defaults = ", ".join(f"{c} {e.crf}" for c, e in ENCODERS.items() if e.crf is not None)
    parser.add_argument(
        "--crf",
        type=int,
        metavar="N",
        help=f"quality, lower is better and larger; not for mjpeg. Default: {defaults}, all "
        "about one level of 255 from the source on average",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what it would bring, and write nothing"
    )
    return parser.parse_args()


def main() -> int:
    words = parse_arguments()

    def work() -> int:
        target = Target(
            codec=words.codec,
            crf=ENCODERS[words.codec].crf if words.crf is None else words.crf,
            short_side_px=words.short_side_px,
            key_frame_every=words.key_frame_every,
        )
        check_target(target)
        manifests = [read_manifest(path, video_root=words.video_root) for path in words.manifest]
        for manifest in manifests:
            check_manifest(manifest)
        recordings = list_recordings(manifests, words.output)
        check_containers(recordings, target.codec)
        waiting = find_waiting(recordings, words.output, target)
        print(f"{len(recordings)} recordings, {len(recordings) - len(waiting)} have their copies.")
        if not waiting:
            return 0
        expected, faults = forecast(waiting, target)
        if expected is None:
            print("No forecast: of the recordings that were tried, none decodes.")
        else:
            print(expected, flush=True)
            check_space(words.output, expected.bytes_then)
        if not words.dry_run:
            progress = count_progress("encode", unit="MB")
            faults = transcode(waiting, words.output, target, on_progress=progress)
        print("".join(f"{fault}\n" for fault in faults), end="")
        if not words.dry_run:
            print(f"{len(waiting) - len(faults)} copies made, {len(faults)} recordings have none.")
            print(f"Train with data.video_root={words.output}")
        return 1 if faults else 0

    return run_tool(work)


if __name__ == "__main__":
    sys.exit(main())

"""Translate videos of signing: python tools/translate.py VIDEO.mp4 --model EXPORT.

A video is taken for one sentence, unless its sentences are listed in a file (--segments) or looked
for by motion (--segment-automatically), which is approximate: a sentence is what lies between two
moments at which the hands rest. What does not decode is listed at the end, and the others are
translated; exit code 1 then.
"""

import argparse
import logging
import sys
from pathlib import Path

from fla.config.load import exit_on_user_error
from fla.translating.activity import Cut
from fla.translating.job import Job, check_job, read_inputs
from fla.translating.output import OUTPUT_FORMATS
from fla.translating.segments import Segment


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "input",
        type=Path,
        nargs="+",
        help="video file, folder of video files, or folder of a video's images (see --fps)",
    )
    add("--model", type=Path, required=True, metavar="EXPORT", help="export/ folder of a run")
    add("--out", type=Path, metavar="FILE", help="write there; its ending tells the format")
    add(
        "--format",
        choices=OUTPUT_FORMATS,
        help="text is a sentence a line, behind the video's name where there are several; tsv and "
        "jsonl have times and confidences; srt and vtt are subtitles (default: text)",
    )
    add("--num-beams", type=int, default=5, metavar="N", help="hypotheses kept while decoding")
    add(
        "--n-best",
        type=int,
        default=1,
        metavar="N",
        help="hypotheses of a sentence in tsv and jsonl, the best first. A confidence is the "
        "exponential of the mean log-probability of the tokens",
    )
    add("--start-s", type=float, metavar="S", help="begin of the sentence, in seconds")
    add("--end-s", type=float, metavar="S", help="end of the sentence, in seconds")
    add(
        "--segments",
        type=Path,
        metavar="FILE",
        help="where the sentences are: .srt, .vtt, .eaf of ELAN, or .tsv with start_s and end_s",
    )
    add("--tier", metavar="NAME", help="tier of an .eaf file, where several have annotations")
    add("--segment-automatically", action="store_true", help="find the sentences by motion")
    add(
        "--min-pause-s",
        type=float,
        metavar="S",
        help=f"rest of the hands that ends a sentence (default: {Cut.min_pause_s})",
    )
    add(
        "--max-length-s",
        type=float,
        metavar="S",
        help=f"longer ones are cut where they are nearest to rest (default: {Cut.max_length_s:g})",
    )
    add("--fps", type=float, default=0.0, metavar="N", help="frames a second of a folder of images")
    add(
        "--host-memory-gib",
        type=float,
        default=Job.host_memory_gib,
        metavar="N",
        help="memory for decoded frames (default: %(default)g)",
    )
    return parser


def read_job() -> Job:
    parser = build_parser()
    words = parser.parse_args()
    ways = {
        "--start-s and --end-s": words.start_s is not None or words.end_s is not None,
        "--segments": words.segments is not None,
        "--segment-automatically": words.segment_automatically,
    }
    given = [name for name, is_given in ways.items() if is_given]
    if len(given) > 1:
        parser.error(f"{' and '.join(given)}: each says where the sentences are. Choose one.")
    if words.tier is not None and words.segments is None:
        parser.error("--tier is of the file that --segments names.")
    pauses = {"min_pause_s": words.min_pause_s, "max_length_s": words.max_length_s}
    pauses = {name: value for name, value in pauses.items() if value is not None}
    if pauses and not words.segment_automatically:
        parser.error("--min-pause-s and --max-length-s belong to --segment-automatically.")
    return Job(
        inputs=tuple(words.input),
        model=words.model,
        out=words.out,
        format=words.format,
        num_beams=words.num_beams,
        num_hypotheses=words.n_best,
        whole=Segment(
            start_s=words.start_s or 0.0,
            end_s=float("inf") if words.end_s is None else words.end_s,
        ),
        segments=words.segments,
        tier=words.tier or "",
        cut=Cut(**pauses) if words.segment_automatically else None,
        images_fps=words.fps,
        host_memory_gib=words.host_memory_gib,
    )


def main() -> int:
    job = read_job()
    # Results alone go to standard output.
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    check_job(job)
    inputs = read_inputs(job)
    faults = list(inputs.faults)
    if inputs.parts:
        # torch takes seconds to import; a mistake is answered without it.
        from fla.translate_files import translate_files

        faults = translate_files(job, inputs)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())

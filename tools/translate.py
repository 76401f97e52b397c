"""Translate a video of one signed sentence: python tools/translate.py VIDEO.mp4 --model EXPORT."""

import argparse
import sys
from pathlib import Path

from fla.config.load import exit_on_user_error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path, help="video file; its whole length is one sentence")
    parser.add_argument(
        "--model", type=Path, required=True, metavar="EXPORT", help="export/ folder of a run"
    )
    parser.add_argument(
        "--start-s", type=float, default=0.0, help="begin of the sentence, in seconds"
    )
    parser.add_argument(
        "--end-s", type=float, default=float("inf"), help="end of the sentence, in seconds"
    )
    parser.add_argument("--num-beams", type=int, default=5, help="hypotheses kept while decoding")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    # torch takes seconds to import; help and a mistyped option are answered without it.
    from fla.search import Search
    from fla.translate import Segment, VideoTranslator

    segment = Segment(start_s=arguments.start_s, end_s=arguments.end_s)
    with VideoTranslator(arguments.model, search=Search(num_beams=arguments.num_beams)) as opened:
        (translation,) = opened.translate(arguments.video, [segment])
    print(translation.hypotheses[0].text)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
    sys.exit(0)

"""A local web page that translates videos: python tools/serve_page.py --model EXPORT."""

import argparse
import signal
import sys
from pathlib import Path

from fla.config.load import exit_on_user_error
from fla.errors import FlaError


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="EXPORT", help="export/ folder of a run"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; there is no password"
    )
    parser.add_argument("--port", type=int, default=7860, help="0: any that is free")
    parser.add_argument("--max-size-mb", type=float, default=100.0, help="largest upload, in MB")
    parser.add_argument(
        "--max-length-s", type=float, default=120.0, help="longest video, in seconds"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    try:
        # Here, since it takes seconds; help and a mistyped option are answered without it.
        from fla.page import Limits, serve_page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise FlaError(
            "The page needs gradio, which is not installed. Run `pip install 'fla-slt[demo]'`."
        ) from None
    from fla.search import Search
    from fla.translate import VideoTranslator

    limits = Limits(max_size_mb=arguments.max_size_mb, max_length_s=arguments.max_length_s)
    with VideoTranslator(arguments.model, search=Search(num_hypotheses=3)) as translator:
        serve_page(translator, host=arguments.host, port=arguments.port, limits=limits)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not at once: on the way out, uploads are deleted.
        signal.signal(number, lambda *_: sys.exit(0))
    with exit_on_user_error():
        main()
    sys.exit(0)

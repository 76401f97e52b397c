"""Make the demo corpus: an animated signer in H.264 recordings, in How2Sign's own layout."""

import argparse
import sys
import time
from dataclasses import fields
from pathlib import Path

from demo_corpus.corpus import CorpusSize, make_corpus


class Progress:
    """Says how far the drawing is: a bar on a terminal, else a line every few seconds."""

    def __init__(self) -> None:
        self.started_s = self.spoke_s = time.monotonic()
        self.is_terminal = sys.stdout.isatty()

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        if done < total and now_s - self.spoke_s < (0.2 if self.is_terminal else 5.0):
            return
        self.spoke_s = now_s
        line = f"recordings {done}/{total}, {now_s - self.started_s:.0f} s"
        if self.is_terminal:
            filled = round(40 * done / total)
            end = "\n" if done == total else ""
            print(f"\r[{'#' * filled}{'.' * (40 - filled)}] {line}", end=end, flush=True)
        else:
            print(line, flush=True)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("output", type=Path, metavar="OUT_DIR", help="folder to write into")
    parser.add_argument("--seed", type=int, default=1, help="decides every sentence and frame")
    for name, meaning in (
        ("train-sentences", "signed sentences to train on"),
        ("dev-sentences", "signed sentences of the split val"),
        ("test-sentences", "signed sentences of the split test"),
        ("text-sentences", "sentences of the text-only corpus"),
        ("size-px", "width and height of the videos, even"),
    ):
        default = getattr(CorpusSize, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=int, default=default, help=meaning)
    return parser.parse_args(argv)


def main() -> None:
    arguments = vars(parse_arguments(sys.argv[1:]))
    known = {field.name for field in fields(CorpusSize)}
    size = CorpusSize(**{key: value for key, value in arguments.items() if key in known})
    make_corpus(arguments["output"], size, seed=arguments["seed"], on_progress=Progress())
    print(f"Demo corpus in {arguments['output']}.")


if __name__ == "__main__":
    main()

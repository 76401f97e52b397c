"""Make the demo corpus: an animated signer in H.264 recordings, in How2Sign's own layout."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from demo_corpus.corpus import CorpusSize, make_corpus

from fla.data.command import run_tool
from fla.errors import ConfigError
from fla.progress import count_progress

# What the demo's recipes see.
_LEAST_PX = 32


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


def main() -> int:
    arguments = vars(parse_arguments(sys.argv[1:]))
    known = {field.name for field in fields(CorpusSize)}
    size = CorpusSize(**{key: value for key, value in arguments.items() if key in known})

    def work() -> int:
        if size.size_px % 2 or size.size_px < _LEAST_PX:
            raise ConfigError(
                f"--size-px ({size.size_px}) must be even and at least {_LEAST_PX}. Choose another."
            )
        make_corpus(
            arguments["output"],
            size,
            seed=arguments["seed"],
            on_progress=count_progress("film", unit="recordings"),
        )
        print(f"Demo corpus in {arguments['output']}.")
        return 0

    return run_tool(work)


if __name__ == "__main__":
    sys.exit(main())

"""Translate a split with an export or a checkpoint on all ranks, and score it.

deepspeed launchers/decode.py [RECIPE.yaml ...] [key=value ...]
Without a recipe: launchers/recipes/demo_decode.yaml.
"""

import sys
from pathlib import Path

from fla.config.check import check_decode
from fla.config.load import exit_on_user_error, load_config
from fla.config.schema import DecodeConfig

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "demo_decode.yaml"


def main() -> None:
    config = load_config(DecodeConfig, sys.argv[1:], default_recipe=DEFAULT_RECIPE, doc=__doc__)
    check_decode(config)
    # torch takes seconds to import; help and a mistyped key are answered without it.
    from fla.decoding import run_decoding

    run_decoding(config)


if __name__ == "__main__":
    with exit_on_user_error():
        main()

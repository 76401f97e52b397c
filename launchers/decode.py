"""Translate a split with an export or a checkpoint on all ranks, and score it.

deepspeed launchers/decode.py [RECIPE.yaml ...] [key=value ...]
Without a recipe: launchers/recipes/demo_decode.yaml.

python launchers/decode.py [RECIPE.yaml ...] [key=value ...] --check
looks at settings, data, text, weights and folders, says what a run would do, and writes nothing.
"""

import sys
from pathlib import Path

from fla.config.check import check_decode
from fla.config.load import exit_on_user_error, load_config, take_check_word
from fla.config.schema import DecodeConfig

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "demo_decode.yaml"


def main() -> None:
    words, is_dry_run = take_check_word(sys.argv[1:])
    config = load_config(DecodeConfig, words, default_recipe=DEFAULT_RECIPE, doc=__doc__)
    check_decode(config)
    # torch takes seconds to import; help and a mistyped key are answered without it.
    if is_dry_run:
        from fla.dry_run import dry_run_decoding

        dry_run_decoding(config)
        return
    from fla.decoding import run_decoding

    run_decoding(config)


if __name__ == "__main__":
    with exit_on_user_error():
        main()

"""Stage 1, visual initialing: train visual encoder, VL-Adapter and Light-T on the sentences.

deepspeed launchers/stage1.py [RECIPE.yaml ...] [key=value ...]
Without a recipe: launchers/recipes/demo_stage1.yaml.

python launchers/stage1.py [RECIPE.yaml ...] [key=value ...] --check
looks at settings, data, text, weights and folders, says what a run would do, and writes nothing.
"""

import sys
from pathlib import Path

from fla.config.check import check_stage1
from fla.config.load import exit_on_user_error, load_config, take_check_word
from fla.config.schema import Stage1Config

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "demo_stage1.yaml"


def main() -> None:
    words, is_dry_run = take_check_word(sys.argv[1:])
    config = load_config(Stage1Config, words, default_recipe=DEFAULT_RECIPE, doc=__doc__)
    check_stage1(config)
    # torch takes seconds to import; help and a mistyped key are answered without it.
    if is_dry_run:
        from fla.dry_run import dry_run_stage

        dry_run_stage(config)
        return
    from fla.stage1 import run_stage1

    run_stage1(config)


if __name__ == "__main__":
    with exit_on_user_error():
        main()

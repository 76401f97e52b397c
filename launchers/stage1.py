"""Stage 1, visual initialing: train visual encoder, VL-Adapter and Light-T on the sentences.

deepspeed launchers/stage1.py [RECIPE.yaml ...] [key=value ...]
Without a recipe: launchers/recipes/demo_stage1.yaml.
"""

import sys
from pathlib import Path

from fla.config.check import check_stage1
from fla.config.load import exit_on_user_error, load_config
from fla.config.schema import Stage1Config

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "demo_stage1.yaml"


def main() -> None:
    config = load_config(Stage1Config, sys.argv[1:], default_recipe=DEFAULT_RECIPE, doc=__doc__)
    check_stage1(config)
    # torch takes seconds to import; help and a mistyped key are answered without it.
    from fla.stage1 import run_stage1

    run_stage1(config)


if __name__ == "__main__":
    with exit_on_user_error():
        main()

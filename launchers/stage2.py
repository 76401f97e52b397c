"""Stage 2, LLM fine-tuning: train LLM-Adapter and LLM on a frozen visual encoder.

deepspeed launchers/stage2.py [RECIPE.yaml ...] [key=value ...]
Without a recipe: launchers/recipes/demo_stage2.yaml.
"""

import sys
from pathlib import Path

from fla.config.check import check_stage2
from fla.config.load import exit_on_user_error, load_config
from fla.config.schema import Stage2Config

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "demo_stage2.yaml"


def main() -> None:
    config = load_config(Stage2Config, sys.argv[1:], default_recipe=DEFAULT_RECIPE, doc=__doc__)
    check_stage2(config)
    # torch takes seconds to import; help and a mistyped key are answered without it.
    from fla.stage2 import run_stage2

    run_stage2(config)


if __name__ == "__main__":
    with exit_on_user_error():
        main()

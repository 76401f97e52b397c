"""Encode the clips of a corpus once: the features that stage 2 reads with features=cached.

python tools/cache_features.py [RECIPE.yaml ...] [key=value ...]
Or with several ranks: deepspeed tools/cache_features.py ...
It takes stage 2's recipe and words; without a recipe: launchers/recipes/demo_stage2.yaml. Train and
dev are encoded. What is there is not made again, and a job that was stopped goes on.
"""

import sys
from pathlib import Path

from fla.config.check import check_stage2
from fla.config.load import exit_on_user_error, load_config
from fla.config.schema import Stage2Config

DEFAULT_RECIPE = Path(__file__).parent.parent / "launchers" / "recipes" / "demo_stage2.yaml"


def main() -> None:
    config = load_config(
        Stage2Config,
        [*sys.argv[1:], "features=cached"],
        default_recipe=DEFAULT_RECIPE,
        doc=__doc__,
    )
    check_stage2(config)
    # torch takes seconds to import; help and a mistyped key are answered without it.
    from fla.encoding import run_encoding

    run_encoding(config)


if __name__ == "__main__":
    with exit_on_user_error():
        main()

"""Train a small mBART by denoising text: vocabulary, weights, Hugging Face folder.

python tools/pretrain_mbart.py [RECIPE.yaml ...] [key=value ...]
Or with several ranks: deepspeed tools/pretrain_mbart.py ...
Without a recipe: launchers/recipes/demo_mbart.yaml.
"""

import sys
from pathlib import Path

from fla.config.check import check_pretrain
from fla.config.load import exit_on_user_error, load_config
from fla.config.schema import PretrainConfig

DEFAULT_RECIPE = Path(__file__).parent.parent / "launchers" / "recipes" / "demo_mbart.yaml"


def main() -> None:
    config = load_config(PretrainConfig, sys.argv[1:], default_recipe=DEFAULT_RECIPE, doc=__doc__)
    check_pretrain(config)
    # torch takes seconds to import; help and a mistyped key are answered without it.
    from fla.pretrain import run_pretraining

    run_pretraining(config)


if __name__ == "__main__":
    with exit_on_user_error():
        main()

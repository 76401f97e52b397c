"""What a stage-2 run will take: python tools/plan_run.py [RECIPE.yaml ...] [key=value ...]"""

import argparse
import sys
from pathlib import Path
from typing import Any

from fla.config.load import load_config
from fla.config.schema import Stage2Config
from fla.data.command import run_tool

DEFAULT_RECIPE = Path(__file__).parents[1] / "launchers" / "recipes" / "demo_stage2.yaml"
DEFAULT_SCALE = (8, 64, 512)


def main() -> int:
    parser = _parser()
    words = parser.parse_intermixed_args()
    if words.measured and words.scale is None:
        parser.error("--measured is for predictions: give --scale, too")

    def work() -> int:
        config = load_config(Stage2Config, words.words, default_recipe=DEFAULT_RECIPE)
        # torch takes seconds to import; help and a mistyped key are answered without it.
        from fla.plan.run import plan_run
        from fla.plan.text import check_fit, describe

        plan = plan_run(config, world_size=words.ranks)
        print(describe(plan, config, world_size=words.ranks, gpus_gb=words.gpu_gb))
        if words.scale is not None:
            print(f"\n{_predict(plan, config, words)}")
        return 0 if any(check_fit(plan, gb).spare_bytes >= 0 for gb in words.gpu_gb) else 1

    return run_tool(work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Plan a stage-2 run: memory of a GPU part by part, whether it fits, and what "
        "to change where it does not; steps, tokens and cached features where manifests and "
        "tokenizer are there. With --scale, predictions for more GPUs. Of the LLM only its "
        "config.json is read. No GPU is needed. Exit code 1 where the run fits into none of the "
        "GPUs.",
        epilog="The keys are those of launchers/stage2.py; its --help lists them.",
    )
    parser.add_argument(
        "words", nargs="*", metavar="RECIPE.yaml | key=value", help="as launchers/stage2.py takes"
    )
    parser.add_argument(
        "--ranks", type=_positive, default=1, metavar="N", help="GPUs of the run (default: 1)"
    )
    parser.add_argument(
        "--gpu-gb", type=_positive, nargs="+", default=[24, 40, 80], metavar="GB",
        help="memory of the GPUs to compare with (default: 24 40 80)",
    )  # fmt: skip
    parser.add_argument(
        "--scale", type=_positive, nargs="*", metavar="N",
        help="predict step time, efficiency and bottleneck on so many GPUs, and what a failure "
        "costs (default: 8 64 512)",
    )  # fmt: skip
    parser.add_argument(
        "--gpu", choices=("h100", "h200", "a100"), default="h100",
        help="GPU that predictions are for (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--measured", type=Path, metavar="RUN_DIR",
        help="run folder whose measured steps predictions start from",
    )  # fmt: skip
    return parser


def _predict(plan: Any, config: Stage2Config, words: argparse.Namespace) -> str:
    from fla.plan.hardware import GPUS, Machine
    from fla.plan.measured import measure_run_folder
    from fla.plan.scaling_text import describe_scaling

    machine = Machine(gpu=GPUS[words.gpu])
    return describe_scaling(
        plan,
        config,
        world_size=words.ranks,
        num_gpus=words.scale or DEFAULT_SCALE,
        machine=machine,
        measured=measure_run_folder(words.measured, machine=machine) if words.measured else None,
    )


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())

"""Run an ablation of the paper: python tools/run_ablation.py TABLE [STAGE1.yaml STAGE2.yaml] ...

TABLE is 4, 5, 6, 7, 8, 9, 10, fig2 or fig4. Trains and translates what the table needs with the
recipes of any corpus (default: the demo's), each run once, and writes it beside the paper's numbers
to TABLE.md and table.json, with mean, standard deviation and p-values. Runs are shared by the rows
and by the tables of a folder; the same command goes on where it was stopped.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fla.config.load import exit_on_user_error
from fla.errors import ConfigError

if TYPE_CHECKING:
    from fla.ablation.plan import Plan

RECIPES = Path(__file__).parents[1] / "launchers" / "recipes"
DEFAULT_RECIPES = ("demo_stage1.yaml", "demo_stage2.yaml")
RUNS = Path("runs/ablations")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="KEY=VALUE is for both stages, stage1.KEY=VALUE and stage2.KEY=VALUE for one; the "
        "keys are those of the launchers, whose --help lists them.",
    )
    add = parser.add_argument
    add("table", metavar="TABLE", help="4, 5, 6, 7, 8, 9, 10, fig2 or fig4")
    add("words", nargs="*", metavar="RECIPE.yaml | KEY=VALUE", help="two recipes or none, and keys")
    add("--seeds", type=int, nargs="+", default=[1], metavar="N", help="(default: 1)")
    add(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="ranks of each run, on CPUs, too (default: %(default)s)",
    )
    add(
        "--dir",
        type=Path,
        metavar="DIR",
        help=f"folder of the runs and tables (default: {RUNS}/CORPUS)",
    )
    add("--mt5", default="", metavar="DIR", help="weights and tokenizer of mT5, for table 10")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="print the runs, and start none")
    what.add_argument(
        "--slurm", action="store_true", help="print a script that submits them, and start none"
    )
    return parser


def main() -> None:
    given = build_parser().parse_intermixed_args()
    plan = _make_plan(given)
    if given.list:
        from fla.ablation.listing import describe_plan

        print(describe_plan(plan), end="", flush=True)
        return
    from fla.ablation.state import check_plan

    check_plan(plan)
    if given.slurm:
        from fla.ablation.slurm import describe_jobs

        words = [word for word in sys.argv[1:] if word != "--slurm"]
        command = shlex.join(["python", "tools/run_ablation.py", *words])
        print(describe_jobs(plan, command=command), end="", flush=True)
        return
    from fla.ablation.execute import execute, find_launcher

    execute(plan, launcher=find_launcher())
    # Later: it brings what scores and MLflow need.
    from fla.ablation.report import write_report

    path = write_report(plan)
    print(f"\n{path.read_text(encoding='utf-8')}\ntable: {path.absolute()}", flush=True)


def _make_plan(given: argparse.Namespace) -> "Plan":
    # Here, not at the top: --help is answered without the schema.
    from fla.ablation.plan import make_plan
    from fla.ablation.settings import Settings, sort_words
    from fla.ablation.tables import parse_name

    table = parse_name(given.table)
    recipes, words1, words2 = sort_words(given.words)
    if len(recipes) not in (0, 2):
        raise ConfigError(
            f"{' '.join(recipes)}: name two recipes, of stage 1 and of stage 2, or none."
        )
    first, second = recipes or tuple(str(_shorten(RECIPES / name)) for name in DEFAULT_RECIPES)
    if given.num_gpus < 1:
        raise ConfigError(f"--num-gpus ({given.num_gpus}) must be at least 1.")
    settings = Settings(
        table=table,
        recipe1=first,
        recipe2=second,
        words1=words1,
        words2=words2,
        mt5_dir=given.mt5,
    )
    corpus = Path(first).stem.removesuffix("_stage1")
    return make_plan(
        settings, seeds=given.seeds, num_gpus=given.num_gpus, folder=given.dir or RUNS / corpus
    )


def _shorten(path: Path) -> Path:
    """As a user in the repository's folder would write it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    with exit_on_user_error():
        main()

"""Compare runs with the first of them: python tools/compare_runs.py RUN RUN ...

A RUN is a run folder, the id of a run in MLflow, or a search that matches one, such as
"tags.stage = 'stage2' and params.seed = '1'". Prints what differs, who wins, and which sentences
changed, and writes a report with curves and clips to play: one HTML file, which each run gets in
MLflow, too, under comparisons/.
"""

import argparse
import re
import sys
from pathlib import Path

from fla.config.load import exit_on_user_error


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", nargs="+", metavar="RUN", help="two or more; the first is the baseline")
    add("--split", default="", help="train, dev or test (default: test where all have it, or dev)")
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="where the report goes (default: comparison_RUN_RUN.html in this folder)",
    )
    add(
        "--tracking-uri",
        default="",
        metavar="URI",
        help="MLflow store (default: the mlflow.db beside the run folders, else that below runs/)",
    )
    return parser


def main() -> None:
    parser = build_parser()
    words = parser.parse_args()
    if len(words.run) < 2:
        parser.error("name at least two runs.")
    from fla.compare.comparison import compare_runs
    from fla.compare.from_mlflow import find_runs, log_report
    from fla.compare.report import render_report
    from fla.compare.table import format_table
    from fla.run_folder import write_atomically

    comparison = compare_runs(find_runs(words.run, uri=words.tracking_uri), split=words.split)
    print(format_table(comparison), flush=True)
    names = "_".join(record.name for record in comparison.records)
    safe = re.sub(r"[^\w.-]+", "-", names)[:100]
    report = words.out or Path(f"comparison_{safe}.html")
    write_atomically(report, render_report(comparison))
    print(f"report: {report.absolute()}", flush=True)
    for fault in log_report(report, comparison.records):
        print(f"warning: {fault}", file=sys.stderr)


if __name__ == "__main__":
    with exit_on_user_error():
        main()

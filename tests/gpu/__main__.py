"""Check this repository on a GPU: python -m tests.gpu [--folder DIR] [--json FILE]

Decoding by NVDEC against the CPU, both stages in bf16, speeds, memory against its plan, and what
keys bring. Everything is generated here, nothing is downloaded. The first GPU is used.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from fla.data.command import run_tool
from tests.gpu.environment import describe_machine, find_missing

FOLDER = Path("data/gpu_check")


def main() -> int:
    words = _parser().parse_args()
    # Before anything reads them: nothing is downloaded, and nothing reports home.
    os.environ.update(HF_HUB_OFFLINE="1", MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    device = "cpu" if words.rehearse else "cuda:0"
    if not words.rehearse and (missing := find_missing()):
        print(f"error: {missing}", file=sys.stderr)
        return 1
    if words.rehearse:
        # On a machine with a GPU, too.
        os.environ["DS_ACCELERATOR"] = "cpu"
    return run_tool(partial(_check, device, words.folder, words.json))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Check this repository on the first GPU: decoding by NVDEC against the CPU, "
        "both stages in bf16, speeds, memory against its plan, and what keys bring. Everything is "
        "generated. Exit code 1 where a bound does not hold.",
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, metavar="DIR",
        help=f"takes what is made, and keeps it for the next time; default: {FOLDER}",
    )  # fmt: skip
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="default: gpu_check.json in the folder"
    )
    parser.add_argument(
        "--rehearse", action="store_true",
        help="run the same on the CPU with tiny sizes, which says nothing about a GPU",
    )  # fmt: skip
    return parser


def _check(device: str, folder: Path, json_path: Path | None) -> int:
    # DALI, torch and transformers take seconds to import, and a machine without a GPU is told so
    # at once.
    from tests.gpu.checks import choose_setting, run_checks
    from tests.gpu.rows import exit_code, table_of, write_report

    small = device == "cpu"
    folder = folder / "rehearsal" if small else folder
    rows = run_checks(device, folder, small=small)
    path = json_path or folder / "gpu_check.json"
    write_report(path, rows, machine=describe_machine(choose_setting(device, folder, small=small)))
    print(f"{table_of(rows)}\n\n{path}")
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())

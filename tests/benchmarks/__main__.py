"""All benchmarks, one after the other: python -m tests.benchmarks

Each is a process of its own. One that fails costs its own rows, and the exit code.
"""

import argparse
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from fla.data.command import run_tool
from tests.benchmarks.rows import (
    FOLDER,
    Row,
    describe_machine,
    read_report,
    table_of,
    write_report,
)

# From the quickest to the longest; the last two in their shortest form.
BENCHMARKS = {
    "padding": (),
    "loss": (),
    "decoding": (),
    "checkpoints": (),
    "startup": (),
    "curves": (),
    "engine": (),
    "features": ("--rounds", "1", "--small"),
    "decode": ("--rounds", "2", "--small"),
}
"""Words of each beside folder and report."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Measure what the toolkit costs beside plainer ways, in ratios. Nothing else "
        "should run beside it. python -m tests.benchmarks.diff compares two reports."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help=f"which; default: all of {', '.join(BENCHMARKS)}",
    )  # fmt: skip
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, metavar="DIR",
        help=f"keeps what is made once; default: {FOLDER}",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the report; default: bench.json in the folder"
    )
    words = parser.parse_args()
    for name in words.names:
        if name not in BENCHMARKS:
            parser.error(f"{name} is no benchmark. Known are: {', '.join(BENCHMARKS)}.")
    out = words.out or words.folder / "bench.json"
    return run_tool(partial(_run_all, words.names or [*BENCHMARKS], words.folder, out))


def _run_all(names: list[str], folder: Path, out: Path) -> int:
    start_s = time.monotonic()
    machine = describe_machine()
    rows: list[Row] = []
    failed: list[str] = []
    with TemporaryDirectory() as reports:
        for name in names:
            begin_s = time.monotonic()
            found = _run(name, folder, Path(reports) / f"{name}.json")
            if found is None:
                failed.append(name)
            rows += found or []
            ending = "failed" if found is None else "done"
            print(f"{name}: {ending} in {time.monotonic() - begin_s:.0f} s", flush=True)
    write_report(out, rows, machine=machine)
    print(f"\n{table_of(rows)}\n")
    print(
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']} before; "
        f"{(time.monotonic() - start_s) / 60:.1f} minutes. Report: {out}"
    )
    if failed:
        print(f"error: failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, folder: Path, report: Path) -> tuple[Row, ...] | None:
    log = report.with_suffix(".log")
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *BENCHMARKS[name]]
    command += ["--folder", str(folder), "--json", str(report)]
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, check=False, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        print("".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-20:]))
        return None
    return read_report(report).rows


if __name__ == "__main__":
    sys.exit(main())

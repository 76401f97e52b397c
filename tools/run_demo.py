"""The whole way on the demo corpus: corpus, both stages, scores, a video translated, a comparison.

python tools/run_demo.py, or `make demo`. Every step is one command that is printed and that works
on its own; a corpus or a training run that is there already is not made again. It runs on the
CPU, also where there are GPUs, so that it is the same everywhere.
"""

import csv
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from fla.data.manifest import read_manifest
from fla.runtime import computes_bfloat16

DATA = Path("data/demo")
MANIFESTS = DATA / "manifests"
RUNS = Path("runs/demo")
NUM_RANKS = 2
NUM_SAMPLES_SHOWN = 3


def free_port() -> int:
    """A port that nobody listens on, for the ranks to meet at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def python(*words: str) -> list[str]:
    """A command of this Python."""
    return [sys.executable, *words]


def deepspeed(*words: str) -> list[str]:
    """A command of the launcher that was installed with this Python."""
    launcher = Path(sys.executable).with_name("deepspeed")
    ranks = ["--num_gpus", str(NUM_RANKS), "--master_port", str(free_port())]
    ranks += ["--log_level", "error"]
    return [str(launcher), *ranks, *words]


def train(script: str, sharding: str) -> list[str]:
    """A command that trains: in float32 where the CPU would only imitate bfloat16, slowly."""
    words = [] if computes_bfloat16("cpu") else [f"deepspeed=ds_configs/{sharding}_fp32.json"]
    return deepspeed(script, *words)


def run(title: str, command: list[str]) -> None:
    """Run one step; end the demo with its exit code where it fails."""
    shown = " ".join([Path(command[0]).name, *command[1:]])
    print(f"\n== {title}\n$ {shown}", flush=True)
    start_s = time.monotonic()
    done = subprocess.run(command, check=False, env={**os.environ, "DS_ACCELERATOR": "cpu"})
    if done.returncode != 0:
        sys.exit(done.returncode)
    print(f"   {time.monotonic() - start_s:.0f} s", flush=True)


def train_and_score() -> None:
    """Make what is missing, and score it."""
    if not (MANIFESTS / "report.json").is_file():
        run("Draw and film the corpus", python("tools/make_demo_corpus.py", str(DATA)))
        run("Import it", python("tools/import_how2sign.py", str(DATA), str(MANIFESTS)))
    run("Pretrain a small mBART on text", train("tools/pretrain_mbart.py", "zero1"))
    for stage, sharding in (("stage1", "zero1"), ("stage2", "zero3")):
        run(f"Train {stage}", train(f"launchers/{stage}.py", sharding))
        decode = deepspeed("launchers/decode.py", f"export_dir={RUNS / stage / 'export'}")
        run(f"Translate and score the test split with {stage}", decode)


def read_rows(stage: str) -> list[dict[str, str]]:
    """The test split as a stage translated it."""
    path = RUNS / stage / "decodes" / "export.test.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        next(file)
        return list(csv.DictReader(file, delimiter="\t"))


def print_samples() -> None:
    """Print sample translations, folders, and how to open MLflow."""
    print("\n== Sample translations of stage 2")
    for row in read_rows("stage2")[:NUM_SAMPLES_SHOWN]:
        print(f"{row['id']}\n  reference   {row['reference']}\n  hypothesis  {row['hypothesis']}")
    print(f"\nRun folders: {RUNS}/mbart {RUNS}/stage1 {RUNS}/stage2")
    store = f"sqlite:///{(RUNS / 'mlflow.db').absolute()}"
    print(f"Compare the runs: .venv/bin/mlflow server --backend-store-uri {store}")
    print("and open http://127.0.0.1:5000, experiment demo, view 'Model training'.")


def translate_one() -> None:
    """Translate the first test sentence from its recording, as anybody would their own video."""
    sample = read_manifest(MANIFESTS / "test.tsv").samples[0]
    words = [str(DATA / sample.video), "--model", str(RUNS / "stage2/export")]
    words += ["--start-s", f"{sample.start_s:g}", "--end-s", f"{sample.end_s:g}"]
    run("Translate one video", python("tools/translate.py", *words))
    print(f"   The annotation says: {sample.sentence}")


def compare() -> None:
    """Compare the stages on the test split, which both have translated."""
    words = [str(RUNS / "stage1"), str(RUNS / "stage2"), "--split", "test"]
    report = RUNS / "report.html"
    run("Compare the stages", python("tools/compare_runs.py", *words, "--out", str(report)))


def main() -> None:
    start_s = time.monotonic()
    train_and_score()
    print_samples()
    translate_one()
    compare()
    print(f"\nThe demo took {(time.monotonic() - start_s) / 60:.1f} minutes.")


if __name__ == "__main__":
    main()

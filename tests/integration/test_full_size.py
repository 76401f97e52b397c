"""mbart-large-cc25 at its size, with random weights, on two CPU ranks, command by command.

python -m pytest -s -m slow tests/integration/test_full_size.py
prints what each command took. About 24 GB of memory and 15 GB of disk are needed.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fla.run_folder import RunFolder, list_complete_checkpoints, read_decodes
from fla.weights import open_tensors
from tests.helpers.commands import deepspeed, python, run_well

# Frames of 32 pixels: what is large here is the language model.
SMALL_FRAMES = ("data.resize_px=36", "data.crop_px=32", "data.max_frames=30", "data.num_threads=1")
BATCHES = ("train.global_batch_size=4", "train.micro_batch_size=2", "train.log_every_steps=1")
BEAM = ("beam.max_new_tokens=20", "beam.batch_size=2")
NUM_PARAMETERS = 610_851_840


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Print the time that a block takes, and how far the machine's memory fell beside it."""
    before, least, ended = free_gib(), [free_gib()], threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            least[0] = min(least[0], free_gib())

    thread = threading.Thread(target=look)
    start_s = time.monotonic()
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    seconds = time.monotonic() - start_s
    print(f"{what:45} {seconds:6.0f} s {before - least[0]:6.1f} GiB", flush=True)


def free_gib() -> float:
    """Memory of the machine that a program could still have; file pages count as free."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 2**20
    raise AssertionError("/proc/meminfo has no MemAvailable")


def losses(folder: RunFolder) -> list[float]:
    rows = map(json.loads, folder.metrics_jsonl.read_text().splitlines())
    key = "train/loss_nats_per_token"
    return [row[key] for row in rows if key in row]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_mbart_large_is_trimmed_trained_resumed_exported_and_decoded(tmp_path):
    corpus, manifests, text = (
        tmp_path / "corpus",
        tmp_path / "manifests",
        tmp_path / "corpus/text/en.txt",
    )
    full, trimmed = tmp_path / "mbart", tmp_path / "trimmed"
    stage1, stage2 = RunFolder(tmp_path / "runs/stage1"), RunFolder(tmp_path / "runs/stage2")
    print()

    with measured("corpus of 16 sentences"):
        sizes = ["--train-sentences", "12", "--dev-sentences", "2", "--test-sentences", "2"]
        run_well(python("tools/make_demo_corpus.py", corpus, *sizes, "--size-px", "64"))
        run_well(python("tools/import_how2sign.py", corpus, manifests))
    with measured("make_random_mbart"):
        run_well(python("tools/make_random_mbart.py", full, "--text", text), timeout_s=900)
    with measured("trim_mbart"):
        run_well(python("tools/trim_mbart.py", full, trimmed, "--text", text), timeout_s=900)
    data = [f"data.manifest_dir={manifests}", f"text.tokenizer_dir={trimmed}", *SMALL_FRAMES]
    with measured("stage 1, one step"):
        words = [f"run_dir={stage1.path}", "model.sign_width=1024", "train.max_steps=1"]
        run_well(python("launchers/stage1.py", *words, *data, *BATCHES, *BEAM), timeout_s=600)
    words = [
        f"run_dir={stage2.path}",
        f"model.encoder_export={stage1.export}",
        f"model.llm_dir={trimmed}",
        "features=cached",
        *data,
        *BATCHES,
        *BEAM,
    ]
    with measured("cache_features, 2 ranks"):
        run_well(deepspeed("tools/cache_features.py", *words), timeout_s=600)
    with measured("stage 2, 2 ranks, 2 steps, saved, exported"):
        run_well(deepspeed("launchers/stage2.py", *words, "train.max_steps=2"), timeout_s=1500)
    saved = [folder.name for folder in list_complete_checkpoints(stage2)]
    before = losses(stage2)
    with measured("stage 2, 2 ranks, resumed, 1 step, exported"):
        run_well(deepspeed("launchers/stage2.py", *words, "train.max_steps=3"), timeout_s=1500)
    with measured("decode, 2 sentences"):
        decode = ["launchers/decode.py", f"export_dir={stage2.export}", *BEAM]
        run_well(python(*decode), timeout_s=600)

    whole, small = (open_tensors(folder / "model.safetensors") for folder in (full, trimmed))
    assert sum(whole.tensor(n).numel() for n in whole.names if n != "final_logits_bias") == (
        NUM_PARAMETERS
    )
    assert small.tensor("model.shared.weight").shape[0] < 1000
    assert saved == ["step_0000002"]
    assert losses(stage2)[:2] == before
    assert len(losses(stage2)) == 3
    assert json.loads(stage2.deepspeed_json.read_text())["zero_optimization"]["stage"] == 3
    rows, _ = read_decodes(stage2.decodes_tsv("export", "test"))
    assert len(rows) == 2

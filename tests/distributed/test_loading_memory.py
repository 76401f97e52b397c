"""A rank's memory while the weights of an LLM go from their file into ZeRO-3's shards."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.helpers.commands import python, run_well
from tests.helpers.ranks import run_ranks

MAX_COPIES = 1.2


class Loading(NamedTuple):
    """A rank's memory beyond what it had before, in copies of the stored weights."""

    peak_copies: float
    """Of its own; pages of the file do not count."""
    held_copies: float
    """Afterwards: its share, and what the allocator keeps for later."""
    shared_copies: float
    """Pages of the file in its address space."""
    seconds: float
    digest: str
    """Of all weights, gathered."""


def memory_bytes(kind: str) -> int:
    """Of this process, as the kernel counts it: Anonymous, or Rss with file pages too."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{kind} is not in smaps_rollup")


@contextmanager
def watch_peak() -> Iterator[list[int]]:
    """Highest anonymous memory while the block runs, looked at every few milliseconds."""
    peak, ended = [memory_bytes("Anonymous")], threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            peak[0] = max(peak[0], memory_bytes("Anonymous"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def load(folder: Path) -> Loading:
    import hashlib

    from fla.config.deepspeed import read_deepspeed_config
    from fla.models.llm import build_llm, read_llm
    from fla.models.loading import find_tensor
    from fla.runtime import start_runtime
    from fla.shards import iterate_weights, place_weights
    from fla.weights import open_weights

    runtime = start_runtime()
    config = read_deepspeed_config(
        Path("ds_configs/zero3_bf16.json"),
        micro_batch_size=1,
        world_size=runtime.world_size,
        max_grad_norm=1.0,
        has_gpu=False,
    )
    num_tokens = open_weights(folder).tensor("model.shared.weight").shape[0]
    description = read_llm(
        folder,
        dropout=0.0,
        attention_dropout=0.0,
        pad_id=1,
        eos_id=2,
        start_id=num_tokens - 2,
        vocab_size=num_tokens,
    )
    with torch.device("meta"):
        llm: Any = build_llm(description)
    weights = open_weights(folder)
    stored = sum(weights.tensor(name).nbytes for name in weights.names)
    # What DeepSpeed and gloo allocate at first use is not the model's.
    place_weights(torch.nn.Linear(2, 2), lambda names, shape: torch.zeros(0), config=config,
                  runtime=runtime)  # fmt: skip
    before, mapped = memory_bytes("Anonymous"), memory_bytes("Rss") - memory_bytes("Anonymous")
    start_s = time.monotonic()
    with watch_peak() as peak:
        place_weights(
            llm,
            lambda names, shape: find_tensor(weights, names, shape=shape),
            config=config,
            runtime=runtime,
        )
    seconds = time.monotonic() - start_s
    held = memory_bytes("Anonymous")
    pages = memory_bytes("Rss") - held
    digest = hashlib.sha256()
    for name, tensor in iterate_weights(llm, masters=False):
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return Loading(
        peak_copies=(peak[0] - before) / stored,
        held_copies=(held - before) / stored,
        shared_copies=(pages - mapped) / stored,
        seconds=seconds,
        digest=digest.hexdigest(),
    )


def digest_of_file(folder: Path) -> str:
    """The same digest by transformers' own loading."""
    import hashlib

    from transformers import MBartForConditionalGeneration

    mbart = MBartForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    digest = hashlib.sha256()
    for name, tensor in mbart.named_parameters():
        raw = tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()
        digest.update(name.encode() + raw)
    return digest.hexdigest()


def check(folder: Path, world_size: int) -> None:
    loadings: list[Loading] = run_ranks(load, folder, world_size=world_size, timeout_s=600)

    for rank, loading in enumerate(loadings):
        print(
            f"{world_size} ranks, rank {rank}: peak {loading.peak_copies:.2f} copies, then "
            f"{loading.held_copies:.2f}, file pages {loading.shared_copies:.2f}, "
            f"{loading.seconds:.1f} s"
        )
    assert max(loading.peak_copies for loading in loadings) <= MAX_COPIES
    # The file is read by rank 0 alone, through pages that it shares; the others get its values.
    assert max([loading.shared_copies for loading in loadings[1:]], default=0.0) < 0.05
    assert {loading.digest for loading in loadings} == {digest_of_file(folder)}


@pytest.fixture(scope="module")
def mbart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 MB, with an embedding of 40 % as the real one."""
    folder = tmp_path_factory.mktemp("random") / "mbart"
    sizes = ["--layers", "4", "--d-model", "768", "--pieces", "50000"]
    run_well(python("tools/make_random_mbart.py", folder, *sizes))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_loading_takes_little_more_than_a_share(mbart, world_size):
    check(mbart, world_size)


@pytest.mark.slow
def test_loading_at_full_size(tmp_path):
    run_well(python("tools/make_random_mbart.py", tmp_path / "mbart"), timeout_s=600)

    for world_size in (1, 2, 4):
        check(tmp_path / "mbart", world_size)

"""The translation loss on large vocabularies: python -m tests.benchmarks.loss

Forward and backward pass of `fla.losses.translation_loss` beside torch's cross-entropy on float32
logits, for logits in float32 and in bfloat16. Memory is counted in float32 copies of the logits,
on top of the logits themselves: one of them is their gradient, which nobody can spare.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from fla.batch import IGNORE_INDEX
from fla.losses import translation_loss
from tests.benchmarks.memory import measure_peak
from tests.benchmarks.race import ratios, seconds_of, take_turns
from tests.benchmarks.rows import Row, median_row, run_benchmark

SEED = 1
NUM_SENTENCES, NUM_TOKENS = 16, 32
VOCABULARIES = (2_000, 8_000, 32_000)
LABEL_SMOOTHING = 0.2
ROUNDS = 8


def measure(_: Path) -> list[Row]:
    """Time and memory of both, by vocabulary and type."""
    torch.set_num_threads(1)
    rows = []
    for vocabulary in VOCABULARIES:
        rows += _compare(vocabulary, torch.float32)
    return [*rows, *_compare(VOCABULARIES[-1], torch.bfloat16)]


def _compare(vocabulary: int, dtype: torch.dtype) -> list[Row]:
    name = f"loss: {vocabulary} tokens, {str(dtype).removeprefix('torch.')}"
    passes = {way: make_pass(way, vocabulary, dtype) for way in ("ours", "theirs")}
    times = take_turns(
        {way: partial(seconds_of, work) for way, work in passes.items()}, rounds=ROUNDS, seed=SEED
    )
    size_mib = NUM_SENTENCES * NUM_TOKENS * vocabulary * 4 / 2**20
    copies = {way: measure_peak(make_pass, way, vocabulary, dtype) / size_mib for way in passes}
    return [
        median_row(
            f"{name}, ours", [1000 * second for second in times["ours"]], unit="ms", better="lower"
        ),
        median_row(
            f"{name}, ours / cross_entropy", ratios(times["ours"], times["theirs"]),
            unit="ratio of times", better="lower", target=1.1,
        ),
        *(
            Row(
                name=f"{name}, memory, {way}", value=number, unit="copies of the logits",
                better="lower", note=f"one is {size_mib:.1f} MiB",
            )
            for way, number in copies.items()
        ),
    ]  # fmt: skip


def make_pass(way: str, vocabulary: int, dtype: torch.dtype) -> Callable[[], object]:
    """Forward and backward pass, for a process of its own."""
    torch.manual_seed(SEED)
    logits = torch.randn(NUM_SENTENCES, NUM_TOKENS, vocabulary).to(dtype).requires_grad_()
    labels = torch.randint(vocabulary, (NUM_SENTENCES, NUM_TOKENS))
    loss = {"ours": _ours, "theirs": _theirs}[way]

    def work() -> None:
        loss(logits, labels).backward()
        logits.grad = None

    return work


def _ours(logits: Tensor, labels: Tensor) -> Tensor:
    return translation_loss(logits, labels, label_smoothing=LABEL_SMOOTHING).nats


def _theirs(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(
        logits.float().flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORE_INDEX,
        label_smoothing=LABEL_SMOOTHING,
        reduction="sum",
    )


if __name__ == "__main__":
    sys.exit(run_benchmark(measure, description=__doc__))

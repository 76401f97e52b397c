"""Twenty steps of stage 2 under ZeRO-3 on two ranks beside plain PyTorch on one.

AdamW, a cosine, clipping, label smoothing, clips and sentences of all lengths, four micro-batches a
step. Bounds of the loss in nats a token: 1e-5 in float32, 0.02 in bfloat16 with float32 masters.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from tests.helpers.ranks import run_ranks

IDS = {"vocab_size": 60, "pad_id": 1, "eos_id": 2, "start_id": 58}
NUM_STEPS, NUM_MICRO_BATCHES, WIDTH = 20, 4, 24
LEARNING_RATE, BETAS, WEIGHT_DECAY, MAX_NORM = 3e-3, (0.9, 0.998), 1e-3, 1.0
BOUNDS = {"zero3_fp32.json": 1e-5, "zero3_bf16.json": 0.02}


def build() -> Any:
    from fla.models.adapters import Adapter
    from fla.models.light_t import build_small_mbart
    from fla.models.stages import Stage2Model

    torch.manual_seed(1)
    sizes = {"d_model": 64, "num_layers": 2, "num_heads": 2, "ffn_width": 128}
    mbart = build_small_mbart(dropout=0.0, **sizes, **IDS)
    adapter = Adapter(in_width=WIDTH, out_width=64)
    return Stage2Model(None, adapter, mbart, label_smoothing=0.2, start_id=58)


def micro_batches(step: int) -> list[Any]:
    """Sentences that the features tell, so that there is something to learn."""
    from fla.batch import Batch, pad_labels

    rng = torch.Generator().manual_seed(step)
    signs = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0))
    batches = []
    for _ in range(NUM_MICRO_BATCHES):
        lengths = torch.randint(1, 9, (2,), generator=rng)
        words = [torch.randint(3, 50, (int(n),), generator=rng) for n in lengths]
        batches.append(
            Batch(
                sample_ids=("a", "b"),
                references=("a", "b"),
                frame_lengths=lengths,
                labels=pad_labels([[*w.tolist(), 2, 58] for w in words]),
                features=signs[torch.cat(words)],
            )
        )
    return batches


def count_tokens(batches: list[Any]) -> int:
    return sum(int((batch.labels >= 0).sum()) for batch in batches)


def train_by_engine(deepspeed_json: str) -> list[float]:
    from fla.config.deepspeed import read_deepspeed_config
    from fla.engine import open_engine
    from fla.optim import build_adamw, cosine_schedule, decay_groups
    from fla.runtime import start_runtime

    runtime = start_runtime()
    config = read_deepspeed_config(
        Path("ds_configs") / deepspeed_json,
        micro_batch_size=2,
        world_size=runtime.world_size,
        max_grad_norm=MAX_NORM,
        has_gpu=False,
    )
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    model = build()
    groups = decay_groups(
        [model], learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, name="all"
    )
    engine = open_engine(
        model,
        optimizer=build_adamw(groups, betas=BETAS),
        schedule=cosine_schedule(num_steps=NUM_STEPS, warmup_fraction=0.1),
        config=config,
        runtime=runtime,
    )
    losses = []
    for step in range(NUM_STEPS):
        batches = micro_batches(step)
        share = batches[runtime.rank :: runtime.world_size]
        nats = torch.zeros(())
        for index, batch in enumerate(share):
            loss = engine(batch)
            is_last = index == len(share) - 1
            engine.backward(loss.nats, num_tokens=count_tokens(batches), is_last=is_last)
            nats += loss.nats.detach()
        engine.step()
        distributed.all_reduce(nats)
        losses.append(float(nats) / count_tokens(batches))
    return losses


def train_by_both(_: Any = None) -> dict[str, list[float]]:
    return {name: train_by_engine(name) for name in BOUNDS}


def train_by_pytorch() -> list[float]:
    """Nothing of this repository but the model: PyTorch's loop, optimizer and clipping."""
    model = build().train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=BETAS,
    )
    losses = []
    for step in range(NUM_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_share(step)
        batches = micro_batches(step)
        optimizer.zero_grad()
        nats: Tensor = sum(model(batch).nats for batch in batches)
        (nats / count_tokens(batches)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        losses.append(float(nats.detach()) / count_tokens(batches))
    return losses


def learning_rate_share(step: int) -> float:
    """Two steps up, then a half cosine down."""
    if step < 2:
        return (step + 1) / 3
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (step - 2) / 18))))


@pytest.fixture(scope="module")
def by_engine() -> dict[str, list[float]]:
    both: dict[str, list[float]] = run_ranks(train_by_both)[0]
    return both


@pytest.fixture(scope="module")
def by_pytorch() -> list[float]:
    return train_by_pytorch()


def test_something_is_learned(by_pytorch):
    assert by_pytorch[-1] < by_pytorch[0] - 0.3


@pytest.mark.parametrize("deepspeed_json", BOUNDS)
def test_zero_3_on_two_ranks_has_the_losses_of_pytorch_on_one(
    by_engine, by_pytorch, deepspeed_json
):
    differences = [
        abs(ours - theirs)
        for ours, theirs in zip(by_engine[deepspeed_json], by_pytorch, strict=True)
    ]

    print(f"{deepspeed_json}: largest difference {max(differences):.2e} nats a token")
    assert max(differences) < BOUNDS[deepspeed_json]

"""Both stages on real ranks: 2 ranks with one micro-batch each equal 1 rank with two.

Float32, no dropout, the DeepSpeed files that ship, SGD (Adam's first steps turn the sign of a
gradient of 1e-9 into a whole step), clipping in stage 2 alone, as in the paper (batch normalization
over a dozen frames amplifies the last bit of a norm ten thousandfold within three steps). What is
left is the order of sums: losses are compared to 1e-5 of their value, weights to 1e-4 of what they
moved by in all.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, distributed, nn

from tests.helpers.ranks import run_ranks

LANGUAGE_ID, EOS_ID, PAD_ID, VOCAB_SIZE, SIGN_WIDTH = 38, 2, 1, 40, 24
NUM_STEPS = 3

# Frames and tokens of each clip, of the two micro-batches of a step.
CLIPS = (((5, 4), (7, 1)), ((3, 6), (6, 3)))


class Trained(NamedTuple):
    """What a rank saw of a stage."""

    losses: list[float]
    """Nats of each step, over all ranks."""
    start: dict[str, Tensor]
    weights: dict[str, Tensor]
    digests: tuple[str, ...]
    """Of the frozen encoder, before and after; stage 2 only."""


def micro_batches(step: int) -> list[Any]:
    from fla.batch import Batch, pad_labels

    rng = torch.Generator().manual_seed(step)
    batches = []
    for clips in CLIPS:
        names = tuple(f"clip{number}" for number in range(len(clips)))
        lengths = torch.tensor([num_frames for num_frames, _ in clips])
        words = [torch.randint(3, 30, (n + step,), generator=rng).tolist() for _, n in clips]
        batches.append(
            Batch(
                sample_ids=names,
                references=names,
                frame_lengths=lengths,
                labels=pad_labels([[*ids, EOS_ID, LANGUAGE_ID] for ids in words]),
                frames=torch.randn(int(lengths.sum()), 3, 32, 32, generator=rng),
            )
        )
    return batches


def ids() -> dict[str, int]:
    return {
        "vocab_size": VOCAB_SIZE,
        "pad_id": PAD_ID,
        "eos_id": EOS_ID,
        "start_id": LANGUAGE_ID,
    }


def build_encoder() -> Any:
    from fla.models.visual_encoder import build_visual_encoder

    torch.manual_seed(1)
    return build_visual_encoder(sign_width=SIGN_WIDTH, kernel_size=3)


def build_stage1() -> nn.Module:
    from fla.models.adapters import Adapter
    from fla.models.light_t import build_light_t
    from fla.models.stages import Stage1Model

    encoder = build_encoder()
    light_t = build_light_t(size="tiny", dropout=0.0, **ids())
    adapter = Adapter(in_width=SIGN_WIDTH, out_width=light_t.config.d_model)
    return Stage1Model(encoder, adapter, light_t, label_smoothing=0.2, start_id=LANGUAGE_ID)


def build_stage2() -> nn.Module:
    from fla.models.adapters import Adapter
    from fla.models.light_t import build_small_mbart
    from fla.models.stages import Stage2Model

    torch.manual_seed(2)
    mbart = build_small_mbart(
        d_model=64, num_layers=2, num_heads=2, ffn_width=128, dropout=0.0, **ids()
    )
    adapter = Adapter(in_width=SIGN_WIDTH, out_width=64)
    return Stage2Model(None, adapter, mbart, label_smoothing=0.2, start_id=LANGUAGE_ID)


def train(
    model: nn.Module,
    deepspeed_json: str,
    *,
    max_grad_norm: float,
    prepare: Callable[[Any], Any] = lambda batch: batch,
) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    from fla.config.deepspeed import read_deepspeed_config
    from fla.engine import open_engine
    from fla.optim import build_sgd, cosine_schedule, decay_groups
    from fla.runtime import start_runtime

    runtime = start_runtime()
    config = read_deepspeed_config(
        Path("ds_configs") / deepspeed_json,
        micro_batch_size=2,
        world_size=runtime.world_size,
        max_grad_norm=max_grad_norm,
        has_gpu=False,
    )
    # As large models have it: a small one would be kept whole on every rank.
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    groups = decay_groups([model], learning_rate=0.002, weight_decay=1e-3, name="all")
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    engine = open_engine(
        model,
        optimizer=build_sgd(groups, momentum=0.9),
        schedule=cosine_schedule(num_steps=NUM_STEPS + 1, warmup_fraction=0.0),
        config=config,
        runtime=runtime,
    )
    losses = [take_step(engine, micro_batches(step), prepare) for step in range(NUM_STEPS)]
    with engine.whole_model() as whole:
        weights = {name: value.detach().clone() for name, value in whole.named_parameters()}
    return losses, start, weights


def take_step(engine: Any, batches: list[Any], prepare: Callable[[Any], Any]) -> float:
    num_tokens = sum(int((batch.labels >= 0).sum()) for batch in batches)
    share = batches[distributed.get_rank() :: distributed.get_world_size()]
    nats = torch.zeros(())
    for index, batch in enumerate(share):
        loss = engine(prepare(batch))
        engine.backward(loss.nats, num_tokens=num_tokens, is_last=index == len(share) - 1)
        nats += loss.nats.detach()
    engine.step()
    distributed.all_reduce(nats)
    return float(nats)


def train_stage2() -> Trained:
    from fla.models.features import FrozenEncoder, build_feature_encoder

    whole = build_feature_encoder(build_encoder(), input_features="sign_wise", light_t=None)
    encoder = FrozenEncoder(whole)
    before = encoder.digest()
    # As everyone does to a model before training.
    encoder.train()
    losses, start, weights = train(
        build_stage2(), "zero3_fp32.json", max_grad_norm=1.0, prepare=encoder
    )
    return Trained(losses, start, weights, (before, encoder.digest()))


def train_stages() -> dict[str, Trained]:
    """Both stages in one start of the ranks: a start takes seconds."""
    return {
        "stage1": Trained(*train(build_stage1(), "zero1_fp32.json", max_grad_norm=0.0), ()),
        "stage2": train_stage2(),
    }


@pytest.fixture(scope="module")
def one_rank() -> dict[str, Trained]:
    stages: dict[str, Trained] = run_ranks(train_stages, world_size=1)[0]
    return stages


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Trained]]:
    return run_ranks(train_stages, world_size=2)


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return float(torch.stack([(a[name] - b[name]).norm() for name in a]).norm())


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_two_ranks_equal_one_with_two_micro_batches(stage, one_rank, two_ranks):
    alone, shared = one_rank[stage], two_ranks[0][stage]

    assert shared.losses == pytest.approx(alone.losses, rel=1e-5)
    moved = distance(alone.weights, alone.start)
    assert moved > 0.001
    assert distance(shared.weights, alone.weights) < 1e-4 * moved


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_ranks_hold_equal_weights_after_training(stage, two_ranks):
    first, second = (rank[stage].weights for rank in two_ranks)

    torch.testing.assert_close(second, first, rtol=0, atol=0)


def test_the_frozen_encoder_is_bit_identical_on_every_rank(one_rank, two_ranks):
    digests = {digest for rank in (one_rank, *two_ranks) for digest in rank["stage2"].digests}

    assert len(digests) == 1

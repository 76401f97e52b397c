"""ZeRO-3 really shards the LLM: what a rank holds falls as 1/N."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.helpers.ranks import run_ranks

# With a width of 384 the smallest matrix has 147,456 elements: as in mbart-large, the file's
# persistence threshold of 100,000 keeps biases and norms whole on every rank, and nothing else.
WIDTH, SIGN_WIDTH, VOCAB_SIZE, LANGUAGE_ID = 384, 512, 1000, 38
WORLD_SIZES = (1, 2, 4)


class Held(NamedTuple):
    """Bytes of the LLM that a rank holds between two steps."""

    shards: int
    """Weights in the type that it computes with."""
    optimizer: int
    """Float32 weights and Adam's moments."""
    weights: int
    """Everything with values of weights that the model computes with, whole or not."""
    num_whole: int
    """Parameters of which all values are there, apart from those below the threshold."""


def storages(tensors: list[Tensor]) -> int:
    found = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(found.values())


def hold() -> Held:
    from fla.batch import Batch, pad_labels
    from fla.config.deepspeed import read_deepspeed_config
    from fla.engine import open_engine
    from fla.models.adapters import Adapter
    from fla.models.light_t import build_small_mbart
    from fla.models.stages import Stage2Model
    from fla.optim import build_adamw, cosine_schedule, decay_groups
    from fla.runtime import start_runtime

    runtime = start_runtime()
    torch.manual_seed(1)
    mbart = build_small_mbart(
        d_model=WIDTH, num_layers=2, num_heads=4, ffn_width=4 * WIDTH, dropout=0.1,
        vocab_size=VOCAB_SIZE, pad_id=1, eos_id=2, start_id=LANGUAGE_ID,
    )  # fmt: skip
    adapter = Adapter(in_width=SIGN_WIDTH, out_width=WIDTH)
    model = Stage2Model(None, adapter, mbart, label_smoothing=0.2, start_id=LANGUAGE_ID)
    groups = decay_groups([model.llm], learning_rate=1e-4, weight_decay=1e-3, name="llm")
    engine = open_engine(
        model,
        optimizer=build_adamw(groups, betas=(0.9, 0.998)),
        schedule=cosine_schedule(num_steps=9, warmup_fraction=0.0),
        config=read_deepspeed_config(
            Path("ds_configs/zero3_bf16.json"),
            micro_batch_size=1,
            world_size=runtime.world_size,
            max_grad_norm=1.0,
            has_gpu=False,
        ),
        runtime=runtime,
    )
    batch = Batch(
        sample_ids=("clip",),
        references=("words",),
        frame_lengths=torch.tensor([6]),
        labels=pad_labels([[5, 6, 7, 2, LANGUAGE_ID]]),
        features=torch.randn(6, SIGN_WIDTH),
    )
    for _ in range(2):
        engine.backward(engine(batch).nats, num_tokens=5, is_last=True)
        engine.step()
    return look(model.llm, engine._engine.optimizer)


def look(llm: Any, optimizer: Any) -> Held:
    parameters: list[Any] = list(llm.parameters())
    shards = [parameter.ds_tensor.data for parameter in parameters]
    states = [value for state in optimizer.optimizer.state.values() for value in state.values()]
    return Held(
        shards=sum(shard.nbytes for shard in shards),
        optimizer=storages([*optimizer.fp32_partitioned_groups_flat, *states]),
        weights=storages([*shards, *(parameter.data for parameter in parameters)]),
        num_whole=sum(
            parameter.data.numel() == parameter.ds_numel and not parameter.ds_persist
            for parameter in parameters
        ),
    )


@pytest.fixture(scope="module")
def held() -> dict[int, list[Held]]:
    return {n: run_ranks(hold, world_size=n) for n in WORLD_SIZES}


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES[1:])
def test_what_a_rank_holds_falls_with_the_number_of_ranks(world_size, held):
    alone = held[1][0]

    for rank in held[world_size]:
        assert rank.shards == pytest.approx(alone.shards / world_size, rel=0.05)
        assert rank.optimizer == pytest.approx(alone.optimizer / world_size, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES[1:])
def test_no_rank_holds_the_whole_model_between_steps(world_size, held):
    whole = held[1][0].shards

    for rank in held[world_size]:
        assert rank.num_whole == 0
        # A rank's part, and what the threshold leaves whole.
        assert rank.weights < 1.05 * whole / world_size


def test_every_threshold_that_ships_parts_matrices_of_mbart_large():
    files = [json.loads(path.read_text()) for path in Path("ds_configs").glob("zero3*.json")]

    assert files
    for content in files:
        threshold = content["zero_optimization"]["stage3_param_persistence_threshold"]
        assert threshold < 1024 * 1024

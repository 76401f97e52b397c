"""Weights that come from a file, sharded or not, and what is measured of them, on real ranks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, distributed, nn

from tests.helpers.ranks import run_ranks

IDS = {"pad_id": 1, "eos_id": 2, "start_id": 38}
JSONS = ("zero1_fp32.json", "zero3_fp32.json", "zero3_bf16.json")
WIDTH, DECAY, NUM_STEPS = 24, 0.75, 3


class Seen(NamedTuple):
    """What a rank saw of a model that came from a file, and of its first steps."""

    placed: dict[str, Tensor]
    """Right after it was placed, whole."""
    held_bytes: int
    """Of the LLM's shards."""
    is_tied: bool
    norms: dict[str, float]
    """Of the first step."""
    averages: dict[str, Tensor]
    """Whole, after the last step."""
    history: list[dict[str, Tensor]]
    """Weights after each step, by the optimizer."""
    replica: dict[str, Tensor]


def build_on_meta() -> Any:
    from fla.models.adapters import Adapter
    from fla.models.light_t import build_small_mbart
    from fla.models.stages import Stage2Model

    with torch.device("meta"):
        mbart = build_small_mbart(
            vocab_size=40, d_model=64, num_layers=2, num_heads=2, ffn_width=96, dropout=0.0, **IDS
        )
    # The one buffer; nothing fills it here.
    mbart.final_logits_bias = torch.zeros(1, 40)
    # Other ranks must get rank 0's.
    torch.manual_seed(distributed.get_rank())
    adapter = Adapter(in_width=WIDTH, out_width=64)
    return Stage2Model(None, adapter, mbart, label_smoothing=0.2, start_id=38)


def batch() -> Any:
    from fla.batch import Batch, pad_labels

    rng = torch.Generator().manual_seed(distributed.get_rank())
    return Batch(
        sample_ids=("a", "b"),
        references=("a", "b"),
        frame_lengths=torch.tensor([3, 2]),
        labels=pad_labels([[5, 6, 2, 38], [7, 2, 38]]),
        features=torch.randn(5, WIDTH, generator=rng),
    )


def see(deepspeed_json: str, folder: Path) -> Seen:
    from fla.config.deepspeed import read_deepspeed_config
    from fla.engine import open_engine
    from fla.models.loading import find_tensor
    from fla.optim import build_adamw, cosine_schedule, decay_groups
    from fla.runtime import start_runtime
    from fla.shards import place_weights
    from fla.weights import open_weights

    runtime = start_runtime()
    config = read_deepspeed_config(
        Path("ds_configs") / deepspeed_json,
        micro_batch_size=2,
        world_size=runtime.world_size,
        max_grad_norm=0.0,
        has_gpu=False,
    )
    if "zero3" in deepspeed_json:
        # As large models have it: a small one would be kept whole on every rank.
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    model = build_on_meta()
    weights = open_weights(folder)
    place_weights(
        model,
        lambda names, shape: find_tensor(
            weights, [name.removeprefix("llm.") for name in names], shape=shape
        ),
        config=config,
        runtime=runtime,
    )
    held = [p.ds_tensor for p in model.llm.parameters() if hasattr(p, "ds_tensor")]
    is_tied = model.llm.lm_head.weight is model.llm.model.shared.weight
    groups = decay_groups([model], learning_rate=0.01, weight_decay=0.1, name="all")
    engine = open_engine(
        model,
        optimizer=build_adamw(groups, betas=(0.9, 0.99)),
        schedule=cosine_schedule(num_steps=9, warmup_fraction=0.0),
        config=config,
        runtime=runtime,
    )
    placed = copies(engine)
    norms: dict[str, float] = {}
    average = averaging_of(engine)
    history = []
    for step in range(NUM_STEPS):
        loss = engine(batch())
        engine.backward(loss.nats, num_tokens=7 * runtime.world_size, is_last=True)
        if step == 0:
            norms = engine.norms(model.last_layers())
        engine.step()
        average.update()
        history.append(copies(engine, masters=True))
    with engine.whole_model() as whole:
        replica = {name: p.detach().clone() for name, p in whole.named_parameters()}
    return Seen(
        placed=placed,
        held_bytes=sum(t.numel() * t.element_size() for t in held),
        is_tied=is_tied,
        norms=norms,
        averages={name: average.whole(name).clone() for name in average.names},
        history=history,
        replica=replica,
    )


def copies(engine: Any, *, masters: bool = False) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in engine.weights(masters=masters)}


def averaging_of(engine: Any) -> Any:
    from fla.averaging import MovingAverage

    return MovingAverage(engine.module, decay=DECAY)


def see_all(folder: Path) -> dict[str, Seen]:
    return {name: see(name, folder) for name in JSONS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fla.models.light_t import build_small_mbart
    from fla.models.llm import save_llm

    torch.manual_seed(7)
    mbart = build_small_mbart(
        vocab_size=40, d_model=64, num_layers=2, num_heads=2, ffn_width=96, dropout=0.0, **IDS
    ).to(torch.bfloat16)
    folder = tmp_path_factory.mktemp("mbart")
    save_llm(mbart, folder)
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> Iterator[dict[int, list[dict[str, Seen]]]]:
    yield {n: run_ranks(see_all, folder, world_size=n) for n in (1, 2)}


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("deepspeed_json", JSONS)
def test_every_rank_holds_the_values_of_the_file(seen, folder, deepspeed_json, world_size):
    from fla.weights import open_weights

    weights = open_weights(folder)
    for rank in seen[world_size]:
        placed = rank[deepspeed_json].placed
        of_llm = {name.removeprefix("llm."): t for name, t in placed.items() if "llm." in name}
        assert len(of_llm) == len(weights.names) - 1  # final_logits_bias is a buffer
        for name, tensor in of_llm.items():
            torch.testing.assert_close(
                tensor, weights.tensor(name).to(tensor.dtype), rtol=0, atol=0
            )


@pytest.mark.parametrize("deepspeed_json", JSONS)
def test_parameters_that_are_in_no_file_are_those_of_rank_0(seen, deepspeed_json):
    first, second = (rank[deepspeed_json].placed for rank in seen[2])

    torch.testing.assert_close(first["adapter.out.weight"], second["adapter.out.weight"])
    alone = seen[1][0][deepspeed_json].placed
    torch.testing.assert_close(first["adapter.out.weight"], alone["adapter.out.weight"])


@pytest.mark.parametrize("deepspeed_json", JSONS)
def test_head_and_embeddings_stay_one_parameter(seen, deepspeed_json):
    assert all(rank[deepspeed_json].is_tied for ranks in seen.values() for rank in ranks)


@pytest.mark.parametrize("deepspeed_json", ["zero3_fp32.json", "zero3_bf16.json"])
def test_zero_3_holds_a_share_from_the_start(seen, deepspeed_json):
    alone = seen[1][0][deepspeed_json].held_bytes

    # Each tensor is padded to a multiple of the number of ranks.
    assert [rank[deepspeed_json].held_bytes for rank in seen[2]] == [alone // 2] * 2


def plain_norms(placed: dict[str, Tensor], num_ranks: int) -> dict[str, float]:
    """Norms of the last layers by plain PyTorch, over the batches of all ranks."""
    from unittest import mock

    total = 0.0
    model: Any = None
    for rank in range(num_ranks):
        with mock.patch.object(distributed, "get_rank", return_value=rank):
            if model is None:
                model = build_on_meta()
                for name, tensor in placed.items():
                    put(model, name, nn.Parameter(tensor.float()))
                model.llm.tie_weights()
                model.llm.final_logits_bias = torch.zeros(1, 40)
            total = total + model(batch()).nats / (7 * num_ranks)
    total.backward()
    norms = {}
    for part, parameters in model.last_layers().items():
        norms[f"grad_norm/{part}"] = float(torch.cat([p.grad.flatten() for p in parameters]).norm())
        norms[f"param_norm/{part}"] = float(
            torch.cat([p.detach().flatten() for p in parameters]).norm()
        )
    return norms


def put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, parameter)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("deepspeed_json", JSONS)
def test_norms_of_the_last_layers_are_those_of_plain_pytorch(seen, deepspeed_json, world_size):
    expected = plain_norms(seen[1][0][deepspeed_json].placed, world_size)

    tolerance = 0.03 if "bf16" in deepspeed_json else 1e-4
    for rank in seen[world_size]:
        assert rank[deepspeed_json].norms == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("deepspeed_json", JSONS)
def test_the_moving_average_is_that_of_the_weights(seen, deepspeed_json, world_size):
    for rank in seen[world_size]:
        saw = rank[deepspeed_json]
        for name, average in saw.averages.items():
            expected = saw.placed[name].float()
            for weights in saw.history:
                expected = DECAY * expected + (1 - DECAY) * weights[name].float()
            torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("deepspeed_json", JSONS)
def test_the_whole_model_computes_with_the_weights(seen, deepspeed_json):
    for rank in seen[2]:
        saw = rank[deepspeed_json]
        for name, tensor in saw.replica.items():
            expected = saw.history[-1][name].to(tensor.dtype)
            torch.testing.assert_close(tensor, expected, rtol=0, atol=0)

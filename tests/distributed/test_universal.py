"""A run that goes on at other numbers of ranks, 2 then 1 then 3, equals one that never stopped."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, distributed, nn

from tests.helpers.ranks import run_ranks

STAGES = (1, 3)
NUM_SENTENCES, WIDTH = 6, 8


@dataclass(frozen=True)
class Sentences:
    """The six sentences of a step; a rank takes its share."""

    inputs: Tensor


class Model(nn.Module):
    """Two layers, a norm with statistics and a constant: all kinds of state."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(WIDTH, 17)
        self.norm = nn.BatchNorm1d(17)
        # As wide that every one of three ranks has something of each parameter group.
        self.out = nn.Linear(17, 16)
        self.register_buffer("constant", torch.zeros(3))

    def forward(self, batch: Sentences) -> Tensor:
        # Statistics are read, not gathered: those of a micro-batch would differ by its size.
        self.norm.eval()
        return self.out(torch.tanh(self.norm(self.hidden(batch.inputs)))).square().sum()


class State(NamedTuple):
    """What a rank holds at the end of its part."""

    losses: list[float]
    weights: dict[str, Tensor]
    averages: dict[str, Tensor]
    buffers: dict[str, Tensor]
    groups: list[tuple[str, float, float]]
    """Name, learning rate and weight decay of the optimizer's."""
    leftovers: list[str]
    masters: dict[str, Tensor]
    """The optimizer's float32 weights."""
    read: dict[str, dict[str, Tensor]]
    """What the checkpoint's reader gives: averages, masters and buffers; none where none is saved.
    """


def open_model(zero_stage: int, *, is_sgd: bool = False) -> tuple[Any, Any]:
    from fla.config.deepspeed import read_deepspeed_config
    from fla.engine import open_engine
    from fla.optim import build_adamw, build_sgd, cosine_schedule, decay_groups
    from fla.runtime import start_runtime

    runtime = start_runtime()
    config = read_deepspeed_config(
        Path(f"ds_configs/zero{zero_stage}_fp32.json"),
        micro_batch_size=1,
        world_size=runtime.world_size,
        max_grad_norm=0.0,
        has_gpu=False,
    )
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    torch.manual_seed(1)
    model = Model()
    groups = decay_groups(
        [model.hidden, model.norm], learning_rate=0.01, weight_decay=0.1, name="a"
    )
    groups += decay_groups([model.out], learning_rate=0.02, weight_decay=0.1, name="b")
    engine = open_engine(
        model,
        optimizer=build_sgd(groups, momentum=0.9)
        if is_sgd
        else build_adamw(groups, betas=(0.9, 0.99)),
        schedule=cosine_schedule(num_steps=8, warmup_fraction=0.0),
        config=config,
        runtime=runtime,
        ema_decay=0.5,
    )
    return engine, runtime


def take_step(engine: Any, step: int) -> float:
    rng = torch.Generator().manual_seed(step)
    inputs = torch.randn(NUM_SENTENCES, WIDTH, generator=rng)
    share = inputs[distributed.get_rank() :: distributed.get_world_size()]
    loss = engine(Sentences(share))
    engine.backward(loss, num_tokens=NUM_SENTENCES, is_last=True)
    engine.step()
    nats = loss.detach().clone()
    distributed.all_reduce(nats)
    return float(nats)


def go_on(zero_stage: int, folder: Path, first: int, last: int, *, saves: bool) -> State:
    """Take the steps from `first` to before `last`, from the checkpoint that is there on."""
    from fla.checkpoint import TrainState, load_checkpoint
    from fla.run_folder import open_run_folder
    from fla.saving import Retention, Saver

    engine, runtime = open_model(zero_stage)
    run_folder = open_run_folder(folder / f"zero{zero_stage}")
    if first:
        checkpoint = run_folder.checkpoint(first)
        load_checkpoint(engine, checkpoint, run_folder=run_folder, runtime=runtime)
    else:
        # As training leaves them, which a fresh model does not have.
        engine.module.norm.running_mean.fill_(0.25)
        engine.module.constant.fill_(3.0)
    losses = [take_step(engine, step) for step in range(first, last)]
    read: dict[str, dict[str, Tensor]] = {}
    if saves:
        saver = Saver(engine, run_folder, runtime=runtime, retention=Retention(newest=9))
        saver.begin(TrainState(step=last))
        saver.finish()
        read = read_weights(run_folder.checkpoint(last), engine)
    return State(
        losses=losses,
        weights={name: parameter.detach().clone() for name, parameter in gathered(engine).items()},
        averages={name: tensor.clone() for name, tensor in engine.weights(masters=True)},
        buffers={name: b.clone() for name, b in engine.buffers().items()},
        groups=[
            (g["name"], g["lr"], g["weight_decay"]) for g in engine._engine.optimizer.param_groups
        ],
        leftovers=[path.name for path in run_folder.path.glob("*universal*")],
        masters=gathered(engine, masters=True),
        read=read,
    )


def read_weights(checkpoint: Path, engine: Any) -> dict[str, dict[str, Tensor]]:
    from fla.checkpoint_weights import open_checkpoint
    from fla.shards import whole_shape

    shapes = {name: whole_shape(p) for name, p in engine.module.named_parameters()}
    averages = open_checkpoint(checkpoint)
    masters = replace(averages, _average=())
    return {
        "averages": {name: averages.parameter(name, shapes[name]) for name in shapes},
        "masters": {name: masters.parameter(name, shapes[name]) for name in shapes},
        "buffers": dict(averages.buffers),
    }


def gathered(engine: Any, *, masters: bool = False) -> dict[str, Tensor]:
    from fla.shards import iterate_weights

    return {name: t.clone() for name, t in iterate_weights(engine.module, masters=masters)}


def go_on_all(folder: Path, first: int, last: int, saves: bool) -> dict[int, State]:
    return {stage: go_on(stage, folder, first, last, saves=saves) for stage in STAGES}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, State]]:
    yield run_ranks(go_on_all, tmp_path_factory.mktemp("alone"), 0, 6, False, world_size=1)[0]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[list[dict[int, State]]]]:
    folder = tmp_path_factory.mktemp("parts")
    yield [
        run_ranks(go_on_all, folder, first, last, saves, world_size=world_size)
        for first, last, saves, world_size in ((0, 2, True, 2), (2, 4, True, 1), (4, 6, False, 3))
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_two_then_one_then_three_ranks_equal_one_that_never_stopped(stage, parts, uninterrupted):
    expected = uninterrupted[stage]

    losses = [loss for part in parts for loss in part[0][stage].losses]

    assert losses == pytest.approx(expected.losses, rel=1e-5)
    for rank in parts[-1]:
        state = rank[stage]
        torch.testing.assert_close(state.weights, expected.weights, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(state.averages, expected.averages, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(state.buffers, expected.buffers)
        assert state.groups == expected.groups


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_of_one_or_two_ranks_is_read_bit_for_bit_without_an_engine(stage, parts):
    for part in parts[:2]:
        for rank in part:
            state = rank[stage]
            for name, expected in (
                ("averages", state.averages), ("masters", state.masters), ("buffers", state.buffers)
            ):  # fmt: skip
                assert state.read[name].keys() == expected.keys()
                for key, tensor in expected.items():
                    assert torch.equal(state.read[name][key], tensor), (name, key)


@pytest.mark.parametrize("stage", STAGES)
def test_the_converted_copy_is_gone_after_loading(stage, parts):
    assert [rank[stage].leftovers for part in parts for rank in part] == [[]] * 6


def load_sgd(folder: Path) -> str:
    from fla.errors import CheckpointError

    engine, _ = open_model(1, is_sgd=True)
    try:
        engine.check_convertible(folder)
    except CheckpointError as error:
        return str(error)
    return ""


def test_another_number_of_ranks_is_refused_for_sgd(tmp_path):
    sentence = run_ranks(load_sgd, tmp_path, world_size=1)[0]

    assert "only AdamW's state can be converted, not that of SGD. Start as many ranks" in sentence

"""A gradient that is no number leaves no trace but that its step is over, on real ranks."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, distributed, nn

from fla.losses import LossSum
from tests.helpers.ranks import run_ranks

# One file of every way in which DeepSpeed updates weights.
NAMES = ("zero2_bf16", "zero3_bf16", "zero1_autocast")
BAD_STEP = 1


class Normed(nn.Module):
    """A layer behind running statistics; the loss is no number where it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8, affine=False)
        self.out = nn.Linear(8, 4)

    def forward(self, batch: tuple[Tensor, float]) -> LossSum:
        x, poison = batch
        normed = self.norm(x.to(self.norm.running_mean.dtype))
        nats = self.out(normed.to(self.out.bias.dtype)).float().square().sum()
        return LossSum(nats * poison, len(x))


class Steps(NamedTuple):
    """What three steps left, before and behind the one in the middle."""

    is_done: list[bool]
    before: dict[str, Tensor]
    behind: dict[str, Tensor]
    end: dict[str, Tensor]
    rates: list[float]


def open_normed(name: str) -> Any:
    from fla.config.deepspeed import read_deepspeed_config
    from fla.engine import open_engine
    from fla.optim import build_adamw, cosine_schedule, decay_groups
    from fla.runtime import start_runtime

    runtime = start_runtime()
    torch.manual_seed(1)
    model = Normed()
    groups = decay_groups([model], learning_rate=0.1, weight_decay=0.0, name="all")
    return open_engine(
        model,
        optimizer=build_adamw(groups, betas=(0.9, 0.99)),
        schedule=cosine_schedule(num_steps=4, warmup_fraction=0.0),
        config=read_deepspeed_config(
            Path("ds_configs") / f"{name}.json",
            micro_batch_size=1,
            world_size=runtime.world_size,
            max_grad_norm=0.0,
            has_gpu=False,
        ),
        runtime=runtime,
        ema_decay=0.5,
    )


def everything_of(engine: Any) -> dict[str, Tensor]:
    from fla.shards import iterate_weights

    weights = {n: t.float().clone() for n, t in iterate_weights(engine.module, masters=True)}
    averages = {f"{n} on average": t.clone() for n, t in engine.weights(masters=True)}
    statistics = {n: b.float().clone() for n, b in engine.module.named_buffers() if "running" in n}
    return weights | averages | statistics


def take_steps(name: str, poison: float) -> Steps:
    engine = open_normed(name)
    is_done, rates, states = [], [], []
    for step in range(3):
        states.append(everything_of(engine))
        engine.keep_statistics()
        rng = torch.Generator().manual_seed(10 * step + distributed.get_rank())
        x = torch.randn(6, 8, generator=rng)
        # On one rank alone.
        is_bad = step == BAD_STEP and distributed.get_rank() == 1
        loss = engine((x, poison if is_bad else 1.0))
        engine.backward(loss.nats, num_tokens=12, is_last=True)
        is_done.append(engine.step())
        if not is_done[-1]:
            engine.skip_step()
        rates += engine.learning_rates().values()
    return Steps(is_done, states[1], states[2], everything_of(engine), rates)


def take_all(poisons: tuple[float, ...]) -> dict[tuple[str, float], Steps]:
    return {(name, poison): take_steps(name, poison) for name in NAMES for poison in poisons}


@pytest.fixture(scope="module")
def taken() -> list[dict[tuple[str, float], Steps]]:
    poisons = (1.0, float("inf"), float("nan"))
    found = run_ranks(take_all, poisons, world_size=2, timeout_s=200)
    # nan is no key: it equals nothing.
    return [{(name, str(poison)): it for (name, poison), it in one.items()} for one in found]


@pytest.mark.parametrize("poison", ["inf", "nan"])
@pytest.mark.parametrize("name", NAMES)
def test_a_dropped_step_leaves_everything_as_it_was(name, poison, taken):
    for steps in (one[name, poison] for one in taken):
        assert steps.is_done == [True, False, True]
        torch.testing.assert_close(steps.behind, steps.before, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_steps_behind_it_go_on_at_the_rates_of_a_run_that_dropped_nothing(name, taken):
    whole, dropped = taken[0][name, "1.0"], taken[0][name, "nan"]

    assert whole.is_done == [True, True, True]
    assert dropped.rates == whole.rates
    for key, tensor in dropped.end.items():
        assert torch.isfinite(tensor).all()
        assert not torch.equal(tensor, dropped.behind[key])


def test_what_a_dropped_step_drew_back_differs_from_what_it_would_have_left(taken):
    for name in NAMES:
        steps = taken[0][name, "1.0"]
        assert not torch.equal(steps.behind["norm.running_mean"], steps.before["norm.running_mean"])

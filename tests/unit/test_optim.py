import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from fla.optim import build_adamw, build_sgd, cosine_schedule, decay_groups


def rates(num_steps: int, warmup_fraction: float) -> list[float]:
    """Learning rate of each step of a run."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=8.0)
    schedule = cosine_schedule(num_steps=num_steps, warmup_fraction=warmup_fraction)(optimizer)
    seen = []
    for _ in range(num_steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_matrices_and_kernels_decay_and_vectors_do_not():
    module = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Linear(3, 4))

    decayed, spared = decay_groups([module], learning_rate=0.1, weight_decay=0.01, name="all")

    assert {tuple(p.shape) for p in decayed["params"]} == {(3, 2, 3), (4, 3)}
    assert {p.ndim for p in spared["params"]} == {1}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert len(decayed["params"]) + len(spared["params"]) == len(list(module.parameters()))


def test_shared_and_frozen_parameters_are_not_trained_twice_or_at_all():
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    frozen = nn.Linear(2, 2).requires_grad_(False)

    (group,) = decay_groups(
        [first, second, frozen], learning_rate=0.1, weight_decay=0.01, name="all"
    )

    assert group["params"] == [first.weight]


def test_the_rate_falls_from_its_highest_to_nearly_zero_on_a_cosine():
    assert rates(4, 0.0) == pytest.approx([8.0, 6.828427, 4.0, 1.171573])


def test_the_rate_rises_on_a_line_before():
    # A quarter of 12 steps: three on the way up, the highest at the fourth.
    seen = rates(12, 0.25)

    assert seen[:4] == pytest.approx([2.0, 4.0, 6.0, 8.0])
    assert seen[3:] == sorted(seen[3:], reverse=True)
    assert seen[-1] < 0.5


def test_a_single_step_has_the_full_rate():
    assert rates(1, 0.1) == [8.0]


def test_a_step_beyond_the_end_is_not_on_the_way_up_again():
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=8.0)
    schedule = cosine_schedule(num_steps=2, warmup_fraction=0.0)(optimizer)
    for _ in range(4):
        optimizer.step()
        schedule.step()

    assert optimizer.param_groups[0]["lr"] == 0.0


def test_optimizers_are_the_methods():
    groups = decay_groups([nn.Linear(2, 2)], learning_rate=0.1, weight_decay=0.01, name="all")

    sgd = build_sgd(groups, momentum=0.9)
    adamw = build_adamw(groups, betas=(0.9, 0.998))

    assert isinstance(sgd, SGD) and sgd.defaults["nesterov"] and sgd.defaults["momentum"] == 0.9
    assert isinstance(adamw, AdamW) and adamw.defaults["betas"] == (0.9, 0.998)
    assert not build_sgd(groups, momentum=0.0).defaults["nesterov"]

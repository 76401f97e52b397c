"""The engine on real ranks: 2 ranks equal 1, and ZeRO-3 shards.

In float32 the two differ by the order of sums alone: the tolerance is 1e-5, relative and absolute.
SGD, for Adam's first steps turn the sign of a gradient of 1e-9 into a whole step.
"""

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, distributed, nn

from fla.losses import LossSum
from tests.helpers.engines import write_checkpoint
from tests.helpers.ranks import run_ranks

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
WIDTH = 64
ZERO_STAGES = (1, 2, 3)

# Sentences of each micro-batch, and their lengths in tokens: three steps of 4, 2 and 6
# micro-batches over all ranks, no two micro-batches with equally many tokens.
STEPS = (
    ((3, 1), (5,), (2, 2, 9), (4,)),
    ((7, 7), (1,)),
    ((2,), (6, 3), (8,), (1, 1), (11,), (4, 4, 4)),
)


class Sentences(NamedTuple):
    """A micro-batch: what the toy model reads."""

    inputs: Tensor
    """`(N, WIDTH)`, one row a token."""
    targets: Tensor
    """`(N,)`."""


class Toy(nn.Module):
    """Two layers, with the loss of a stage model."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(WIDTH, 4 * WIDTH)
        self.out = nn.Linear(4 * WIDTH, 8)

    def forward(self, batch: Sentences) -> LossSum:
        logits = self.out(torch.tanh(self.hidden(batch.inputs)))
        nats = nn.functional.cross_entropy(logits, batch.targets, reduction="sum")
        return LossSum(nats, len(batch.targets))


class Normed(nn.Module):
    """A model with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> LossSum:
        return LossSum(self.norm(x).square().sum(), len(x))


@dataclass(frozen=True)
class Trained:
    """What a rank saw of one training."""

    losses: list[float]
    """Nats of each step, summed over all ranks."""
    grad_norms: list[float]
    weights: dict[str, Tensor]
    """All of them, as this rank's whole model has them."""
    partition_bytes: int
    """Bytes of the weights that this rank holds while it trains; ZeRO-3 only."""


def micro_batches(step: int) -> list[Sentences]:
    rng = torch.Generator().manual_seed(step)
    batches = []
    for lengths in STEPS[step]:
        inputs = torch.randn(sum(lengths), WIDTH, generator=rng)
        targets = torch.randint(8, (sum(lengths),), generator=rng)
        batches.append(Sentences(inputs, targets))
    return batches


def open_toy(zero_stage: int) -> Any:
    from fla.config.deepspeed import read_deepspeed_config
    from fla.engine import open_engine
    from fla.optim import build_sgd, cosine_schedule, decay_groups

    config = read_deepspeed_config(
        Path(f"ds_configs/zero{3 if zero_stage == 3 else 1}_fp32.json"),
        micro_batch_size=1,
        world_size=distributed.get_world_size(),
        max_grad_norm=1.0,
        has_gpu=False,
    )
    config["zero_optimization"]["stage"] = zero_stage
    # Else tensors as small as these would be kept whole.
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    torch.manual_seed(1)
    toy = Toy()
    groups = decay_groups([toy], learning_rate=0.1, weight_decay=0.01, name="all")
    return open_engine(
        toy,
        optimizer=build_sgd(groups, momentum=0.9),
        schedule=cosine_schedule(num_steps=4, warmup_fraction=0.0),
        config=config,
        runtime=runtime(),
    )


def runtime() -> Any:
    from fla.runtime import start_runtime

    return start_runtime()


def take_step(engine: Any, step: int) -> float:
    batches = micro_batches(step)
    num_tokens = sum(len(batch.targets) for batch in batches)
    share = batches[distributed.get_rank() :: distributed.get_world_size()]
    nats = torch.zeros(())
    for index, batch in enumerate(share):
        loss = engine(batch)
        engine.backward(loss.nats, num_tokens=num_tokens, is_last=index == len(share) - 1)
        nats += loss.nats.detach()
    engine.step()
    distributed.all_reduce(nats)
    return float(nats)


def whole_weights(engine: Any) -> dict[str, Tensor]:
    with engine.whole_model() as model:
        return {name: value.detach().clone() for name, value in model.state_dict().items()}


def train_toy(zero_stage: int) -> Trained:
    engine = open_toy(zero_stage)
    losses, grad_norms = [], []
    for step in range(len(STEPS)):
        losses.append(take_step(engine, step))
        grad_norms.append(engine.grad_norm())
    held = [p.ds_tensor for p in engine.module.parameters()] if zero_stage == 3 else []
    return Trained(
        losses=losses,
        grad_norms=grad_norms,
        weights=whole_weights(engine),
        partition_bytes=sum(tensor.numel() * tensor.element_size() for tensor in held),
    )


def resume_toy(zero_stage: int, folder: Path) -> dict[str, Tensor]:
    """Weights after a save in the middle, and a load into an engine that went elsewhere."""
    engine = open_toy(zero_stage)
    take_step(engine, 0)
    checkpoint = folder / f"zero{zero_stage}" / "step_0000001"
    files = engine.copy_files(checkpoint)
    # What is written afterwards is what was there before.
    take_step(engine, 2)
    for path, write in files:
        write(path)
    distributed.barrier()
    engine.load(checkpoint)
    for step in (1, 2):
        take_step(engine, step)
    return whole_weights(engine)


def average_statistics() -> tuple[Tensor, Tensor]:
    """Running mean and variance after a forward pass on other numbers on each rank."""
    from fla.engine import open_engine
    from fla.optim import build_sgd, cosine_schedule, decay_groups

    normed = Normed()
    groups = decay_groups([normed], learning_rate=0.1, weight_decay=0.0, name="all")
    engine = open_engine(
        normed,
        optimizer=build_sgd(groups, momentum=0.0),
        schedule=cosine_schedule(num_steps=1, warmup_fraction=0.0),
        config={
            "train_batch_size": distributed.get_world_size(),
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
        },
        runtime=runtime(),
    )
    rank = distributed.get_rank()
    # Means 10 and 20 on rank 0, 30 and 60 on rank 1; variances 2 and 8, 18 and 72.
    spread = torch.tensor([[-1.0, -2.0], [1.0, 2.0]]) * (1 + 2 * rank)
    engine(torch.tensor([10.0, 20.0]) * (1 + 2 * rank) + spread)
    engine.average_batch_norm()
    return normed.norm.running_mean.clone(), normed.norm.running_var.clone()


def everything(folder: Path) -> dict[str, Any]:
    """All that the tests look at, in one start of the ranks: a start takes seconds."""
    has_two_ranks = distributed.get_world_size() == 2
    return {
        "trained": {stage: train_toy(stage) for stage in ZERO_STAGES},
        "resumed": {stage: resume_toy(stage, folder) for stage in (1, 3)} if has_two_ranks else {},
        "statistics": average_statistics(),
    }


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    yield run_ranks(everything, tmp_path_factory.mktemp("one"), world_size=1)[0]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    yield run_ranks(everything, tmp_path_factory.mktemp("two"), world_size=2)


@pytest.mark.parametrize("stage", ZERO_STAGES)
def test_two_ranks_equal_one_over_steps_of_different_size(stage, one_rank, two_ranks):
    alone, shared = one_rank["trained"][stage], two_ranks[0]["trained"][stage]

    torch.testing.assert_close(shared.losses, alone.losses, **TOLERANCE)
    torch.testing.assert_close(shared.grad_norms, alone.grad_norms, **TOLERANCE)
    torch.testing.assert_close(shared.weights, alone.weights, **TOLERANCE)


def test_the_engine_computes_what_torch_computes(one_rank):
    torch.manual_seed(1)
    toy = Toy()
    optimizer = torch.optim.SGD(
        [
            {"params": [toy.hidden.weight, toy.out.weight], "weight_decay": 0.01},
            {"params": [toy.hidden.bias, toy.out.bias], "weight_decay": 0.0},
        ],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
    )
    for step, share in enumerate((1.0, 0.8535534, 0.5)):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * share
        optimizer.zero_grad()
        losses = [toy(batch) for batch in micro_batches(step)]
        mean = sum(loss.nats for loss in losses) / sum(loss.num_tokens for loss in losses)
        mean.backward()
        norm = nn.utils.clip_grad_norm_(toy.parameters(), 1.0)
        assert one_rank["trained"][1].grad_norms[step] == pytest.approx(norm.item(), rel=1e-5)
        optimizer.step()

    torch.testing.assert_close(one_rank["trained"][1].weights, toy.state_dict(), **TOLERANCE)


def test_zero_3_leaves_half_of_the_weights_on_a_rank(one_rank, two_ranks):
    whole = sum(4 * tensor.numel() for tensor in Toy().state_dict().values())

    assert one_rank["trained"][3].partition_bytes == whole
    # Each tensor is padded to a multiple of the number of ranks.
    assert [rank["trained"][3].partition_bytes for rank in two_ranks] == [whole // 2] * 2


@pytest.mark.parametrize("stage", ZERO_STAGES)
def test_the_whole_model_is_the_same_on_every_rank(stage, two_ranks):
    first, second = (rank["trained"][stage].weights for rank in two_ranks)

    torch.testing.assert_close(second, first, rtol=0, atol=0)


@pytest.mark.parametrize("stage", [1, 3])
def test_going_on_from_a_checkpoint_equals_never_having_stopped(stage, two_ranks):
    for rank in two_ranks:
        torch.testing.assert_close(
            rank["resumed"][stage], rank["trained"][stage].weights, rtol=0, atol=0
        )


def test_batch_norm_statistics_become_the_mean_over_ranks(one_rank, two_ranks):
    # A tenth of the batch's, the rest as at the start: mean 0, variance 1.
    for mean, variance in (rank["statistics"] for rank in two_ranks):
        torch.testing.assert_close(mean, torch.tensor([2.0, 4.0]))
        torch.testing.assert_close(variance, torch.tensor([1.9, 4.9]))
    torch.testing.assert_close(one_rank["statistics"][0], torch.tensor([1.0, 2.0]))


def save_without_room(folder: Path) -> str:
    """The sentence of a save that finds no room, the space of an ordinary one being left."""
    from fla.errors import CheckpointError

    engine = open_toy(3)
    take_step(engine, 0)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        write_checkpoint(engine, folder / "step_0000001")
    except CheckpointError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return ""


def test_a_disk_without_room_for_a_checkpoint_gets_a_sentence(tmp_path):
    sentence = run_ranks(save_without_room, tmp_path, world_size=1)[0]

    assert "step_0000001: the checkpoint could not be written" in sentence
    assert "the former checkpoints are whole." in sentence


def train_what_was_loaded_for_evaluation() -> bool:
    from fla.config.deepspeed import read_deepspeed_config
    from fla.engine import open_engine
    from fla.optim import build_sgd, cosine_schedule, decay_groups

    toy = Toy()
    toy.out.eval()
    open_engine(
        toy,
        optimizer=build_sgd(
            decay_groups([toy], learning_rate=0.1, weight_decay=0.0, name="all"), momentum=0.0
        ),
        schedule=cosine_schedule(num_steps=1, warmup_fraction=0.0),
        config=read_deepspeed_config(
            Path("ds_configs/zero3_fp32.json"),
            micro_batch_size=1,
            world_size=1,
            max_grad_norm=0.0,
            has_gpu=False,
        ),
        runtime=runtime(),
    )
    return all(module.training for module in toy.modules())


def test_a_part_that_was_loaded_for_evaluation_is_trained_with_its_dropout():
    assert run_ranks(train_what_was_loaded_for_evaluation, world_size=1) == [True]

"""The training loop with stand-ins for engine and loader, which keep notes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fla.batch import Step
from fla.checkpoint import TrainState
from fla.engine import CheckpointFile
from fla.losses import LossSum
from fla.run_folder import RunFolder, list_complete_checkpoints, open_run_folder
from fla.runtime import Runtime
from fla.tracking import NullTracker
from fla.train import plan_schedule, train

STEPS_PER_EPOCH = 3

RUNTIME = Runtime(
    device="cpu",
    rank=0,
    local_rank=0,
    world_size=1,
    dali_device_id=None,
    decode_device="cpu",
)


class Engine:
    """Loss 2 nats a token, unless told otherwise."""

    def __init__(self, nats_per_token: float = 2.0) -> None:
        self.nats_per_token = nats_per_token
        self.backwards: list[tuple[float, int, bool]] = []
        self.num_steps = 0
        self.num_averages = 0
        self.draws: list[float] = []

    def __call__(self, batch: Tensor) -> LossSum:
        self.draws.append(float(torch.rand(())))
        return LossSum(batch.sum() * self.nats_per_token, len(batch))

    def backward(self, nats: Tensor, *, num_tokens: int, is_last: bool) -> None:
        self.backwards.append((float(nats), num_tokens, is_last))

    def step(self) -> bool:
        self.num_steps += 1
        return True

    def learning_rates(self) -> dict[str, float]:
        return {"all": 0.5}

    def grad_norm(self) -> float:
        return 1.5

    def average_batch_norm(self) -> None:
        self.num_averages += 1

    def copy_files(self, folder: Path) -> list[CheckpointFile]:
        words = str(self.num_steps)
        return [CheckpointFile(folder / "weights", lambda path: path.write_text(words))]


class Loader:
    """Each step two micro-batches, of one token and of two."""

    num_steps = STEPS_PER_EPOCH
    waited_s = 0.0

    def __init__(self) -> None:
        self.given: list[tuple[int, int]] = []

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Step[Tensor]]:
        for number in range(first_step, self.num_steps):
            self.given.append((epoch, number))
            yield Step(micro_batches=(torch.ones(1), torch.ones(2)), num_tokens=3)


class Log(NullTracker):
    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.artifacts: list[str] = []

    def log_artifact(self, path: Path, folder: str = "") -> None:
        self.artifacts.append(path.name)

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        self.rows[step] = metrics


class Training:
    """One call of the loop and what it left."""

    def __init__(self, folder: Path, **schedule: int) -> None:
        numbers = {"num_epochs": 2, "max_steps": 0, "log_every_steps": 2}
        numbers |= {"evaluate_every_steps": 0, "keep_checkpoints": 1}
        self.schedule = plan_schedule(steps_per_epoch=STEPS_PER_EPOCH, **(numbers | schedule))
        self.folder: RunFolder = open_run_folder(folder)
        self.engine, self.loader, self.log = Engine(), Loader(), Log()
        self.evaluated: list[int] = []

    def run(self, scores: dict[int, float] | None = None, **changes: Any) -> TrainState:
        def evaluate(step: int) -> float:
            self.evaluated.append(step)
            return (scores or {}).get(step, 0.0)

        arguments: dict[str, Any] = {"evaluate": evaluate, "state": TrainState()}
        return train(
            self.engine,
            self.loader,
            prepare=lambda batch: batch,
            tracker=self.log,
            run_folder=self.folder,
            runtime=RUNTIME,
            schedule=self.schedule,
            seed=1,
            **(arguments | changes),
        )

    @property
    def checkpoints(self) -> list[str]:
        return [path.name for path in list_complete_checkpoints(self.folder)]

"""The loop: what it does at which step. The engine and the loader are stand-ins that keep notes."""

import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, distributed

from fla.batch import Step
from fla.checkpoint import TrainState, read_train_state
from fla.data.skipped import SkippedClips
from fla.errors import CheckpointError, DataError, FlaError, RunStopped
from fla.losses import LossSum
from fla.run_folder import (
    RunFolder,
    list_complete_checkpoints,
    open_run_folder,
    read_best,
    step_of,
)
from fla.runtime import Runtime, join_process_group
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


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    join_process_group("gloo", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Engine:
    """Loss 2 nats a token, unless told otherwise."""

    def __init__(self, nats_per_token: float = 2.0) -> None:
        self.nats_per_token = nats_per_token
        self.backwards: list[tuple[float, int, bool]] = []
        self.num_steps = 0
        self.draws: list[float] = []

    def __call__(self, batch: Tensor) -> LossSum:
        self.draws.append(float(torch.rand(())))
        return LossSum(batch.sum() * self.nats_per_token, len(batch))

    def backward(self, nats: Tensor, *, num_tokens: int, is_last: bool) -> None:
        self.backwards.append((float(nats), num_tokens, is_last))

    def step(self) -> None:
        self.num_steps += 1

    def learning_rates(self) -> dict[str, float]:
        return {"all": 0.5}

    def grad_norm(self) -> float:
        return 1.5

    def save(self, folder: Path) -> None:
        (folder / "weights").write_text(str(self.num_steps))


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


def test_every_step_of_every_epoch_is_taken_once(tmp_path):
    training = Training(tmp_path)

    state = training.run()

    assert training.loader.given == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert training.engine.num_steps == state.step == 6


def test_gradients_are_divided_by_the_tokens_of_the_whole_step(tmp_path):
    training = Training(tmp_path, max_steps=1)

    training.run()

    # The second micro-batch is the last before the update.
    assert training.engine.backwards == [(2.0, 3, False), (4.0, 3, True)]


def test_dev_is_scored_after_every_epoch(tmp_path):
    training = Training(tmp_path)

    training.run()

    assert training.evaluated == [3, 6]


def test_dev_is_scored_every_so_many_steps_and_at_the_last(tmp_path):
    training = Training(tmp_path, evaluate_every_steps=2, max_steps=5)

    training.run()

    assert training.evaluated == [2, 4, 5]


def test_the_best_checkpoint_outlives_newer_ones(tmp_path):
    training = Training(tmp_path, evaluate_every_steps=1)

    state = training.run({2: 9.0, 4: 8.0})

    assert (state.best_step, state.best_score) == (2, 9.0)
    assert training.checkpoints == ["step_0000002", "step_0000006"]
    assert read_best(training.folder) == "step_0000002"


def test_several_of_the_best_checkpoints_outlive_newer_ones(tmp_path):
    training = Training(tmp_path, evaluate_every_steps=1, keep_best_checkpoints=2)

    state = training.run({1: 1.0, 2: 9.0, 3: 8.0, 4: 8.0, 5: 2.0})

    assert state.ranking == ((9.0, 2), (8.0, 3))
    assert [step_of(name) for name in training.checkpoints] == [2, 3, 6]


def test_a_run_that_was_killed_before_it_named_its_best_checkpoint_names_it(tmp_path):
    training = Training(tmp_path)
    training.run({3: 5.0})
    training.folder.best_txt.unlink()

    Training(tmp_path, num_epochs=3).run(
        {9: 1.0}, state=read_train_state(training.folder.checkpoint(6), manifests={})
    )

    assert read_best(training.folder) == "step_0000003"
    assert "step_0000003" in training.checkpoints


def test_of_equal_scores_the_first_stays_best(tmp_path):
    training = Training(tmp_path, evaluate_every_steps=2)

    assert training.run({2: 4.0, 4: 4.0, 6: 4.0}).best_step == 2


def test_a_checkpoint_knows_where_the_run_stood(tmp_path):
    training = Training(tmp_path, evaluate_every_steps=2)

    state = training.run({4: 7.0})

    newest = training.folder.checkpoint(6)
    assert read_train_state(newest, manifests={}) == state
    assert (newest / "weights").read_text() == "6"
    assert json.loads((newest / "state.json").read_text())["world_size"] == 1


def test_a_run_goes_on_at_the_step_of_the_epoch_where_it_stood(tmp_path):
    training = Training(tmp_path, num_epochs=3)

    state = training.run(state=TrainState(step=4, best_score=5.0, best_step=3))

    assert training.loader.given == [(1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert state.step == 9
    # Nothing better than before was found.
    assert (state.best_step, training.evaluated) == (3, [6, 9])


def test_a_run_that_stands_at_the_end_of_an_epoch_goes_on_with_the_next(tmp_path):
    training = Training(tmp_path)

    training.run(state=TrainState(step=3, evaluated_step=3))

    assert training.loader.given == [(1, 0), (1, 1), (1, 2)]


class LearningEngine(Engine):
    """Another loss at every step."""

    def __call__(self, batch: Tensor) -> LossSum:
        loss = super().__call__(batch)
        return LossSum(loss.nats / (1 + self.num_steps), loss.num_tokens)


class Signals:
    """A signal that comes while a step is taken."""

    def __init__(self, engine: Engine, step: int) -> None:
        self.engine, self.step = engine, step

    @property
    def requested(self) -> signal.Signals | None:
        return signal.SIGTERM if self.engine.num_steps >= self.step else None


SCORES = {3: 5.0, 6: 4.0}


def strip_times(rows: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    timed = ("train/tokens_per_s", "train/data_wait_fraction")
    return {
        step: {name: value for name, value in row.items() if name not in timed}
        for step, row in rows.items()
    }


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_run_that_a_signal_stops_saves_its_step_and_goes_on_as_if_nothing_had_been(
    tmp_path, step
):
    whole = Training(tmp_path / "whole", log_every_steps=4)
    whole.engine = LearningEngine()
    whole.run(SCORES)
    training = Training(tmp_path / "stopped", log_every_steps=4)
    training.engine = LearningEngine()

    with pytest.raises(RunStopped) as error:
        training.run(SCORES, signals=Signals(training.engine, step))

    assert str(error.value) == (
        f"{training.folder.path}: stopped by SIGTERM after step {step}, which is saved. The same "
        "command goes on from there."
    )
    assert error.value.exit_code == 75
    assert training.engine.num_steps == step
    # Step 3 is stopped at before its evaluation.
    assert training.evaluated == ([3] if step > 3 else [])
    engine = LearningEngine()
    resumed = Training(tmp_path / "stopped", log_every_steps=4)
    state = read_train_state(training.folder.checkpoint(step), manifests={})
    engine.num_steps, resumed.engine = step, engine
    end = resumed.run(SCORES, state=state)
    rows = training.log.rows | resumed.log.rows
    assert strip_times(rows) == strip_times(whole.log.rows)
    assert training.evaluated + resumed.evaluated == whole.evaluated
    assert (end.best_step, end.best_score) == (3, 5.0)
    assert training.engine.draws + engine.draws == whole.engine.draws


def test_a_signal_at_the_last_step_changes_nothing(tmp_path):
    training = Training(tmp_path)

    state = training.run(signals=Signals(training.engine, 6))

    assert (state.step, training.evaluated) == (6, [3, 6])


def test_pretraining_that_is_stopped_says_that_nothing_is_saved(tmp_path):
    training = Training(tmp_path)

    with pytest.raises(RunStopped, match="after step 2; nothing is saved of it"):
        training.run(evaluate=None, signals=Signals(training.engine, 2))


def test_checkpoints_are_saved_when_the_time_is_over_and_not_evaluated(tmp_path):
    training = Training(tmp_path, save_every_minutes=1e-9, keep_checkpoints=9)

    training.run()

    assert [step_of(name) for name in training.checkpoints] == [1, 2, 3, 4, 5, 6]
    assert training.evaluated == [3, 6]


def test_a_checkpoint_of_another_run_is_evaluated_in_this_ones_folder(tmp_path):
    training = Training(tmp_path)

    training.run(state=TrainState(step=3))

    assert training.evaluated == [3, 6]
    assert training.checkpoints == ["step_0000003", "step_0000006"]


def test_a_run_that_stands_at_its_end_does_nothing_more(tmp_path):
    training = Training(tmp_path)

    state = training.run(state=TrainState(step=6, best_score=1.0, best_step=3, evaluated_step=6))

    assert state == TrainState(step=6, best_score=1.0, best_step=3, evaluated_step=6)
    assert (training.loader.given, training.evaluated, training.log.rows) == ([], [], {})


def test_a_resumed_run_draws_the_dropout_that_it_would_have_drawn(tmp_path):
    whole, resumed = Training(tmp_path / "a"), Training(tmp_path / "b")

    whole.run()
    torch.rand(5)
    resumed.run(state=TrainState(step=4))

    assert len(set(whole.engine.draws)) == 12
    assert resumed.engine.draws == whole.engine.draws[8:]


def test_metrics_are_logged_every_so_many_steps_and_at_the_last(tmp_path):
    training = Training(tmp_path, max_steps=5)

    training.run()

    assert list(training.log.rows) == [2, 4, 5]
    row = training.log.rows[5]
    assert row["train/loss_nats_per_token"] == pytest.approx(2.0)
    assert row["train/learning_rate/all"] == 0.5
    assert row["train/grad_norm"] == 1.5
    assert row["train/epoch"] == pytest.approx(5 / 3)
    assert row["train/tokens_per_s"] > 0


class BadClipLoader(Loader):
    """Each step loses the clip of its first micro-batch, which has one of its three tokens."""

    def __init__(self, skipped: SkippedClips) -> None:
        super().__init__()
        self.skipped = skipped

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Step[Tensor]]:
        for step in super().epoch(epoch, first_step=first_step):
            _, number = self.given[-1]
            if f"clip{number}" not in self.skipped:
                self.skipped.add(f"clip{number}", f"clip{number}: {number}.mp4 does not decode.")
            yield Step(micro_batches=step.micro_batches[1:], num_tokens=3, num_skipped_tokens=1)


def test_clips_that_are_left_out_are_counted_listed_and_kept_in_the_checkpoint(tmp_path, caplog):
    skipped = SkippedClips(100, max_fraction=0.03)
    training = Training(tmp_path, log_every_steps=1)
    training.loader = BadClipLoader(skipped)

    state = training.run(skipped=skipped)

    assert {row["train/loss_nats_per_token"] for row in training.log.rows.values()} == {2.0}
    counts = [row["train/skipped_clips"] for row in training.log.rows.values()]
    assert counts == [1, 2, 3, 3, 3, 3]
    lines = training.folder.skipped_tsv.read_text().splitlines()
    assert lines == [f"clip{n}\tclip{n}: {n}.mp4 does not decode." for n in range(3)]
    assert set(training.log.artifacts) == {"skipped_clips.tsv"}
    assert list(state.skipped) == ["clip0", "clip1", "clip2"]
    newest = training.folder.checkpoint(6)
    assert read_train_state(newest, manifests={}) == state
    assert caplog.text.count("Left out: clip1: 1.mp4") == 1


def test_too_many_clips_that_are_left_out_end_the_run_after_they_are_listed(tmp_path):
    skipped = SkippedClips(100, max_fraction=0.01)
    training = Training(tmp_path, log_every_steps=1)
    training.loader = BadClipLoader(skipped)

    with pytest.raises(
        DataError, match=r"^2 of 100 .* \(0\.01\) allows; the last is clip1: 1\.mp4"
    ):
        training.run(skipped=skipped)

    assert len(training.folder.skipped_tsv.read_text().splitlines()) == 2


def test_a_manifest_that_changed_since_a_checkpoint_is_named(tmp_path):
    training = Training(tmp_path)
    training.run(state=TrainState(manifests={"train.tsv": "aaa", "dev.tsv": "bbb"}))
    newest = training.folder.checkpoint(6)

    with pytest.raises(
        CheckpointError,
        match=r"^train\.tsv has changed since .*step_0000006 was saved: .* was aaa and is ccc\.",
    ):
        read_train_state(newest, manifests={"train.tsv": "ccc", "dev.tsv": "bbb"})


class Named(NamedTuple):
    tensor: Tensor
    sample_ids: tuple[str, ...]


class PoisonedEngine(Engine):
    """From one step on nothing is a number."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step_of_poison = step

    def __call__(self, batch: Named) -> LossSum:
        is_poisoned = self.num_steps + 1 >= self.step_of_poison
        nats = batch.tensor.sum() * (float("nan") if is_poisoned else 1.0)
        return LossSum(nats, len(batch.tensor))


class NamedLoader(Loader):
    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Step[Named]]:
        for number in range(first_step, self.num_steps):
            batches = (Named(torch.ones(1), (f"clip{number}",)), Named(torch.ones(2), ("x", "y")))
            yield Step(micro_batches=batches, num_tokens=3)


@pytest.mark.parametrize(
    ("poisoned", "schedule"),
    [
        # Found at the row of step 4, and before the checkpoint of step 3.
        (2, {"log_every_steps": 4, "evaluate_every_steps": 6}),
        (2, {"log_every_steps": 6, "evaluate_every_steps": 3}),
        (1, {"log_every_steps": 1}),
    ],
)
def test_a_loss_that_is_no_number_ends_the_run_and_names_step_and_samples(
    tmp_path, poisoned, schedule
):
    training = Training(tmp_path, **schedule)
    training.engine, training.loader = PoisonedEngine(poisoned), NamedLoader()

    with pytest.raises(FlaError) as error:
        training.run()

    assert str(error.value).startswith(
        f"The loss of step {poisoned} is nan on rank 0 with the samples clip{poisoned - 1}. Lower"
    )
    # Nothing of it is kept.
    assert training.checkpoints == []


def test_a_gradient_that_is_no_number_is_named_by_its_part(tmp_path):
    training = Training(tmp_path, log_every_steps=1)
    training.engine.norms = lambda parts: {"grad_norm/adapter": float("inf")}

    with pytest.raises(FlaError, match=r"^grad_norm/adapter is inf at step 1\. Lower"):
        training.run(watched={"adapter": []})


def test_without_evaluation_nothing_is_saved(tmp_path):
    training = Training(tmp_path)

    training.run(evaluate=None)

    assert training.engine.num_steps == 6
    assert list(training.folder.checkpoints.iterdir()) == []


@pytest.mark.parametrize(("max_steps", "num_steps"), [(0, 6), (4, 4), (100, 6)])
def test_max_steps_shorten_a_run_and_never_lengthen_it(max_steps, num_steps):
    schedule = plan_schedule(
        steps_per_epoch=3,
        num_epochs=2,
        max_steps=max_steps,
        log_every_steps=1,
        evaluate_every_steps=0,
        keep_checkpoints=1,
    )

    assert (schedule.num_steps, schedule.evaluate_every_steps) == (num_steps, 3)


def test_progress_is_spoken_of_by_the_main_rank(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        Training(tmp_path).run()

    assert "train: 6 of 6 steps, loss 2.000" in caplog.text

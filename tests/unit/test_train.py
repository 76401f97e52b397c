"""The loop: what it does at which step. The engine and the loader are stand-ins that keep notes."""

import errno
import json
import logging
import signal
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, distributed

from fla.batch import Step
from fla.checkpoint import TrainState, read_train_state
from fla.data.skipped import SkippedClips
from fla.engine import CheckpointFile
from fla.errors import CheckpointError, DataError, DiskError, FlaError, RunStopped
from fla.losses import LossSum
from fla.run_folder import (
    read_best,
    step_of,
)
from fla.runtime import join_process_group
from fla.train import _step_seed, plan_schedule
from fla.vote import Wish
from tests.helpers.training import Engine, Loader, Training


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    join_process_group("gloo", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


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
        "command goes on from there (resume=auto, the default)."
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


class LateVote:
    """Of several ranks: a wish is heard a step later."""

    delay = 1

    def __init__(self, **_: object) -> None:
        self.last = Wish()

    def cast(self, wish: Wish) -> Wish:
        heard, self.last = self.last, wish
        return heard

    def hear_last(self) -> Wish:
        return self.cast(Wish())


def test_a_wish_to_save_that_is_heard_late_brings_no_second_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("fla.train.Vote", LateVote)
    training = Training(tmp_path, save_every_minutes=1e-9, keep_checkpoints=9)

    training.run()

    # Wished for after 1 and heard after 2, the wish of 2 came before that; 3 and 6 are evaluated.
    assert [step_of(name) for name in training.checkpoints] == [2, 3, 5, 6]


def test_a_run_that_goes_on_from_an_evaluation_has_its_mean_statistics(tmp_path):
    evaluated, between = Training(tmp_path / "a"), Training(tmp_path / "b")

    evaluated.run(state=TrainState(step=3, best_score=1.0, best_step=3, evaluated_step=3))
    between.run(state=TrainState(step=4, best_score=1.0, best_step=3, evaluated_step=3))

    assert (evaluated.engine.num_averages, between.engine.num_averages) == (1, 0)


@pytest.mark.parametrize("seed", [1, 2**31 - 1])
def test_every_seed_that_may_be_given_draws_something_of_its_own(seed):
    places = [(seed, step, rank) for step in (1, 2, 10**7) for rank in (0, 1, 4095)]

    draws = {torch.manual_seed(_step_seed(*it)).initial_seed() for it in places}

    assert len(draws) == len(places)


def test_the_frames_of_a_step_are_not_held_while_the_next_one_is_waited_for(tmp_path):
    training = Training(tmp_path)
    held: list[bool] = []

    class Watched(Loader):
        def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Step[Tensor]]:
            for _ in range(first_step, self.num_steps):
                frames = torch.ones(2)
                still_there = weakref.ref(frames)
                yield Step(micro_batches=(frames,), num_tokens=2)
                del frames
                held.append(still_there() is not None)

    training.loader = Watched()
    training.run()

    assert held == [False] * 5


def test_a_checkpoint_of_another_run_is_evaluated_in_this_ones_folder(tmp_path):
    training = Training(tmp_path)

    training.run(state=TrainState(step=3))

    assert training.evaluated == [3, 6]
    assert training.checkpoints == ["step_0000003", "step_0000006"]


def test_half_a_checkpoint_of_the_same_step_does_not_take_the_place_of_another_runs(tmp_path):
    training = Training(tmp_path)
    training.folder.checkpoint(3).mkdir()

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


class DroppingEngine(Engine):
    """Some steps' gradients are no numbers: DeepSpeed drops them."""

    def __init__(self, *steps: int, is_loss_finite: bool = True) -> None:
        super().__init__()
        self.bad_steps, self.is_loss_finite = steps, is_loss_finite
        self.step_now, self.kept, self.skipped = 1, [], []

    def __call__(self, batch: Named) -> LossSum:
        self.draws.append(float(torch.rand(())))
        is_bad = self.step_now in self.bad_steps and not self.is_loss_finite
        nats = batch.tensor.sum() * (float("inf") if is_bad else 1.0)
        return LossSum(nats, len(batch.tensor))

    def norms(self, parts: object) -> dict[str, float]:
        is_bad = self.step_now in self.bad_steps
        return {"grad_norm/visual": float("nan") if is_bad else 1.0, "grad_norm/adapter": 1.0}

    def step(self) -> bool:
        if self.step_now in self.bad_steps:
            return False
        self.step_now += 1
        return super().step()

    def keep_statistics(self) -> None:
        self.kept.append(self.step_now)

    def skip_step(self) -> None:
        self.skipped.append(self.step_now)
        self.step_now += 1


def dropping(folder: Path, engine: Engine, **schedule: int) -> Training:
    training = Training(folder, **schedule)
    training.engine, training.loader = engine, NamedLoader()
    return training


WATCHED = {"visual": [], "adapter": []}


def test_a_gradient_that_is_dropped_ends_the_run_at_once_and_names_part_and_samples(tmp_path):
    training = dropping(tmp_path, DroppingEngine(2), log_every_steps=5)

    with pytest.raises(FlaError) as error:
        training.run(watched=WATCHED)

    assert str(error.value) == (
        "The gradient of step 2 is no number (grad_norm/visual is nan) with the samples clip1, x, "
        "y. Lower the learning rate, set optim.max_grad_norm, or leave out such steps by "
        "train.on_nonfinite=skip; then start the command again."
    )
    # What it was looked at again with drew the same dropout.
    assert training.engine.draws[2:4] == training.engine.draws[4:]


def test_steps_without_a_number_are_left_out_counted_and_told_of(tmp_path, caplog):
    engine = DroppingEngine(2, 5, is_loss_finite=False)
    training = dropping(tmp_path, engine, log_every_steps=1, max_nonfinite_steps=2)

    state = training.run(watched=WATCHED)

    assert (engine.num_steps, engine.skipped, state.nonfinite_steps) == (4, [2, 5], 2)
    assert engine.kept == [1, 2, 3, 4, 5, 6]
    counts = [row["train/skipped_steps"] for row in training.log.rows.values()]
    assert counts == [0, 1, 1, 1, 2, 2]
    # Nothing is said of a loss that there is not.
    assert "train/loss_nats_per_token" not in training.log.rows[2]
    assert training.log.rows[3]["train/loss_nats_per_token"] == 1.0
    assert "The loss of step 2 is inf on rank 0 with the samples clip1. The step is" in caplog.text
    assert "left out, 2 of at most 2." in caplog.text


def test_too_many_steps_without_a_number_end_the_run_also_after_it_was_resumed(tmp_path):
    state = TrainState(step=1, nonfinite_steps=1)
    training = dropping(tmp_path, DroppingEngine(1, 2), max_nonfinite_steps=2)

    with pytest.raises(FlaError, match=r"\(2\) such steps have been left out already\. Lower"):
        training.run(state=state)


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


class SlowDiskEngine(Engine):
    """Files are written when it is allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_allowed = threading.Event()

    def copy_files(self, folder: Path) -> list[CheckpointFile]:
        (file,) = super().copy_files(folder)

        def write(path: Path) -> None:
            assert self.is_allowed.wait(timeout=20)
            file.write(path)

        return [CheckpointFile(file.path, write)]


def test_dev_is_scored_while_its_checkpoint_is_written(tmp_path):
    training = Training(tmp_path, num_epochs=1)
    training.engine = engine = SlowDiskEngine()
    complete: list[list[str]] = []

    def evaluate(step: int) -> float:
        complete.append(training.checkpoints)
        engine.is_allowed.set()
        return 1.0

    training.run(evaluate=evaluate)

    assert complete == [[]]
    assert training.checkpoints == ["step_0000003"]
    assert read_train_state(training.folder.checkpoint(3), manifests={}).best_step == 3


def test_a_signal_does_not_end_a_run_before_its_checkpoint_is_written(tmp_path):
    training = Training(tmp_path)
    training.engine = engine = SlowDiskEngine()
    threading.Timer(0.2, engine.is_allowed.set).start()

    with pytest.raises(RunStopped):
        training.run(signals=Signals(engine, 2))

    assert training.checkpoints == ["step_0000002"]


class FullDiskEngine(Engine):
    """From one step on nothing can be written."""

    def copy_files(self, folder: Path) -> list[CheckpointFile]:
        def fail(path: Path) -> None:
            raise DiskError(path, OSError(errno.ENOSPC, "No space left on device"))

        files = super().copy_files(folder)
        return files if self.num_steps < 4 else [CheckpointFile(folder / "weights", fail)]


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_leaves_the_former_one(tmp_path):
    training = Training(tmp_path, evaluate_every_steps=3)
    training.engine = FullDiskEngine()

    with pytest.raises(DiskError, match=r"step_0000006/weights: it could not be written \(No spac"):
        training.run()

    assert training.checkpoints == ["step_0000003"]

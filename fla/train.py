"""The training loop: steps, metrics, evaluations, checkpoints. It receives finished parts."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import distributed, nn

from fla.batch import Step
from fla.checkpoint import TrainState, update_checkpoint
from fla.data.skipped import SkippedClips
from fla.engine import Engine
from fla.errors import RunStopped
from fla.finite import (
    MicroBatchLoss,
    describe_dropped_step,
    stop_or_skip,
    stop_unless_finite,
    stop_unless_norms_are_finite,
)
from fla.profiling import Profile, open_profile
from fla.progress import Progress
from fla.run_folder import RunFolder, checkpoint_tag, is_complete, write_best
from fla.runtime import Runtime, ask_main
from fla.saving import Retention, Saver
from fla.signals import SignalWatch
from fla.skipping import share_skipped
from fla.tracking import Tracker
from fla.vote import Vote, Wish
from fla.window import Window

log = logging.getLogger(__name__)


class Loader(Protocol):
    """What gives the steps of an epoch: the clips of a split, or lines of text."""

    num_steps: int
    waited_s: float

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Step[Any]]: ...


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long to train and when to look up from it."""

    num_steps: int
    """Optimizer steps of the whole run."""
    log_every_steps: int
    evaluate_every_steps: int
    """Steps between evaluations, each behind a checkpoint; the last step has both."""
    save_every_s: float = float("inf")
    """Longest time between two checkpoints."""
    max_nonfinite_steps: int = 0
    """Most steps to leave out whose loss or gradient is no number; 0: the first ends the run."""
    profile_steps: int = 0
    """Steps that are recorded for a profile, after three; 0: none."""
    retention: Retention

    def is_evaluated(self, step: int) -> bool:
        """Whether an evaluation follows a step."""
        return step > 0 and (step % self.evaluate_every_steps == 0 or step == self.num_steps)


def plan_schedule(
    *,
    steps_per_epoch: int,
    num_epochs: int,
    max_steps: int,
    log_every_steps: int,
    evaluate_every_steps: int,
    keep_checkpoints: int,
    keep_best_checkpoints: int = 1,
    keep_every_steps: int = 0,
    save_every_minutes: float = 0.0,
    max_nonfinite_steps: int = 0,
    profile_steps: int = 0,
) -> Schedule:
    """Turn epochs into steps; 0 for `max_steps` and `evaluate_every_steps` means by epochs.

    0 for `save_every_minutes`: only where evaluations are.
    """
    num_steps = steps_per_epoch * num_epochs
    return Schedule(
        num_steps=min(num_steps, max_steps) if max_steps else num_steps,
        log_every_steps=log_every_steps,
        evaluate_every_steps=evaluate_every_steps or steps_per_epoch,
        save_every_s=60 * save_every_minutes or float("inf"),
        max_nonfinite_steps=max_nonfinite_steps,
        profile_steps=profile_steps,
        retention=Retention(
            newest=keep_checkpoints, best=keep_best_checkpoints, every_steps=keep_every_steps
        ),
    )


def train(
    engine: Engine,
    loader: Loader,
    *,
    prepare: Callable[[Any], Any],
    evaluate: Callable[[int], float] | None,
    on_best: Callable[[int], None] = lambda _: None,
    tracker: Tracker,
    run_folder: RunFolder,
    runtime: Runtime,
    schedule: Schedule,
    state: TrainState,
    seed: int,
    signals: SignalWatch | None = None,
    skipped: SkippedClips | None = None,
    watched: Mapping[str, Sequence[nn.Parameter]] = MappingProxyType({}),
) -> TrainState:
    """Train from `state` to the end of the schedule.

    Args:
        engine: Model, optimizer and learning-rate schedule.
        loader: Gives each epoch's steps; the same on every rank but for the share.
        prepare: Brings a micro-batch to the device and into the model's form.
        evaluate: Step number to dev score, the same on every rank; None where nothing is scored
            and no checkpoint is kept.
        on_best: Called with the step of every evaluation that is the best so far.
        tracker: Takes the metrics.
        run_folder: Takes the checkpoints.
        runtime: Of this rank.
        schedule: How long, and how often to log and evaluate.
        state: Where to begin.
        seed: Of dropout.
        signals: Tell that the run is to stop; None: nothing does.
        skipped: Takes the clips that the loader leaves out; None: it leaves none out.
        watched: Parameters by name of the part whose norms go into each row of metrics.

    Raises:
        RunStopped: A signal came to some rank; the step was finished and a checkpoint saved.
        FlaError: A loss or a gradient is no number, or too many clips do not decode.
    """
    window = Window(runtime, state.windows)
    saver = Saver(engine, run_folder, runtime=runtime, retention=schedule.retention)
    vote = Vote(world_size=runtime.world_size, patience=runtime.patience)
    profile = open_profile(
        schedule.profile_steps, run_folder=run_folder, tracker=tracker, runtime=runtime
    )

    # Of the last checkpoint that was begun here; 0: none.
    saved_step = 0

    def save() -> None:
        nonlocal state, saved_step
        if skipped is not None:
            share_skipped(skipped, run_folder=run_folder, tracker=tracker, runtime=runtime)
            state = replace(state, skipped=skipped.all)
        state = replace(state, windows=window.share())
        nats = sum(it.nats for it in state.windows)
        stop_unless_finite(nats, window.losses, step=state.step, runtime=runtime)
        saver.begin(state)
        saved_step = state.step

    def score_step(score: Callable[[int], float]) -> None:
        nonlocal state
        with profile.phase("evaluation"):
            state = _evaluate(score, run_folder, runtime, saver, schedule, state)
        if state.best_step == state.step:
            on_best(state.step)

    progress = Progress(
        "train", total=schedule.num_steps, unit="steps", first=state.step,
        is_shown=runtime.is_main,
    )  # fmt: skip
    with progress:
        if runtime.is_main and state.best_step is not None and evaluate:
            # It may have been stopped between the checkpoint that says so and best.txt.
            write_best(run_folder, checkpoint_tag(state.best_step))
        # It was stopped between the step and its evaluation.
        if evaluate and schedule.is_evaluated(state.step) and state.evaluated_step < state.step:
            if not ask_main(runtime, partial(is_complete, run_folder.checkpoint(state.step))):
                # It goes on from a checkpoint of another run.
                save()
            score_step(evaluate)
        elif evaluate and state.step and state.evaluated_step == state.step:
            # Its evaluation left all ranks with the means, and the checkpoint is from before it.
            engine.average_batch_norm()
        for step in profile.steps(_steps_from(loader, state.step, schedule.num_steps)):
            state = replace(state, step=state.step + 1)
            is_last = state.step == schedule.num_steps
            is_logged = state.step % schedule.log_every_steps == 0 or is_last
            if schedule.max_nonfinite_steps:
                engine.keep_statistics()
            take = partial(
                _take_step, engine, step, prepare, number=state.step,
                seed=_step_seed(seed, state.step, runtime.rank), profile=profile,
            )  # fmt: skip
            taken = take(watched if is_logged else {})
            if taken.is_done:
                window.add(step, taken.losses)
                stop_unless_norms_are_finite(taken.norms, step=state.step)
            else:
                if not taken.norms:
                    # Once more as it was: this time the norms are looked at.
                    taken = take(watched)
                state = _leave_out(taken, runtime, schedule, state)
                engine.skip_step()
            saver.check()
            if is_logged:
                sums = window.sum_over_ranks(skipped)
                if skipped is not None and sums.num_new_skipped:
                    share_skipped(skipped, run_folder=run_folder, tracker=tracker, runtime=runtime)
                    state = replace(state, skipped=skipped.all)
                stop_unless_finite(sums.nats, window.losses, step=state.step, runtime=runtime)
                metrics = window.close(sums, engine, loader)
                if taken.is_done:
                    metrics |= {f"train/{name}": value for name, value in taken.norms.items()}
                if skipped is not None:
                    metrics["train/skipped_clips"] = float(len(state.skipped))
                if schedule.max_nonfinite_steps:
                    metrics["train/skipped_steps"] = float(state.nonfinite_steps)
                metrics["train/epoch"] = state.step / loader.num_steps
                tracker.log(metrics, step=state.step)
                loss = metrics.get("train/loss_nats_per_token")
                progress.advance(0, note="no loss" if loss is None else f"loss {loss:.3f}")
            progress.advance()
            heard = vote.cast(
                Wish(
                    stop=signals is not None and signals.requested is not None,
                    save=runtime.is_main and saver.age_s > schedule.save_every_s,
                )
            )
            is_stopped = heard.stop and not is_last
            # A checkpoint that was begun since then was what it wished for.
            is_due = heard.save and saved_step < state.step - vote.delay
            with window.paused():
                is_evaluated = evaluate is not None and schedule.is_evaluated(state.step)
                if evaluate and (is_evaluated or is_stopped or is_due):
                    save()
                if is_last or is_stopped:
                    vote.hear_last()
                if is_stopped:
                    saver.finish()
                    raise _stopped(signals, run_folder, state.step, is_saved=evaluate is not None)
                if evaluate and is_evaluated:
                    score_step(evaluate)
            # Its frames are not to be held while the next one is waited for.
            del step, take
        saver.finish()
    return state


def _stopped(
    signals: SignalWatch | None, run_folder: RunFolder, step: int, *, is_saved: bool
) -> RunStopped:
    came = signals.requested if signals is not None else None
    name = came.name if came is not None else "a signal to another rank"
    advice = (
        ", which is saved. The same command goes on from there (resume=auto, the default)."
        if is_saved
        else "; nothing is saved of it. The same command starts it again."
    )
    return RunStopped(f"{run_folder.path}: stopped by {name} after step {step}{advice}")


def _steps_from(loader: Loader, done: int, num_steps: int) -> Iterator[Step[Any]]:
    while done < num_steps:
        epoch, first_step = divmod(done, loader.num_steps)
        for step in loader.epoch(epoch, first_step=first_step):
            yield step
            del step
            done += 1
            if done == num_steps:
                return


class _Taken(NamedTuple):
    """What came of a step."""

    losses: list[MicroBatchLoss]
    """Of this rank's micro-batches."""
    norms: dict[str, float]
    """Of what is watched."""
    is_done: bool
    """Whether the weights were updated, on all ranks or on none."""


def _take_step(
    engine: Engine,
    step: Step[Any],
    prepare: Callable[[Any], Any],
    watched: Mapping[str, Sequence[nn.Parameter]],
    *,
    number: int,
    seed: int,
    profile: Profile,
) -> _Taken:
    # Dropout depends on the step alone, so a resumed run draws what this one would have.
    torch.manual_seed(seed)
    losses = []
    last = len(step.micro_batches) - 1
    for index, micro_batch in enumerate(step.micro_batches):
        with profile.phase("forward"):
            loss = engine(prepare(micro_batch))
        with profile.phase("backward"):
            engine.backward(loss.nats, num_tokens=step.num_tokens, is_last=index == last)
        sample_ids = getattr(micro_batch, "sample_ids", ())
        losses.append(MicroBatchLoss(number, sample_ids, loss.nats.detach()))
    norms = engine.norms(watched) if watched else {}
    with profile.phase("step"):
        return _Taken(losses, norms, engine.step())


def _leave_out(
    taken: _Taken, runtime: Runtime, schedule: Schedule, state: TrainState
) -> TrainState:
    """Count a step that was not done, or end the run because of it."""
    cause = describe_dropped_step(taken.losses, taken.norms, step=state.step, runtime=runtime)
    state = replace(state, nonfinite_steps=state.nonfinite_steps + 1)
    words = stop_or_skip(
        cause, skipped=state.nonfinite_steps, max_skipped=schedule.max_nonfinite_steps
    )
    if runtime.is_main:
        log.warning("%s", words)
    return state


def _evaluate(
    evaluate: Callable[[int], float],
    run_folder: RunFolder,
    runtime: Runtime,
    saver: Saver,
    schedule: Schedule,
    state: TrainState,
) -> TrainState:
    """Score the step whose checkpoint has been begun."""
    score = evaluate(state.step)
    saver.finish()
    if state.best_score is None or score > state.best_score:
        state = replace(state, best_score=score, best_step=state.step)
    ranked = sorted([*state.ranking, (score, state.step)], key=lambda it: (-it[0], it[1]))
    ranking = tuple(ranked[: schedule.retention.best])
    state = replace(state, evaluated_step=state.step, ranking=ranking)
    update_checkpoint(run_folder, state, runtime=runtime)
    if runtime.is_main and state.best_step is not None:
        write_best(run_folder, checkpoint_tag(state.best_step))
        saver.prune(state)
    distributed.barrier()
    return state


def _step_seed(seed: int, step: int, rank: int) -> int:
    # Far apart for neighboring steps and ranks, and within torch's 64 bits.
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**64

"""The training loop: steps, metrics, evaluations, checkpoints. It receives finished parts."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, distributed, nn

from fla.batch import Step
from fla.checkpoint import TrainState, WindowSums, save_checkpoint, update_checkpoint
from fla.data.skipped import SkippedClips
from fla.engine import Engine
from fla.errors import RunStopped
from fla.finite import MicroBatchLoss, stop_unless_finite, stop_unless_norms_are_finite
from fla.progress import Progress
from fla.run_folder import RunFolder, checkpoint_tag, prune_checkpoints, write_best
from fla.runtime import Runtime, ask_main
from fla.signals import SignalWatch
from fla.skipping import share_skipped
from fla.tracking import Tracker
from fla.vote import Vote, Wish

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
    patience_minutes: float = 10.0
    """Longest wait of a rank for another one."""
    keep_checkpoints: int
    """Newest checkpoints to keep."""
    keep_best_checkpoints: int = 1
    """Those with the best evaluations to keep beside them."""
    keep_every_steps: int = 0
    """Multiples of so many steps to keep beside them; 0: none."""

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
    patience_minutes: float = 10.0,
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
        patience_minutes=patience_minutes,
        keep_checkpoints=keep_checkpoints,
        keep_best_checkpoints=keep_best_checkpoints,
        keep_every_steps=keep_every_steps,
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
    window = _Window(runtime, state.windows)
    vote = Vote(world_size=runtime.world_size, patience_minutes=schedule.patience_minutes)

    def save() -> None:
        nonlocal state
        if skipped is not None:
            share_skipped(skipped, run_folder=run_folder, tracker=tracker, runtime=runtime)
            state = replace(state, skipped=skipped.all)
        state = replace(state, windows=window.share())
        nats = sum(it.nats for it in state.windows)
        stop_unless_finite(nats, window.losses, step=state.step, runtime=runtime)
        save_checkpoint(engine, run_folder, state, runtime=runtime)
        if runtime.is_main:
            _prune(run_folder, schedule, state)
        timer.restart()

    def score_step(score: Callable[[int], float]) -> None:
        nonlocal state
        state = _evaluate(score, run_folder, runtime, schedule, state)
        if state.best_step == state.step:
            on_best(state.step)

    timer = _Timer(schedule.save_every_s)
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
            if not ask_main(runtime, run_folder.checkpoint(state.step).is_dir):
                # It goes on from a checkpoint of another run.
                save()
            score_step(evaluate)
        for step in _steps_from(loader, state.step, schedule.num_steps):
            state = replace(state, step=state.step + 1)
            # Dropout depends on the step alone, so a resumed run draws what this one would have.
            torch.manual_seed(_step_seed(seed, state.step, runtime.rank))
            is_last = state.step == schedule.num_steps
            is_logged = state.step % schedule.log_every_steps == 0 or is_last
            losses, norms = _take_step(engine, step, prepare, watched if is_logged else {})
            window.add(step, [MicroBatchLoss(state.step, *loss) for loss in losses])
            if is_logged:
                sums = window.sum_over_ranks(skipped)
                if skipped is not None and sums.num_new_skipped:
                    share_skipped(skipped, run_folder=run_folder, tracker=tracker, runtime=runtime)
                    state = replace(state, skipped=skipped.all)
                stop_unless_finite(sums.nats, window.losses, step=state.step, runtime=runtime)
                stop_unless_norms_are_finite(norms, step=state.step)
                metrics = window.close(sums, engine, loader)
                metrics |= {f"train/{name}": value for name, value in norms.items()}
                if skipped is not None:
                    metrics["train/skipped_clips"] = float(len(state.skipped))
                metrics["train/epoch"] = state.step / loader.num_steps
                tracker.log(metrics, step=state.step)
                progress.advance(0, note=f"loss {metrics['train/loss_nats_per_token']:.3f}")
            progress.advance()
            heard = vote.cast(
                Wish(
                    stop=signals is not None and signals.requested is not None,
                    save=runtime.is_main and timer.is_over(),
                )
            )
            is_stopped = heard.stop and not is_last
            with window.paused():
                is_evaluated = evaluate is not None and schedule.is_evaluated(state.step)
                if evaluate and (is_evaluated or is_stopped or heard.save):
                    save()
                if is_last or is_stopped:
                    vote.hear_last()
                if is_stopped:
                    raise _stopped(signals, run_folder, state.step, is_saved=evaluate is not None)
                if evaluate and is_evaluated:
                    score_step(evaluate)
    return state


def _stopped(
    signals: SignalWatch | None, run_folder: RunFolder, step: int, *, is_saved: bool
) -> RunStopped:
    came = signals.requested if signals is not None else None
    name = came.name if came is not None else "a signal to another rank"
    advice = (
        ", which is saved. The same command goes on from there."
        if is_saved
        else "; nothing is saved of it. The same command starts it again."
    )
    return RunStopped(f"{run_folder.path}: stopped by {name} after step {step}{advice}")


class _Timer:
    """Time since the last checkpoint."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self.restart()

    def restart(self) -> None:
        self._start_s = time.monotonic()

    def is_over(self) -> bool:
        return time.monotonic() - self._start_s > self._longest_s


def _steps_from(loader: Loader, done: int, num_steps: int) -> Iterator[Step[Any]]:
    while done < num_steps:
        epoch, first_step = divmod(done, loader.num_steps)
        for step in loader.epoch(epoch, first_step=first_step):
            yield step
            done += 1
            if done == num_steps:
                return


def _take_step(
    engine: Engine,
    step: Step[Any],
    prepare: Callable[[Any], Any],
    watched: Mapping[str, Sequence[nn.Parameter]],
) -> tuple[list[tuple[Sequence[str], Tensor]], dict[str, float]]:
    """Samples and nats of this rank's micro-batches, and the norms of what is watched."""
    losses = []
    last = len(step.micro_batches) - 1
    for index, micro_batch in enumerate(step.micro_batches):
        loss = engine(prepare(micro_batch))
        engine.backward(loss.nats, num_tokens=step.num_tokens, is_last=index == last)
        losses.append((getattr(micro_batch, "sample_ids", ()), loss.nats.detach()))
    norms = engine.norms(watched) if watched else {}
    engine.step()
    return losses, norms


def _evaluate(
    evaluate: Callable[[int], float],
    run_folder: RunFolder,
    runtime: Runtime,
    schedule: Schedule,
    state: TrainState,
) -> TrainState:
    """Score the step that has just been saved."""
    score = evaluate(state.step)
    if state.best_score is None or score > state.best_score:
        state = replace(state, best_score=score, best_step=state.step)
    ranked = sorted([*state.ranking, (score, state.step)], key=lambda it: (-it[0], it[1]))
    ranking = tuple(ranked[: schedule.keep_best_checkpoints])
    state = replace(state, evaluated_step=state.step, ranking=ranking)
    update_checkpoint(run_folder, state, runtime=runtime)
    if runtime.is_main and state.best_step is not None:
        write_best(run_folder, checkpoint_tag(state.best_step))
        _prune(run_folder, schedule, state)
    distributed.barrier()
    return state


def _prune(run_folder: RunFolder, schedule: Schedule, state: TrainState) -> None:
    prune_checkpoints(
        run_folder,
        keep_newest=schedule.keep_checkpoints,
        keep_steps=[step for _, step in state.ranking],
        keep_every=schedule.keep_every_steps,
    )


def _step_seed(seed: int, step: int, rank: int) -> int:
    # Far apart for neighboring steps and ranks, and within torch's 64 bits.
    return (seed * 1_000_003 + step) * 65_537 + rank


def _own_share(saved: Sequence[WindowSums], runtime: Runtime) -> WindowSums:
    """What this rank goes on counting from, whatever the number of ranks was."""
    if not saved:
        return WindowSums()
    if len(saved) == runtime.world_size:
        return saved[runtime.rank]
    num_tokens = saved[0].num_tokens
    if not runtime.is_main:
        return WindowSums(num_tokens=num_tokens)
    return WindowSums(
        nats=sum(it.nats for it in saved),
        num_tokens=num_tokens,
        num_skipped_tokens=sum(it.num_skipped_tokens for it in saved),
    )


class _Sums(NamedTuple):
    """Of a window, over all ranks."""

    nats: float
    num_tokens: float
    """Target tokens whose clips decoded."""
    num_new_skipped: float
    """Clips that some rank left out and the others do not know of."""


class _Window:
    """Sums between two rows of training metrics."""

    def __init__(self, runtime: Runtime, saved: Sequence[WindowSums]) -> None:
        self._runtime = runtime
        self._waited_s = 0.0
        self._reset()
        own = _own_share(saved, runtime)
        self._nats += own.nats
        self._num_tokens, self._num_skipped_tokens = own.num_tokens, own.num_skipped_tokens

    def share(self) -> tuple[WindowSums, ...]:
        """What every rank has counted, on every rank."""
        own = WindowSums(float(self._nats), self._num_tokens, self._num_skipped_tokens)
        if self._runtime.world_size == 1:
            return (own,)
        shares: list[Any] = [None] * self._runtime.world_size
        distributed.all_gather_object(shares, own)
        return tuple(shares)

    def _reset(self) -> None:
        self.losses: list[MicroBatchLoss] = []
        self._nats = torch.zeros((), device=self._runtime.device)
        self._num_tokens = self._num_skipped_tokens = 0
        self._start_s = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is no training: evaluation and saving."""
        pause_s = time.monotonic()
        yield
        self._start_s += time.monotonic() - pause_s

    def add(self, step: Step[Any], losses: Sequence[MicroBatchLoss]) -> None:
        self.losses += losses
        # First those of a step, as a run would that begins with it.
        self._nats += sum(loss.nats for loss in losses)
        self._num_tokens += step.num_tokens
        self._num_skipped_tokens += step.num_skipped_tokens

    def sum_over_ranks(self, skipped: SkippedClips | None) -> _Sums:
        """Add up what the ranks counted: one collective a window."""
        num_new = 0 if skipped is None else len(skipped.new)
        counts = torch.tensor([self._num_skipped_tokens, num_new], device=self._nats.device)
        sums = torch.cat([self._nats.double()[None], counts.double()])
        distributed.all_reduce(sums)
        nats, num_skipped_tokens, num_new_skipped = sums.tolist()
        return _Sums(nats, self._num_tokens - num_skipped_tokens, num_new_skipped)

    def close(self, sums: _Sums, engine: Engine, loader: Loader) -> dict[str, float]:
        """Start anew, and give the row of metrics."""
        seconds = max(time.monotonic() - self._start_s, 1e-9)
        metrics = {
            # No token at all: not a clip of the window decoded.
            "train/loss_nats_per_token": sums.nats / max(sums.num_tokens, 1.0),
            "train/tokens_per_s": sums.num_tokens / seconds,
            "train/data_wait_fraction": (loader.waited_s - self._waited_s) / seconds,
        }
        metrics |= {f"train/learning_rate/{n}": lr for n, lr in engine.learning_rates().items()}
        grad_norm = engine.grad_norm()
        if grad_norm is not None:
            metrics["train/grad_norm"] = grad_norm
        self._waited_s = loader.waited_s
        self._reset()
        return metrics

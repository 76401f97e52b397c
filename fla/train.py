"""The training loop: steps, metrics, evaluations, checkpoints. It receives finished parts."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, distributed, nn

from fla.batch import Step
from fla.checkpoint import TrainState, save_checkpoint
from fla.data.skipped import SkippedClips
from fla.engine import Engine
from fla.errors import FlaError
from fla.progress import Progress
from fla.run_folder import RunFolder, checkpoint_tag, prune_checkpoints, write_best
from fla.runtime import Runtime
from fla.skipping import share_skipped
from fla.tracking import Tracker

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
    """Steps between evaluations, each followed by a checkpoint; the last step has both."""
    keep_checkpoints: int
    """Newest checkpoints to keep beside the best."""


def plan_schedule(
    *,
    steps_per_epoch: int,
    num_epochs: int,
    max_steps: int,
    log_every_steps: int,
    evaluate_every_steps: int,
    keep_checkpoints: int,
) -> Schedule:
    """Turn epochs into steps; 0 for `max_steps` and `evaluate_every_steps` means by epochs."""
    num_steps = steps_per_epoch * num_epochs
    return Schedule(
        num_steps=min(num_steps, max_steps) if max_steps else num_steps,
        log_every_steps=log_every_steps,
        evaluate_every_steps=evaluate_every_steps or steps_per_epoch,
        keep_checkpoints=keep_checkpoints,
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
        skipped: Takes the clips that the loader leaves out; None: it leaves none out.
        watched: Parameters by name of the part whose norms go into each row of metrics.

    Raises:
        FlaError: The loss is no longer a number, or too many clips do not decode.
    """
    window = _Window(runtime)
    progress = Progress(
        "train", total=schedule.num_steps, unit="steps", first=state.step,
        is_shown=runtime.is_main,
    )  # fmt: skip
    with progress:
        for step in _steps_from(loader, state.step, schedule.num_steps):
            state = replace(state, step=state.step + 1)
            # Dropout depends on the step alone, so a resumed run draws what this one would have.
            torch.manual_seed(_step_seed(seed, state.step, runtime.rank))
            is_last = state.step == schedule.num_steps
            is_logged = state.step % schedule.log_every_steps == 0 or is_last
            nats, norms = _take_step(engine, step, prepare, watched if is_logged else {})
            window.add(nats, step)
            if is_logged:
                sums = window.sum_over_ranks(skipped)
                if skipped is not None and sums.num_new_skipped:
                    share_skipped(skipped, run_folder=run_folder, tracker=tracker, runtime=runtime)
                    state = replace(state, skipped=skipped.all)
                metrics = window.close(sums, engine, loader)
                _stop_unless_finite(metrics, state.step)
                metrics |= {f"train/{name}": value for name, value in norms.items()}
                if skipped is not None:
                    metrics["train/skipped_clips"] = float(len(state.skipped))
                metrics["train/epoch"] = state.step / loader.num_steps
                tracker.log(metrics, step=state.step)
                progress.advance(0, note=f"loss {metrics['train/loss_nats_per_token']:.3f}")
            progress.advance()
            if evaluate and (state.step % schedule.evaluate_every_steps == 0 or is_last):
                with window.paused():
                    state = _evaluate_and_save(
                        engine, evaluate, run_folder, runtime, schedule, state
                    )
                    if state.best_step == state.step:
                        on_best(state.step)
    return state


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
) -> tuple[Tensor, dict[str, float]]:
    """Nats of this rank's share, and the norms of what is watched."""
    nats = torch.zeros(())
    last = len(step.micro_batches) - 1
    for index, micro_batch in enumerate(step.micro_batches):
        loss = engine(prepare(micro_batch))
        engine.backward(loss.nats, num_tokens=step.num_tokens, is_last=index == last)
        nats = nats.to(loss.nats.device) + loss.nats.detach()
    norms = engine.norms(watched) if watched else {}
    engine.step()
    return nats, norms


def _evaluate_and_save(
    engine: Engine,
    evaluate: Callable[[int], float],
    run_folder: RunFolder,
    runtime: Runtime,
    schedule: Schedule,
    state: TrainState,
) -> TrainState:
    score = evaluate(state.step)
    if state.best_score is None or score > state.best_score:
        state = replace(state, best_score=score, best_step=state.step)
    save_checkpoint(engine, run_folder, state, runtime=runtime)
    if runtime.is_main and state.best_step is not None:
        write_best(run_folder, checkpoint_tag(state.best_step))
        prune_checkpoints(run_folder, keep_newest=schedule.keep_checkpoints)
    distributed.barrier()
    return state


def _step_seed(seed: int, step: int, rank: int) -> int:
    # Far apart for neighboring steps and ranks, and within torch's 64 bits.
    return (seed * 1_000_003 + step) * 65_537 + rank


def _stop_unless_finite(metrics: dict[str, float], step: int) -> None:
    loss = metrics["train/loss_nats_per_token"]
    if not math.isfinite(loss):
        raise FlaError(
            f"train/loss_nats_per_token is {loss} at step {step}. Lower the learning rate, or set "
            "optim.max_grad_norm."
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

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waited_s = 0.0
        self._reset()

    def _reset(self) -> None:
        self._nats = torch.zeros((), device=self._runtime.device)
        self._num_tokens = self._num_skipped_tokens = 0
        self._start_s = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is no training: evaluation and saving."""
        pause_s = time.monotonic()
        yield
        self._start_s += time.monotonic() - pause_s

    def add(self, nats: Tensor, step: Step[Any]) -> None:
        self._nats += nats
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

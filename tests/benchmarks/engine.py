"""Stage 1's loop beside a bare one: python -m tests.benchmarks.engine

The bare loop is PyTorch alone on batches that are in memory: forward, backward, clipping, AdamW,
schedule. The engine alone takes the same batches; the whole loop is `fla.train.train` with DALI
behind it and MLflow before it. One rank, float32, no dropout, so that all compute the same numbers,
which is checked. The three take turns, and a ratio is taken between the same step of each: of
wall-clock time, which has the waiting in it, and of the training thread's CPU time, which other
work on the machine disturbs less.
"""

import copy
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from fla.assembly import Parts, open_parts
from fla.batch import Batch, Step
from fla.checkpoint import TrainState
from fla.config.schema import Stage1Config
from fla.engine import Engine, open_engine
from fla.models.adapters import Adapter
from fla.models.light_t import build_light_t
from fla.models.stages import Stage1Model
from fla.models.visual_encoder import build_visual_encoder
from fla.optim import build_adamw, cosine_schedule, decay_groups
from fla.run_folder import RunFolder, open_run_folder
from fla.runtime import Runtime, start_runtime, stop_runtime
from fla.tracking import Tracker, open_tracker
from fla.train import Loader, train
from tests.benchmarks.corpus import LARGE_FRAMES, DemoCorpus, make_demo_corpus
from tests.benchmarks.rows import Row, median_row, run_benchmark

SIGN_WIDTH = 512
MAX_GRAD_NORM = 1.0
# More than any run here takes: all learning rates stay near the highest.
NUM_SCHEDULED = 100_000
# Relative; what sums in another order come to after some steps of Adam.
MAX_LOSS_DIFFERENCE = 1e-2

PAPER = (
    *LARGE_FRAMES,
    "train.global_batch_size=8",
    "train.micro_batch_size=4",
)


def measure(folder: Path) -> list[Row]:
    """Overheads, and how long training waits for data."""
    corpus = make_demo_corpus(folder / "demo")
    runtime = start_runtime()
    rows = [
        *_compare(corpus, runtime, "frames of 32 px", (), num_steps=10, rounds=2),
        *_compare(corpus, runtime, "frames of 224 px", PAPER, num_steps=5, rounds=1),
    ]
    stop_runtime()
    return rows


def _compare(
    corpus: DemoCorpus,
    runtime: Runtime,
    name: str,
    words: Sequence[str],
    *,
    num_steps: int,
    rounds: int,
) -> list[Row]:
    print(f"engine: {name}", file=sys.stderr, flush=True)
    # Each with a database of its own: MLflow keeps the first one open.
    run_dir = corpus.folder / "runs" / f"engine_{name.replace(' ', '_')}" / "stage1"
    shutil.rmtree(run_dir.parent, ignore_errors=True)
    config = corpus.stage1(run_dir, "model.dropout=0", *words)
    run_folder = open_run_folder(run_dir)
    with ExitStack() as stack:
        parts = stack.enter_context(open_parts(config, runtime))
        tracker = stack.enter_context(_open_tracker(run_folder))
        model = _build_model(config, parts)
        ways = _Ways(
            scratch=_Bare(copy.deepcopy(model)),
            bare=_Bare(copy.deepcopy(model)),
            # Each has an engine of its own: all start from the same weights.
            engine=_open_engine(copy.deepcopy(model), parts, runtime),
            whole=_Whole(
                _open_engine(model, parts, runtime), parts, runtime, tracker, run_folder, config
            ),
            num_steps=num_steps,
        )
        turns = [ways.take_turns() for _ in range(rounds)]
    bare = [spent for turn in turns for spent in turn.bare]
    engine = [spent for turn in turns for spent in turn.engine]
    whole = [spent for turn in turns for spent in turn.whole]
    waited = [turn.waited_s / sum(it.wall_s for it in turn.whole) for turn in turns]
    return [
        median_row(
            f"engine: {name}, a bare step", [it.wall_s for it in bare], unit="s", better="neither"
        ),
        _overhead(f"engine: {name}, whole loop / bare", _wall(whole), _wall(bare), target=1.05),
        _overhead(f"engine: {name}, whole loop / bare, CPU time", _cpu(whole), _cpu(bare)),
        _overhead(f"engine: {name}, engine alone / bare, CPU time", _cpu(engine), _cpu(bare)),
        median_row(
            f"engine: {name}, share of the time that waits for data", [100 * w for w in waited],
            unit="%", better="lower", target=2.0,
        ),
        median_row(
            f"engine: {name}, first step of an epoch, which waits for its clips",
            [turn.first_s for turn in turns], unit="s", better="lower",
        ),
    ]  # fmt: skip


class Spent(NamedTuple):
    """What a step took."""

    wall_s: float
    cpu_s: float
    """Of the training thread alone."""


class _Clock:
    """Runs from its making on."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), time.thread_time()

    def read(self) -> Spent:
        return Spent(time.perf_counter() - self._wall_s, time.thread_time() - self._cpu_s)


def _wall(steps: Sequence[Spent]) -> list[float]:
    return [step.wall_s for step in steps]


def _cpu(steps: Sequence[Spent]) -> list[float]:
    return [step.cpu_s for step in steps]


def _overhead(
    name: str, ours: Sequence[float], bare: Sequence[float], *, target: float | None = None
) -> Row:
    """The median of the ratios of equal steps, with the quartiles as its spread."""
    each = sorted(own / other for own, other in zip(ours, bare, strict=True))
    return Row(
        name=name, value=median(each), unit="ratio", better="lower", target=target,
        low=each[len(each) // 4], high=each[(3 * len(each)) // 4], note="quartiles of the steps",
    )  # fmt: skip


def _open_tracker(run_folder: RunFolder) -> Tracker:
    return open_tracker(
        run_folder=run_folder,
        uri="",
        experiment="benchmark",
        run_name="engine",
        pipeline="",
        params={},
        tags={},
    )


def _build_model(config: Stage1Config, parts: Parts) -> Stage1Model:
    torch.manual_seed(config.seed)
    codec = parts.codec
    light_t = build_light_t(
        size=config.model.light_t, vocab_size=codec.vocab_size, dropout=config.model.dropout,
        pad_id=codec.pad_id, eos_id=codec.eos_id, start_id=codec.start_id,
    )  # fmt: skip
    return Stage1Model(
        build_visual_encoder(sign_width=SIGN_WIDTH, kernel_size=3),
        Adapter(in_width=SIGN_WIDTH, out_width=light_t.config.d_model),
        light_t,
        label_smoothing=config.train.label_smoothing,
        start_id=codec.start_id,
    )


def _optimizer(model: nn.Module) -> Optimizer:
    groups = decay_groups([model], learning_rate=7e-4, weight_decay=1e-2, name="all")
    return build_adamw(groups, betas=(0.9, 0.98))


def _schedule() -> Callable[[Optimizer], Any]:
    return cosine_schedule(num_steps=NUM_SCHEDULED, warmup_fraction=0.0)


def _open_engine(model: nn.Module, parts: Parts, runtime: Runtime) -> Engine:
    return open_engine(
        model,
        optimizer=_optimizer(model),
        schedule=_schedule(),
        config=copy.deepcopy(parts.deepspeed_config),
        runtime=runtime,
    )


class _Bare:
    """What a step costs by itself."""

    def __init__(self, model: Stage1Model) -> None:
        self._model = model.to(memory_format=torch.contiguous_format).train()
        self._parameters = [*model.parameters()]
        self._optimizer = _optimizer(model)
        self._scheduler = _schedule()(self._optimizer)

    @property
    def module(self) -> nn.Module:
        return self._model

    def look(self, step: Step[Batch]) -> None:
        """Compute a gradient and forget it."""
        for batch in step.micro_batches:
            self._model(batch).nats.backward()
        self._optimizer.zero_grad()

    def take(self, step: Step[Batch]) -> None:
        for batch in step.micro_batches:
            loss = self._model(batch)
            (loss.nats / step.num_tokens).backward()
        nn.utils.clip_grad_norm_(self._parameters, MAX_GRAD_NORM)
        self._optimizer.step()
        self._scheduler.step()
        self._optimizer.zero_grad()


class _Whole:
    """The toolkit's own loop, some steps at a time."""

    def __init__(
        self,
        engine: Engine,
        parts: Parts,
        runtime: Runtime,
        tracker: Tracker,
        run_folder: RunFolder,
        config: Stage1Config,
    ) -> None:
        self._engine, self._parts, self._runtime = engine, parts, runtime
        self._tracker, self._run_folder, self._config = tracker, run_folder, config
        self._state = TrainState()

    @property
    def module(self) -> nn.Module:
        return self._engine.module

    def preview(self, num_steps: int) -> Iterator[Step[Batch]]:
        """The next steps, which are not taken."""
        loader, done = self._parts.loaders.train, self._state.step
        end = done + num_steps
        while done < end:
            epoch, first_step = divmod(done, loader.num_steps)
            for step in islice(loader.epoch(epoch, first_step=first_step), end - done):
                yield step
                done += 1

    def take(self, num_steps: int) -> "Clocked":
        """Go on with so many steps."""
        clocked = Clocked(self._parts.loaders.train)
        end = self._state.step + num_steps
        self._state = train(
            self._engine,
            clocked,
            prepare=self._parts.loaders.prepare,
            evaluate=None,
            tracker=self._tracker,
            run_folder=self._run_folder,
            runtime=self._runtime,
            schedule=replace(self._parts.schedule, num_steps=end),
            state=self._state,
            seed=self._config.seed,
            watched=self._engine.module.last_layers(),
        )
        clocked.end()
        return clocked


class Clocked:
    """A loader that notes its steps and, for each, when the next one was asked for."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self.num_steps = loader.num_steps
        self.steps: list[Step[Batch]] = []
        self.waited: list[float] = []
        self.spent: list[Spent] = []
        self._clock: _Clock | None = None

    @property
    def waited_s(self) -> float:
        """Seconds that the consumer has waited for batches."""
        return self._loader.waited_s

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Step[Batch]]:
        """The loader's steps."""
        steps = iter(self._loader.epoch(epoch, first_step=first_step))
        while True:
            self.end()
            clock = _Clock()
            step = next(steps, None)
            if step is None:
                return
            self.waited.append(clock.read().wall_s)
            self._clock = clock
            self.steps.append(step)
            yield step

    def end(self) -> None:
        """The step that is under way is over."""
        if self._clock is not None:
            self.spent.append(self._clock.read())
        self._clock = None


class _Turn:
    """A round: what equal steps took."""

    def __init__(self, clocked: Clocked, bare: list[Spent], engine: list[Spent]) -> None:
        # The first one waits for the first clips of an epoch, the last one for the loop to end.
        inner = slice(1, -1)
        self.first_s = clocked.spent[0].wall_s
        self.whole = clocked.spent[inner]
        self.waited_s = sum(clocked.waited[inner])
        self.bare, self.engine = bare[inner], engine[inner]


class _Ways:
    """The three, all at the same step."""

    def __init__(
        self, *, scratch: _Bare, bare: _Bare, engine: Engine, whole: _Whole, num_steps: int
    ) -> None:
        self._scratch, self._bare, self._engine, self._whole = scratch, bare, engine, whole
        self._num_steps = num_steps
        self._is_checked = False

    def take_turns(self) -> _Turn:
        """The whole loop first, since it brings the batches; then the others, in turns."""
        # Each number of frames that is new costs oneDNN time to prepare for, once a process.
        for step in self._whole.preview(self._num_steps):
            self._scratch.look(step)
        clocked = self._whole.take(self._num_steps)
        bare: list[Spent] = []
        engine: list[Spent] = []
        for place, step in enumerate(clocked.steps):
            pairs = [(bare, self._bare.take), (engine, self._take)]
            for spent, take in pairs[:: 1 if place % 2 else -1]:
                clock = _Clock()
                take(step)
                spent.append(clock.read())
        if not self._is_checked:
            self._check(clocked.steps[0].micro_batches[0])
            self._is_checked = True
        return _Turn(clocked, bare, engine)

    @torch.no_grad()
    def _check(self, batch: Batch) -> None:
        """Nobody is faster because it computes something else."""
        modules = (self._bare.module, self._engine.module, self._whole.module)
        losses = [float(module.eval()(batch).nats) for module in modules]
        for module in modules:
            module.train()
        if max(losses) > min(losses) * (1 + MAX_LOSS_DIFFERENCE):
            raise RuntimeError(f"After the same steps the losses differ: {losses}.")

    def _take(self, step: Step[Batch]) -> None:
        last = len(step.micro_batches) - 1
        for index, batch in enumerate(step.micro_batches):
            loss = self._engine(batch)
            self._engine.backward(loss.nats, num_tokens=step.num_tokens, is_last=index == last)
        self._engine.step()


if __name__ == "__main__":
    sys.exit(run_benchmark(measure, description=__doc__))

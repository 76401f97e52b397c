"""Checkpoints beside training: python -m tests.benchmarks.checkpoints

An mBART of some 50 million parameters with AdamW under ZeRO-1, in float32: about 0.8 GB on disk.
Waiting for a save at once is compared with what training loses to one that a thread writes: the
copy that it waits for, and what its steps take longer until the checkpoint is complete.
"""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from fla.batch import Batch, pad_labels
from fla.checkpoint import TrainState
from fla.config.deepspeed import read_deepspeed_config
from fla.engine import Engine, open_engine
from fla.models.adapters import Adapter
from fla.models.light_t import build_small_mbart
from fla.models.stages import Stage2Model
from fla.optim import build_adamw, cosine_schedule, decay_groups
from fla.run_folder import COMPLETE, RunFolder, open_run_folder
from fla.runtime import Runtime, start_runtime, stop_runtime
from fla.saving import Retention, Saver
from tests.benchmarks.race import seconds_of
from tests.benchmarks.rows import Row, median_row, run_benchmark

ROUNDS = 3
SEED = 1
NUM_STEPS_ALONE = 6
NUM_CLIPS, NUM_FRAMES, NUM_TOKENS, SIGN_WIDTH = 4, 16, 12, 512
SHAPE = {"d_model": 640, "num_layers": 4, "num_heads": 8, "ffn_width": 2560}
IDS = {"vocab_size": 8000, "pad_id": 1, "eos_id": 2, "start_id": 4}


class Saved(NamedTuple):
    """What one save took, in seconds."""

    begin_s: float
    """Until training goes on."""
    lost_s: float
    """That, and what the steps beside the writing took longer."""
    written_s: float
    """From its begin until it is complete."""


def measure(folder: Path) -> list[Row]:
    """Share of a save that training waits for."""
    runtime = start_runtime()
    engine = _open_engine(runtime)
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the material: a folder for temporary files may be in memory.
    with TemporaryDirectory(dir=folder) as run_dir:
        saves = _Saves(engine, open_run_folder(Path(run_dir)), runtime)
        turns = [saves.take_turns(number) for number in range(ROUNDS + 1)][1:]
        size = saves.size
    stop_runtime()
    at_once = [at_once_s for at_once_s, _, _ in turns]
    beside = [saved for _, saved, _ in turns]
    return [
        Row(name="checkpoints: size", value=size / 2**20, unit="MiB", better="lower"),
        median_row(
            "checkpoints: a step alone", [step_s for *_, step_s in turns], unit="s",
            better="neither",
        ),
        median_row("checkpoints: a save at once", at_once, unit="s", better="lower"),
        median_row(
            "checkpoints: written beside training", [it.written_s for it in beside], unit="s",
            better="lower",
        ),
        median_row(
            "checkpoints: copy that training waits for / a save at once",
            [it.begin_s / other for it, other in zip(beside, at_once, strict=True)],
            unit="ratio", better="lower",
        ),
        median_row(
            "checkpoints: all that training loses / a save at once",
            [it.lost_s / other for it, other in zip(beside, at_once, strict=True)],
            unit="ratio", better="lower",
        ),
    ]  # fmt: skip


class _Saves:
    """Both ways to save, in turns."""

    def __init__(self, engine: Engine, run_folder: RunFolder, runtime: Runtime) -> None:
        self._engine, self._run_folder = engine, run_folder
        self._saver = Saver(engine, run_folder, runtime=runtime, retention=Retention(newest=1))
        self._batches = _draw_batches()
        self._number = 0
        self.size = 0

    def take_turns(self, number: int) -> tuple[float, Saved, float]:
        """Seconds of a save at once, a save beside training, seconds of a step alone."""
        alone = [self._step() for _ in range(NUM_STEPS_ALONE // 2)]
        at_once_s = seconds_of(self._save_at_once)
        alone += [self._step() for _ in range(NUM_STEPS_ALONE // 2)]
        beside = self._save_beside(median(alone))
        print(f"{number} of {ROUNDS} rounds", file=sys.stderr, flush=True)
        return at_once_s, beside, median(alone)

    def _save_at_once(self) -> None:
        self._saver.begin(self._next())
        self._saver.finish()

    def _save_beside(self, step_s: float) -> Saved:
        start_s = time.perf_counter()
        state = self._next()
        self._saver.begin(state)
        begin_s = time.perf_counter() - start_s
        complete = self._run_folder.checkpoint(state.step) / COMPLETE
        extra_s = 0.0
        while not complete.exists():
            extra_s += self._step() - step_s
        written_s = time.perf_counter() - start_s
        self._saver.finish()
        return Saved(begin_s=begin_s, lost_s=begin_s + extra_s, written_s=written_s)

    def _next(self) -> TrainState:
        """The next checkpoint takes the place of the former one."""
        former = self._run_folder.checkpoint(self._number)
        if former.is_dir():
            self.size = sum(path.stat().st_size for path in former.rglob("*"))
            shutil.rmtree(former)
        self._number += 1
        return TrainState(step=self._number)

    def _step(self) -> float:
        batch = next(self._batches)
        return seconds_of(lambda: _take(self._engine, batch))


def _take(engine: Engine, batch: Batch) -> None:
    loss = engine(batch)
    engine.backward(loss.nats, num_tokens=NUM_CLIPS * NUM_TOKENS, is_last=True)
    engine.step()


def _draw_batches() -> Iterator[Batch]:
    torch.manual_seed(SEED)
    batch = Batch(
        sample_ids=("",) * NUM_CLIPS,
        references=("",) * NUM_CLIPS,
        frame_lengths=torch.full((NUM_CLIPS,), NUM_FRAMES),
        labels=pad_labels(torch.randint(5, 1000, (NUM_CLIPS, NUM_TOKENS)).tolist()),
        features=torch.randn(NUM_CLIPS * NUM_FRAMES, SIGN_WIDTH),
    )
    while True:
        yield batch


def _open_engine(runtime: Runtime) -> Engine:
    torch.manual_seed(SEED)
    model = Stage2Model(
        None,
        Adapter(in_width=SIGN_WIDTH, out_width=SHAPE["d_model"]),
        build_small_mbart(dropout=0.0, **SHAPE, **IDS),
        label_smoothing=0.2,
        start_id=IDS["start_id"],
    )
    groups = decay_groups([model], learning_rate=1e-4, weight_decay=1e-3, name="all")
    config = read_deepspeed_config(
        Path("ds_configs/zero1_fp32.json"),
        micro_batch_size=NUM_CLIPS,
        world_size=runtime.world_size,
        max_grad_norm=1.0,
        has_gpu=False,
    )
    return open_engine(
        model,
        optimizer=build_adamw(groups, betas=(0.9, 0.998)),
        schedule=cosine_schedule(num_steps=100_000, warmup_fraction=0.0),
        config=config,
        runtime=runtime,
    )


if __name__ == "__main__":
    sys.exit(run_benchmark(measure, description=__doc__))

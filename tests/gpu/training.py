"""A stage trained by its own launcher, and what its metrics and the GPU say of it."""

import json
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import torch

from tests.gpu.rows import Row
from tests.gpu.setting import Setting
from tests.helpers.commands import free_port, python, run

GIB = 2**30
TIMEOUT_S = 900.0
_LAUNCHER = Path(__file__).with_name("run_stage.py")
_LINES = 3


class CommandFailed(RuntimeError):
    """A command ended with another code than 0."""


class Peaks(NamedTuple):
    """Most GPU memory of a run, in bytes."""

    allocated: int
    """Of its tensors, as torch counts them."""
    card: int
    """By which the whole card had less left: CUDA, NCCL and DALI, too."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run left; speeds are without its first row of metrics."""

    losses: tuple[float, ...]
    """Nats a token, a row of metrics each."""
    num_steps: int
    """Between the first row and the last one."""
    seconds: float
    """That these took."""
    wait_fraction: float
    """Part of them that training waited for data."""
    tokens_per_s: float
    peaks: Peaks | None
    """None: on a CPU."""

    @property
    def step_s(self) -> float:
        """Mean time of a step."""
        return self.seconds / self.num_steps


def train(setting: Setting, script: str, words: Sequence[str], *, run_dir: Path) -> Trained:
    """Train from the beginning on one rank, by DeepSpeed's launcher, and read what it left.

    Raises:
        CommandFailed: It did not get through; with its last lines.
    """
    shutil.rmtree(run_dir, ignore_errors=True)
    return _launch(setting, script, words, run_dir=run_dir)


def go_on(setting: Setting, script: str, words: Sequence[str], *, run_dir: Path, name: str) -> Row:
    """Train a finished run some steps on, from its checkpoint.

    Args:
        setting: Says how many.
        script: As `train`, like the others; the words have resume and train.max_steps in them.
        words: Of the run.
        run_dir: Of the run.
        name: Of it, for the row.
    """
    before = len(read_losses(run_dir))
    num_steps = (before + 1) * setting.sizes.log_every_steps
    more = ["resume=auto", f"train.max_steps={num_steps}"]
    _launch(setting, script, [*words, *more], run_dir=run_dir)
    losses = read_losses(run_dir)
    return Row(
        name=f"{name}: rows of metrics after its checkpoint",
        value=float(len(losses) - before),
        at_least=1.0,
        at_most=1.0,
        note=f"loss {losses[before - 1]:.3f} before, {losses[-1]:.3f} after",
    )


def read_losses(run_dir: Path) -> tuple[float, ...]:
    """Nats a token of a run, a row of metrics each."""
    return read_metrics(run_dir / "metrics.jsonl", peaks=None).losses


def run_tool(*words: str | Path) -> None:
    """Run a tool of the repository.

    Raises:
        CommandFailed: It did not get through.
    """
    run_command(python(*words))


def on_one_rank(setting: Setting, *words: str | Path) -> list[str]:
    """A command of DeepSpeed's launcher, on the GPU that this process calls its first."""
    # With --num_gpus the launcher takes the machine's first GPU, whatever this process sees.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] if setting.is_gpu else ""
    place = ["--include", f"localhost:{visible}"] if visible else ["--num_gpus", "1"]
    launcher = Path(sys.executable).with_name("deepspeed")
    port = ["--master_port", str(free_port()), "--no_local_rank"]
    return [str(launcher), *place, *port, *map(str, words)]


def run_command(command: list[str]) -> None:
    """Run a command to its end.

    Raises:
        CommandFailed: With its last lines.
    """
    done = run(command, timeout_s=TIMEOUT_S)
    if done.returncode:
        lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        print("\n".join(lines[-40:]), file=sys.stderr)
        last = " / ".join(_worst(lines))
        raise CommandFailed(f"{' '.join(command[:8])} ... ended with {done.returncode}: {last}")


def read_metrics(path: Path, *, peaks: Peaks | None) -> Trained:
    """Read a run's rows of training metrics; there are at least two."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "train/tokens_per_s" in row]
    first, *others = rows
    seconds = others[-1]["time_s"] - first["time_s"]
    spent = [
        other["time_s"] - before["time_s"] for before, other in zip(rows, others, strict=False)
    ]
    waited = [s * row["train/data_wait_fraction"] for s, row in zip(spent, others, strict=True)]
    tokens = [s * row["train/tokens_per_s"] for s, row in zip(spent, others, strict=True)]
    return Trained(
        losses=tuple(row.get("train/loss_nats_per_token", float("nan")) for row in rows),
        num_steps=others[-1]["step"] - first["step"],
        seconds=seconds,
        wait_fraction=sum(waited) / seconds,
        tokens_per_s=sum(tokens) / seconds,
        peaks=peaks,
    )


class CardMemory:
    """Looks, while it is entered, how much of the card is in use beyond what was before.

    Args:
        setting: Says whether there is one.
        period_s: Between two looks.

    Attributes:
        most: In bytes; 0 on a CPU. Other processes on the card count, too.
    """

    def __init__(self, setting: Setting, *, period_s: float = 0.2) -> None:
        self._is_gpu, self._period_s = setting.is_gpu, period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.most = 0

    def __enter__(self) -> "CardMemory":
        if self._is_gpu:
            self._before = torch.cuda.device_memory_used(0)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._is_gpu:
            self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(self._period_s):
            self.most = max(self.most, torch.cuda.device_memory_used(0) - self._before)


def _launch(setting: Setting, script: str, words: Sequence[str], *, run_dir: Path) -> Trained:
    out = run_dir.with_name(f"{run_dir.name}_memory.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    words = [*words, f"run_dir={run_dir}"]
    with CardMemory(setting) as card:
        run_command(on_one_rank(setting, _LAUNCHER, out, script, *words))
    # The launcher may end with 0 after its child was killed.
    if not (run_dir / "DONE").exists():
        raise CommandFailed(f"{script} {' '.join(words)} ended without DONE in {run_dir}.")
    allocated = json.loads(out.read_text(encoding="utf-8")).get("allocated")
    peaks = None if allocated is None else Peaks(allocated=allocated, card=card.most)
    return read_metrics(run_dir / "metrics.jsonl", peaks=peaks)


def _worst(lines: Sequence[str]) -> list[str]:
    """The lines that say why; what a launcher writes after them does not."""
    telling = [line for line in lines if "rror" in line and "[launch.py" not in line]
    return (telling or list(lines))[-_LINES:]

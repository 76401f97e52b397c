"""The real commands of the repository, in processes of their own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# What a run of either stage is told so that it is as small as a run can be.
TINY_RUN = (
    "data.resize_px=36",
    "data.crop_px=32",
    "data.max_frames=12",
    "data.num_threads=1",
    "train.global_batch_size=4",
    "train.micro_batch_size=2",
    "train.max_steps=2",
    "train.log_every_steps=1",
    "beam.max_new_tokens=8",
    "beam.num_beams=2",
)


def environment() -> dict[str, str]:
    """This process' environment without what launchers and rank tests put into it."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    inherited = {key: value for key, value in os.environ.items() if key not in ranks}
    return inherited | {"OMP_NUM_THREADS": "1"}


def python(*words: str | Path) -> list[str]:
    """A command of this Python."""
    return [sys.executable, *map(str, words)]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def deepspeed(*words: str | Path, num_ranks: int = 2) -> list[str]:
    """A command of the launcher that was installed with this Python, on a port of its own."""
    launcher = Path(sys.executable).with_name("deepspeed")
    ranks = ["--num_gpus", str(num_ranks), "--master_port", str(free_port())]
    return [str(launcher), *ranks, *map(str, words)]


def on_ranks(*words: str | Path, num_ranks: int = 2) -> list[str]:
    """The same without the launcher, which takes as long to start as the ranks themselves."""
    return [sys.executable, "-m", "tests.helpers.start_ranks", str(num_ranks), *map(str, words)]


def run(command: list[str], *, timeout_s: float = 150) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, from the repository's root."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def run_well(command: list[str], *, timeout_s: float = 150) -> subprocess.CompletedProcess[str]:
    """Run a command that must end with 0."""
    done = run(command, timeout_s=timeout_s)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done

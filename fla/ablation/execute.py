"""Runs a plan: one command after the other, what is done already left alone.

Every command is printed and works on its own. What it says is shown and kept in logs/; the first
one that does not end well ends the table.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from fla.ablation.plan import Plan, Run
from fla.ablation.state import is_decoded, is_done, is_trained
from fla.errors import ConfigError, FlaError, RunStopped

_VISIBLE = "CUDA_VISIBLE_DEVICES"
# What hides all GPUs.
_HIDING = ("-1", "NoDevFiles")
_MAX_QUOTED = 400
"""Characters of a log that an error repeats."""


def find_launcher() -> Path:
    """The `deepspeed` that was installed with this Python."""
    return Path(sys.executable).with_name("deepspeed")


def execute(plan: Plan, *, launcher: Path) -> None:
    """Train and translate what is missing, in order, on the GPUs of CUDA_VISIBLE_DEVICES.

    Args:
        plan: One that `check_plan` has accepted.
        launcher: Path of `deepspeed`.

    Raises:
        ConfigError: CUDA_VISIBLE_DEVICES has fewer GPUs than a run has ranks.
        FlaError: A command did not end well; what was done until then stays.
        RunStopped: Ctrl-C or SIGTERM; the run that was going on was told to save.
    """
    variables = {} if all(map(is_done, plan.runs)) else _choose_devices(plan.num_gpus)
    start = partial(_start, plan=plan, launcher=launcher, variables=variables)
    with _terminated_as_interrupted():
        for number, run in enumerate(plan.runs, 1):
            place = f"{run.name} ({number} of {len(plan.runs)})"
            if is_done(run):
                print(f"== {place}: done", flush=True)
                continue
            if not is_trained(run):
                start(f"Train {place}", training_words(run), log_name=run.name)
            if run.is_decoded and not is_decoded(run):
                words = decoding_words(run)
                start(f"Translate with {place}", words, log_name=f"{run.name}_decode")


def training_words(run: Run) -> tuple[str, ...]:
    """What a launcher is given to train a run."""
    return (run.launcher, *run.words)


def decoding_words(run: Run) -> tuple[str, ...]:
    """What a launcher is given to translate the test split with a run."""
    return ("launchers/decode.py", *run.decode_words)


def _start(
    title: str,
    words: Sequence[str],
    *,
    plan: Plan,
    launcher: Path,
    variables: Mapping[str, str],
    log_name: str,
) -> None:
    """Run one command to its end."""
    # DeepSpeed takes the variable for what it is when nothing else names devices.
    ranks = () if _VISIBLE in variables else ("--num_gpus", str(plan.num_gpus))
    port = ("--master_port", str(_free_port()))
    command = [str(launcher), *ranks, *port, "--log_level", "error", *words]
    log = plan.folder / "logs" / f"{log_name}.log"
    shown = " ".join(
        [*(f"{key}={value}" for key, value in variables.items()), launcher.name, *command[1:]]
    )
    print(f"\n== {title}\n$ {shown}", flush=True)
    code = _follow(command, log, {**os.environ, **variables})
    if code:
        raise FlaError(
            f"{title} ended with code {code}: {_last_words(log)} All of it is in {log}. When it is "
            "mended, the same command goes on from here."
        )


def _choose_devices(num_gpus: int) -> dict[str, str]:
    """What the user has chosen, as variables: so many GPUs, or none; empty: nothing is chosen."""
    given = os.environ.get(_VISIBLE, "")
    if not given or os.environ.get("DS_ACCELERATOR") == "cpu":
        return {}
    if given in _HIDING:
        # Beside --num_gpus, DeepSpeed forgets the variable.
        return {"DS_ACCELERATOR": "cpu"}
    chosen = list(dict.fromkeys(one.strip() for one in given.split(",")))
    if len(chosen) < num_gpus or not all(map(str.isdigit, chosen)):
        raise ConfigError(
            f"{_VISIBLE} ({given}) must have at least --num-gpus ({num_gpus}) numbers of GPUs, "
            "such as 0,1. Name them, or unset it for the first ones."
        )
    return {_VISIBLE: ",".join(chosen[:num_gpus])}


def _follow(command: Sequence[str], log: Path, variables: Mapping[str, str]) -> int:
    """Show and keep what a command says; gives its exit code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8", buffering=1) as kept,
        subprocess.Popen(
            command,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        is_stopped = False
        while True:
            try:
                for line in process.stdout:
                    print(line, end="", flush=True)
                    kept.write(line)
                break
            except KeyboardInterrupt:
                # Ctrl-C has reached it, too; ranks take two signals at once for one.
                process.send_signal(signal.SIGTERM)
                is_stopped = True
        code = process.wait()
    if is_stopped:
        raise RunStopped("The table was stopped. The same command goes on with it.")
    return code


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        raise RunStopped("The table was stopped. The same command goes on with it.") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_words(log: Path) -> str:
    """Why a command ended: its error, else its last lines."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    told = errors[-1] if errors else " / ".join(lines[-3:])
    if not told:
        return "it said nothing."
    told = told.removeprefix("error: ")[-_MAX_QUOTED:]
    return told if told.endswith(".") else f"{told}."


def _free_port() -> int:
    """A port that nobody listens on, for the ranks to meet at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

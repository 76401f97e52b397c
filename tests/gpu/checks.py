"""All checks, one after the other: what `python -m tests.gpu` and its rehearsal run."""

from functools import partial
from pathlib import Path

from tests.gpu.decoding import compare_decoders
from tests.gpu.environment import describe_environment
from tests.gpu.gains import measure_gains
from tests.gpu.rows import Row, Step, take_steps
from tests.gpu.setting import FULL, SMALL, Setting
from tests.gpu.stage1 import train_stage1
from tests.gpu.stage2 import train_stage2

STEPS = {
    "environment": describe_environment,
    "decoding": compare_decoders,
    "gains": measure_gains,
    "stage 1": train_stage1,
    "stage 2": train_stage2,
}
"""By name; stage 2 needs what stage 1 exports."""


def choose_setting(device: str, folder: Path, *, small: bool) -> Setting:
    """What is checked with, as absolute paths; the folder is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    return Setting(device=device, sizes=SMALL if small else FULL, folder=folder.absolute())


def run_checks(device: str, folder: Path, *, small: bool) -> list[Row]:
    """Find the rows of every step.

    Args:
        device: "cuda:0", or "cpu" for a rehearsal.
        folder: Takes what is made.
        small: Tiny sizes in place of the paper's.
    """
    setting = choose_setting(device, folder, small=small)
    return take_steps([Step(name, partial(find, setting)) for name, find in STEPS.items()])

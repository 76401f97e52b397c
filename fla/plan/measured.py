"""What a run has measured of its own steps, for predictions that start from it."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from fla.config.load import load_config
from fla.config.schema import Stage2Config
from fla.errors import DataError
from fla.journal import read_points
from fla.plan.hardware import Machine
from fla.plan.run import plan_run
from fla.plan.scaling import Calibration, Layout, Prediction, predict
from fla.plan.workload import build_workload
from fla.run_folder import RunFolder

_WAIT_SHOWS = 0.05
"""Of the time: from here on, waiting for data says how fast it comes."""


@dataclass(frozen=True, kw_only=True)
class MeasuredStep:
    """Medians over the rows of a run's metrics."""

    step_s: float
    wait_fraction: float
    """Of the step: waiting for data."""
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """A run, and how its steps compare with what is predicted of them."""

    step: MeasuredStep
    devices: tuple[str, ...]
    """A name a rank."""
    calibration: Calibration
    shows_data: bool
    """Whether it waited for data: else it only shows that data came fast enough."""


def measure_run_folder(folder: Path, *, machine: Machine) -> MeasuredRun:
    """Read what a stage-2 run measured, and predict the same run.

    Args:
        folder: Of the run; its manifests and tokenizer are where they were.
        machine: That predictions are for.

    Raises:
        FlaError: The folder, the manifests or the metrics are not there.
    """
    run = RunFolder(folder)
    devices = _read_devices(run)
    config = load_config(Stage2Config, [str(run.config_yaml)])
    plan = plan_run(config, world_size=len(devices))
    if plan.length is None:
        raise DataError(
            f"{run.config_yaml}: the manifests or the tokenizer of this run are not where it says, "
            "so its tokens a step are not known. Put them back."
        )
    size, tokens = config.train.global_batch_size, plan.length.clips.tokens
    step = read_step(run, tokens_per_step=size * sum(tokens) / len(tokens))
    prediction = predict(
        build_workload(plan, config, most_clips=size),
        Layout(
            num_gpus=len(devices),
            global_batch_size=size,
            micro_batch_size=config.train.micro_batch_size,
        ),
        machine=machine,
    )
    return MeasuredRun(
        step=step,
        devices=devices,
        calibration=calibrate(step, prediction),
        shows_data=step.wait_fraction > _WAIT_SHOWS,
    )


def read_step(run: RunFolder, *, tokens_per_step: float) -> MeasuredStep:
    """Read a run's metrics.jsonl.

    Args:
        run: Its folder.
        tokens_per_step: Target tokens of a step over all ranks, in the mean.

    Raises:
        DataError: It has no rows of training.
    """
    points, _ = read_points(run.metrics_jsonl)
    speeds = [point.value for point in points if point.key == "train/tokens_per_s"]
    waits = [point.value for point in points if point.key == "train/data_wait_fraction"]
    if not speeds or not waits:
        raise DataError(
            f"{run.metrics_jsonl}: there is no row of training metrics. Name the folder of a run "
            "that has logged some steps."
        )
    # The first row has the start in it: kernels are chosen, memory is allocated.
    speeds, waits = speeds[1:] or speeds, waits[1:] or waits
    return MeasuredStep(
        step_s=tokens_per_step / median(speeds), wait_fraction=median(waits), num_rows=len(speeds)
    )


def calibrate(step: MeasuredStep, prediction: Prediction) -> Calibration:
    """Compare a measured step with the prediction of the same step.

    Its communication is taken as predicted; what is left was computing.
    """
    working = step.step_s * (1 - step.wait_fraction) - prediction.network_s
    predicted = prediction.working_s - prediction.network_s
    data = 1.0
    if step.wait_fraction > _WAIT_SHOWS and prediction.supply_s:
        # It was the data that took all the time.
        data = step.step_s / prediction.supply_s
    return Calibration(working=max(working, 0.0) / predicted, data=data)


def _read_devices(run: RunFolder) -> tuple[str, ...]:
    try:
        content = json.loads(run.provenance_json.read_text(encoding="utf-8"))
        return tuple(map(str, content["devices"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{run.provenance_json}: it does not tell the ranks of the run. Name the folder of a "
            "run of stage 2."
        ) from error

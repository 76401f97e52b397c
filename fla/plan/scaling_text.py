"""Predictions as text: steps on more GPUs, what a failure costs, and what all that assumes."""

from collections.abc import Iterable, Iterator, Sequence

from fla.config.schema import Stage2Config
from fla.plan.assumed import list_assumptions
from fla.plan.failure import best_interval, checkpoint_bytes, failure_cost, plan_saving
from fla.plan.hardware import Assumptions, Machine
from fla.plan.measured import MeasuredRun
from fla.plan.run import RunPlan
from fla.plan.scaling import Layout, Prediction, grow, predict, share_out
from fla.plan.workload import build_workload

_GIB = 2**30
_COLUMNS = (
    ("GPUs", 5), ("batch", 7), ("clips", 7), ("compute", 9), ("host", 8), ("slowest", 9),
    ("network", 9), ("data", 8), ("step", 9), ("clips/s", 9), ("efficiency", 12),
)  # fmt: skip
_NODES = (1, 8, 64)


def describe_scaling(
    plan: RunPlan,
    config: Stage2Config,
    *,
    world_size: int,
    num_gpus: Sequence[int],
    machine: Machine,
    measured: MeasuredRun | None,
) -> str:
    """The whole answer, several lines.

    Args:
        plan: Of the run.
        config: Of the run.
        world_size: GPUs of the run.
        num_gpus: GPUs to predict for.
        machine: With these.
        measured: A run to start from; None: nothing was measured.
    """
    train = config.train
    most_clips = max(train.global_batch_size, train.micro_batch_size * max(num_gpus))
    work = build_workload(plan, config, most_clips=most_clips)
    num_clips = len(work.clips.frames)
    calibration = measured.calibration if measured else None

    def predict_all(layouts: Iterable[Layout]) -> list[Prediction]:
        return [predict(work, it, machine=machine, calibration=calibration) for it in layouts]

    own = predict_all([share_out(train, world_size)])[0]
    shared = _unique(share_out(train, num) for num in (1, *num_gpus))
    grown = _unique(grow(train, num) for num in (1, *num_gpus))
    grown = [layout for layout in grown if layout.global_batch_size <= num_clips]
    lines = [
        f"Predicted for {machine.gpu.name}, by the assumptions below: milliseconds of a step.",
        *_strong(config, predict_all(shared), num_gpus),
        *_weak(config, predict_all(grown), num_gpus, num_clips),
        "",
        _describe_failure(plan, config, own, machine),
        "",
        "Assumed:",
        *(f"- {line}" for line in list_assumptions(plan, config, machine, measured)),
    ]
    return "\n".join(lines)


def _strong(
    config: Stage2Config, predictions: Sequence[Prediction], num_gpus: Sequence[int]
) -> Iterator[str]:
    size = config.train.global_batch_size
    yield from ("", f"The recipe's step of {size} sentences, shared out (strong scaling):")
    yield from _table(predictions)
    for it in (prediction.layout for prediction in predictions):
        if it.micro_batch_size != config.train.micro_batch_size:
            yield f"{_count(it.num_gpus)}: with train.micro_batch_size={it.micro_batch_size}."
    for num in num_gpus:
        used = share_out(config.train, num).num_gpus
        if num > size:
            yield (
                f"{num} GPUs: train.global_batch_size {size} gives work to at most {size}; a run "
                "with more is refused."
            )
        elif used < num:
            yield (
                f"{num} GPUs: train.global_batch_size {size} cannot be shared out evenly; {used} "
                "have work."
            )


def _weak(
    config: Stage2Config,
    predictions: Sequence[Prediction],
    num_gpus: Sequence[int],
    num_clips: int,
) -> Iterator[str]:
    yield ""
    yield (
        f"{config.train.micro_batch_size} sentences on every GPU (weak scaling). A larger global "
        "batch is another method: its learning rates and epochs are not the recipe's."
    )
    if predictions:
        yield from _table(predictions)
    for num in num_gpus:
        size = grow(config.train, num).global_batch_size
        if size > num_clips:
            yield f"{num} GPUs: a step of {size} is more than the {num_clips} training clips."


def _unique(layouts: Iterable[Layout]) -> list[Layout]:
    return sorted(dict.fromkeys(layouts), key=lambda layout: layout.num_gpus)


def _table(predictions: Sequence[Prediction]) -> Iterator[str]:
    yield "".join(f"{name:>{width}}" for name, width in _COLUMNS) + "  bottleneck"
    base = predictions[0]
    for it in predictions:
        share = it.layout.global_batch_size / it.layout.num_gpus
        clips = f"{it.num_micro_batches}x{share / it.num_micro_batches:.2g}"
        parts = (it.compute_s, it.host_s, it.slowest_s, it.network_s, it.data_s, it.step_s)
        cells = (
            f"{it.layout.num_gpus}",
            f"{it.layout.global_batch_size}",
            clips,
            *(f"{1000 * seconds:.1f}" for seconds in parts),
            f"{it.samples_per_s:.0f}",
            f"{it.efficiency(base):.0%}",
        )
        row = (f"{cell:>{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
        yield "".join(row) + f"  {it.bottleneck}"


def _describe_failure(
    plan: RunPlan, config: Stage2Config, own: Prediction, machine: Machine
) -> str:
    it, num_gpus = machine.assumptions, own.layout.num_gpus
    num_bytes = checkpoint_bytes(
        plan.num_parameters, plan.sharding, has_average=config.train.ema_decay > 0
    )
    saving = plan_saving(num_bytes, num_gpus=num_gpus, assumptions=it)
    interval_s = _interval(plan, config, own)
    if interval_s is None:
        cost = (
            "Checkpoints are an epoch apart, and how long that is only manifests tell: a failure "
            f"costs half of it and {(saving.writing_s + it.restart_s) / 60:.1f} min."
        )
    else:
        lost = failure_cost(
            saving,
            interval_s=interval_s,
            notice_s=60 * config.train.patience_minutes,
            assumptions=it,
        )
        cost = (
            f"Checkpoints are {interval_s / 60:.1f} min apart, so a failure costs "
            f"{lost.expected_s / 60:.1f} min of all GPUs on average, and {lost.most_s / 60:.1f} at "
            "most, where it comes just before one and train.patience_minutes pass."
        )
    best = ", ".join(f"{_best_minutes(num_bytes, nodes, it):.1f}" for nodes in _NODES)
    return (
        f"A failure, predicted: for a checkpoint, of {num_bytes / _GIB:.1f} GiB, training waits "
        f"{saving.copying_s:.1f} s on {_count(num_gpus)}, and {saving.writing_s:.0f} s later it is "
        f"written. {cost} Least is lost with a checkpoint every {best} min on "
        f"{', '.join(map(str, _NODES))} nodes: set train.save_every_minutes."
    )


def _best_minutes(num_bytes: int, num_nodes: int, assumptions: Assumptions) -> float:
    num_gpus = num_nodes * assumptions.gpus_per_node
    saving = plan_saving(num_bytes, num_gpus=num_gpus, assumptions=assumptions)
    return best_interval(saving, num_nodes=num_nodes, assumptions=assumptions) / 60


def _count(num_gpus: int) -> str:
    return f"{num_gpus} GPU{'s' if num_gpus > 1 else ''}"


def _interval(plan: RunPlan, config: Stage2Config, own: Prediction) -> float | None:
    """Seconds between two checkpoints; None: not known."""
    train = config.train
    steps = train.evaluate_every_steps
    if not steps and plan.length is not None:
        steps = plan.length.steps_per_epoch
    intervals = [steps * own.step_s] if steps else []
    if train.save_every_minutes:
        intervals.append(60 * train.save_every_minutes)
    return min(intervals, default=None)

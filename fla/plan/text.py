"""A plan as text: what is held when, whether it fits, what to change where it does not."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fla.config.schema import Stage2Config
from fla.errors import FlaError
from fla.plan.memory import Moment, Part
from fla.plan.run import RunPlan, plan_run

GIB = 2**30
RESERVE_BYTES = 2 * GIB
"""Assumed beside the plan: CUDA context, NCCL, cuBLAS, gaps of the allocator. Not measured."""

_NEXT_FILES = ("zero2_bf16", "zero3_bf16", "zero3_offload_optimizer_bf16", "zero3_offload_bf16")
# A run refuses bf16 for an encoder that is trained.
_NEXT_FILES_TRAINED = ("zero2_autocast", "zero3_autocast")


class Fit(NamedTuple):
    """Whether a plan fits into a GPU."""

    gpu_gb: int
    spare_bytes: int
    """Negative where it does not."""


def check_fit(plan: RunPlan, gpu_gb: int) -> Fit:
    """Compare a plan with the memory of a GPU, in the GB (GiB) of its name."""
    return Fit(gpu_gb, gpu_gb * GIB - RESERVE_BYTES - plan.memory.gpu_peak)


def describe(
    plan: RunPlan, config: Stage2Config, *, world_size: int, gpus_gb: Sequence[int]
) -> str:
    """The whole answer, several lines."""
    lines = [*_what(plan, config, world_size), "", *_table(plan), ""]
    lines += [_verdict(check_fit(plan, gpu_gb)) for gpu_gb in gpus_gb]
    largest = max(gpus_gb)
    too_small = [gb for gb in gpus_gb if check_fit(plan, gb).spare_bytes < 0]
    for gpu_gb in too_small:
        lines += ["", f"To fit into {gpu_gb} GB:", *_advice(config, world_size, gpu_gb)]
    if largest not in too_small and plan.length is None:
        lines += ["", "Without manifests and tokenizer: for the largest micro-batch possible."]
    return "\n".join(lines)


def _what(plan: RunPlan, config: Stage2Config, world_size: int) -> Iterator[str]:
    batch, name = plan.batch, Path(config.deepspeed).stem
    yield (
        f"{plan.num_parameters / 1e6:.1f} M parameters are trained on {world_size} "
        f"GPU{'s' if world_size > 1 else ''} with {name}."
    )
    yield (
        f"Micro-batch: {batch.num_clips} clips, padded to {batch.max_frames} frames and "
        f"{batch.max_tokens} tokens; {plan.num_micro_batches} a step on a GPU."
    )
    if plan.length is None:
        return
    length = plan.length
    yield (
        f"{length.num_samples} samples, {length.steps_per_epoch} steps and "
        f"{length.tokens_per_epoch} tokens an epoch; {length.num_steps} steps in all."
    )
    if config.features.mode == "cached":
        yield f"Cached features: {length.feature_bytes / GIB:.2f} GiB on disk."


def _table(plan: RunPlan) -> Iterator[str]:
    memory = plan.memory
    yield _row("GiB of one GPU", "GPU", "host")
    for part in memory.always:
        yield from _part_row(part, "")
    yield _row("moment", "", "")
    for moment in (*memory.training, memory.evaluation):
        yield from _moment_rows(plan, moment)
    peak = memory.gpu_bytes(memory.fullest)
    yield _row(f"most in training ({memory.fullest.name})", _gib(peak), _gib(memory.host_bytes))
    yield _row("most in evaluation", _gib(memory.gpu_bytes(memory.evaluation)), "")


def _moment_rows(plan: RunPlan, moment: Moment) -> Iterator[str]:
    parts = [part for part in moment.parts if part.gpu]
    if not parts:
        return
    yield _row(f"  {moment.name}", _gib(plan.memory.gpu_bytes(moment)), "")
    for part in parts:
        yield from _part_row(part, "    ")


def _part_row(part: Part, indent: str) -> Iterator[str]:
    if part.gpu or part.host:
        yield _row(indent + part.name, _gib(part.gpu), _gib(part.host) if part.host else "")


def _row(name: str, gpu: str, host: str) -> str:
    return f"{name:<52}{gpu:>9}{host:>9}".rstrip()


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f}"


def _verdict(fit: Fit) -> str:
    spare = abs(fit.spare_bytes) / GIB
    reserve = f"{RESERVE_BYTES / GIB:.0f} GiB set aside for CUDA and NCCL"
    if fit.spare_bytes < 0:
        return f"{fit.gpu_gb} GB: does not fit, {spare:.2f} GiB short, with {reserve}."
    return f"{fit.gpu_gb} GB: fits, {spare:.2f} GiB to spare, with {reserve}."


def _advice(config: Stage2Config, world_size: int, gpu_gb: int) -> Iterator[str]:
    """The first change that is enough, and those before it that are not."""
    for words, changed in _changes(config):
        try:
            fit = check_fit(plan_run(changed, world_size=world_size), gpu_gb)
        except FlaError:
            # A combination that a run would refuse, such as clips longer than a micro-batch.
            continue
        if fit.spare_bytes >= 0:
            yield f"  {words}: fits, {fit.spare_bytes / GIB:.2f} GiB to spare"
            return
        yield f"  {words}: {-fit.spare_bytes / GIB:.2f} GiB short"
    yield "  more GPUs, or a smaller LLM"


def _changes(config: Stage2Config) -> Iterator[tuple[str, Stage2Config]]:
    """Each with those before it, the cheapest in time first."""
    words: list[str] = []
    current = config
    if not config.model.gradient_checkpointing:
        current = replace(current, model=replace(config.model, gradient_checkpointing=True))
        words.append("model.gradient_checkpointing=true")
        yield " ".join(words), current
    folder, name = Path(config.deepspeed).parent, Path(config.deepspeed).stem
    files = _NEXT_FILES if config.model.freeze == "all" else _NEXT_FILES_TRAINED
    for file in files[files.index(name) + 1 :] if name in files else files:
        path = folder / f"{file}.json"
        if path.is_file():
            changed = replace(current, deepspeed=str(path))
            yield " ".join([*words, f"deepspeed={path}"]), changed
    while current.train.micro_batch_size % 2 == 0:
        size = current.train.micro_batch_size // 2
        current = replace(current, train=replace(current.train, micro_batch_size=size))
        yield " ".join([*words, f"train.micro_batch_size={size}"]), current

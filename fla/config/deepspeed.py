"""DeepSpeed's JSON and our numbers become one dict: what `deepspeed.initialize` gets.

The JSON says how to shard and in which precision; the recipe owns batch sizes and clipping. Where
both speak they must agree. DeepSpeed ignores many keys that it does not know, so a typing error
would train another run than the file says: every key is checked here. The facts behind the rules
were measured on DeepSpeed 0.19.8.
"""

import difflib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fla.errors import ConfigError

TOP_KEYS = frozenset(
    "activation_checkpointing bf16 comms_logger communication_data_type data_types "
    "gradient_accumulation_steps gradient_clipping steps_per_print torch_autocast train_batch_size "
    "train_micro_batch_size_per_gpu wall_clock_breakdown zero_optimization".split()
)

# In these sections DeepSpeed ignores unknown keys too, or ends with a page of pydantic.
SECTION_KEYS = {
    # Not check_grad_overflow, by which DeepSpeed would let gradients through that are no numbers.
    "bf16": frozenset({"enabled"}),
    "data_types": frozenset({"grad_accum_dtype", "keep_in_fp32_modules"}),
    "torch_autocast": frozenset({"enabled", "dtype", "lower_precision_safe_modules"}),
    "zero_optimization": frozenset(
        "allgather_bucket_size allgather_partitions contiguous_gradients offload_optimizer "
        "offload_param overlap_comm reduce_bucket_size reduce_scatter round_robin_gradients stage "
        "stage3_gather_16bit_weights_on_model_save stage3_max_live_parameters "
        "stage3_max_reuse_distance stage3_param_persistence_threshold stage3_prefetch_bucket_size "
        "sub_group_size zero_hpz_partition_size".split()
    ),
}

REFUSED_KEYS = {
    "optimizer": "The recipe's optim section chooses the optimizer; remove it here.",
    "scheduler": "The recipe's optim section sets the learning rates; remove it here.",
    "fp16": "mBART overflows in fp16; use bf16, or torch_autocast with bfloat16.",
}


def read_deepspeed_config(
    path: Path,
    *,
    micro_batch_size: int,
    world_size: int,
    max_grad_norm: float,
    has_gpu: bool,
    global_batch_size: int | None = None,
) -> dict[str, Any]:
    """Read a DeepSpeed JSON and complete it with the recipe's numbers.

    Args:
        path: One of `ds_configs/`, or the user's own.
        micro_batch_size: Sentences of one forward pass on one rank.
        world_size: Ranks.
        max_grad_norm: Clip the gradient's norm to this; 0: never.
        has_gpu: Whether the ranks compute on GPUs; offloading needs one.
        global_batch_size: Sentences per optimizer step, to compare with the file; None: unknown.

    Returns:
        DeepSpeed's configuration with one micro-batch a step: the engine is told step by step how
        many there are.

    Raises:
        ConfigError: Every key that DeepSpeed would ignore or that contradicts the recipe, every
            precision that trains wrongly, one sentence each.
    """
    config = _read_json(path)
    numbers = {
        "train_micro_batch_size_per_gpu": ("train.micro_batch_size", micro_batch_size),
        "gradient_clipping": ("optim.max_grad_norm", max_grad_norm),
    }
    if global_batch_size is not None:
        accumulation = global_batch_size / (micro_batch_size * world_size)
        numbers["train_batch_size"] = ("train.global_batch_size", global_batch_size)
        numbers["gradient_accumulation_steps"] = (
            "train.global_batch_size / (train.micro_batch_size x world size)",
            accumulation,
        )
    problems = [
        *_unknown_keys(config),
        *_contradictions(config, numbers),
        *_traps(config, has_gpu=has_gpu),
    ]
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    if config.get("torch_autocast", {}).get("enabled", False):
        # PyTorch's default on GPUs is float16.
        config["torch_autocast"].setdefault("dtype", "bfloat16")
    return config | {
        "train_batch_size": micro_batch_size * world_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        # Torch's own optimizers; DeepSpeed's are compiled on first use.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        names = ", ".join(sorted(p.name for p in Path("ds_configs").glob("*.json")))
        there = f"ds_configs has {names}." if names else "Start from the repository's folder."
        raise ConfigError(f"{path}: there is no such DeepSpeed JSON. {there}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except ValueError as error:
        raise ConfigError(f"{path}: not readable as JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: DeepSpeed's JSON is an object, {{...}}.")
    return config


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{', '.join(twice)} is given twice")
    return unique


def _unknown_keys(config: dict[str, Any]) -> Iterator[str]:
    for key in config:
        if key in REFUSED_KEYS:
            yield f"{key}: {REFUSED_KEYS[key]}"
        elif key not in TOP_KEYS:
            yield f"{key}: not a key that is passed on to DeepSpeed. {_hint(key, TOP_KEYS)}"
    for section, known in SECTION_KEYS.items():
        content = config.get(section, {})
        if not isinstance(content, dict):
            yield f"{section}: a section, got {content!r}."
            config[section] = {}
            continue
        for key in content.keys() - known:
            yield f"{section}.{key}: not a key that is passed on to DeepSpeed. {_hint(key, known)}"


def _hint(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), n=1)
    return f"Did you mean: '{near[0]}'?" if near else f"Known are: {', '.join(sorted(known))}."


def _contradictions(
    config: dict[str, Any], numbers: dict[str, tuple[str, int | float]]
) -> Iterator[str]:
    for key, (name, ours) in numbers.items():
        theirs = config.get(key, "auto")
        if theirs not in ("auto", ours):
            yield f"{key} ({theirs}) differs from {name} ({ours:g}). Remove it here."


def _traps(config: dict[str, Any], *, has_gpu: bool) -> Iterator[str]:
    zero = config.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    has_bf16 = config.get("bf16", {}).get("enabled", False)
    has_autocast = config.get("torch_autocast", {}).get("enabled", False)
    if stage not in (0, 1, 2, 3):
        yield f"zero_optimization.stage ({stage!r}) must be 0, 1, 2 or 3."
    if has_bf16 and stage == 0:
        # Off from the first update; ZeRO 1 to 3 follow fp32.
        yield "bf16 with zero_optimization.stage 0 trains wrongly. Use stage 1."
    if has_bf16 and has_autocast:
        yield "bf16 and torch_autocast are both enabled. Keep one of them."
    if has_autocast and config["torch_autocast"].get("dtype", "bfloat16") != "bfloat16":
        yield 'torch_autocast.dtype must be "bfloat16"; float16 would need loss scaling.'
    for key in ("offload_optimizer", "offload_param"):
        if not has_gpu and (zero.get(key) or {}).get("device", "none") != "none":
            yield f"zero_optimization.{key}: there is no GPU to offload from. Remove it."

"""Ranges of the numbers: which values a key may take."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from fla.config.schema import (
    BeamConfig,
    DataConfig,
    DecodeConfig,
    DenoisingConfig,
    EncoderConfig,
    FeaturesConfig,
    PretrainConfig,
    PretrainOptimConfig,
    SmallMbartConfig,
    Stage1Config,
    Stage1OptimConfig,
    Stage2Config,
    Stage2OptimConfig,
    TextConfig,
    TrainConfig,
    TranslatorConfig,
)

MAX_POSITIONS = 1024
"""Frames, and tokens, that mBART and Light-T have positions for; T5 has no such bound."""


MAX_PROFILE_STEPS = 100
"""A step is thousands of operations, all of which are kept in memory until they are written."""


class Range(NamedTuple):
    """Values that a number may take."""

    low: float = float("-inf")
    high: float = float("inf")
    excludes_low: bool = False
    excludes_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether the value is in the range."""
        above = value > self.low if self.excludes_low else value >= self.low
        below = value < self.high if self.excludes_high else value <= self.high
        return above and below

    @property
    def words(self) -> str:
        """What a value must be."""
        low = f"{'above' if self.excludes_low else 'at least'} {self.low:g}"
        high = f"{'below' if self.excludes_high else 'at most'} {self.high:g}"
        return low if self.high == float("inf") else f"{low} and {high}"


COUNT = Range(1)
NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, excludes_low=True)
FRACTION = Range(0, 1, excludes_high=True)
POSITIONS = Range(1, MAX_POSITIONS)
SEED = Range(0, 2**31 - 1)
RESNET_STAGES = Range(0, 4)

RANGES: dict[type[Any], dict[str, Range]] = {
    DataConfig: {
        "frame_stride": COUNT,
        "target_fps": NOT_NEGATIVE,
        "max_frames": POSITIONS,
        "resize_px": COUNT,
        "crop_px": COUNT,
        "max_rotation_deg": Range(0, 180),
        "max_rescale_fraction": FRACTION,
        "max_shift_fraction": FRACTION,
        "frames_per_batch": COUNT,
        "num_threads": COUNT,
        "prefetch_batches": COUNT,
        "host_memory_gib": POSITIVE,
        "max_skipped_fraction": FRACTION,
    },
    TextConfig: {"max_tokens": POSITIONS},
    EncoderConfig: {
        "sign_width": COUNT,
        "kernel_size": COUNT,
        "dropout": FRACTION,
        "checkpointed_stages": RESNET_STAGES,
    },
    TranslatorConfig: {
        "sign_width": COUNT,
        "kernel_size": COUNT,
        "dropout": FRACTION,
        "attention_dropout": FRACTION,
        "checkpointed_stages": RESNET_STAGES,
    },
    FeaturesConfig: {"num_views": NOT_NEGATIVE, "encoder_memory_gib": POSITIVE},
    Stage1OptimConfig: {
        "learning_rate": POSITIVE,
        "momentum": FRACTION,
        "weight_decay": NOT_NEGATIVE,
        "warmup_fraction": FRACTION,
        "max_grad_norm": NOT_NEGATIVE,
    },
    Stage2OptimConfig: {
        "adapter_learning_rate": POSITIVE,
        "llm_learning_rate": POSITIVE,
        "encoder_learning_rate": POSITIVE,
        "beta1": FRACTION,
        "beta2": FRACTION,
        "weight_decay": NOT_NEGATIVE,
        "warmup_fraction": FRACTION,
        "max_grad_norm": NOT_NEGATIVE,
    },
    PretrainOptimConfig: {
        "learning_rate": POSITIVE,
        "weight_decay": NOT_NEGATIVE,
        "warmup_fraction": FRACTION,
        "max_grad_norm": NOT_NEGATIVE,
    },
    TrainConfig: {
        "max_nonfinite_steps": COUNT,
        "num_epochs": COUNT,
        "shortest_first_epochs": NOT_NEGATIVE,
        "global_batch_size": COUNT,
        "micro_batch_size": COUNT,
        "label_smoothing": FRACTION,
        "profile_steps": Range(0, MAX_PROFILE_STEPS),
        "ema_decay": FRACTION,
        "log_every_steps": COUNT,
        "evaluate_every_steps": NOT_NEGATIVE,
        "max_steps": NOT_NEGATIVE,
        "patience_minutes": POSITIVE,
        "save_every_minutes": NOT_NEGATIVE,
        "keep_checkpoints": COUNT,
        "keep_best_checkpoints": COUNT,
        "keep_every_steps": NOT_NEGATIVE,
    },
    BeamConfig: {
        "num_beams": COUNT,
        "length_penalty": Range(-10, 10),
        "max_new_tokens": POSITIONS,
        "num_hypotheses": COUNT,
        "temperature": NOT_NEGATIVE,
        "top_k": NOT_NEGATIVE,
        "top_p": Range(0, 1, excludes_low=True),
        "batch_size": COUNT,
    },
    DenoisingConfig: {
        "max_pieces": COUNT,
        "mask_fraction": Range(0, 1, excludes_low=True, excludes_high=True),
        "mean_span_tokens": POSITIVE,
    },
    SmallMbartConfig: {
        "d_model": COUNT,
        "num_layers": COUNT,
        "num_heads": COUNT,
        "ffn_width": COUNT,
        "dropout": FRACTION,
    },
    Stage1Config: {"seed": SEED},
    Stage2Config: {"seed": SEED},
    DecodeConfig: {
        "seed": SEED,
        "average_last": COUNT,
        "num_threads": COUNT,
        "frames_per_batch": COUNT,
        "host_memory_gib": POSITIVE,
    },
    PretrainConfig: {
        "seed": SEED,
        "num_epochs": COUNT,
        "global_batch_size": COUNT,
        "log_every_steps": COUNT,
    },
}


def out_of_range(section: Any, prefix: str = "") -> Iterator[str]:
    """A sentence for every number of a configuration that is out of its range."""
    ranges = RANGES.get(type(section), {})
    for field in fields(section):
        name, value = prefix + field.name, getattr(section, field.name)
        if is_dataclass(value):
            yield from out_of_range(value, f"{name}.")
        elif field.name in ranges and not ranges[field.name].holds(value):
            yield f"{name} ({value}) must be {ranges[field.name].words}."

"""What the checks run on, and how much of it: full size on a GPU, or a rehearsal on the CPU."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from fla.runtime import Runtime, computes_bfloat16


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is decoded and trained."""

    resize_px: int
    crop_px: int
    max_frames: int
    """Every clip for training is so long that it gives exactly so many."""
    recording_s: int
    """Length of a recording; 0: small ones of a second or two, which are made in no time."""
    num_speed_clips: int
    """Clips that decoding is timed on."""
    clips_per_step: int
    stage1_steps: int
    stage2_steps: int
    log_every_steps: int
    """A multiple of it is the number of steps; what is before the first row is no measurement."""
    light_t: str
    """Size of Light-T."""
    sign_width: int
    """Width of a sign-wise feature."""
    mbart: tuple[str, ...]
    """Words of tools/make_random_mbart.py."""
    gain_widths: tuple[int, int]
    """Width and layers of the mBART that attention is timed with."""
    num_words: int
    """Of a sentence."""
    times: int
    """How often a step in memory is timed."""
    compiler: str
    """torch.compile's backend."""


FULL = Sizes(
    resize_px=256,
    crop_px=224,
    max_frames=75,
    recording_s=20,
    num_speed_clips=48,
    clips_per_step=8,
    stage1_steps=30,
    stage2_steps=20,
    log_every_steps=5,
    light_t="base",
    sign_width=1024,
    mbart=(),
    gain_widths=(1024, 12),
    num_words=40,
    times=10,
    compiler="inductor",
)
"""The paper's sizes: frames of 224 pixels, clips of 75, Light-T base, mbart-large-cc25."""

SMALL = Sizes(
    resize_px=36,
    crop_px=32,
    max_frames=5,
    recording_s=0,
    num_speed_clips=2,
    clips_per_step=2,
    stage1_steps=6,
    stage2_steps=4,
    log_every_steps=2,
    light_t="tiny",
    sign_width=32,
    mbart=("--layers", "1", "--d-model", "64", "--pieces", "200"),
    gain_widths=(64, 1),
    num_words=8,
    times=2,
    # Traces and changes nothing: no compiler is needed, and no minute.
    compiler="aot_eager",
)
"""For a rehearsal: the same functions in a few minutes on two CPU cores."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every check is told."""

    device: str
    """Torch device: "cpu" for a rehearsal, or "cuda:0"."""
    sizes: Sizes
    folder: Path
    """Takes all that is made; recordings and weights in it are kept for the next time."""

    @property
    def is_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """What models compute in: bfloat16, unless the CPU would only imitate it."""
        return torch.bfloat16 if computes_bfloat16(self.device) else torch.float32

    @property
    def num_threads(self) -> int:
        """Decoding threads."""
        return min(8, len(os.sched_getaffinity(0)))

    def deepspeed_json(self, stage: int, precision: str) -> str:
        """Of `ds_configs/`; float32 where the CPU would only imitate bfloat16."""
        kind = precision if self.dtype is torch.bfloat16 else "fp32"
        return f"ds_configs/zero{stage}_{kind}.json"

    def runtime(self, *, on_cpu: bool = False) -> Runtime:
        """One rank of this device, or the CPU's that it is compared with."""
        is_gpu = self.is_gpu and not on_cpu
        return Runtime(
            device=self.device if is_gpu else "cpu",
            rank=0,
            local_rank=0,
            world_size=1,
            dali_device_id=0 if is_gpu else None,
            decode_device="mixed" if is_gpu else "cpu",
        )

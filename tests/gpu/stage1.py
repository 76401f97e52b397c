"""Stage 1 on frames of 224 pixels: does it learn in bf16, how fast, and what does it wait for."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from fla.config.keys import list_keys
from fla.config.schema import Stage1Config
from fla.models.visual_encoder import VisualEncoder, build_visual_encoder
from fla.plan.hardware import GPUS
from tests.gpu.environment import NO_COMPILER, find_compiler
from tests.gpu.material import FRAME_STRIDE, make_manifests, make_signing, make_tokenizer
from tests.gpu.rows import Row
from tests.gpu.setting import Setting
from tests.gpu.training import GIB, Trained, go_on, train

MIN_MFU_PERCENT = 40.0
MAX_WAIT_PERCENT = 5.0
COMPILE_KEY = "model.compile"

_SCRIPT = "launchers/stage1.py"


def train_stage1(setting: Setting) -> Iterator[Row]:
    """Rows of stage 1 on small copies, which are to reach the targets, and on 720p."""
    recordings = make_signing(setting)
    small = _train(setting, recordings.small, name="stage1")
    yield from rows_of(setting, small, name="stage 1, small copies", has_targets=setting.is_gpu)
    yield go_on(
        setting,
        _SCRIPT,
        _words(setting, recordings.small),
        run_dir=_run_dir(setting, "stage1"),
        name="stage 1",
    )
    large = _train(setting, recordings.large, name="stage1_720p")
    yield from rows_of(setting, large, name="stage 1, 720p", has_targets=False)
    yield _compare_compiled(setting, recordings.small, small)


def rows_of(setting: Setting, trained: Trained, *, name: str, has_targets: bool) -> Iterator[Row]:
    """What a run says.

    Args:
        setting: Of the run.
        trained: What it left.
        name: Of the run.
        has_targets: Whether it is to reach those of speed.
    """
    first, last = trained.losses[0], trained.losses[-1]
    yield Row(
        name=f"{name}: last loss / first loss", value=last / first, unit="", at_most=0.99,
        note=f"{first:.3f} to {last:.3f} nats a token",
    )  # fmt: skip
    frames_per_step = setting.sizes.clips_per_step * setting.sizes.max_frames
    frames_per_s = frames_per_step / trained.step_s
    yield Row(name=f"{name}: a step", value=1000 * trained.step_s, unit="ms")
    yield Row(
        name=f"{name}: frames that are trained on",
        value=frames_per_s,
        unit="frames/s",
        note=f"{FRAME_STRIDE} times as many are decoded, and those before the clip",
    )
    yield mfu_row(
        setting, frames_per_s, name=f"{name}: MFU",
        at_least=MIN_MFU_PERCENT if has_targets else None,
    )  # fmt: skip
    yield Row(
        name=f"{name}: waits for data",
        value=100 * trained.wait_fraction,
        unit="%",
        at_most=MAX_WAIT_PERCENT if has_targets else None,
    )
    yield from memory_rows(trained, name=name)


def memory_rows(trained: Trained, *, name: str) -> Iterator[Row]:
    """What a run took of the GPU; none on a CPU."""
    if trained.peaks is None:
        yield Row(name=f"{name}: memory", note="there is no GPU")
        return
    yield Row(
        name=f"{name}: most memory of tensors", value=trained.peaks.allocated / GIB, unit="GiB"
    )
    yield Row(
        name=f"{name}: most memory of the card",
        value=trained.peaks.card / GIB,
        unit="GiB",
        note="with what CUDA, NCCL, DALI and the allocator keep",
    )


def mfu_row(
    setting: Setting, frames_per_s: float, *, name: str, at_least: float | None = None
) -> Row:
    """Operations of training the visual encoder in what the GPU is published to do at most."""
    device = torch.cuda.get_device_name(0) if setting.is_gpu else "the CPU"
    peak = find_peak(device)
    with torch.device("meta"):
        encoder = build_visual_encoder(sign_width=setting.sizes.sign_width, kernel_size=3)
    per_frame = count_frame_flops(encoder, setting.sizes.crop_px)
    if peak is None:
        return Row(
            name=name,
            note=f"{frames_per_s * per_frame / 1e12:.3g} TFLOP/s; fla/plan/hardware.py has no "
            f"published figure of {device}",
        )
    return Row(
        name=name,
        value=100 * frames_per_s * per_frame / peak,
        unit="%",
        at_least=at_least,
        note=f"{per_frame / 1e9:.2f} GFLOP a frame, {peak / 1e12:.0f} TFLOP/s of {device}",
    )


def find_peak(device: str) -> float | None:
    """Published bf16 operations a second of a GPU by its name; None: it is not known."""
    name = device.lower()
    # Cards for PCIe have the same name and are slower.
    if "pcie" in name or "nvl" in name:
        return None
    return next((gpu.bf16_flops for key, gpu in GPUS.items() if f" {key}" in name), None)


def count_frame_flops(encoder: VisualEncoder, crop_px: int) -> float:
    """Operations of a frame, forward and backward; Light-T, less than 1 %, is left out.

    Args:
        encoder: On the meta device.
        crop_px: Side of the frame.
    """
    frames = torch.empty(2, 3, crop_px, crop_px, device="meta")
    with FlopCounterMode(display=False) as counter:
        encoder.backbone(frames).sum().backward()
    # A weight of the convolution over time is used once a frame, and in two products backward.
    return counter.get_total_flops() / 2 + 3 * 2.0 * encoder.temporal.conv.weight.numel()


def _compare_compiled(setting: Setting, names: Sequence[str], plain: Trained) -> Row:
    row = f"stage 1: time of a step with {COMPILE_KEY}=true / without"
    if COMPILE_KEY not in list_keys(Stage1Config):
        return Row(name=row, note="there is no such key")
    if not find_compiler():
        return Row(name=row, note=NO_COMPILER)
    if not setting.is_gpu:
        return Row(name=row, note="PyTorch's compiler takes minutes, which a rehearsal has not")
    compiled = _train(setting, names, f"{COMPILE_KEY}=true", name="stage1_compiled")
    return Row(
        name=row,
        value=compiled.step_s / plain.step_s,
        unit="",
        note=f"loss {compiled.losses[-1]:.3f} and {plain.losses[-1]:.3f}",
    )


def _train(setting: Setting, names: Sequence[str], *words: str, name: str) -> Trained:
    trained = train(
        setting, _SCRIPT, [*_words(setting, names), *words], run_dir=_run_dir(setting, name)
    )
    if not all(map(math.isfinite, trained.losses)):
        raise ValueError(f"A loss is no number: {trained.losses}.")
    return trained


def _run_dir(setting: Setting, name: str) -> Path:
    return setting.folder / "runs" / name


def _words(setting: Setting, names: Sequence[str]) -> list[str]:
    sizes = setting.sizes
    num_clips = sizes.stage1_steps * sizes.clips_per_step
    manifests = make_manifests(setting, make_signing(setting), names, num_train=num_clips)
    return [
        f"deepspeed={setting.deepspeed_json(1, 'autocast')}",
        *data_words(setting, clips_per_step=sizes.clips_per_step),
        f"data.manifest_dir={manifests}",
        f"text.tokenizer_dir={make_tokenizer(setting)}",
        f"model.light_t={sizes.light_t}",
        f"model.sign_width={sizes.sign_width}",
        # The paper's SGD takes longer to learn anything.
        "optim.name=adamw",
        "optim.learning_rate=5e-4",
        "optim.max_grad_norm=1.0",
        f"train.max_steps={sizes.stage1_steps}",
    ]


def data_words(setting: Setting, *, clips_per_step: int) -> list[str]:
    """What runs of both stages are told; a step is one micro-batch."""
    sizes = setting.sizes
    return [
        f"data.frame_stride={FRAME_STRIDE}",
        f"data.max_frames={sizes.max_frames}",
        f"data.resize_px={sizes.resize_px}",
        f"data.crop_px={sizes.crop_px}",
        f"data.num_threads={setting.num_threads}",
        f"train.global_batch_size={clips_per_step}",
        f"train.micro_batch_size={clips_per_step}",
        f"data.frames_per_batch={clips_per_step * sizes.max_frames}",
        f"train.log_every_steps={sizes.log_every_steps}",
        # Only where training ends.
        "train.evaluate_every_steps=1000000",
        "beam.num_beams=2",
        "beam.max_new_tokens=8",
    ]

"""What keys bring, on modules alone with inputs in memory: no data, no launcher, no optimizer."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fla.models.light_t import build_small_mbart
from fla.models.translator import enable_gradient_checkpointing, predict
from fla.models.visual_encoder import VisualEncoder, build_visual_encoder
from tests.gpu.environment import NO_COMPILER, find_compiler
from tests.gpu.rows import Row
from tests.gpu.setting import Setting
from tests.gpu.stage1 import mfu_row
from tests.gpu.training import GIB

_VOCABULARY, _START_ID = 2000, 4
_SEED = 1
_RECOMPUTED_STAGES = 2
_KERNELS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)


class Cost(NamedTuple):
    """Of a forward and backward pass."""

    seconds: float
    """Median of several."""
    peak: int | None
    """Most bytes of tensors on the GPU; None: on a CPU."""


def measure_gains(setting: Setting) -> Iterator[Row]:
    """Rows about the encoder in memory, its compilation, attention, and checkpointing."""
    yield from _time_encoder(setting)
    yield from _compare_attention(setting)
    yield from _compare_checkpointing(setting)
    if setting.is_gpu:
        # What is kept for later would be missing to the training processes.
        torch._dynamo.reset()
        torch.cuda.empty_cache()


def _time_encoder(setting: Setting) -> Iterator[Row]:
    sizes = setting.sizes
    num_frames = sizes.clips_per_step * sizes.max_frames
    torch.manual_seed(_SEED)
    frames = torch.randn(num_frames, 3, sizes.crop_px, sizes.crop_px, device=setting.device)
    frames = frames.contiguous(memory_format=torch.channels_last)
    lengths = torch.full((sizes.clips_per_step,), sizes.max_frames, device=setting.device)
    encoder = build_visual_encoder(sign_width=sizes.sign_width, kernel_size=3)
    encoder = encoder.to(setting.device)

    def work() -> None:
        _encode(setting, encoder, frames, lengths)

    eager = measure(setting, encoder, work)
    yield mfu_row(
        setting, num_frames / eager.seconds, name="gains: MFU of the encoder, frames in memory"
    )
    yield Row(
        name="gains: encoder, frames in memory", value=num_frames / eager.seconds, unit="frames/s"
    )
    yield from _compare_recomputed(setting, encoder, work, eager)
    name = "gains: encoder's time, compiled / eager"
    if sizes.compiler == "inductor" and not find_compiler():
        yield Row(name=name, note=NO_COMPILER)
        return
    encoder.backbone.compile(backend=sizes.compiler)
    begin_s = time.monotonic()
    work()
    compiling_s = time.monotonic() - begin_s
    compiled = measure(setting, encoder, work)
    yield Row(
        name=name,
        value=compiled.seconds / eager.seconds,
        note=f"{sizes.compiler}, first pass {compiling_s:.0f} s",
    )
    yield _memory_row("gains: encoder's memory, compiled / eager", compiled, eager)
    yield mfu_row(setting, num_frames / compiled.seconds, name="gains: MFU of the compiled encoder")


def _compare_recomputed(
    setting: Setting, encoder: VisualEncoder, work: Callable[[], object], plain: Cost
) -> Iterator[Row]:
    """Of the ResNet's first stages, which hold most of its activations."""
    key = f"model.checkpointed_stages={_RECOMPUTED_STAGES}"
    encoder.backbone.num_checkpointed = _RECOMPUTED_STAGES
    again = measure(setting, encoder, work)
    encoder.backbone.num_checkpointed = 0
    yield Row(name=f"gains: encoder's time, {key} / 0", value=again.seconds / plain.seconds)
    yield _memory_row(f"gains: encoder's memory, {key} / 0", again, plain)


def _compare_attention(setting: Setting) -> Iterator[Row]:
    mbart = build_mbart(setting)
    batch = draw_batch(setting)
    chosen = str(mbart.config._attn_implementation)
    costs = {}
    for way in ("eager", "sdpa"):
        mbart.set_attn_implementation(way)
        costs[way] = measure(setting, mbart, lambda: _translate(mbart, batch))
    usable = [kernel.name.lower() for kernel in _KERNELS if _works(mbart, batch, kernel)]
    yield Row(
        name="gains: mBART's time, sdpa / eager",
        value=costs["sdpa"].seconds / costs["eager"].seconds,
        note=f"transformers chooses {chosen}; kernels that take padded clips: {', '.join(usable)}",
    )
    yield _memory_row("gains: mBART's memory, sdpa / eager", costs["sdpa"], costs["eager"])


def _compare_checkpointing(setting: Setting) -> Iterator[Row]:
    mbart = build_mbart(setting)
    batch = draw_batch(setting)
    plain = measure(setting, mbart, lambda: _translate(mbart, batch))
    enable_gradient_checkpointing(mbart)
    again = measure(setting, mbart, lambda: _translate(mbart, batch))
    yield Row(
        name="gains: mBART's time, model.gradient_checkpointing=true / false",
        value=again.seconds / plain.seconds,
    )
    yield _memory_row(
        "gains: mBART's memory, model.gradient_checkpointing=true / false", again, plain
    )


def _memory_row(name: str, ours: Cost, theirs: Cost) -> Row:
    if ours.peak is None or theirs.peak is None:
        return Row(name=name, note="there is no GPU")
    return Row(
        name=name,
        value=ours.peak / theirs.peak,
        note=f"{ours.peak / GIB:.2f} and {theirs.peak / GIB:.2f} GiB",
    )


def measure(setting: Setting, module: nn.Module, work: Callable[[], object]) -> Cost:
    """Time a pass through a module, and its memory.

    Args:
        setting: Says how often.
        module: Whose gradients are dropped after each pass.
        work: Forward and backward.
    """
    # The first ones choose kernels.
    for _ in range(2):
        work()
    module.zero_grad()
    if setting.is_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(setting.sizes.times):
        begin_s = time.perf_counter()
        work()
        if setting.is_gpu:
            # Else the time would be that of asking for it.
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin_s)
        module.zero_grad()
    peak = torch.cuda.max_memory_allocated() if setting.is_gpu else None
    return Cost(seconds=median(seconds), peak=peak)


def build_mbart(setting: Setting) -> Any:
    """An mBART in training mode, in what stage 2 computes in; no dropout, so that all compare."""
    width, layers = setting.sizes.gain_widths
    torch.manual_seed(_SEED)
    mbart = build_small_mbart(
        vocab_size=_VOCABULARY, d_model=width, num_layers=layers, num_heads=width // 64,
        ffn_width=4 * width, dropout=0.0, pad_id=1, eos_id=2, start_id=_START_ID,
    )  # fmt: skip
    return mbart.to(setting.device, setting.dtype).train()


Inputs = tuple[Tensor, Tensor, Tensor]
"""Embedded frames `(B, T, E)`, their mask `(B, T)`, and labels `(B, L)`."""


def draw_batch(setting: Setting) -> Inputs:
    """Clips of different lengths, as training has them: attention needs a mask."""
    sizes = setting.sizes
    count, width = 2 * sizes.clips_per_step, sizes.gain_widths[0]
    torch.manual_seed(_SEED)
    embeds = torch.randn(count, sizes.max_frames, width)
    lengths = torch.arange(count) % (sizes.max_frames // 2) + sizes.max_frames // 2 + 1
    mask = (torch.arange(sizes.max_frames) < lengths[:, None]).long()
    labels = torch.randint(5, _VOCABULARY, (count, sizes.num_words))
    device = setting.device
    return embeds.to(device, setting.dtype), mask.to(device), labels.to(device)


def _translate(mbart: Any, batch: Inputs) -> None:
    embeds, mask, labels = batch
    logits = predict(mbart, labels, inputs_embeds=embeds, attention_mask=mask)
    logits.float().logsumexp(-1).sum().backward()


def _works(mbart: Any, batch: Inputs, kernel: SDPBackend) -> bool:
    """Whether attention over padded clips can be computed by a kernel alone."""
    try:
        with sdpa_kernel(kernel), warnings.catch_warnings():
            # PyTorch lists why a kernel refuses.
            warnings.simplefilter("ignore")
            _translate(mbart, batch)
    except RuntimeError:
        return False
    finally:
        mbart.zero_grad()
    return True


def _encode(setting: Setting, encoder: VisualEncoder, frames: Tensor, lengths: Tensor) -> None:
    with _autocast(setting):
        features = encoder(frames, lengths)
    features.float().sum().backward()


def _autocast(setting: Setting) -> AbstractContextManager[Any]:
    if setting.dtype is torch.float32:
        return nullcontext()
    return torch.autocast(torch.device(setting.device).type, setting.dtype)

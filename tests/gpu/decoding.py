"""Frames that NVDEC gives beside those that the CPU gives, through the loader of training.

H.264 fixes every bit of the decoded YUV. What may differ is how the colors, of which there is one
for four pixels, are spread and converted, and how frames are scaled: swscale does both at once,
DALI one after the other.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch
from nvidia.dali.backend import ReleaseUnusedMemory
from torch import Tensor

from fla.config.schema import DataConfig
from fla.data.clips import DecodedClips
from fla.data.loader import ClipLoader
from fla.data.manifest import Sample
from fla.data.pipeline import IMAGENET_MEAN, IMAGENET_STD
from fla.data.views import DrawnViews, PlainView
from tests.benchmarks.race import seconds_of
from tests.gpu.material import (
    FRAME_STRIDE,
    NUMBERED,
    SEED,
    draw_clips,
    make_numbered,
    make_signing,
)
from tests.gpu.rows import Row
from tests.gpu.setting import Setting
from tests.helpers.videos import read_number

NUMBERED_MEAN = 3.0
SIGNING_MEAN, SIGNING_MOST = 2.5, 48.0
"""In levels of 255. The same YUV converted by numpy, its colors repeated or drawn out, and scaled
as DALI scales, is 1.5 to 1.9 from swscale on numbered frames, up to 149 at their hard edges; on
signing 1.5 to 1.6, up to 32. Another frame, range or matrix is farther off."""
LEAST_MEAN = 0.01
"""Less is no difference at all: the CPU would have decoded both."""

_CLIPS_PER_BATCH = 4
_MOST_FRAMES = 600


class Difference(NamedTuple):
    """Of the same frames, decoded twice; in levels of 255."""

    mean: float
    most: float


def compare_decoders(setting: Setting) -> Iterator[Row]:
    """Rows about which frames are decoded, how much they differ, and how fast that is."""
    name = _name_decoder(setting)
    root, samples = make_numbered(setting)
    whole = _plain_view(setting, crop_px=setting.sizes.resize_px)
    yield Row(
        name=f"decoding: wrong frames by {name}, of {len(NUMBERED)} recordings",
        value=float(_count_wrong_frames(setting, root, samples, whole)),
        unit="frames",
        at_most=0.0,
    )
    apart = [_difference(setting, root, [sample], whole) for sample in samples]
    worst = max(range(len(apart)), key=lambda number: apart[number].mean)
    yield Row(
        name=f"decoding: numbered frames, {name} - CPU, mean of the worst",
        value=apart[worst].mean, unit="levels", at_most=NUMBERED_MEAN,
        at_least=LEAST_MEAN if setting.is_gpu else None,
        note=f"{samples[worst].id}; at most {max(it.most for it in apart):.0f}, at hard edges",
    )  # fmt: skip
    yield Row(
        name=f"decoding: numbered frames in common batches, {name} - CPU, mean",
        value=_difference(setting, root, samples, whole).mean,
        unit="levels",
        at_most=NUMBERED_MEAN,
        note="with a recording that both decode in software",
    )
    recordings = make_signing(setting)
    views = {"plain": _plain_view(setting), "augmented": _drawn_view(setting)}
    for names, kind in ((recordings.large, "720p"), (recordings.small, "small copies")):
        clips = draw_clips(setting, recordings, names, num_clips=len(names))
        for view_name, view in views.items():
            found = _difference(setting, recordings.root, clips, view)
            what = f"decoding: signing, {kind}, {view_name}, {name} - CPU"
            yield Row(name=f"{what}, mean", value=found.mean, unit="levels", at_most=SIGNING_MEAN)
            yield Row(name=f"{what}, most", value=found.most, unit="levels", at_most=SIGNING_MOST)
        clips = draw_clips(setting, recordings, names, num_clips=setting.sizes.num_speed_clips)
        for on_cpu in (False, True):
            yield _time_decoder(setting, recordings.root, clips, kind=kind, on_cpu=on_cpu)
    if setting.is_gpu:
        _give_memory_back()


def levels_of(frames: Tensor) -> Tensor:
    """Undo the normalization: `(R, 3, X, X)` to levels from 0 to 255, `(R, X, X, 3)`."""
    std, mean = torch.tensor(IMAGENET_STD), torch.tensor(IMAGENET_MEAN)
    return frames.cpu().permute(0, 2, 3, 1) * std + mean


def difference_of(ours: Tensor, theirs: Tensor) -> Difference:
    """How far frames are from each other.

    Raises:
        ValueError: They are not as many, or not as large.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"{tuple(ours.shape)} frames and {tuple(theirs.shape)}: other ones.")
    apart = (levels_of(ours) - levels_of(theirs)).abs()
    return Difference(mean=float(apart.mean()), most=float(apart.max()))


def decode(
    setting: Setting, root: Path, samples: Sequence[Sample], view: PlainView, *, on_cpu: bool
) -> list[Tensor]:
    """Frames of clips through the loader, a tensor a batch, where the device has them."""
    with closing(_open_loader(setting, root, samples, view, on_cpu=on_cpu)) as loader:
        return _read_all(loader)


def _count_wrong_frames(
    setting: Setting, root: Path, samples: Sequence[Sample], view: PlainView
) -> int:
    """Frames whose number is not the one that was asked for."""
    wrong = 0
    for video, sample in zip(NUMBERED, samples, strict=True):
        (frames,) = decode(setting, root, [sample], view, on_cpu=False)
        wanted = view.draw(sample, epoch=0)[0] + video.first_frame
        found = [read_number(frame.numpy()) for frame in levels_of(frames)]
        wrong += sum(ours != theirs for ours, theirs in zip(found, wanted, strict=True))
    return wrong


def _difference(
    setting: Setting, root: Path, samples: Sequence[Sample], view: PlainView
) -> Difference:
    ours, theirs = (
        torch.cat([frames.cpu() for frames in decode(setting, root, samples, view, on_cpu=on_cpu)])
        for on_cpu in (False, True)
    )
    return difference_of(ours, theirs)


def _time_decoder(
    setting: Setting, root: Path, clips: Sequence[Sample], *, kind: str, on_cpu: bool
) -> Row:
    """Frames of the recordings that lie in clips, whether taken or passed over, a second."""
    view = _drawn_view(setting)
    with closing(_open_loader(setting, root, clips, view, on_cpu=on_cpu)) as loader:
        # The first batch opens the decoders.
        warm = loader.read([((0,), 0)])
        for _ in warm:
            pass
        seconds = seconds_of(lambda: _read_all(loader))
    name = "the CPU" if on_cpu else _name_decoder(setting)
    return Row(
        name=f"decoding: {kind} by {name}",
        value=sum(clip.num_frames for clip in clips) / seconds,
        unit="frames/s",
        note=f"one in {FRAME_STRIDE} is scaled, warped and normalized; "
        f"{setting.num_threads} threads",
    )


def _read_all(loader: ClipLoader) -> list[Tensor]:
    count = len(loader.samples)
    starts = range(0, count, _CLIPS_PER_BATCH)
    batches = [(tuple(range(at, min(at + _CLIPS_PER_BATCH, count))), 0) for at in starts]
    found = []
    for batch in loader.read(batches):
        assert batch.frames is not None
        found.append(batch.frames)
    return found


def _open_loader(
    setting: Setting, root: Path, samples: Sequence[Sample], view: PlainView, *, on_cpu: bool
) -> ClipLoader:
    runtime = setting.runtime(on_cpu=on_cpu)
    return ClipLoader(
        samples,
        source=DecodedClips(
            root=root,
            views=view,
            runtime=runtime,
            max_clips=_CLIPS_PER_BATCH,
            frames_per_batch=_MOST_FRAMES,
            num_threads=setting.num_threads,
            host_memory_gib=8.0,
            # H.264 is decoded by NVDEC or in software, neither at full size in host memory.
            full_frame_px=0,
        ),
        lengths=view.lengths(samples),
        token_ids=[[0]] * len(samples),
        runtime=runtime,
        frames_per_batch=_MOST_FRAMES,
        prefetch_batches=4,
    )


def _name_decoder(setting: Setting) -> str:
    return "NVDEC" if setting.is_gpu else "the CPU again"


def _plain_view(setting: Setting, *, crop_px: int | None = None) -> PlainView:
    sizes = setting.sizes
    return PlainView(
        frame_stride=FRAME_STRIDE,
        target_fps=0.0,
        max_frames=sizes.max_frames,
        resize_px=sizes.resize_px,
        crop_px=crop_px or sizes.crop_px,
    )


def _drawn_view(setting: Setting) -> DrawnViews:
    """As training draws it."""
    data = DataConfig()
    return DrawnViews(
        frame_stride=FRAME_STRIDE,
        target_fps=0.0,
        max_frames=setting.sizes.max_frames,
        resize_px=setting.sizes.resize_px,
        crop_px=setting.sizes.crop_px,
        seed=SEED,
        augment=True,
        max_rotation_deg=data.max_rotation_deg,
        max_rescale_fraction=data.max_rescale_fraction,
        max_shift_fraction=data.max_shift_fraction,
    )


def _give_memory_back() -> None:
    """What DALI and torch keep for later would be missing to the training processes."""
    ReleaseUnusedMemory()
    torch.cuda.empty_cache()

"""The DALI graph gives the same frames whoever decodes them, packed and normalized."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from fla.data.decode.video import in_range, probe_video, read_frames
from fla.data.pipeline import IMAGENET_MEAN, IMAGENET_STD, ClipPipeline, ClipRequest
from fla.data.sampling import centre_warp
from fla.errors import DataError
from tests.helpers.videos import read_number, turn_video, write_video

RESIZE_PX, CROP_PX = 64, 48
START_OF_SCAN = b"\xff\xda"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "h264.mp4", num_frames=90)
    write_video(folder / "vp9.webm", num_frames=90, codec="libvpx-vp9")
    write_video(folder / "mjpeg.avi", num_frames=90, codec="mjpeg")
    return folder


@pytest.fixture(scope="module")
def clips() -> Iterator[ClipPipeline]:
    pipeline = open_pipeline()
    yield pipeline
    pipeline.close()


def open_pipeline(*, max_clips: int = 4) -> ClipPipeline:
    return ClipPipeline(
        decode_device="cpu",
        dali_device_id=None,
        resize_px=RESIZE_PX,
        crop_px=CROP_PX,
        max_clips=max_clips,
        num_threads=2,
    )


def clip(
    path: Path,
    *,
    start_s: float = 2.0,
    end_s: float = 4.0,
    stride: int = 4,
    warp: np.ndarray | None = None,
) -> ClipRequest:
    inside = in_range(probe_video(path).frame_times, start_s, end_s)
    return ClipRequest(
        sample_id=f"sample-{path.stem}",
        path=path,
        fps=15.0,
        start_s=start_s,
        end_s=end_s,
        num_frames=int(inside.sum()),
        frame_numbers=np.arange(1, inside.sum(), stride, dtype=np.int32),
        warp=centre_warp(resize_px=RESIZE_PX, crop_px=CROP_PX) if warp is None else warp,
    )


def software_frames(request: ClipRequest) -> np.ndarray:
    return read_frames(
        request.path,
        start_s=request.start_s,
        end_s=request.end_s,
        num_frames=request.num_frames,
        frame_numbers=request.frame_numbers,
        height=RESIZE_PX,
        width=RESIZE_PX,
    )


def to_levels(frames: torch.Tensor) -> torch.Tensor:
    """Undo the normalization: (R, 3, X, X) to levels from 0 to 255, (R, X, X, 3)."""
    return frames.permute(0, 2, 3, 1) * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)


def test_centre_warp_is_an_exact_crop_of_the_decoded_frames(clips: ClipPipeline, folder: Path):
    request = clip(folder / "h264.mp4")

    frames, _ = clips.run([request])

    margin = (RESIZE_PX - CROP_PX) // 2
    crop = software_frames(request)[:, margin:-margin, margin:-margin]
    torch.testing.assert_close(to_levels(frames), torch.from_numpy(crop).float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1), (-1, 0, 0, 1)])
def test_what_a_phone_has_turned_comes_out_upright(
    clips: ClipPipeline, folder: Path, tmp_path: Path, matrix: tuple[int, ...]
):
    request = clip(turn_video(folder / "h264.mp4", tmp_path / "turned.mp4", matrix=matrix))

    frames, _ = clips.run([request])

    margin = (RESIZE_PX - CROP_PX) // 2
    crop = software_frames(request)[:, margin:-margin, margin:-margin]
    torch.testing.assert_close(to_levels(frames), torch.from_numpy(crop).float(), atol=1e-3, rtol=0)


def test_warp_moves_the_crop_by_its_translation(clips: ClipPipeline, folder: Path):
    warp = np.array([[1, 0, 11], [0, 1, 3]], np.float32)
    request = clip(folder / "h264.mp4", warp=warp)

    frames, _ = clips.run([request])

    crop = software_frames(request)[:, 3 : 3 + CROP_PX, 11 : 11 + CROP_PX]
    torch.testing.assert_close(to_levels(frames), torch.from_numpy(crop).float(), atol=1e-3, rtol=0)


def sampled(request: ClipRequest) -> torch.Tensor:
    """The crop by torch: bilinear, and beyond the frame its border."""
    y, x = torch.meshgrid(*[torch.arange(CROP_PX) + 0.5] * 2, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ torch.from_numpy(request.warp).T
    frames = torch.from_numpy(software_frames(request)).permute(0, 3, 1, 2).float()
    crop = torch.nn.functional.grid_sample(
        frames,
        (places / RESIZE_PX * 2 - 1).expand(len(frames), -1, -1, -1),
        padding_mode="border",
        align_corners=False,
    )
    return crop.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    "warp",
    [
        [[0.9, -0.3, 11.4], [0.3, 0.9, -2.7]],
        [[1.2, 0.0, 3.0], [0.0, 1.2, 2.0]],
        [[1.0, 0.0, 5.5], [0.0, 1.0, 3.0]],
        # Whole pixels, and partly beyond the frame on either side.
        [[1.0, 0.0, -4.0], [0.0, 1.0, 3.0]],
        [[1.0, 0.0, 3.0], [0.0, 1.0, 20.0]],
    ],
)
def test_any_warp_is_bilinear_and_repeats_the_border(
    warp: list[list[float]], clips: ClipPipeline, folder: Path
):
    request = clip(folder / "h264.mp4", warp=np.array(warp, np.float32))

    frames, _ = clips.run([request])

    difference = (to_levels(frames) - sampled(request)).abs()
    # Levels are whole, and on some machines places between pixels come in 32nds.
    assert difference.max() < 4
    assert difference.mean() < 0.3


@pytest.mark.parametrize("name", ["vp9.webm", "mjpeg.avi"])
def test_dalis_decoder_gives_the_frames_of_the_software_decoder(
    name: str, clips: ClipPipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    request = clip(folder / name)
    by_dali, _ = clips.run([request])

    monkeypatch.setattr("fla.data.pipeline.DALI_CODECS", {"cpu": frozenset()})
    with closing(open_pipeline()) as without_dali:
        by_software, _ = without_dali.run([request])

    difference = (to_levels(by_dali) - to_levels(by_software)).abs()
    assert 0 < difference.mean() < 3, "0: both were decoded in software"


def test_a_tag_for_bt709_is_passed_over_whoever_decodes(
    clips: ClipPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bt709, colored = 1, np.s_[:, CROP_PX // 2 :]
    tagged = write_video(
        tmp_path / "tagged.webm", num_frames=60, codec="libvpx-vp9", colorspace=bt709
    )
    plain = write_video(tmp_path / "plain.webm", num_frames=60, codec="libvpx-vp9")
    with av.open(tagged) as container:
        assert container.streams.video[0].codec_context.colorspace == bt709
    by_dali = [to_levels(clips.run([clip(path)])[0])[colored] for path in (tagged, plain)]

    monkeypatch.setattr("fla.data.pipeline.DALI_CODECS", {"cpu": frozenset()})
    with closing(open_pipeline()) as without_dali:
        by_software = [
            to_levels(without_dali.run([clip(path)])[0])[colored] for path in (tagged, plain)
        ]

    assert (by_dali[0] - by_dali[1]).abs().mean() > 4, "both files hold the same bytes"
    # 3.0 and 3.2; were one of the two to follow the tag, 7.7.
    for dali, software in zip(by_dali, by_software, strict=True):
        assert 0 < (dali - software).abs().mean() < 4


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "mjpeg.avi"])
def test_frames_are_the_requested_ones(name: str, clips: ClipPipeline, folder: Path):
    whole = np.array([[64 / 48, 0, 0], [0, 64 / 48, 0]], np.float32)

    frames, _ = clips.run([clip(folder / name, stride=5, warp=whole)])

    # 15 frames a second: second 2 begins with frame 30, and the request with the one after it.
    assert [read_number(frame.numpy()) for frame in to_levels(frames)] == [31, 36, 41, 46, 51, 56]


def test_clips_of_any_codec_and_length_share_a_batch(clips: ClipPipeline, folder: Path):
    turned = np.array([[0.8, -0.6, 30], [0.6, 0.8, 5]], np.float32)
    requests = [
        clip(folder / "h264.mp4"),
        clip(folder / "vp9.webm", end_s=3.0, warp=turned),
        clip(folder / "mjpeg.avi", start_s=0.0, end_s=5.0, stride=7),
    ]
    alone = [clips.run([request])[0] for request in requests]

    frames, lengths = clips.run(requests)

    assert lengths.tolist() == [8, 4, 11]
    assert lengths.dtype == torch.int64
    torch.testing.assert_close(frames, torch.cat(alone), atol=0, rtol=0)


def test_frames_are_channels_last_in_memory(clips: ClipPipeline, folder: Path):
    frames, lengths = clips.run([clip(folder / "h264.mp4"), clip(folder / "vp9.webm")])

    assert frames.shape == (lengths.sum(), 3, CROP_PX, CROP_PX)
    assert frames.dtype == torch.float32
    assert frames.is_contiguous(memory_format=torch.channels_last)


def test_frames_stay_what_they_are_while_later_clips_are_decoded(clips: ClipPipeline, folder: Path):
    frames, _ = clips.run([clip(folder / "h264.mp4")])
    before = frames.clone()

    for _ in range(3):
        clips.run([clip(folder / "vp9.webm")] * 4)

    torch.testing.assert_close(frames, before, atol=0, rtol=0)


def damage_after_header(source: Path, path: Path) -> Path:
    data = bytearray(source.read_bytes())
    damaged = slice(len(data) // 4, len(data) * 9 // 10)
    noise = np.random.default_rng(0).integers(256, size=len(data[damaged]), dtype=np.uint8)
    data[damaged] = noise.tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm"])
def test_a_bad_clip_is_named_and_later_batches_decode(name: str, folder: Path, tmp_path: Path):
    good = clip(folder / name)
    path = damage_after_header(good.path, tmp_path / name)
    bad = replace(good, path=path, sample_id="broken-7")
    clips = open_pipeline()
    expected, _ = clips.run([good])

    with pytest.raises(
        DataError, match=rf"broken-7: {path}.*\. (Replace the file|Import the data)"
    ):
        clips.run([good, bad, good])
    frames, _ = clips.run([good])
    clips.close()

    torch.testing.assert_close(frames, expected, atol=0, rtol=0)


def test_a_clip_that_only_dali_finds_broken_is_named(folder: Path, tmp_path: Path):
    good = clip(folder / "mjpeg.avi")
    path = tmp_path / "bad.avi"
    data = good.path.read_bytes()
    # One picture behind its header, so that the frames are still all there.
    first = data.index(START_OF_SCAN, len(data) // 2)
    second = data.index(b"00dc", first)
    path.write_bytes(data[:first] + bytes(second - first) + data[second:])
    bad = clip(path, start_s=0.0, end_s=6.0, stride=1)
    clips = open_pipeline()

    with pytest.raises(DataError, match=r"sample-bad: .*bad\.avi, 0\.000 s to 6\.000 s does not"):
        clips.run([good, bad])
    frames, _ = clips.run([good])
    clips.close()

    assert len(frames) == len(good.frame_numbers)

"""Frames that lie as images, in folders and archives: the right ones, or one sentence."""

import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fla.data.decode.images import ScaleRgb, read_image_frames
from fla.data.frame_folder import find_gap, list_frames
from fla.data.pipeline import ClipPipeline, ClipRequest, scale_rgb
from fla.errors import DataError
from tests.helpers.videos import numbered_frame, read_number, write_image

SIZE = 32
FPS = 25.0


def write_folder(folder: Path, *, num_frames: int = 12, ending: str = "png") -> Path:
    folder.mkdir(parents=True)
    for number in range(num_frames):
        # Not in the order that the disk lists them, and numbered as PHOENIX14T numbers.
        write_image(folder / f"images{number + 1:04d}.{ending}", number, size=SIZE)
    return folder


def read(
    path: Path,
    *,
    frames: list[int],
    num_frames: int = 12,
    start_s: float = 0.0,
    side: int = SIZE,
    scaler: ScaleRgb | None = None,
) -> NDArray[np.uint8]:
    return read_image_frames(
        path,
        fps=FPS,
        start_s=start_s,
        end_s=start_s + num_frames / FPS,
        num_frames=num_frames,
        frame_numbers=np.array(frames, np.int32),
        height=side,
        width=side,
        scale_rgb=scaler,
    )


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.iterdir(), reverse=True):
            file.write(path, f"train/{folder.name}/{path.name}")
    return archive / "train" / folder.name


def test_images_come_in_the_order_of_their_numbers_and_nothing_else_does(tmp_path: Path):
    for name in ("9.png", "10.png", "2.png", "createLabels.py.lprof", "._2.png", "notes.txt"):
        (tmp_path / name).touch()

    assert list_frames(tmp_path) == ("2.png", "9.png", "10.png")


def test_png_frames_are_the_very_pixels_that_were_written(tmp_path: Path):
    folder = write_folder(tmp_path / "clip")

    frames = read(folder, frames=[0, 4, 11])

    expected = [numbered_frame(number, size=SIZE) for number in (0, 4, 11)]
    np.testing.assert_array_equal(frames, np.stack(expected))


@pytest.mark.parametrize("scaler", [None, scale_rgb])
def test_scaled_png_frames_are_those_of_an_independent_scaler(
    scaler: ScaleRgb | None, tmp_path: Path
):
    # More images than are scaled at once, and one of another size among the later.
    folder = write_folder(tmp_path / "clip", num_frames=20)
    write_image(folder / "images0018.png", 17, size=48)

    frames = read(folder, frames=list(range(20)), num_frames=20, side=24, scaler=scaler)

    for number, frame in enumerate(frames):
        image = Image.fromarray(numbered_frame(number, size=48 if number == 17 else SIZE))
        expected = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR))
        assert np.abs(frame.astype(int) - expected).mean() < 1.5, number


def test_jpeg_frames_are_those_of_an_independent_decoder(tmp_path: Path):
    folder = write_folder(tmp_path / "clip", ending="jpg")

    frames = read(folder, frames=[3])

    with av.open(folder / "images0004.jpg") as container:
        expected = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(frames[0].astype(int) - expected).mean() < 1.5
    assert read_number(frames[0]) == 3


def test_a_range_of_a_folder_begins_at_its_frame(tmp_path: Path):
    folder = write_folder(tmp_path / "clip")

    frames = read(folder, frames=[0, 2], num_frames=4, start_s=5 / FPS)

    assert [read_number(frame) for frame in frames] == [5, 7]


def test_a_folder_in_an_archive_gives_the_frames_of_the_folder(tmp_path: Path):
    folder = write_folder(tmp_path / "clip")
    inside = zipped(folder, tmp_path / "frames.zip")

    np.testing.assert_array_equal(read(inside, frames=[0, 5]), read(folder, frames=[0, 5]))


def test_images_share_a_batch_of_the_graph_with_other_clips(tmp_path: Path):
    paths = [
        write_folder(tmp_path / "png"),
        write_folder(tmp_path / "jpeg", ending="jpg", num_frames=20),
    ]
    pipeline = ClipPipeline(
        decode_device="cpu", dali_device_id=None, resize_px=SIZE, crop_px=SIZE, max_clips=2,
        num_threads=2,
    )  # fmt: skip
    requests = [
        ClipRequest(
            sample_id=path.name, path=path, fps=FPS, start_s=0.0, end_s=num_frames / FPS,
            num_frames=num_frames, frame_numbers=np.arange(1, num_frames, 6, dtype=np.int32),
            warp=np.array([[1, 0, 0], [0, 1, 0]], np.float32),
        )
        for path, num_frames in zip(paths, (12, 20), strict=True)
    ]  # fmt: skip

    frames, lengths = pipeline.run(requests)
    pipeline.close()

    assert lengths.tolist() == [2, 4]
    levels = frames.permute(0, 2, 3, 1).numpy() * 57 + 116
    assert [read_number(frame) for frame in levels] == [1, 7, 1, 7, 13, 19]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    # A byte of a PNG's header that says how its lines are ordered: only the checksum tells.
    return data[:28] + bytes([data[28] ^ 0xFF]) + data[29:]


@pytest.mark.parametrize(
    ("ending", "damage"),
    [
        ("png", cut),
        ("png", flip),
        ("jpg", cut),
        ("png", lambda _: b""),
        ("jpg", lambda _: b""),
        ("png", lambda _: b"<html>404</html>"),
        ("jpg", lambda _: b"<html>404</html>"),
    ],
)
def test_a_damaged_image_is_named(ending: str, damage, tmp_path: Path):
    folder = write_folder(tmp_path / "clip", ending=ending)
    bad = folder / f"images0005.{ending}"
    bad.write_bytes(damage(bad.read_bytes()))

    with pytest.raises(DataError, match=rf"{bad} is no image that decodes\. Replace"):
        read(folder, frames=[4])


def test_another_number_of_images_than_the_manifest_says_is_an_error(tmp_path: Path):
    folder = write_folder(tmp_path / "clip", num_frames=11)

    with pytest.raises(DataError, match="holds 11 images, but the manifest says 12"):
        read(folder, frames=[0])


def test_an_archive_that_was_cut_is_named(tmp_path: Path):
    inside = zipped(write_folder(tmp_path / "clip"), tmp_path / "frames.zip")
    archive = tmp_path / "frames.zip"
    archive.write_bytes(cut(archive.read_bytes()))

    with pytest.raises(DataError, match=r"frames\.zip/train/clip cannot be read"):
        read(inside, frames=[0])


def test_an_archive_that_holds_another_image_than_it_says_is_named(tmp_path: Path):
    inside = zipped(write_folder(tmp_path / "clip"), tmp_path / "frames.zip")
    archive = tmp_path / "frames.zip"
    image = (tmp_path / "clip" / "images0001.png").read_bytes()
    data = archive.read_bytes()
    archive.write_bytes(data.replace(image, flip(image)))

    with pytest.raises(DataError, match="cannot be read"):
        read(inside, frames=[0])


def test_an_archive_whose_compression_is_damaged_is_named(tmp_path: Path):
    archive = tmp_path / "frames.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("clip/0.png", bytes(range(256)) * 40)
    with zipfile.ZipFile(archive) as file:
        begin = file.getinfo("clip/0.png").header_offset + 30 + len("clip/0.png")
    data = bytearray(archive.read_bytes())
    # A block of a kind that there is none of.
    data[begin] = 0xFF
    archive.write_bytes(data)

    with pytest.raises(DataError, match="cannot be read"):
        read(archive / "clip", frames=[0], num_frames=1)


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def claim_size(archive: Path, size: int) -> None:
    """Let the only member's entry in the archive's list claim another size."""
    data = bytearray(archive.read_bytes())
    begin = data.index(b"PK\x01\x02") + 24
    data[begin : begin + 4] = size.to_bytes(4, "little")
    archive.write_bytes(data)


def test_an_image_that_claims_gigabytes_is_not_unpacked(tmp_path: Path):
    archive = write_archive(tmp_path / "frames.zip", {"clip/0.png": b"x"})
    claim_size(archive, 4_000_000_000)

    with pytest.raises(DataError, match=r"0\.png claims 4,000,000,000 bytes, which no image has"):
        read(archive / "clip", frames=[0], num_frames=1)


def test_no_more_is_unpacked_than_an_image_claims(tmp_path: Path):
    archive = write_archive(tmp_path / "frames.zip", {"clip/0.png": bytes(1 << 26)})
    claim_size(archive, 1000)

    tracemalloc.start()
    with pytest.raises(DataError, match="cannot be read"):
        read(archive / "clip", frames=[0], num_frames=1)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 1 << 22


def test_an_encrypted_archive_is_named(tmp_path: Path):
    archive = write_archive(tmp_path / "frames.zip", {"clip/0.png": b"x" * 40})
    data = bytearray(archive.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + place] |= 1
    archive.write_bytes(data)

    with pytest.raises(DataError, match=r"frames\.zip/clip cannot be read: .*encrypted"):
        read(archive / "clip", frames=[0], num_frames=1)


def test_members_with_strange_names_are_neither_unpacked_nor_mistaken(tmp_path: Path):
    image = write_image(tmp_path / "0.png", 7, size=SIZE).read_bytes()
    strange = ["../0.png", "/tmp/0.png", "./0.png", "a//0.png", "clip/../../0.png", "C:\\0.png"]
    names = [*strange, "0.png/", "Übung/images0001.png"]
    (tmp_path / "inside").mkdir()
    archive = write_archive(tmp_path / "inside" / "frames.zip", dict.fromkeys(names, image))

    assert read_number(read(archive / "Übung", frames=[0], num_frames=1)[0]) == 7
    for folder in ("tmp", "a", "clip", "clip/..", "."):
        with pytest.raises(DataError, match=r"the range holds|cannot be read"):
            read(archive / folder, frames=[0], num_frames=1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0.png", "frames.zip", "inside"]


def test_an_archive_that_lacks_what_it_lists_is_named(tmp_path: Path):
    archive = write_archive(tmp_path / "frames.zip", {"clip/0.png": b"x" * 40, "clip/1.png": b"y"})
    data = archive.read_bytes()
    # The second member is gone, the list is whole.
    second, central = data.rindex(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    archive.write_bytes(data[:second] + bytes(central - second) + data[central:])

    with pytest.raises(DataError, match=r"frames\.zip/clip cannot be read"):
        read(archive / "clip", frames=[1], num_frames=2)


def test_an_archive_whose_list_points_behind_its_end_is_named(tmp_path: Path):
    archive = write_archive(tmp_path / "frames.zip", {"clip/0.png": b"x" * 40})
    data = bytearray(archive.read_bytes())
    place = data.index(b"PK\x01\x02") + 42
    data[place : place + 4] = (len(data) - 5).to_bytes(4, "little")
    archive.write_bytes(data)

    with pytest.raises(DataError, match=r"frames\.zip/clip cannot be read"):
        read(archive / "clip", frames=[0], num_frames=1)


def test_a_pipe_among_the_images_is_not_waited_for(tmp_path: Path):
    folder = write_folder(tmp_path / "clip", num_frames=2)
    os.mkfifo(folder / "images0003.png")

    with pytest.raises(DataError, match=r"images0003\.png is not a file"):
        read(folder, frames=[2], num_frames=3)


def test_a_missing_image_in_the_middle_is_a_gap():
    assert find_gap(("images0001.png", "images0002.png", "images0004.png")) == (
        "images0002.png",
        "images0004.png",
    )
    assert find_gap(("000000.jpg", "000001.jpg")) is None


def test_sixteen_bit_and_gray_images_decode_to_color(tmp_path: Path):
    tmp_path.joinpath("clip").mkdir()
    gray = np.full((SIZE, SIZE), 128, np.uint8)
    for number, (image, kind) in enumerate(
        [(gray, "gray"), (gray.astype(np.uint16) * 257, "gray16be")]
    ):
        buffer = io.BytesIO()
        frame = av.VideoFrame.from_ndarray(image, format=kind)
        with av.open(buffer, "w", format="image2pipe") as output:
            stream = output.add_stream("png", rate=1)
            stream.width = stream.height = SIZE
            stream.pix_fmt = kind
            output.mux(stream.encode(frame))
            output.mux(stream.encode())
        (tmp_path / "clip" / f"{number}.png").write_bytes(buffer.getvalue())

    frames = read(tmp_path / "clip", frames=[0, 1], num_frames=2)

    assert np.abs(frames.astype(int) - 128).max() <= 1

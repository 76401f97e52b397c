"""A split says what its recordings have in common, and an export of it remembers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fla.data.manifest import Sample, write_manifest
from fla.data.typical import TypicalClips
from fla.description import (
    Corpus,
    Description,
    EncoderShape,
    Preprocessing,
    read_description,
    write_description,
)
from fla.errors import DataError
from fla.runtime import Runtime
from fla.split import Split, read_split
from fla.text.codec import train_codec
from tests.helpers.videos import turn_video, write_image, write_video

RUNTIME = Runtime(
    device="cpu", rank=0, local_rank=0, world_size=1, dali_device_id=None, decode_device="cpu"
)
TYPICAL = TypicalClips(
    fps_low=12.0, fps_high=25.0, aspect_low=0.5, aspect_high=2.0, seconds_low=1.0,
    seconds_high=2.0,
)  # fmt: skip
DESCRIPTION = Description(
    stage=1,
    encoder=EncoderShape(sign_width=24, kernel_size=3),
    translator={"size": "tiny"},
    language="en_XX",
    max_tokens=50,
    autocast=False,
    preprocessing=Preprocessing(frame_stride=4, max_frames=75, resize_px=36, crop_px=32),
    corpus=Corpus(manifest_dir="data/manifests", video_root="", typical=TYPICAL),
)


def read(folder: Path, *, skips_damaged: bool = False, **fps: float) -> Split:
    samples = [
        Sample(
            id=name, video=name.replace("_", "."), start_s=0.0, end_s=1.0, fps=rate, num_frames=1,
            signer="", sentence="a b",
        )
        for name, rate in fps.items()
    ]  # fmt: skip
    write_manifest(folder / "train.tsv", samples, root=folder)
    return read_split(
        "train",
        manifest_dir=str(folder),
        video_root="",
        codec=train_codec(["a b", "b a"], max_pieces=100, language="en_XX"),
        max_tokens=9,
        shuffle_videos=False,
        seed=1,
        skips_damaged=skips_damaged,
        runtime=RUNTIME,
    )


def test_recordings_that_do_not_open_are_named_or_left_to_the_loader(tmp_path):
    write_video(tmp_path / "good.mp4", num_frames=30, size=64)
    for name in ("bad.mp4", "worse.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    clips = {"good_mp4": 15.0, "bad_mp4": 15.0, "worse_mp4": 15.0}

    with pytest.raises(DataError) as told:
        read(tmp_path, **clips)
    split = read(tmp_path, skips_damaged=True, **clips)

    first, second = str(told.value).splitlines()
    assert first.startswith(
        f"{tmp_path / 'train.tsv'}: sample bad_mp4: {tmp_path / 'bad.mp4'} does"
    )
    assert "sample worse_mp4: " in second
    assert split.ids == list(clips)
    assert split.typical is not None and split.typical.aspect_low == 1.0


def test_clips_past_the_end_of_a_recording_are_named_or_left_to_the_loader(tmp_path):
    write_video(tmp_path / "good.mp4", num_frames=30, size=64)
    (tmp_path / "empty").mkdir()
    clips = {"good_mp4": 15.0, "empty": 15.0}

    with pytest.raises(DataError, match=r"sample empty: end_s \(1\) is past the end of empty"):
        read(tmp_path, **clips)

    assert read(tmp_path, skips_damaged=True, **clips).ids == list(clips)


def test_a_split_knows_rates_and_shapes_of_its_recordings(tmp_path):
    wide = write_video(tmp_path / "wide.mp4", num_frames=30, size=128, height=64)
    turn_video(wide, tmp_path / "high.mp4", matrix=(0, 1, -1, 0))

    typical = read(tmp_path, wide_mp4=15.0, high_mp4=12.5).typical

    assert typical == TypicalClips(
        fps_low=12.5, fps_high=15.0, aspect_low=0.5, aspect_high=2.0, seconds_low=1.0,
        seconds_high=1.0,
    )  # fmt: skip


def test_images_have_a_shape_where_they_decode(tmp_path):
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "1.png", 1, size=32)
    (tmp_path / "bad" / "1.png").write_bytes(b"no image")

    assert read(tmp_path, good=1.0, bad=1.0).typical == TypicalClips(
        fps_low=1.0, fps_high=1.0, aspect_low=1.0, aspect_high=1.0, seconds_low=1.0,
        seconds_high=1.0,
    )  # fmt: skip
    assert read(tmp_path, bad=1.0).typical is None


@pytest.mark.parametrize("typical", [TYPICAL, None])
def test_an_export_remembers_it(tmp_path, typical):
    description = replace(DESCRIPTION, corpus=replace(DESCRIPTION.corpus, typical=typical))

    write_description(tmp_path, description, {})

    assert read_description(tmp_path) == description


def test_an_export_from_before_is_read(tmp_path):
    write_description(tmp_path, DESCRIPTION, {})
    content = json.loads((tmp_path / "config.json").read_text())
    del content["corpus"]["typical"]
    (tmp_path / "config.json").write_text(json.dumps(content))

    assert read_description(tmp_path).corpus.typical is None

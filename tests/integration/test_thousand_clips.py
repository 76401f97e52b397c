"""A thousand virtual clips of 30 recordings: imported, checked, seen once by 1, 2 and 3 ranks."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fla.data.clips import DecodedClips
from fla.data.loader import EvalLoader, TrainLoader
from fla.data.manifest import Manifest, read_manifest
from fla.data.views import DrawnViews, PlainView
from fla.runtime import Runtime
from tests.helpers.commands import python, run_well
from tests.helpers.ranks import one_of
from tests.helpers.videos import write_video

# A multiple of the global batch, so that nobody sits out.
NUM_CLIPS = 1002
GLOBAL_BATCH = 6
NUM_TRAIN_RECORDINGS = 28
RECORDING_S, FPS = 30, 12
HEADER = (
    "VIDEO_ID VIDEO_NAME SENTENCE_ID SENTENCE_NAME START_REALIGNED END_REALIGNED SENTENCE".split()
)
LOOK = {
    "frame_stride": 4,
    "target_fps": 0.0,
    "max_frames": 12,
    "resize_px": 18,
    "crop_px": 16,
}
FRAMES_PER_BATCH = 48


def loader_arguments(train: Manifest, views: PlainView, runtime: Runtime) -> dict[str, Any]:
    """What both loaders take."""
    return {
        "source": DecodedClips(
            root=train.root,
            views=views,
            runtime=runtime,
            max_clips=16,
            frames_per_batch=FRAMES_PER_BATCH,
            num_threads=2,
            host_memory_gib=1.0,
            full_frame_px=0,
        ),
        "lengths": views.lengths(train.samples),
        "token_ids": [[4, 2, 5]] * NUM_CLIPS,
        "runtime": runtime,
        "frames_per_batch": FRAMES_PER_BATCH,
        "prefetch_batches": 4,
    }


def write_split(source: Path, split: str, *, num_recordings: int, num_clips: int) -> None:
    """Clips of 0.2 to 2.5 s at random places; neighbors overlap."""
    rng = np.random.default_rng(num_clips)
    names = [f"-{split}{number:05d}-{number % 9}-rgb_front" for number in range(num_recordings)]
    for name in names:
        path = source / "video_level" / split / "rgb_front" / "raw_videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, num_frames=RECORDING_S * FPS, fps=FPS, size=32)
    texts = source / "sentence_level" / split / "text" / "en" / "raw_text" / "re_aligned"
    texts.mkdir(parents=True)
    with (texts / f"how2sign_realigned_{split}.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(HEADER)
        for number in range(num_clips):
            video = names[number % num_recordings]
            video_id, signer, _ = video.rsplit("-", 2)
            start_s = rng.uniform(0, RECORDING_S - 3)
            end_s = start_s + rng.uniform(0.2, 2.5)
            sentence_id = f"{video_id}_{number}"
            words = f"Sentence {number}."
            row = [video_id, video, sentence_id, f"{sentence_id}-{signer}-rgb_front"]
            writer.writerow([*row, f"{start_s:.2f}", f"{end_s:.2f}", words])


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thousand")
    source = folder / "source"
    write_split(source, "train", num_recordings=NUM_TRAIN_RECORDINGS, num_clips=NUM_CLIPS)
    write_split(source, "val", num_recordings=1, num_clips=7)
    write_split(source, "test", num_recordings=1, num_clips=7)
    run_well(python("tools/import_how2sign.py", source, folder / "manifests"))
    return folder / "manifests"


@pytest.fixture(scope="module")
def train(manifests: Path) -> Manifest:
    return read_manifest(manifests / "train.tsv")


def test_every_row_became_a_sample(manifests: Path, train: Manifest):
    report = json.loads((manifests / "report.json").read_text())

    assert len(train.samples) == report["splits"]["train"]["rows_read"] == NUM_CLIPS
    assert report["splits"]["train"]["dropped"] == []
    assert len({sample.video for sample in train.samples}) == NUM_TRAIN_RECORDINGS


def test_every_clip_decodes(manifests: Path):
    done = run_well(python("tools/check_data.py", manifests / "train.tsv"))

    assert f"{NUM_CLIPS} clips, 0 do not decode." in done.stdout


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_epoch_of_training_shows_every_clip_exactly_once(world_size: int, train: Manifest):
    ids: list[str] = []
    steps: list[int] = []
    views = DrawnViews(
        seed=1,
        augment=True,
        max_rotation_deg=30.0,
        max_rescale_fraction=0.2,
        max_shift_fraction=0.04,
        **LOOK,
    )
    for rank in range(world_size):
        loader = TrainLoader(
            train.samples,
            seed=1,
            global_batch_size=GLOBAL_BATCH,
            micro_batch_size=GLOBAL_BATCH // world_size // (1 if world_size == 3 else 3),
            shortest_first_epochs=0,
            like_sentences=False,
            **loader_arguments(train, views, one_of(world_size, rank)),
        )
        batches = [step.micro_batches for step in loader.epoch(0)]
        loader.close()
        ids += [id for step in batches for batch in step for id in batch.sample_ids]
        steps.append(len(batches))

    assert sorted(ids) == sorted(sample.id for sample in train.samples)
    assert steps == [NUM_CLIPS // GLOBAL_BATCH] * world_size


def test_an_evaluation_on_three_ranks_shows_every_clip_exactly_once(train: Manifest):
    ids: list[str] = []
    for rank in range(3):
        loader = EvalLoader(
            train.samples,
            batch_size=16,
            **loader_arguments(train, PlainView(**LOOK), one_of(3, rank)),
        )
        ids += [id for batch in loader for id in batch.sample_ids]
        loader.close()

    assert sorted(ids) == sorted(sample.id for sample in train.samples)

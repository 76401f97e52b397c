"""A cache of features: what decides it, what lies where, and that nothing damaged is read."""

import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from threading import current_thread
from typing import Any

import numpy as np
import pytest
import torch

from fla.batch import Batch
from fla.data.feature_key import describe_differences, gather_facts, hash_facts
from fla.data.feature_shards import (
    MIN_SHARDS,
    SHARD_BYTES,
    ShardIndex,
    plan_shards,
    read_index,
    write_shard,
)
from fla.data.features import (
    CACHE_JSON,
    CachedFeatures,
    CacheFolder,
    cache_content,
    folder_of,
    open_features,
)
from fla.data.loader import EvalLoader, TrainLoader
from fla.data.manifest import Sample
from fla.data.skipped import SkippedClips
from fla.data.views import DrawnViews, PlainView
from fla.errors import CheckpointError, DataError
from fla.runtime import Runtime
from tests.helpers.ranks import one_of

WIDTH = 4
LENGTHS = (3, 1, 2, 5, 4, 2)
NUM_VIEWS = 2
LOOK: dict[str, Any] = {
    "frame_stride": 1,
    "target_fps": 0.0,
    "max_frames": 9,
    "resize_px": 8,
    "crop_px": 8,
}
PLAIN = PlainView(**LOOK)
DRAWN = DrawnViews(
    seed=1,
    augment=True,
    max_rotation_deg=8.0,
    max_rescale_fraction=0.1,
    max_shift_fraction=0.04,
    **LOOK,
)


def sample_of(number: int, num_frames: int) -> Sample:
    return Sample(
        id=f"clip{number}",
        video=f"video{number % 2}.mp4",
        start_s=float(number),
        end_s=number + 1.0,
        fps=float(num_frames),
        num_frames=num_frames,
        signer="",
        sentence=f"Sentence {number}.",
    )


SAMPLES = [sample_of(number, length) for number, length in enumerate(LENGTHS)]
FACTS = {"encoder": "a" * 64, "data.frame_stride": 3}


def rows_of(number: int, view: int) -> torch.Tensor:
    """Features whose numbers tell the clip, the view and the frame."""
    frames = torch.arange(LENGTHS[number], dtype=torch.bfloat16)[:, None]
    return (frames + 10 * number + 100 * view).expand(-1, WIDTH).to(torch.bfloat16)


def write_cache(folder: CacheFolder, *, left_out: dict[str, str] | None = None) -> None:
    """Two shards a view, of even clips and of odd ones."""
    folder.path.mkdir(parents=True, exist_ok=True)
    indexes = []
    for view in range(NUM_VIEWS):
        for odd in (0, 1):
            numbers = [n for n in range(len(LENGTHS)) if n % 2 == odd]
            there = [n for n in numbers if f"clip{n}" not in (left_out or {})]
            index = ShardIndex(
                name=f"view_{view:03d}_shard_{odd:05d}.safetensors",
                view=view,
                ids=tuple(f"clip{n}" for n in there),
                lengths=tuple(LENGTHS[n] for n in there),
                left_out={
                    id: why for id, why in (left_out or {}).items() if int(id[4:]) % 2 == odd
                },
            )
            features = torch.cat([rows_of(n, view) for n in there])
            write_shard(folder.path, index, features, key=folder.key)
            indexes.append(asdict(index))
    folder.json.write_text(json.dumps(cache_content(folder.facts, indexes)))


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    found = folder_of(tmp_path, "train", FACTS)
    write_cache(found)
    return found


def open_one(folder: CacheFolder) -> CachedFeatures:
    return open_features(folder, num_views=NUM_VIEWS, rank=0, world_size=1)


def test_clips_are_packed_in_the_order_that_they_are_asked_for(folder: CacheFolder):
    clips = open_one(folder).read([SAMPLES[n] for n in (3, 0, 4)], epoch=0)

    assert clips.lengths.tolist() == [5, 3, 4]
    assert clips.frames is None
    expected = torch.cat([rows_of(n, view=0) for n in (3, 0, 4)])
    torch.testing.assert_close(clips.features, expected, rtol=0, atol=0)


def test_epochs_take_the_views_in_turn(folder: CacheFolder):
    features = open_one(folder)

    seen = [float(features.read([SAMPLES[1]], epoch=epoch).features[0, 0]) for epoch in range(5)]

    assert seen == [10, 110, 10, 110, 10]


@pytest.mark.parametrize("epoch", [0, 3])
def test_training_takes_the_steps_that_it_takes_with_frames(folder: CacheFolder, epoch: int):
    loader = open_train_loader(open_one(folder))

    steps = list(loader.epoch(epoch))

    assert len(steps) == loader.num_steps == 3
    for step in steps:
        for batch in step.micro_batches:
            numbers = [int(id[4:]) for id in batch.sample_ids]
            expected = torch.cat([rows_of(n, epoch % NUM_VIEWS) for n in numbers])
            torch.testing.assert_close(batch.features, expected, rtol=0, atol=0)
            assert batch.references == tuple(SAMPLES[n].sentence for n in numbers)
    rest = list(loader.epoch(epoch, first_step=2))
    assert [s.micro_batches[0].sample_ids for s in rest] == [steps[2].micro_batches[0].sample_ids]
    loader.close()


def open_train_loader(
    features: CachedFeatures,
    skipped: SkippedClips | None = None,
    micro_batch_size: int = 2,
    runtime: Runtime | None = None,
) -> TrainLoader:
    return TrainLoader(
        SAMPLES,
        source=features,
        lengths=PLAIN.lengths(SAMPLES),
        token_ids=[[7] * (n + 1) for n in range(len(SAMPLES))],
        runtime=runtime or one_of(1),
        seed=1,
        global_batch_size=2,
        micro_batch_size=micro_batch_size,
        frames_per_batch=100,
        shortest_first_epochs=0,
        like_sentences=False,
        prefetch_batches=2,
        skipped=skipped,
    )


def test_the_loaders_thread_is_on_the_gpu_of_its_rank(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
):
    taken: list[tuple[str, str]] = []
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: taken.append((current_thread().name, device))
    )
    loader = open_train_loader(open_one(folder), runtime=replace(one_of(1), device="cuda:3"))

    next(loader.epoch(0))
    loader.close()

    assert taken == [("loader_0", "cuda:3")]


def test_evaluation_sees_every_clip_once(folder: CacheFolder):
    loader = EvalLoader(
        SAMPLES,
        source=open_one(folder),
        lengths=PLAIN.lengths(SAMPLES),
        token_ids=[[7]] * len(SAMPLES),
        runtime=one_of(1),
        batch_size=4,
        frames_per_batch=100,
        prefetch_batches=2,
    )

    batches: list[Batch] = list(loader)

    assert sorted(id for batch in batches for id in batch.sample_ids) == [s.id for s in SAMPLES]
    loader.close()


def test_a_clip_that_did_not_decode_ends_training_with_its_name(tmp_path: Path):
    folder = folder_of(tmp_path, "train", FACTS)
    write_cache(folder, left_out={"clip3": "clip3: video1.mp4 does not decode."})
    loader = open_train_loader(open_one(folder))

    with pytest.raises(DataError, match=r"^clip3: video1\.mp4 does not decode\.$"):
        list(loader.epoch(0))
    loader.close()


def test_where_they_may_be_left_out_such_clips_are_counted_and_listed(tmp_path: Path):
    folder = folder_of(tmp_path, "train", FACTS)
    write_cache(folder, left_out={"clip3": "clip3: video1.mp4 does not decode."})
    skipped = SkippedClips(len(SAMPLES), max_fraction=0.5)
    loader = open_train_loader(open_one(folder), skipped, micro_batch_size=1)

    steps = list(loader.epoch(0))

    assert skipped.new == {"clip3": "clip3: video1.mp4 does not decode."}
    assert sum(step.num_skipped_tokens for step in steps) == 4
    blanks = [batch for step in steps for batch in step.micro_batches if batch.is_blank]
    assert [batch.sample_ids for batch in blanks] == [("clip3",)]
    assert blanks[0].features.shape == (5, WIDTH)
    loader.close()


def memory_kb(kind: str) -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(kb) for kb in re.findall(rf"^{kind}:\s+(\d+) kB", text, re.MULTILINE))


def test_reading_a_cache_takes_pages_of_the_file_and_no_memory_of_its_own(tmp_path: Path):
    num_clips, length, width = 64, 512, 1024
    samples = [sample_of(number, length) for number in range(num_clips)]
    folder = folder_of(tmp_path, "train", FACTS)
    folder.path.mkdir(parents=True)
    index = ShardIndex(
        name="view_000_shard_00000.safetensors",
        view=0,
        ids=tuple(sample.id for sample in samples),
        lengths=(length,) * num_clips,
        left_out={},
    )
    features = torch.ones(num_clips * length, width, dtype=torch.bfloat16)
    write_shard(folder.path, index, features, key=folder.key)
    folder.json.write_text(json.dumps(cache_content(FACTS, [asdict(index)])))
    size_kb = features.nbytes // 1024
    del features
    own_kb, mapped_kb = memory_kb("Anonymous"), memory_kb("Rss")

    cached = open_features(folder, num_views=1, rank=0, world_size=1)
    for sample in samples:
        cached.read([sample], epoch=0)

    # 64 MiB were looked at, and one clip of 1 MiB was copied at a time.
    assert size_kb == 64 * 1024
    assert memory_kb("Anonymous") - own_kb < 8 * 1024
    assert memory_kb("Rss") - mapped_kb > size_kb // 2
    maps = Path("/proc/self/smaps").read_text()
    mapping = maps[maps.index(index.name) :]
    assert re.search(r"^Anonymous:\s+0 kB", mapping, re.MULTILINE)


def shard_of(folder: CacheFolder) -> Path:
    return folder.path / "view_001_shard_00001.safetensors"


def flip_last_byte(folder: CacheFolder) -> None:
    data = bytearray(shard_of(folder).read_bytes())
    data[-1] ^= 1
    shard_of(folder).write_bytes(data)


def cut_short(folder: CacheFolder) -> None:
    shard_of(folder).write_bytes(shard_of(folder).read_bytes()[:-3])


def empty(folder: CacheFolder) -> None:
    shard_of(folder).write_bytes(b"")


def remove(folder: CacheFolder) -> None:
    shard_of(folder).unlink()


def take_another_cache_s(folder: CacheFolder) -> None:
    other = folder_of(folder.path.parent, "train", {**FACTS, "encoder": "b" * 64})
    write_cache(other)
    shard_of(folder).write_bytes(shard_of(other).read_bytes())


def take_a_neighbor(folder: CacheFolder) -> None:
    shard_of(folder).write_bytes((folder.path / "view_001_shard_00000.safetensors").read_bytes())


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (flip_last_byte, r"is damaged\. Delete it and cache\.json, and start again"),
        (cut_short, r"is damaged\. "),
        (empty, r"is damaged\. "),
        (remove, r"is missing\. Delete cache\.json beside it, and start again"),
        (take_another_cache_s, r"is of another cache\. "),
        (take_a_neighbor, r"holds other clips than cache\.json says\. "),
    ],
)
def test_a_shard_that_is_not_what_was_written_is_named(folder: CacheFolder, damage, complaint):
    damage(folder)

    with pytest.raises(CheckpointError, match=complaint) as caught:
        open_one(folder)

    assert str(caught.value).startswith(str(shard_of(folder)))
    assert "\n" not in str(caught.value)


def test_each_rank_compares_a_share_of_the_bytes(folder: CacheFolder):
    flip_last_byte(folder)

    # The last of four shards: the second of two ranks looks at it.
    open_features(folder, num_views=NUM_VIEWS, rank=0, world_size=2)
    with pytest.raises(CheckpointError, match="is damaged"):
        open_features(folder, num_views=NUM_VIEWS, rank=1, world_size=2)


def test_a_cache_of_other_weights_in_this_place_is_refused(folder: CacheFolder):
    other = replace(folder, facts={**FACTS, "encoder": "b" * 64, "data.frame_stride": 4})

    with pytest.raises(
        CheckpointError,
        match=r"cache\.json is that of another cache: other encoder weights, "
        r"data\.frame_stride was 3 and is 4\. Delete .*, and start again\.$",
    ):
        open_one(other)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "x"}', '{"facts": 1, "shards": []}'])
def test_a_damaged_cache_json_is_named(folder: CacheFolder, text: str):
    (folder.path / CACHE_JSON).write_text(text)

    with pytest.raises(CheckpointError, match=r"cache\.json is damaged\. Delete it, and start"):
        open_one(folder)


def test_a_cache_that_is_being_built_is_not_whole(folder: CacheFolder):
    folder.json.write_text(json.dumps(cache_content(folder.facts, None)))

    assert folder.read_shards() is None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in (0, 1):
        (tmp_path / f"video{number}.mp4").write_bytes(b"video")
    return tmp_path


def facts_of(root: Path, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "samples": SAMPLES,
        "views": DRAWN,
        "num_views": 2,
        "encoder_digest": "a" * 64,
        "input_features": "sign_wise",
    }
    arguments |= changes
    return dict(gather_facts(arguments.pop("samples"), root=root, **arguments))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder_digest": "b" * 64}, "other encoder weights"),
        (
            {"input_features": "frame_wise"},
            "model.input_features was sign_wise and is frame_wise",
        ),
        (
            {"views": replace(DRAWN, frame_stride=4, crop_px=7)},
            "data.frame_stride was 1 and is 4, data.crop_px was 8 and is 7",
        ),
        ({"views": replace(DRAWN, seed=2)}, "seed was 1 and is 2"),
        (
            {"views": replace(DRAWN, max_rotation_deg=9.0)},
            "data.max_rotation_deg was 8.0 and is 9.0",
        ),
        ({"views": PLAIN, "num_views": 0}, "features.num_views was 2 and is 0"),
        ({"samples": SAMPLES[:-1]}, "other samples, or other clips for them"),
        (
            {"samples": [replace(SAMPLES[0], start_s=0.5), *SAMPLES[1:]]},
            "other samples, or other clips for them",
        ),
    ],
)
def test_whatever_decides_a_feature_is_in_the_key(root: Path, changes, sentence: str):
    before, after = facts_of(root), facts_of(root, **changes)

    assert hash_facts(before) != hash_facts(after)
    assert describe_differences(before, after) == sentence


def test_a_recording_that_was_replaced_is_in_the_key(root: Path):
    before = facts_of(root)
    # As long as the former one.
    (root / "video1.mp4").write_bytes(b"other")
    os.utime(root / "video1.mp4", ns=(0, 1))

    assert describe_differences(before, facts_of(root)) == "recordings that have changed since"


def test_an_image_that_was_changed_in_its_place_is_in_the_key(root: Path):
    (root / "video1.mp4").unlink()
    (root / "video1.mp4").mkdir()
    image = root / "video1.mp4" / "1.png"
    image.write_bytes(b"image")
    before = facts_of(root)
    folder = (root / "video1.mp4").stat()

    image.write_bytes(b"other")
    os.utime(image, ns=(0, 1))

    assert (root / "video1.mp4").stat() == folder
    assert describe_differences(before, facts_of(root)) == "recordings that have changed since"


def test_a_folder_of_images_that_was_copied_with_its_times_is_the_same(root: Path):
    folder = root / "video1.mp4"
    folder.unlink()
    folder.mkdir()
    (folder / "1.png").write_bytes(b"image")
    before = facts_of(root)
    os.utime(folder, ns=(0, 1))

    assert facts_of(root) == before


def test_sentences_and_the_order_of_rows_are_not(root: Path):
    renamed = [replace(sample, sentence="Another one.") for sample in reversed(SAMPLES)]

    assert facts_of(root) == facts_of(root, samples=renamed)


def test_every_clip_of_every_view_is_in_one_shard():
    plans = plan_shards(SAMPLES, views=DRAWN, num_views=2, width=WIDTH, frames_per_batch=6)

    for view in (0, 1):
        clips = [i for plan in plans if plan.view == view for batch in plan.batches for i in batch]
        assert sorted(clips) == list(range(len(SAMPLES)))
    assert len({plan.name for plan in plans}) == len(plans) == 12
    for plan in plans:
        for batch, lengths in zip(plan.batches, plan.lengths, strict=True):
            drawn = [len(DRAWN.draw(SAMPLES[i], epoch=plan.view)[0]) for i in batch]
            assert list(lengths) == drawn


def test_shards_are_many_enough_to_share_and_no_larger_than_the_bound():
    samples = [sample_of(number, 9) for number in range(1000)]
    wide = SHARD_BYTES // 2 // 90

    small = plan_shards(samples, views=PLAIN, num_views=1, width=WIDTH, frames_per_batch=100)
    large = plan_shards(samples, views=PLAIN, num_views=1, width=wide, frames_per_batch=100)

    assert MIN_SHARDS <= len(small) < MIN_SHARDS + 10
    frames = np.array([plan.num_frames for plan in large])
    assert (frames * wide * 2 <= SHARD_BYTES).all()
    assert (frames[:-1] == 90).all()


def test_a_shard_tells_what_it_holds(folder: CacheFolder):
    name = shard_of(folder).name

    index = read_index(folder.path, name, key=folder.key)

    assert (index.name, index.view) == (name, 1)
    assert index.ids == ("clip1", "clip3", "clip5")
    assert index.lengths == (1, 5, 2)

"""What the loaders give is decided by seed, epoch and step, and nothing is skipped in silence."""

import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fla.batch import IGNORE_INDEX, Batch, Step
from fla.config.schema import Stage1Config, Stage2Config, TranslatorConfig
from fla.data.clips import DecodedClips
from fla.data.decode.video import in_range, probe_video
from fla.data.loader import ClipLoader, EvalLoader, TrainLoader
from fla.data.manifest import Sample
from fla.data.pipeline import IMAGENET_MEAN, IMAGENET_STD, ClipPipeline, ClipRequest
from fla.data.sampling import choose_frames
from fla.data.skipped import SkippedClips
from fla.data.views import DrawnViews, PlainView
from fla.errors import ConfigError, DataError
from fla.loaders import open_loaders
from fla.runtime import Runtime
from fla.split import Split
from tests.helpers.ranks import one_of
from tests.helpers.videos import read_number, write_video

NUM_SAMPLES = 13
CROP_PX = 24
LOOK = {"frame_stride": 3, "max_frames": 8, "resize_px": 32}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    write_video(root / "h264.mp4", num_frames=120)
    write_video(root / "vp9.webm", num_frames=120, codec="libvpx-vp9")
    return root


@pytest.fixture(scope="module")
def samples(root: Path) -> list[Sample]:
    """Overlapping clips of 0.4 to 2.8 s; every third one is VP9."""
    rows = []
    for number in range(NUM_SAMPLES):
        video = "vp9.webm" if number % 3 == 0 else "h264.mp4"
        start_s, end_s = 0.3 * number, 0.3 * number + 0.4 + 0.2 * number
        inside = in_range(probe_video(root / video).frame_times, start_s, end_s)
        rows.append(
            Sample(
                id=f"clip-{number:02d}",
                video=video,
                start_s=start_s,
                end_s=end_s,
                fps=15.0,
                num_frames=int(inside.sum()),
                signer="",
                sentence=f"Sentence {number}.",
            )
        )
    return rows


@pytest.fixture
def train_loader(samples: list[Sample], root: Path) -> Iterator[TrainLoader]:
    loader = open_train_loader(samples, root)
    yield loader
    loader.close()


def token_ids(samples: list[Sample]) -> list[list[int]]:
    """Sample 0 has 3 tokens, sample 1 has 4 ..., and the first one is the sample's number."""
    return [[number] * (number + 3) for number in range(len(samples))]


def open_train_loader(
    samples: list[Sample],
    root: Path,
    *,
    runtime: Runtime | None = None,
    micro_batch_size: int = 2,
    augment: bool = True,
    prefetch_batches: int = 2,
    shortest_first_epochs: int = 0,
    target_fps: float = 0.0,
    frames_per_batch: int = 60,
    host_memory_gib: float = 1.0,
    skipped: SkippedClips | None = None,
    like_sentences: bool = False,
) -> TrainLoader:
    views = DrawnViews(
        seed=5,
        augment=augment,
        max_rotation_deg=30.0,
        max_rescale_fraction=0.2,
        max_shift_fraction=0.04,
        crop_px=CROP_PX,
        target_fps=target_fps,
        **LOOK,
    )
    return TrainLoader(
        samples,
        source=DecodedClips(
            root=root,
            views=views,
            runtime=runtime or one_of(1),
            max_clips=micro_batch_size,
            frames_per_batch=frames_per_batch,
            num_threads=2,
            host_memory_gib=host_memory_gib,
            full_frame_px=0,
        ),
        lengths=views.lengths(samples),
        token_ids=token_ids(samples),
        runtime=runtime or one_of(1),
        seed=5,
        global_batch_size=4,
        micro_batch_size=micro_batch_size,
        frames_per_batch=frames_per_batch,
        shortest_first_epochs=shortest_first_epochs,
        like_sentences=like_sentences,
        prefetch_batches=prefetch_batches,
        skipped=skipped,
    )


def open_eval_loader(
    samples: list[Sample],
    root: Path,
    *,
    runtime: Runtime | None = None,
    crop_px: int = 32,
    target_fps: float = 0.0,
) -> EvalLoader:
    views = PlainView(crop_px=crop_px, target_fps=target_fps, **LOOK)
    return EvalLoader(
        samples,
        source=DecodedClips(
            root=root,
            views=views,
            runtime=runtime or one_of(1),
            max_clips=3,
            frames_per_batch=60,
            num_threads=2,
            host_memory_gib=1.0,
            full_frame_px=0,
        ),
        lengths=views.lengths(samples),
        token_ids=token_ids(samples),
        runtime=runtime or one_of(1),
        batch_size=3,
        frames_per_batch=60,
        prefetch_batches=2,
    )


def ids_by_step(steps: list[Step[Batch]]) -> list[list[str]]:
    return [[id for batch in step.micro_batches for id in batch.sample_ids] for step in steps]


def clips_of(batch: Batch) -> dict[str, torch.Tensor]:
    """Sample id to its normalized frames (T, 3, X, X)."""
    assert batch.frames is not None
    frames = torch.split(batch.frames, batch.frame_lengths.tolist())
    return dict(zip(batch.sample_ids, frames, strict=True))


def clips_of_steps(steps: list[Step[Batch]]) -> dict[str, torch.Tensor]:
    batches = (batch for step in steps for batch in step.micro_batches)
    return {id: clip for batch in batches for id, clip in clips_of(batch).items()}


def assert_same_steps(left: list[Step[Batch]], right: list[Step[Batch]]) -> None:
    assert ids_by_step(left) == ids_by_step(right)
    for one, other in zip(left, right, strict=True):
        assert one.num_tokens == other.num_tokens
        for a, b in zip(one.micro_batches, other.micro_batches, strict=True):
            assert a.references == b.references
            for name in ("frames", "frame_lengths", "labels"):
                assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_a_batch_holds_what_the_manifest_says(train_loader: TrainLoader, samples: list[Sample]):
    steps = list(train_loader.epoch(0))

    by_id = {sample.id: sample for sample in samples}
    assert len(steps) == train_loader.num_steps == NUM_SAMPLES // 4
    for batch in (batch for step in steps for batch in step.micro_batches):
        assert batch.references == tuple(by_id[id].sentence for id in batch.sample_ids)
        assert batch.frames is not None
        assert batch.frames.shape == (batch.frame_lengths.sum(), 3, CROP_PX, CROP_PX)
        for id, labels in zip(batch.sample_ids, batch.labels, strict=True):
            number = samples.index(by_id[id])
            assert labels[labels != IGNORE_INDEX].tolist() == [number] * (number + 3)


def test_tokens_are_counted_over_the_whole_step(train_loader: TrainLoader):
    for step in train_loader.epoch(0):
        labels = [batch.labels for batch in step.micro_batches]

        assert step.num_tokens == sum(int((rows != IGNORE_INDEX).sum()) for rows in labels)


def test_the_same_seed_and_epoch_give_the_same_bits(
    train_loader: TrainLoader, samples: list[Sample], root: Path
):
    other = open_train_loader(samples, root, prefetch_batches=1)

    assert_same_steps(list(train_loader.epoch(3)), list(other.epoch(3)))
    other.close()


def test_epochs_differ_in_order_and_in_frames(train_loader: TrainLoader):
    first, second = (list(train_loader.epoch(epoch)) for epoch in (0, 1))

    one, other = clips_of_steps(first), clips_of_steps(second)
    both = sorted(one.keys() & other.keys())
    assert ids_by_step(first) != ids_by_step(second)
    assert any(not torch.equal(one[id], other[id]) for id in both)


def test_only_the_first_epochs_go_from_short_to_long(samples: list[Sample], root: Path):
    loader = open_train_loader(samples, root, shortest_first_epochs=1)

    by_epoch = [
        [int(sum(batch.frame_lengths.sum() for batch in step.micro_batches)) for step in steps]
        for steps in map(loader.epoch, range(4))
    ]

    assert by_epoch[0] == sorted(by_epoch[0])
    assert any(frames != sorted(frames) for frames in by_epoch[1:])
    loader.close()


def sentence_lengths(step: Step[Batch]) -> list[list[int]]:
    return [(batch.labels != IGNORE_INDEX).sum(dim=1).tolist() for batch in step.micro_batches]


def test_micro_batches_may_be_of_like_sentences_in_the_same_steps(
    samples: list[Sample], root: Path
):
    loaders = [
        open_train_loader(samples, root, micro_batch_size=2, like_sentences=like_sentences)
        for like_sentences in (False, True)
    ]

    plain, like = (list(loader.epoch(0)) for loader in loaders)

    assert [set(ids) for ids in ids_by_step(like)] == [set(ids) for ids in ids_by_step(plain)]
    assert all(min(long) > max(short) for long, short in map(sentence_lengths, like))
    assert not all(min(long) > max(short) for long, short in map(sentence_lengths, plain))
    for loader in loaders:
        loader.close()


@pytest.mark.parametrize(
    ("config", "are_alike"),
    [
        (Stage1Config(), False),
        (Stage2Config(), True),
        (Stage2Config(model=TranslatorConfig(freeze="backbone")), False),
    ],
    ids=["stage 1", "frozen", "partly frozen"],
)
def test_sentences_of_a_micro_batch_are_alike_where_no_batch_normalization_is_trained(
    samples: list[Sample], root: Path, config: Stage1Config | Stage2Config, are_alike: bool
):
    split = Split(
        name="train",
        samples=tuple(samples),
        root=root,
        token_ids=token_ids(samples),
        manifest=root / "train.tsv",
        manifest_sha256="",
        full_frame_px=0,
    )
    data = replace(config.data, **LOOK, crop_px=CROP_PX)
    train = replace(config.train, global_batch_size=4, micro_batch_size=2)
    config = replace(config, data=data, train=train)

    with open_loaders(config, one_of(1), train=split, dev=split, encoder=None) as loaders:
        lengths = [sentence_lengths(step) for step in loaders.train.epoch(0)]

    assert all(min(long) > max(short) for long, short in lengths) == are_alike


def test_resuming_at_a_step_gives_what_was_left(train_loader: TrainLoader):
    whole = list(train_loader.epoch(2))

    for first_step in (1, 2, len(whole)):
        assert_same_steps(list(train_loader.epoch(2, first_step=first_step)), whole[first_step:])


def test_two_ranks_together_see_the_steps_of_one(
    train_loader: TrainLoader, samples: list[Sample], root: Path
):
    alone = list(train_loader.epoch(1))
    loaders = [open_train_loader(samples, root, runtime=one_of(2, rank)) for rank in (0, 1)]

    pairs = list(zip(*(loader.epoch(1) for loader in loaders), strict=True))

    assert len(pairs) == len(alone)
    for step, (left, right) in zip(alone, pairs, strict=True):
        assert step.num_tokens == left.num_tokens == right.num_tokens
        one, two = clips_of_steps([step]), clips_of_steps([left]) | clips_of_steps([right])
        assert len(two) == 4
        assert one.keys() == two.keys()
        assert all(torch.equal(one[id], two[id]) for id in one)
    for loader in loaders:
        loader.close()


@pytest.mark.parametrize("world_size", [2, 4])
def test_what_an_epoch_has_left_is_shared_by_another_number_of_ranks(
    world_size: int, samples: list[Sample], root: Path
):
    alone = open_train_loader(samples, root, micro_batch_size=1)
    whole = list(alone.epoch(1))
    ranks = [
        open_train_loader(samples, root, micro_batch_size=1, runtime=one_of(world_size, rank))
        for rank in range(world_size)
    ]

    rest = [list(loader.epoch(1, first_step=1)) for loader in ranks]

    seen = [id for steps in rest for ids in ids_by_step(steps) for id in ids]
    assert sorted(seen) == sorted(id for ids in ids_by_step(whole[1:]) for id in ids)
    together = {id: clip for steps in rest for id, clip in clips_of_steps(steps).items()}
    for id, clip in clips_of_steps(whole[1:]).items():
        assert torch.equal(together[id], clip)
    for loader in (alone, *ranks):
        loader.close()


def test_a_rate_decides_which_frames_are_shown(samples: list[Sample], root: Path):
    loader = open_eval_loader(samples, root, target_fps=10.0)

    clips = {id: clip for batch in loader for id, clip in clips_of(batch).items()}

    # Six frames of 15 a second: every one and a half.
    assert [number_of(frame) for frame in clips["clip-00"]] == [0, 1, 3, 4]
    loader.close()


def test_without_augmentation_only_the_phase_varies(samples: list[Sample], root: Path):
    plain = open_train_loader(samples, root, augment=False)
    evaluated = open_eval_loader(samples, root, crop_px=CROP_PX)

    trained = clips_of_steps([step for epoch in range(4) for step in plain.epoch(epoch)])
    centred = {id: clip for batch in evaluated for id, clip in clips_of(batch).items()}

    are_equal = [torch.equal(trained[id], centred[id]) for id in trained]
    assert any(are_equal)
    assert not all(are_equal)
    plain.close()
    evaluated.close()


def test_evaluation_shows_the_first_phase_of_every_sample_once(samples: list[Sample], root: Path):
    loader = open_eval_loader(samples, root)

    batches = list(loader)

    assert len(batches) == loader.num_batches
    clips = {id: clip for batch in batches for id, clip in clips_of(batch).items()}
    assert sum(len(batch.sample_ids) for batch in batches) == NUM_SAMPLES
    assert sorted(clips) == [sample.id for sample in samples]
    for sample in samples:
        times = probe_video(root / sample.video).frame_times
        inside = np.flatnonzero(in_range(times, sample.start_s, sample.end_s))
        shown = [number_of(frame) for frame in clips[sample.id]]
        assert shown == inside[choose_frames(len(inside), stride=3, max_frames=8)].tolist()
    loader.close()


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_samples_of_an_evaluation(
    world_size: int, samples: list[Sample], root: Path
):
    ids: list[str] = []
    for rank in range(world_size):
        loader = open_eval_loader(samples, root, runtime=one_of(world_size, rank))
        ids += [id for batch in loader for id in batch.sample_ids]
        loader.close()

    assert sorted(ids) == [sample.id for sample in samples]


def number_of(frame: torch.Tensor) -> int:
    """The number in a normalized frame (3, X, X) that was not cropped."""
    levels = frame.permute(1, 2, 0) * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
    return read_number(levels.numpy())


def test_a_video_that_does_not_decode_ends_with_one_sentence_in_the_consumer(
    samples: list[Sample], root: Path
):
    (root / "broken.mp4").write_bytes(b"no video" * 500)
    broken = [*samples[:6], replace(samples[6], video="broken.mp4"), *samples[7:]]
    loader = open_eval_loader(broken, root)

    with pytest.raises(DataError) as caught:
        list(loader)

    sentence = str(caught.value)
    assert sentence.startswith(f"clip-06: {root / 'broken.mp4'} does not decode: ")
    assert sentence.endswith(". Replace the file, or leave it out.")
    assert "\n" not in sentence
    loader.close()


def test_steps_before_the_broken_one_arrive(samples: list[Sample], root: Path):
    sound = open_train_loader(samples, root)
    order = ids_by_step(list(sound.epoch(0)))
    sound.close()
    broken_id = order[-1][0]
    rows = [replace(s, video="missing.mp4") if s.id == broken_id else s for s in samples]
    loader = open_train_loader(rows, root)

    seen: list[Step[Batch]] = []
    with pytest.raises(DataError, match=rf"^{broken_id}: .*missing\.mp4"):
        for step in loader.epoch(0):
            seen.append(step)

    assert ids_by_step(seen) == order[:-1]
    loader.close()


def with_broken(samples: list[Sample], root: Path, *ids: str) -> list[Sample]:
    """The same samples; the recordings of some are no videos."""
    (root / "broken.mp4").write_bytes(b"no video" * 500)
    return [replace(s, video="broken.mp4") if s.id in ids else s for s in samples]


def test_a_clip_that_does_not_decode_is_left_out_and_counted(samples: list[Sample], root: Path):
    sound, broken_id = open_train_loader(samples, root), "clip-06"
    skipped = SkippedClips(NUM_SAMPLES, max_fraction=0.5)
    loader = open_train_loader(with_broken(samples, root, broken_id), root, skipped=skipped)

    planned, given = (list(each.epoch(0)) for each in (sound, loader))

    assert [step.num_tokens for step in given] == [step.num_tokens for step in planned]
    for whole, part in zip(ids_by_step(planned), ids_by_step(given), strict=True):
        assert part == [id for id in whole if id != broken_id]
    assert sum(step.num_skipped_tokens for step in given) == 6 + 3
    assert all(
        torch.equal(clip, clips_of_steps(planned)[id]) for id, clip in clips_of_steps(given).items()
    )
    assert list(skipped.new) == [broken_id]
    assert skipped.new[broken_id].startswith(f"clip-06: {root / 'broken.mp4'} does not decode: ")
    for each in (sound, loader):
        each.close()


def test_a_micro_batch_without_a_clip_becomes_a_blank_one(samples: list[Sample], root: Path):
    broken_id = "clip-06"
    skipped = SkippedClips(NUM_SAMPLES, max_fraction=0.5)
    loader = open_train_loader(
        with_broken(samples, root, broken_id), root, micro_batch_size=1, skipped=skipped
    )

    batches = [batch for step in loader.epoch(0) for batch in step.micro_batches]

    (blank,) = [batch for batch in batches if batch.is_blank]
    assert blank.sample_ids == (broken_id,)
    assert (blank.targets == IGNORE_INDEX).all()
    assert blank.frames is not None and not blank.frames.any()
    assert len(blank.frames) == blank.frame_lengths.sum()
    assert len(batches) == 12
    loader.close()


def test_what_another_rank_left_out_is_not_tried(samples: list[Sample], root: Path):
    skipped = SkippedClips(NUM_SAMPLES, max_fraction=0.5)
    skipped.merge({"clip-06": "clip-06: gone."})
    loader = open_train_loader(samples, root, skipped=skipped)

    given = [id for ids in ids_by_step(list(loader.epoch(0))) for id in ids]

    assert "clip-06" not in given
    assert skipped.new == {}
    loader.close()


def test_more_bad_clips_than_allowed_end_the_run_with_a_sentence():
    skipped = SkippedClips(200, max_fraction=0.01)
    skipped.merge({"a": "a: a.mp4 does not decode.", "b": "b: b.mp4 does not decode."})

    with pytest.raises(
        DataError, match=r"^3 of 200 training clips .* \(0\.01\) allows; the last is c: c\.mp4"
    ):
        skipped.merge({"c": "c: c.mp4 does not decode."})


def test_frames_ahead_stay_within_the_memory(
    samples: list[Sample], root: Path, monkeypatch: pytest.MonkeyPatch
):
    # Room for one batch of 8 frames in work and a finished one, which is trained on. A frame in
    # work takes 9 bytes a pixel of 32 x 32 and 15 a pixel of 24 x 24, a finished one 12.
    room_gib = 8 * (9 * 32**2 + 15 * 24**2 + 12 * 24**2) / 2**30
    loader = open_train_loader(
        samples,
        root,
        micro_batch_size=1,
        frames_per_batch=8,
        prefetch_batches=50,
        host_memory_gib=room_gib,
    )
    order = [batch for step in loader.epoch(0) for batch in step.micro_batches]
    calls = record_runs(monkeypatch)

    steps = loader.epoch(0)
    next(steps)
    time.sleep(0.3)

    ahead = order[4 : len(calls)]
    assert 1 <= len(ahead) < 8
    assert sum(int(batch.frame_lengths.sum()) for batch in ahead) <= 8
    steps.close()  # type: ignore[attr-defined]
    loader.close()


def test_a_budget_that_holds_no_batch_is_named(samples: list[Sample], root: Path):
    with pytest.raises(
        ConfigError, match=r"data\.host_memory_gib \(0\.001\) is less than the 0\.00"
    ):
        open_train_loader(samples, root, host_memory_gib=0.001)


def test_an_epoch_left_early_decodes_no_further(
    samples: list[Sample], root: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = record_runs(monkeypatch, pause_s=0.02)
    loader = open_train_loader(samples, root, micro_batch_size=1, prefetch_batches=8)

    steps = loader.epoch(0)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    time.sleep(0.3)

    # The four of the step, and what had begun by then.
    assert 4 <= len(calls) <= 6
    loader.close()


@pytest.mark.parametrize(
    ("micro_batch_size", "prefetch_batches", "expected"),
    [
        (2, 3, 2 + 3),
        # All of the next step, however many batches that is.
        (1, 1, 4 + 4),
    ],
)
def test_the_given_number_of_batches_is_decoded_ahead_or_a_whole_step(
    samples: list[Sample],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    micro_batch_size: int,
    prefetch_batches: int,
    expected: int,
):
    calls = record_runs(monkeypatch)
    loader = open_train_loader(
        samples, root, micro_batch_size=micro_batch_size, prefetch_batches=prefetch_batches
    )

    steps = loader.epoch(0)
    next(steps)
    time.sleep(0.3)

    assert len(calls) == expected
    steps.close()  # type: ignore[attr-defined]
    loader.close()


def test_frames_that_were_taken_are_not_held_while_the_next_ones_come(
    samples: list[Sample], root: Path, monkeypatch: pytest.MonkeyPatch
):
    taken: list[weakref.ref[object]] = []
    held: list[bool] = []
    read = ClipLoader.read

    def watched_read(self: ClipLoader, *words: Any, **more: Any) -> Iterator[Batch]:
        for batch in read(self, *words, **more):
            held.append(any(it() is not None for it in taken))
            yield batch
            del batch

    monkeypatch.setattr(ClipLoader, "read", watched_read)
    loader = open_train_loader(samples, root, micro_batch_size=4)

    for step in loader.epoch(0):
        taken = [weakref.ref(batch.frames) for batch in step.micro_batches]
        del step

    assert len(held) > 1
    assert not any(held)
    loader.close()


def test_a_closed_loader_leaves_no_thread_behind(samples: list[Sample], root: Path):
    before = set(threading.enumerate())
    loader = open_train_loader(samples, root)
    steps = loader.epoch(0)
    next(steps)
    assert {thread.name.split("_")[0] for thread in set(threading.enumerate()) - before} == {
        "loader",
        "decode",
    }

    loader.close()

    assert set(threading.enumerate()) == before


def test_waiting_is_measured(samples: list[Sample], root: Path, monkeypatch: pytest.MonkeyPatch):
    calls = record_runs(monkeypatch, pause_s=0.05)
    loader = open_train_loader(samples, root)
    start_s = time.monotonic()

    list(loader.epoch(0))

    assert len(calls) * 0.05 < loader.waited_s <= time.monotonic() - start_s
    loader.close()


def record_runs(monkeypatch: pytest.MonkeyPatch, *, pause_s: float = 0.0) -> list[int]:
    """The sizes of the batches that any pipeline is given from now on."""
    sizes: list[int] = []
    run = ClipPipeline.run

    def recorded_run(self: ClipPipeline, requests: list[ClipRequest]) -> tuple:
        sizes.append(len(requests))
        time.sleep(pause_s)
        return run(self, requests)

    monkeypatch.setattr(ClipPipeline, "run", recorded_run)
    return sizes


def test_batch_sizes_that_do_not_divide_end_before_anything_is_decoded(
    samples: list[Sample], root: Path
):
    with pytest.raises(ConfigError, match=r"train\.global_batch_size \(4\) must be a multiple"):
        open_train_loader(samples, root, micro_batch_size=3)


def decode_and_fail(samples: list[Sample], root: Path) -> None:
    loader = open_train_loader(samples, root, micro_batch_size=1, prefetch_batches=8)
    next(loader.epoch(0))
    raise KeyboardInterrupt


def test_a_process_that_ends_in_an_error_does_not_wait_for_its_threads_for_long(
    samples: list[Sample], root: Path
):
    process = get_context("spawn").Process(target=decode_and_fail, args=(samples, root))

    process.start()
    process.join(timeout=60)

    assert process.exitcode == 1

import re
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from fla.data.sampling import (
    MicroBatch,
    StepPlan,
    centre_warp,
    choose_frames,
    choose_stride,
    count_chosen_frames,
    plan_epoch,
    plan_evaluation,
    sample_rng,
    train_warp,
)
from fla.errors import ConfigError


def some_lengths(num_samples: int = 203) -> np.ndarray:
    return np.random.default_rng(7).integers(1, 76, num_samples)


def a_plan(lengths: np.ndarray, **changes: Any) -> list[StepPlan]:
    arguments = {
        "global_batch_size": 12,
        "micro_batch_size": 3,
        "frames_per_batch": 150,
        "world_size": 1,
        "seed": 1,
        "epoch": 0,
    }
    return plan_epoch(lengths, **(arguments | changes))


def micro_batches(plan: Iterable[StepPlan]) -> list[MicroBatch]:
    return [batch for step in plan for rank in step.ranks for batch in rank]


# Frames


def test_every_fourth_frame_is_chosen():
    frames = choose_frames(10, stride=4, max_frames=75)

    assert frames.tolist() == [0, 4, 8]
    assert frames.dtype == np.int32


def test_a_clip_shorter_than_the_stride_keeps_a_frame():
    rngs = [None, *(np.random.default_rng(seed) for seed in range(20))]

    chosen = [choose_frames(2, stride=4, max_frames=75, rng=rng).tolist() for rng in rngs]

    assert chosen[0] == [0]
    assert {tuple(frames) for frames in chosen} == {(0,), (1,)}


def test_training_draws_every_phase():
    rng = np.random.default_rng(0)

    firsts = {int(choose_frames(40, stride=4, max_frames=75, rng=rng)[0]) for _ in range(100)}

    assert firsts == {0, 1, 2, 3}


def test_a_long_clip_is_thinned_evenly_and_not_cut_off():
    assert choose_frames(100, stride=4, max_frames=5).tolist() == [10, 30, 50, 70, 90]


def test_training_draws_one_frame_of_each_segment_of_a_long_clip():
    rng = np.random.default_rng(0)

    drawn = np.array([choose_frames(100, stride=4, max_frames=5, rng=rng) for _ in range(300)])

    assert (drawn // 20 == np.arange(5)).all()
    assert all(len(set(column)) == 20 for column in drawn.T)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 19, 20, 21, 22, 97, 1101])
@pytest.mark.parametrize("stride", [1, 4, 7, 25 / 6, 29.97 / 9.99])
def test_chosen_frames_rise_within_the_clip_and_never_exceed_the_planned_length(
    num_frames: int, stride: float
):
    planned = count_chosen_frames(np.array([num_frames]), stride=stride, max_frames=5)[0]
    rng = np.random.default_rng(0)

    chosen = [choose_frames(num_frames, stride=stride, max_frames=5, rng=rng) for _ in range(50)]

    for frames in chosen:
        assert 1 <= len(frames) <= planned <= 5
        assert (np.diff(frames) > 0).all()
        assert frames[0] >= 0 and frames[-1] < num_frames
    assert len(choose_frames(num_frames, stride=stride, max_frames=5)) == planned


def test_a_rate_is_reached_whatever_the_recordings_rate():
    strides = [choose_stride(fps, frame_stride=4, target_fps=6.0) for fps in (24.0, 25.0, 50.0)]

    assert strides == pytest.approx([4, 25 / 6, 50 / 6])
    for num_frames, stride in zip((240, 250, 500), strides, strict=True):
        assert len(choose_frames(num_frames, stride=stride, max_frames=75)) == 60
    assert choose_frames(26, stride=25 / 6, max_frames=75).tolist() == [0, 4, 8, 12, 16, 20, 25]


def test_a_recording_slower_than_the_rate_gives_all_its_frames_once():
    stride = choose_stride(5.0, frame_stride=4, target_fps=12.5)

    assert choose_frames(6, stride=stride, max_frames=75).tolist() == [0, 1, 2, 3, 4, 5]


def test_without_a_rate_the_stride_counts():
    assert choose_stride(50.0, frame_stride=4, target_fps=0.0) == 4


def test_a_clip_without_frames_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match=r"num_frames \(0\)"):
        choose_frames(0, stride=4, max_frames=75)


# Draws


def test_draws_depend_on_seed_epoch_and_sample():
    drawn = {
        sample_rng(seed=seed, epoch=epoch, sample_id=sample_id).random()
        for seed in (1, 2)
        for epoch in (0, 1)
        for sample_id in ("-a", "-b")
    }

    assert len(drawn) == 8


def test_draws_are_the_same_in_another_process():
    code = (
        "from fla.data.sampling import sample_rng;"
        "print(sample_rng(seed=1, epoch=2, sample_id='-ä').integers(10**9))"
    )

    elsewhere = subprocess.check_output([sys.executable, "-c", code], text=True)

    assert int(elsewhere) == sample_rng(seed=1, epoch=2, sample_id="-ä").integers(10**9)


def test_torch_is_not_imported():
    code = (
        "import sys, fla.data.sampling, fla.data.manifest;"
        "sys.exit('torch' in sys.modules or 'av' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Training plans


# Tokens of the sentences of some_lengths(), and none.
SENTENCES = [None, np.random.default_rng(8).integers(1, 30, 203)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_tokens", SENTENCES, ids=["any", "like"])
def test_every_step_has_the_global_batch_and_no_sample_comes_twice(
    world_size: int, num_tokens: np.ndarray | None
):
    lengths = some_lengths()

    plan = a_plan(lengths, world_size=world_size, num_tokens=num_tokens)

    assert len(plan) == 203 // 12
    assert all(len(step.samples) == 12 for step in plan)
    seen = [index for step in plan for index in step.samples]
    assert len(seen) == len(set(seen)) == 203 // 12 * 12


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_tokens", SENTENCES, ids=["any", "like"])
def test_micro_batches_keep_both_limits_and_are_equally_many_on_all_ranks(
    world_size: int, num_tokens: np.ndarray | None
):
    lengths = some_lengths()

    plan = a_plan(lengths, world_size=world_size, num_tokens=num_tokens)

    for step in plan:
        assert len(step.ranks) == world_size
        assert len({len(rank) for rank in step.ranks}) == 1
        assert {sum(map(len, rank)) for rank in step.ranks} == {12 // world_size}
    for batch in micro_batches(plan):
        assert 1 <= len(batch) <= 3
        assert lengths[list(batch)].sum() <= 150


def test_a_micro_batch_that_would_burst_is_split_on_all_ranks():
    lengths = np.array([80, 80, 80, 10, 10, 10])

    (step,) = a_plan(
        lengths, global_batch_size=6, micro_batch_size=3, world_size=2, frames_per_batch=100
    )

    assert [len(rank) for rank in step.ranks] == [2, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"world_size": 4},
        {"micro_batch_size": 1},
        {"world_size": 2},
        {"world_size": 2, "num_tokens": SENTENCES[1]},
    ],
)
def test_more_ranks_see_the_same_global_batches_in_the_same_order(changes: dict[str, Any]):
    lengths = some_lengths()

    one = [set(step.samples) for step in a_plan(lengths)]
    other = [set(step.samples) for step in a_plan(lengths, **changes)]

    assert other == one


def test_the_plan_is_a_function_of_seed_and_epoch():
    lengths = some_lengths()

    assert a_plan(lengths) == a_plan(lengths)
    assert a_plan(lengths, epoch=1) != a_plan(lengths)
    assert a_plan(lengths, seed=2) != a_plan(lengths)


def test_companions_change_from_epoch_to_epoch():
    lengths = np.full(96, 10)

    first, second = (
        {frozenset(step.samples) for step in a_plan(lengths, epoch=epoch)} for epoch in (0, 1)
    )

    assert not first & second


def test_those_who_sit_out_are_drawn_anew_and_regardless_of_length():
    lengths = np.arange(1, 16)

    sitting_out = [
        set(range(15)) - {index for step in a_plan(lengths, epoch=epoch) for index in step.samples}
        for epoch in range(200)
    ]

    assert all(len(indices) == 3 for indices in sitting_out)
    mean = np.mean([index for indices in sitting_out for index in indices])
    # 600 draws of 0..14 have a mean of 7 with a standard error of 0.18.
    assert abs(mean - 7) < 0.7


def test_clips_of_a_step_are_about_equally_long():
    lengths = np.random.default_rng(0).integers(1, 76, 1920)

    steps = [lengths[list(step.samples)] for step in a_plan(lengths)]

    spread = np.mean([step.std() for step in steps])
    assert spread < lengths.std() / 4


def test_steps_of_long_and_short_clips_alternate_at_random():
    lengths = np.random.default_rng(0).integers(1, 76, 1920)

    means = np.array([lengths[list(step.samples)].mean() for step in a_plan(lengths)])

    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


def test_a_curriculum_goes_from_short_to_long_clips_and_leaves_out_as_few():
    lengths = some_lengths()

    plan = a_plan(lengths, shortest_first=True)

    means = [float(np.mean(lengths[list(step.samples)])) for step in plan]
    # Lengths are blurred before they are sorted, so neighbors may swap.
    assert means == pytest.approx(sorted(means), abs=3)
    assert means[0] < 5 and means[-1] > 65
    assert len({index for step in plan for index in step.samples}) == 203 // 12 * 12


def test_frames_are_balanced_over_ranks():
    lengths = np.array([60, 50, 40, 30, 20, 10, 9, 1])

    (step,) = a_plan(
        lengths, global_batch_size=8, micro_batch_size=4, world_size=2, frames_per_batch=150
    )

    frames = [sum(lengths[list(batch)].sum() for batch in rank) for rank in step.ranks]
    assert sorted(frames) == [109, 111]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_micro_batches_do_not_depend_on_the_number_of_ranks_unless_they_are_of_like_sentences(
    world_size: int,
):
    lengths = some_lengths()

    plan = a_plan(lengths, world_size=world_size)

    assert set(micro_batches(plan)) == set(micro_batches(a_plan(lengths)))


def padded_share(batches: Iterable[MicroBatch], num_tokens: np.ndarray) -> float:
    each = [num_tokens[list(batch)] for batch in batches]
    return 1 - sum(it.sum() for it in each) / sum(len(it) * it.max() for it in each)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_rank_cuts_its_share_of_a_step_into_like_sentences(world_size: int):
    lengths = published_lengths("phoenix14t")
    # Long clips have long sentences, more or less.
    noise = np.random.default_rng(1).uniform(0.7, 1.3, len(lengths))
    num_tokens = np.maximum(1, lengths * noise * 0.6).astype(np.int64)
    sizes = {
        "global_batch_size": 16 * world_size,
        "micro_batch_size": 4,
        "frames_per_batch": 600,
        "world_size": world_size,
    }

    any_plan = a_plan(lengths, **sizes)
    like_plan = a_plan(lengths, **sizes, num_tokens=num_tokens)

    assert padded_share(micro_batches(any_plan), num_tokens) > 0.15
    assert padded_share(micro_batches(like_plan), num_tokens) < 0.1


def published_lengths(corpus: str) -> np.ndarray:
    """Frames after every fourth, of clips whose lengths are spread as the corpus' are.

    PHOENIX14T's train split has 16 to 475 frames, median 112; How2Sign's clips last 0.11 to 45.8 s,
    median 5.23, mean 6.64, at 24 frames a second.
    """
    rng = np.random.default_rng(0)
    median, spread, low, high, size, most = {
        "phoenix14t": (112, 0.42, 16, 475, 7096, 75),
        "how2sign": (5.23 * 24, 0.69, 0.11 * 24, 45.8 * 24, 31165, 256),
    }[corpus]
    frames = np.clip(rng.lognormal(np.log(median), spread, size), low, high).round()
    return count_chosen_frames(frames, stride=4, max_frames=most)


@pytest.mark.parametrize("corpus", ["phoenix14t", "how2sign"])
@pytest.mark.parametrize(("micro_batch_size", "bound"), [(1, 0.1), (2, 0.03), (8, 0.01)])
@pytest.mark.parametrize("sentences", ["any", "like"])
def test_eight_ranks_wait_little_for_the_longest(
    corpus: str, micro_batch_size: int, bound: float, sentences: str
):
    lengths = published_lengths(corpus)

    plan = a_plan(
        lengths,
        global_batch_size=8 * micro_batch_size,
        micro_batch_size=micro_batch_size,
        frames_per_batch=600,
        world_size=8,
        num_tokens=lengths // 2 + 1 if sentences == "like" else None,
    )

    frames = np.array(
        [[lengths[[i for b in rank for i in b]].sum() for rank in step.ranks] for step in plan]
    )
    assert np.mean(1 - frames.mean(axis=1) / frames.max(axis=1)) < bound


def test_batch_sizes_that_do_not_divide_are_named():
    sentence = (
        "train.global_batch_size (7) must be a multiple of "
        "train.micro_batch_size x world size (2 x 2)."
    )

    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        a_plan(some_lengths(), global_batch_size=7, micro_batch_size=2, world_size=2)


def test_a_clip_beyond_the_frame_budget_is_named():
    with pytest.raises(ConfigError, match=r"data\.frames_per_batch \(74\) is less than the 75"):
        a_plan(np.full(12, 75), frames_per_batch=74)


def test_too_few_samples_for_a_step_are_named():
    with pytest.raises(ConfigError, match=r"global_batch_size \(12\) is more than the 11 samples"):
        a_plan(some_lengths(11))


def test_a_clip_without_frames_cannot_be_planned():
    with pytest.raises(ValueError, match="at least 1 frame, got 0"):
        a_plan(np.array([0] + [5] * 11))


# Evaluation plans


@pytest.mark.parametrize("num_samples", [0, 1, 2, 7, 60, 203])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_sample_exactly_once(num_samples: int, world_size: int):
    lengths = some_lengths(num_samples)

    ranks = plan_evaluation(lengths, batch_size=4, frames_per_batch=150, world_size=world_size)

    seen = [index for rank in ranks for batch in rank for index in batch]
    assert sorted(seen) == list(range(num_samples))
    assert len(ranks) == world_size
    # No rank has more frames than another by more than a batch.
    shares = [sum(int(lengths[list(batch)].sum()) for batch in rank) for rank in ranks]
    assert max(shares) - min(shares) <= 150


def test_evaluation_has_the_same_batches_on_any_number_of_ranks():
    lengths = some_lengths(203)

    plans = [
        plan_evaluation(lengths, batch_size=4, frames_per_batch=150, world_size=world_size)
        for world_size in (1, 2, 3)
    ]

    alone, *others = [{batch for rank in plan for batch in rank} for plan in plans]
    assert others == [alone, alone]


def test_evaluation_keeps_both_limits():
    lengths = some_lengths()

    ranks = plan_evaluation(lengths, batch_size=4, frames_per_batch=100, world_size=2)

    for batch in (batch for rank in ranks for batch in rank):
        assert 1 <= len(batch) <= 4
        assert lengths[list(batch)].sum() <= 100


def test_evaluation_goes_from_long_to_short_and_is_balanced():
    lengths = np.arange(1, 13)

    ranks = plan_evaluation(lengths, batch_size=2, frames_per_batch=300, world_size=3)

    in_order = [lengths[[index for batch in rank for index in batch]] for rank in ranks]
    assert [share.tolist() for share in in_order] == [[12, 11, 2, 1], [10, 9, 4, 3], [8, 7, 6, 5]]


def test_evaluation_names_a_clip_beyond_the_frame_budget():
    with pytest.raises(ConfigError, match=r"data\.frames_per_batch \(50\)"):
        plan_evaluation(np.array([51]), batch_size=4, frames_per_batch=50, world_size=1)


# Crops


def warped(matrix: np.ndarray, x: float, y: float) -> list[float]:
    return (matrix.astype(np.float64) @ [x, y, 1]).tolist()


def a_train_warp(seed: int, **changes: float) -> np.ndarray:
    arguments = {"max_rotation_deg": 30.0, "max_rescale_fraction": 0.2, "max_shift_fraction": 0.04}
    return train_warp(
        np.random.default_rng(seed), resize_px=256, crop_px=224, **(arguments | changes)
    )


def test_evaluation_crops_the_middle():
    matrix = centre_warp(resize_px=256, crop_px=224)

    assert matrix.tolist() == [[1, 0, 16], [0, 1, 16]]
    assert matrix.dtype == np.float32


def test_training_crops_every_place_on_whole_pixels():
    still = {"max_rotation_deg": 0.0, "max_rescale_fraction": 0.0, "max_shift_fraction": 0.0}

    matrices = np.array([a_train_warp(seed, **still) for seed in range(500)])

    assert (matrices[:, :, :2] == np.eye(2)).all()
    offsets = matrices[:, :, 2]
    assert (offsets == offsets.round()).all()
    assert (offsets.min(0) == 0).all() and (offsets.max(0) == 32).all()


def test_each_change_happens_to_half_of_the_clips():
    matrices = [a_train_warp(seed) for seed in range(1000)]

    linear = np.array([matrix[:, :2].astype(np.float64) for matrix in matrices])
    rotated = np.abs(linear[:, 0, 1]) > 0
    rescaled = np.abs(np.linalg.det(linear) - 1) > 1e-6
    shifted = ~np.isclose(np.array(matrices)[:, 0, 2] % 1, 0) & ~rotated & ~rescaled
    assert 450 < rotated.sum() < 550
    assert 450 < rescaled.sum() < 550
    # A shift is seen alone in a quarter of the clips, half of which are shifted.
    assert 90 < shifted.sum() < 160


def test_rotation_and_scale_stay_within_their_bounds_and_reach_them():
    linear = np.array([a_train_warp(seed)[:, :2] for seed in range(2000)], dtype=np.float64)

    scale = 1 / np.sqrt(np.linalg.det(linear))
    angle = np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))

    assert 0.8 <= scale.min() < 0.82 and 1.18 < scale.max() <= 1.2
    assert -30 <= angle.min() < -29 and 29 < angle.max() <= 30.001


def test_rotation_and_scale_leave_the_centre_of_the_frame_where_it_is():
    for seed in range(50):
        matrix = a_train_warp(seed, max_shift_fraction=0.0)
        still = a_train_warp(
            seed, max_rotation_deg=0.0, max_rescale_fraction=0.0, max_shift_fraction=0.0
        )

        in_crop = 128 - still[:, 2]

        assert warped(matrix, *in_crop) == pytest.approx([128, 128], abs=1e-3)


def test_a_shift_is_at_most_its_fraction_of_the_frame():
    still = {"max_rotation_deg": 0.0, "max_rescale_fraction": 0.0}

    moved = np.array(
        [
            a_train_warp(seed, **still) - a_train_warp(seed, **still, max_shift_fraction=0.0)
            for seed in range(500)
        ]
    )

    assert 10.0 < np.abs(moved).max() <= 0.04 * 256

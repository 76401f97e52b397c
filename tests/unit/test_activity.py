"""Signing is found by how far the picture is from rest."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fla.translating.activity import PREVIEWS_PER_S, Cut, average_blocks, cut_signing
from fla.translating.segments import Segment

NUM_BLOCKS = 64
HANDS = slice(20, 28)
STEP_S = 1 / PREVIEWS_PER_S


def record(*acts: tuple[str, float]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Times and blocks of a signer who rests, signs and holds a sign for so many seconds."""
    rng = np.random.default_rng(0)
    scene = rng.uniform(50, 200, NUM_BLOCKS)
    pictures = []
    for act, seconds in acts:
        held = rng.uniform(-60, 60, 8)
        for _ in range(round(seconds * PREVIEWS_PER_S)):
            # A sign can be held as still as a rest, and stiller.
            picture = scene + rng.normal(0, 0.0 if act == "hold" else 0.2, NUM_BLOCKS)
            if act == "sign":
                picture[HANDS] += rng.choice([-1, 1], 8) * rng.uniform(20, 60, 8)
            if act == "hold":
                picture[HANDS] += held
            pictures.append(picture)
    return np.arange(len(pictures)) * STEP_S, np.array(pictures, dtype=np.float32)


def cut(*acts: tuple[str, float], how: Cut | None = None) -> list[Segment]:
    return cut_signing(*record(*acts), cut=how or Cut())


def expect_ranges(segments: list[Segment], *ranges: tuple[float, float]) -> None:
    found = [(segment.start_s, segment.end_s) for segment in segments]
    assert found == [pytest.approx(one, abs=1.5 * STEP_S) for one in ranges]


def test_what_lies_between_two_rests_is_a_segment():
    segments = cut(("rest", 2), ("sign", 3), ("rest", 1), ("sign", 2), ("rest", 1))

    expect_ranges(segments, (2, 5), (6, 8))


def test_a_rest_that_is_too_short_ends_nothing():
    acts = [("rest", 2), ("sign", 3), ("rest", 0.3), ("sign", 2), ("rest", 1)]

    expect_ranges(cut(*acts, how=Cut(min_pause_s=0.2)), (2, 5), (5.3, 7.3))
    expect_ranges(cut(*acts, how=Cut(min_pause_s=0.5)), (2, 7.3))


def test_a_sign_that_is_held_is_no_rest():
    holds = [("hold", 0.4), ("sign", 1.2)] * 6

    segments = cut(("rest", 2), ("sign", 1.2), *holds, ("rest", 2))

    expect_ranges(segments, (2, 12.8))


def test_a_recording_may_begin_and_end_with_signing():
    segments = cut(("sign", 2), ("rest", 2), ("sign", 2))

    expect_ranges(segments, (0, 2), (4, 6))


def test_a_long_segment_is_cut_where_it_is_nearest_to_rest():
    times, blocks = record(("rest", 4), ("sign", 12), ("rest", 4))
    # Hands half way down, in the middle of the signing.
    middle = round(10.9 * PREVIEWS_PER_S)
    rest = blocks[:40].mean(axis=0)
    blocks[middle] = rest + (blocks[middle] - rest) / 2

    expect_ranges(cut_signing(times, blocks, cut=Cut(max_length_s=8)), (4, 10.9), (10.9, 16))
    expect_ranges(cut_signing(times, blocks, cut=Cut(max_length_s=20)), (4, 16))


@pytest.mark.parametrize("max_length_s", [1.0, 2.5, 7.0])
def test_no_segment_is_longer_than_asked_for_and_none_is_lost(max_length_s):
    segments = cut(("rest", 4), ("sign", 31), ("rest", 4), how=Cut(max_length_s=max_length_s))

    assert max(one.end_s - one.start_s for one in segments) <= max_length_s + STEP_S
    assert sum(one.end_s - one.start_s for one in segments) == pytest.approx(31, abs=2)


def test_noise_alone_is_no_signing():
    assert cut(("rest", 10)) == []


def test_nothing_is_found_in_one_picture():
    assert cut(("rest", 0.1)) == []


def test_brighter_light_is_no_signing():
    times, blocks = record(("rest", 5), ("sign", 2), ("rest", 5))
    blocks[:20] += 40

    expect_ranges(cut_signing(times, blocks, cut=Cut()), (5, 7))


def test_a_signer_who_sits_down_anew_has_another_rest():
    first = record(("rest", 100), ("sign", 100), ("rest", 100))[1]
    second = record(("sign", 100), ("rest", 200))[1]
    second[:, 40:48] += 50
    blocks = np.concatenate([first, second])

    segments = cut_signing(np.arange(len(blocks)) * STEP_S, blocks, cut=Cut(max_length_s=1000))

    expect_ranges(segments, (100, 200), (300, 400))


def test_blocks_are_means_of_an_eighth_of_the_side():
    picture = np.zeros((64, 64), np.uint8)
    picture[:8, 8:16] = 64
    picture[63, 63] = 64

    blocks = average_blocks(picture)

    assert blocks[1] == 64
    assert blocks[63] == 1
    assert blocks.sum() == 65

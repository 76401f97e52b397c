"""A video that is unlike the training data is translated, and said to be unlike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fla.data.manifest import Sample
from fla.data.typical import TypicalClips, summarize_clips
from fla.description import Preprocessing
from fla.translating.likeness import describe_length, describe_unlike
from fla.translating.recordings import Recording

BY_STRIDE = Preprocessing(frame_stride=4, max_frames=75, resize_px=256, crop_px=224)
BY_RATE = replace(BY_STRIDE, target_fps=12.5)
TYPICAL = TypicalClips(
    fps_low=25.0, fps_high=30.0, aspect_low=1.0, aspect_high=1.78, seconds_low=1.0,
    seconds_high=8.0,
)  # fmt: skip


def recording(*, fps: float = 25.0, aspect: float = 1.5) -> Recording:
    return Recording(
        path=Path("v.mp4"), fps=fps, frame_times=np.arange(9) / fps, aspect=aspect, format=None
    )


def clip(seconds: float, *, fps: float = 25.0) -> Sample:
    return Sample(
        id="a", video="v.mp4", start_s=2.0, end_s=2.0 + seconds, fps=fps,
        num_frames=round(seconds * fps), signer="", sentence="",
    )  # fmt: skip


@pytest.mark.parametrize("preprocessing", [BY_STRIDE, BY_RATE])
@pytest.mark.parametrize("fps", [24.0, 25.0, 29.97, 30.0])
def test_nothing_is_said_of_a_video_like_those_of_training(preprocessing, fps):
    assert describe_unlike(recording(fps=fps), preprocessing=preprocessing, typical=TYPICAL) == ()


def test_a_model_that_takes_every_fourth_frame_sees_a_fast_recording_slowed_down():
    (sentence,) = describe_unlike(recording(fps=60), preprocessing=BY_STRIDE, typical=TYPICAL)

    assert sentence == (
        "v.mp4: of its 60 frames a second the model sees 15, and in training it saw 6.25 to 7.5, "
        "so that the signing looks slower than it is. Convert it to 30 frames a second."
    )


def test_a_model_with_a_rate_of_its_own_minds_only_recordings_that_are_slower():
    assert describe_unlike(recording(fps=60), preprocessing=BY_RATE, typical=TYPICAL) == ()
    for typical in (TYPICAL, None):
        (sentence,) = describe_unlike(recording(fps=8), preprocessing=BY_RATE, typical=typical)
        assert "sees 8, and in training it saw 12.5, so that the signing looks faster" in sentence


def test_portrait_is_unlike_landscape():
    (sentence,) = describe_unlike(recording(aspect=0.5625), preprocessing=BY_RATE, typical=TYPICAL)

    assert sentence.startswith(
        "v.mp4: its frames are 0.56 times as wide as high, narrower than those of the training "
        "videos (1.00 to 1.78), so that the signer looks broader to the model."
    )


def test_nothing_is_said_where_training_is_not_known():
    other = recording(fps=60, aspect=0.5)

    assert describe_unlike(other, preprocessing=BY_STRIDE, typical=None) == ()
    assert describe_length(clip(0.1), preprocessing=BY_STRIDE, typical=None) == ()


def test_a_segment_that_the_model_sees_thinned_is_told():
    assert describe_length(clip(6.0), preprocessing=BY_RATE, typical=None) == ()
    (sentence,) = describe_length(clip(9.0), preprocessing=BY_RATE, typical=TYPICAL)

    assert sentence == (
        "2.00 s to 11.00 s: the model takes 75 frames, here of 6.0 s at most, and this has 112, "
        "so that it sees the signing 1.5 times as fast. Cut it into sentences."
    )


def test_a_segment_longer_or_shorter_than_the_training_clips_is_told():
    assert describe_length(clip(8.5), preprocessing=BY_STRIDE, typical=TYPICAL) == ()
    (long,) = describe_length(clip(9.0), preprocessing=BY_STRIDE, typical=TYPICAL)
    (short,) = describe_length(clip(0.8), preprocessing=BY_STRIDE, typical=TYPICAL)

    assert "it lasts 9.0 s, and 99 % of the training clips at most 8.0 s" in long
    assert "it lasts 0.8 s, and 99 % of the training clips at least 1.0 s" in short


def test_clips_are_summed_up_without_their_extremes():
    samples = [clip(2.0)] * 99 + [clip(4.0, fps=50.0)] * 98 + [clip(60.0), clip(0.04)]

    typical = summarize_clips(samples, aspects=[1.3333333, 1.0])

    assert typical == TypicalClips(
        fps_low=25.0, fps_high=50.0, aspect_low=1.0, aspect_high=1.333, seconds_low=2.0,
        seconds_high=4.0,
    )  # fmt: skip

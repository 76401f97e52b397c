"""Whether a video is like those that a model has learned from, said in sentences.

A model sees every frame squeezed to a square, at a rate of its own; it does not notice that a
video is unlike its training data, and translates it all the same.
"""

from fla.data.manifest import Sample
from fla.data.sampling import choose_stride
from fla.data.typical import TypicalClips
from fla.description import Preprocessing
from fla.translating.recordings import Recording
from fla.translating.segments import Segment

# Signers differ more than this in speed and width; a step from 25 to 30 frames a second is more.
_TOLERANCE = 1.1


def describe_unlike(
    recording: Recording, *, preprocessing: Preprocessing, typical: TypicalClips | None
) -> tuple[str, ...]:
    """Sentences on what of a video is unlike the training data; they name the video.

    Args:
        recording: The video.
        preprocessing: Of the model.
        typical: What its training clips are like; None: not known, and nothing is said of it.
    """
    sentences = (
        _describe_rate(recording, preprocessing, typical),
        _describe_aspect(recording, typical),
    )
    return tuple(f"{recording.path}: {sentence}" for sentence in sentences if sentence)


def describe_length(
    sample: Sample, *, preprocessing: Preprocessing, typical: TypicalClips | None
) -> tuple[str, ...]:
    """Sentences on what of a segment's length is unlike the training clips; they name its times.

    Args:
        sample: The segment.
        preprocessing: Of the model.
        typical: As in `describe_unlike`.
    """
    segment = Segment(start_s=sample.start_s, end_s=sample.end_s)
    length_s = sample.end_s - sample.start_s
    seen_fps, most = seen_rate(sample.fps, preprocessing), preprocessing.max_frames
    num_frames = round(sample.num_frames * seen_fps / sample.fps) if sample.fps else 1
    if num_frames > most:
        return (
            f"{segment}: the model takes {most} frames, here of {most / seen_fps:.1f} s at most, "
            f"and this has {num_frames}, so that it sees the signing {num_frames / most:.1f} times "
            "as fast. Cut it into sentences.",
        )
    if typical is None:
        return ()
    if length_s > typical.seconds_high * _TOLERANCE:
        return (
            f"{segment}: it lasts {length_s:.1f} s, and 99 % of the training clips at most "
            f"{typical.seconds_high:.1f} s. Cut it into sentences, if it holds several.",
        )
    if length_s < typical.seconds_low / _TOLERANCE:
        return (
            f"{segment}: it lasts {length_s:.1f} s, and 99 % of the training clips at least "
            f"{typical.seconds_low:.1f} s. Give the whole sentence, if it holds a part.",
        )
    return ()


def seen_rate(fps: float, preprocessing: Preprocessing) -> float:
    """Frames a second that the model sees of a recording."""
    return fps / choose_stride(
        fps, frame_stride=preprocessing.frame_stride, target_fps=preprocessing.target_fps
    )


def _describe_rate(
    recording: Recording, preprocessing: Preprocessing, typical: TypicalClips | None
) -> str:
    seen = seen_rate(recording.fps, preprocessing)
    if typical is None:
        # What a model wants of every recording is known even where its training data is not.
        low = high = preprocessing.target_fps or seen
    else:
        low, high = (seen_rate(fps, preprocessing) for fps in (typical.fps_low, typical.fps_high))
    if low / _TOLERANCE <= seen <= high * _TOLERANCE:
        return ""
    speed = "slower" if seen > high else "faster"
    wanted = f"{low:.4g}" if round(high - low, 1) == 0 else f"{low:.4g} to {high:.4g}"
    advice = (
        f"Convert it to {recording.fps * high / seen:.4g} frames a second."
        if seen > high
        else "Film at a higher rate."
    )
    return (
        f"of its {recording.fps:.4g} frames a second the model sees {seen:.4g}, and in training "
        f"it saw {wanted}, so that the signing looks {speed} than it is. {advice}"
    )


def _describe_aspect(recording: Recording, typical: TypicalClips | None) -> str:
    if typical is None:
        return ""
    low, high = typical.aspect_low, typical.aspect_high
    if low / _TOLERANCE <= recording.aspect <= high * _TOLERANCE:
        return ""
    shape = "wider" if recording.aspect > high else "narrower"
    wanted = f"{low:.2f}" if round(high - low, 2) == 0 else f"{low:.2f} to {high:.2f}"
    # Squeezed to a square, a wide frame makes everything in it thin.
    signer = "thinner" if recording.aspect > high else "broader"
    return (
        f"its frames are {recording.aspect:.2f} times as wide as high, {shape} than those of the "
        f"training videos ({wanted}), so that the signer looks {signer} to the model. Crop it to "
        "that shape around the signer."
    )

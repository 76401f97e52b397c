"""Where somebody signs in a long recording, found by motion: approximate, and without a model.

A signer who pauses lets the hands rest, and the picture is much the same at every pause. So the
resting picture is looked for among the moments without motion, and what differs from it, in the
places that differ most, is signing. A pause in which the hands stay up is not found; nor does it
work where the camera moves or cuts, or other people do.

Shape letters: T = previews; S = side of a preview; C = blocks of a preview.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fla.data.decode.preview import read_previews
from fla.errors import DataError
from fla.translating.recordings import Recording
from fla.translating.segments import Segment

PREVIEWS_PER_S = 12.5
_PREVIEW_PX = 64
# Hands are about an eighth of a picture wide.
_BLOCKS = 8
# The blocks that differ most, so that one moving hand counts as much as both.
_TOP_BLOCKS = 6
# Signers change their posture, and sunlight its angle.
_WINDOW_S = 300.0
# Resting pictures are looked for among so many of the stillest moments, or this part of all.
_MAX_CANDIDATES = 200
_STILL_FRACTION = 0.2
# How far from the resting picture signing begins, between rest and the mean of signing, and how
# far it must go once; tuned on the recordings of the demo's training split.
_LOW, _HIGH = 0.15, 0.5
# In levels of 255: what sensors' noise does not reach, averaged over a block.
_LEAST_CONTRAST = 3.0
_LEAST_LENGTH_S = 0.3


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How signing is cut into segments."""

    min_pause_s: float = 0.1
    """A shorter rest does not end a segment."""
    max_length_s: float = 15.0
    """A longer segment is cut at its moment nearest to rest."""


def find_signing(
    recording: Recording, *, cut: Cut, on_progress: Callable[[float], None]
) -> list[Segment]:
    """Decode a recording once, and find where somebody signs.

    Args:
        recording: A video; not a folder of images.
        cut: How it is cut.
        on_progress: Called with the seconds that have been looked at.

    Raises:
        DataError: It does not decode, or nothing moves.
    """
    if recording.format is None:
        raise DataError(
            f"{recording.path} is a folder of images, in which no pauses are looked for. Give "
            "its segments in a file."
        )
    times: list[float] = []
    blocks: list[NDArray[np.float32]] = []
    for time_s, picture in read_previews(recording.path, fps=PREVIEWS_PER_S, side_px=_PREVIEW_PX):
        times.append(time_s)
        blocks.append(average_blocks(picture))
        on_progress(time_s)
    segments = cut_signing(np.array(times), np.stack(blocks), cut=cut)
    if not segments:
        raise DataError(
            f"{recording.path}: no signing was found, as hardly anything moves. Give its segments "
            "in a file, or translate it as one sentence."
        )
    return segments


def average_blocks(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean brightness of the blocks of a preview `(S, S)`, float32, `(C,)`."""
    side = len(picture) // _BLOCKS
    grid = picture.reshape(_BLOCKS, side, _BLOCKS, side)
    return np.asarray(grid.mean(axis=(1, 3)), dtype=np.float32).ravel()


def cut_signing(
    times_s: NDArray[np.float64], blocks: NDArray[np.float32], *, cut: Cut
) -> list[Segment]:
    """Find signing in the previews of a recording.

    Args:
        times_s: Their times, rising, `(T,)`.
        blocks: As `average_blocks` gives them, `(T, C)`.
        cut: How it is cut.

    Returns:
        Segments in the order of their starts; none where nothing moves.
    """
    if len(times_s) < 2:
        return []
    signing = np.empty(len(times_s))
    # A short rest of a window belongs to the one before.
    edges = [0.0, *np.arange(_WINDOW_S, times_s[-1] - _WINDOW_S / 2, _WINDOW_S), np.inf]
    for begin_s, end_s in pairwise(edges):
        window = (times_s >= begin_s) & (times_s < end_s)
        if window.any():
            signing[window] = _measure(blocks[window])
    step_s = float(np.median(np.diff(times_s)))
    spans = _join(_spans(signing), times_s, min_pause_s=cut.min_pause_s, step_s=step_s)
    most = max(2, int(cut.max_length_s / step_s))
    pieces = [piece for span in spans for piece in _divide(span, signing, most=most)]
    # Half way between the previews on both sides of a change.
    edges_s = np.append(times_s - step_s / 2, times_s[-1] + step_s).clip(min=0.0)
    return [
        Segment(start_s=float(edges_s[first]), end_s=float(edges_s[last]))
        for first, last in pieces
        if edges_s[last] - edges_s[first] >= _LEAST_LENGTH_S
    ]


def _measure(blocks: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far each preview is from rest: 0 at rest, 1 at the mean of signing, `(T,)`."""
    motion = np.abs(np.diff(blocks, axis=0, prepend=blocks[:1])).mean(axis=1)
    # The first preview has none before it.
    motion[0] = np.inf
    rest, noise = _find_rest(blocks, motion)
    far = _differ(blocks, rest)
    threshold = _otsu(far)
    contrast = far[far > threshold].mean() - noise if (far > threshold).any() else 0.0
    if contrast < _LEAST_CONTRAST:
        return np.zeros(len(blocks))
    return np.asarray((far - noise) / contrast, dtype=np.float64)


def _find_rest(
    blocks: NDArray[np.float32], motion: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float]:
    """The picture that still moments have in common, and how far they are from it."""
    stillest = np.argsort(motion, kind="stable")[: max(2, int(len(motion) * _STILL_FRACTION))]
    picked = np.linspace(0, len(stillest) - 1, min(len(stillest), _MAX_CANDIDATES)).astype(int)
    candidates = blocks[stillest[picked]]
    distances = np.stack([_differ(candidates, one) for one in candidates])
    # A sign that is held is still, too; but rest comes back, and looks the same.
    neighbours = max(1, len(candidates) // 4)
    centre = int(np.sort(distances, axis=1)[:, neighbours].argmin())
    near = np.argsort(distances[centre], kind="stable")[: neighbours + 1]
    rest = np.median(candidates[near], axis=0)
    return rest, float(np.median(_differ(candidates[near], rest)))


def _differ(blocks: NDArray[np.float32], rest: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean difference of the blocks that differ most, in levels of 255, `(T,)`."""
    difference = blocks - rest
    # Of all blocks together, it is the light or the exposure that changes.
    difference = np.abs(difference - np.median(difference, axis=1, keepdims=True))
    most = np.sort(difference, axis=1)[:, -_TOP_BLOCKS:]
    return np.asarray(most.mean(axis=1), dtype=np.float32)


def _otsu(values: NDArray[np.float32]) -> float:
    """The threshold that divides values into the two most compact classes (Otsu, 1979)."""
    rising = np.sort(values).astype(np.float64)
    below = np.arange(1, len(rising))
    sums = np.cumsum(rising)
    means = sums[:-1] / below, (sums[-1] - sums[:-1]) / below[::-1]
    best = int((below * below[::-1] * (means[1] - means[0]) ** 2).argmax())
    return float(rising[best : best + 2].mean())


def _spans(signing: NDArray[np.float64]) -> list[tuple[int, int]]:
    """First preview and the one behind the last of every stretch of signing."""
    changes = np.diff((signing > _LOW).astype(np.int8), prepend=0, append=0)
    stretches = zip(np.flatnonzero(changes == 1), np.flatnonzero(changes == -1), strict=True)
    return [(int(a), int(b)) for a, b in stretches if signing[a:b].max() > _HIGH]


def _join(
    spans: list[tuple[int, int]],
    times_s: NDArray[np.float64],
    *,
    min_pause_s: float,
    step_s: float,
) -> list[tuple[int, int]]:
    """Spans without the pauses that are too short."""
    joined: list[tuple[int, int]] = []
    for first, last in spans:
        if joined and times_s[first] - times_s[joined[-1][1] - 1] - step_s < min_pause_s:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


def _divide(
    span: tuple[int, int], signing: NDArray[np.float64], *, most: int
) -> list[tuple[int, int]]:
    """Cut a span of more than `most` previews where it is nearest to rest, and its halves again."""
    first, last = span
    length = last - first
    if length <= most:
        return [span]
    # Not near its ends, where hands have just left their rest.
    begin = first + max(1, length // 4)
    middle = begin + int(signing[begin : last - length // 4].argmin())
    return [
        *_divide((first, middle), signing, most=most),
        *_divide((middle, last), signing, most=most),
    ]

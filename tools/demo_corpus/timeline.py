"""From signs to poses: key poses of signs and rests, and the smooth movement between them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .body import BROWS, HAND_WIDTH, HEAD, LEAN, MOUTH, POSE_WIDTH, Pose
from .signs import HANDSHAPES, MOVES, PLACES, SIGNS, Sign

SIGN_S = 0.50
"""Length of a sign at speed 1, the way to it included, in seconds."""
CITATION = 1.5
"""A sign that stands alone is shown as a dictionary shows it, so much slower."""
WAY = 0.34
"""Share of a sign that is the way from the one before."""
BASE_HAND = (-0.06, 0.74, 90.0, "flat")
QUESTIONS = ("WHO", "WHAT", "WHERE", "WHY", "ASK")


@dataclass(frozen=True)
class SignedSentence:
    """A sentence on its recording's time line."""

    number: int
    """Which of the recording's sentences this is."""
    start_s: float
    """Hands leave their rest."""
    end_s: float
    """Last sign is over."""


@dataclass(frozen=True)
class Timeline:
    """Key poses of one recording, and where each of its sentences is."""

    times_s: NDArray[np.float64]
    poses: NDArray[np.float64]
    sentences: tuple[SignedSentence, ...]
    end_s: float


def set_hand(pose: Pose, hand: int, x: float, y: float, angle: float, shape: str) -> None:
    form = HANDSHAPES[shape]
    pose[hand * HAND_WIDTH : (hand + 1) * HAND_WIDTH] = (
        x, y, angle, *form.fingers, form.spread, form.hole,
    )  # fmt: skip


def rest_pose() -> Pose:
    """Hands hanging down at the lower edge of the picture."""
    pose = np.zeros(POSE_WIDTH)
    set_hand(pose, 0, 0.20, 1.02, 180.0, "fist")
    set_hand(pose, 1, -0.20, 1.02, 180.0, "fist")
    return pose


def sign_poses(sign: Sign, rng: np.random.Generator) -> list[Pose]:
    """Key poses of one sign, each time made a little differently."""
    place = np.array(PLACES[sign.place]) + rng.normal(0.0, 0.012, 2)
    tilt = sign.angle + rng.normal(0.0, 6.0)
    grow = rng.uniform(0.85, 1.15)
    steps = MOVES[sign.move]
    poses = []
    for number, (dx, dy, turn) in enumerate(steps):
        pose = rest_pose()
        x, y, angle = place[0] + grow * dx, place[1] + grow * dy, tilt + turn
        shape = "fist" if sign.move == "open" and number == 0 else sign.shape
        set_hand(pose, 0, x, y, angle, shape)
        if sign.hands == "both":
            set_hand(pose, 1, -x, y, angle, shape)
        elif sign.hands == "base":
            set_hand(pose, 1, *BASE_HAND)
        pose[MOUTH] = number % 2
        poses.append(pose)
    return poses


def add_face(poses: list[Pose], *, question: bool, negated: bool, lean: float) -> None:
    """Raised brows ask, a shaken head denies."""
    for number, pose in enumerate(poses):
        pose[BROWS] = float(question)
        pose[HEAD] = (1.0 if number % 2 else -1.0) if negated else 0.0
        pose[LEAN] = lean


def build_timeline(
    sentences: tuple[tuple[str, ...], ...], *, speed: float, rng: np.random.Generator
) -> Timeline:
    """Sign the sentences one after the other, with a rest before, between and after them.

    Args:
        sentences: The signs of each sentence.
        speed: Signs of this signer per standard sign.
        rng: Draws the small differences between two performances of a sign.
    """
    now = float(rng.uniform(0.2, 0.5))
    times, poses, spans = [0.0, now], [rest_pose(), rest_pose()], []
    for number, signs in enumerate(sentences):
        start, lean = now, float(rng.normal(0.0, 0.008))
        pace = CITATION if len(signs) == 1 else 1.0
        for name in signs:
            length = pace * SIGN_S / speed * rng.uniform(0.9, 1.12)
            keys = sign_poses(SIGNS[name], rng)
            add_face(keys, question=signs[-1] in QUESTIONS, negated=name == "NOT", lean=lean)
            times.extend(now + length * np.linspace(WAY, 1.0, len(keys)))
            poses.extend(keys)
            now += length
        spans.append(SignedSentence(number, start, now))
        settle = float(rng.uniform(0.25, 0.35))
        times.extend((now + settle, now + settle + float(rng.uniform(0.02, 0.3))))
        poses.extend((rest_pose(), rest_pose()))
        now = times[-1]
    return Timeline(np.array(times), np.array(poses), tuple(spans), now + 0.2)


def poses_at(timeline: Timeline, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Poses at the given moments, `(F, POSE_WIDTH)`: slow out of a key pose, slow into the next."""
    after = np.clip(
        np.searchsorted(timeline.times_s, times_s, "right"), 1, len(timeline.times_s) - 1
    )
    begin, end = timeline.times_s[after - 1], timeline.times_s[after]
    share = np.clip((times_s - begin) / np.maximum(end - begin, 1e-6), 0.0, 1.0)
    eased = (share * share * (3 - 2 * share))[:, None]
    return timeline.poses[after - 1] * (1 - eased) + timeline.poses[after] * eased

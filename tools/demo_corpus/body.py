"""The drawn signer: who signs, in front of what, and one picture for each pose.

A pose is a float array of `POSE_WIDTH` numbers in the signer's own coordinates (see `signs`).
Pictures are drawn at twice their size and halved, which smooths every edge.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Pose = NDArray[np.float64]

# Columns of one hand: x, y, angle, five fingers, spread, hole. Two hands, then the face.
HAND_WIDTH = 10
HEAD, BROWS, MOUTH, LEAN = (2 * HAND_WIDTH + i for i in range(4))
POSE_WIDTH = 2 * HAND_WIDTH + 4

HEAD_CENTER = (0.0, 0.25)
SHOULDER = (0.165, 0.475)
PALM = 0.058
FINGER = 0.135
FINGER_THICKNESS = 0.034


@dataclass(frozen=True)
class Signer:
    """A person's looks. Lengths are factors on the standard figure."""

    skin: Color
    hair: Color
    shirt: Color
    arm: float
    hand: float
    head: float
    left_handed: bool = False


@dataclass(frozen=True)
class Camera:
    """Where the camera stands and what it does to the picture."""

    zoom: float
    shift_x: float
    shift_y: float
    brightness: float
    noise: float
    """Standard deviation in gray levels."""


# Every skin is lighter than every shirt and wall: sign language is filmed for contrast.
SIGNERS = (
    Signer((241, 200, 170), (90, 60, 35), (30, 40, 75), 1.00, 1.00, 1.00),
    Signer((170, 118, 84), (25, 20, 18), (35, 35, 40), 1.05, 1.05, 0.97),
    Signer((228, 178, 140), (35, 28, 25), (20, 60, 50), 0.95, 0.98, 1.05),
    Signer((250, 215, 190), (150, 110, 60), (75, 22, 35), 0.97, 0.95, 1.00),
    Signer((150, 102, 72), (15, 12, 12), (28, 28, 60), 1.02, 1.05, 1.00),
    Signer((205, 150, 110), (60, 40, 30), (25, 45, 50), 1.04, 1.08, 0.95),
    Signer((236, 190, 155), (120, 120, 120), (45, 45, 45), 1.00, 1.02, 1.02, left_handed=True),
    Signer((185, 130, 95), (30, 25, 25), (60, 30, 60), 0.96, 0.96, 1.04),
)
# Top and bottom of the wall behind the signer.
BACKGROUNDS: tuple[tuple[Color, Color], ...] = (
    ((45, 80, 62), (35, 62, 50)),
    ((50, 68, 100), (38, 52, 80)),
    ((72, 80, 88), (55, 62, 70)),
    ((70, 62, 85), (52, 46, 66)),
)


def darker(color: Color, factor: float) -> Color:
    red, green, blue = (min(255, int(part * factor)) for part in color)
    return red, green, blue


def bend(shoulder: tuple[float, float], wrist: tuple[float, float], bone: float, side: float):
    """Elbow and wrist of an arm of two equal bones; the wrist is pulled in when out of reach.

    Args:
        shoulder: Its position.
        wrist: Where the wrist should be.
        bone: Length of the upper arm, and of the forearm.
        side: 1 bends the elbow towards growing x, -1 the other way.
    """
    dx, dy = wrist[0] - shoulder[0], wrist[1] - shoulder[1]
    distance = max(1e-6, math.hypot(dx, dy))
    reach = min(distance, 1.999 * bone)
    ux, uy = dx / distance, dy / distance
    height = math.sqrt(bone * bone - reach * reach / 4)
    mid_x, mid_y = shoulder[0] + ux * reach / 2, shoulder[1] + uy * reach / 2
    # Of the two solutions take the lower one; when they are level, the outer one.
    options = (
        (mid_x - uy * height, mid_y + ux * height),
        (mid_x + uy * height, mid_y - ux * height),
    )
    elbow = max(options, key=lambda point: point[1] + 0.5 * side * point[0])
    return elbow, (shoulder[0] + ux * reach, shoulder[1] + uy * reach)


class Stage:
    """One signer in front of one camera and wall, ready to be drawn in any pose."""

    def __init__(self, *, signer: Signer, camera: Camera, background: int, size_px: int) -> None:
        self.signer = signer
        self.camera = camera
        self.canvas_px = 2 * size_px
        # Right-handed signers have their dominant hand on the picture's left.
        self.mirror = 1.0 if signer.left_handed else -1.0
        self.wall = self._draw_wall(BACKGROUNDS[background])

    def draw(self, pose: Pose) -> NDArray[np.uint8]:
        """The picture of a pose, `(size_px, size_px, 3)`, without camera noise."""
        image = self.wall.copy()
        pen = ImageDraw.Draw(image)
        self._draw_head(pen, pose)
        # The dominant hand is in front.
        for hand, side in ((1, -1.0), (0, 1.0)):
            values = pose[hand * HAND_WIDTH : (hand + 1) * HAND_WIDTH].tolist()
            self._draw_arm(pen, values, side, float(pose[LEAN]))
        return np.asarray(image.reduce(2))

    def _at(self, x: float, y: float) -> tuple[float, float]:
        camera = self.camera
        return (
            self.canvas_px * (0.5 + camera.zoom * (self.mirror * x + camera.shift_x)),
            self.canvas_px * (0.5 + camera.zoom * (y - 0.5 + camera.shift_y)),
        )

    def _px(self, length: float) -> float:
        return self.canvas_px * self.camera.zoom * length

    def _disc(
        self, pen: ImageDraw.ImageDraw, at: tuple[float, float], r: float, fill: Color
    ) -> None:
        pen.ellipse((at[0] - r, at[1] - r, at[0] + r, at[1] + r), fill=fill)

    def _lit(self, color: Color) -> Color:
        return darker(color, self.camera.brightness)

    def _draw_wall(self, colors: tuple[Color, Color]) -> Image.Image:
        size = self.canvas_px
        ramp = np.linspace(0.0, 1.0, size)[:, None, None]
        top, bottom = (np.array(self._lit(color), float) for color in colors)
        rows = np.broadcast_to(top * (1 - ramp) + bottom * ramp, (size, size, 3))
        image = Image.fromarray(rows.astype(np.uint8))
        pen = ImageDraw.Draw(image)
        shirt = self._lit(self.signer.shirt)
        neck = self._px(0.05)
        x, y = self._at(0.0, 0.36)
        pen.rectangle(
            (x - neck, y - neck, x + neck, y + 2 * neck),
            fill=self._lit(darker(self.signer.skin, 0.8)),
        )
        torso = (
            (-0.06, 0.41),
            (0.06, 0.41),
            (0.19, 0.46),
            (0.17, 1.2),
            (-0.17, 1.2),
            (-0.19, 0.46),
        )
        pen.polygon([self._at(*point) for point in torso], fill=shirt)
        return image

    def _draw_head(self, pen: ImageDraw.ImageDraw, pose: Pose) -> None:
        look = self.signer
        turn = float(pose[HEAD])
        x, y = self._at(HEAD_CENTER[0] + 0.02 * turn, HEAD_CENTER[1])
        r = self._px(0.105 * look.head)
        pen.ellipse(
            (x - 1.08 * r, y - 1.35 * r, x + 1.08 * r, y + 0.7 * r), fill=self._lit(look.hair)
        )
        pen.ellipse(
            (x - 0.9 * r, y - 1.05 * r, x + 0.9 * r, y + 1.2 * r), fill=self._lit(look.skin)
        )
        x -= self.mirror * -0.35 * r * turn
        ink = (25, 20, 25)
        brow = 0.42 + 0.28 * float(pose[BROWS])
        for eye in (-0.38, 0.38):
            self._disc(pen, (x + eye * r, y - 0.05 * r), 0.13 * r, ink)
            pen.line(
                (x + (eye - 0.2) * r, y - brow * r, x + (eye + 0.2) * r, y - brow * r),
                fill=ink,
                width=max(1, round(0.11 * r)),
            )
        gape = (0.08 + 0.22 * float(pose[MOUTH])) * r
        pen.ellipse(
            (x - 0.3 * r, y + 0.6 * r - gape, x + 0.3 * r, y + 0.6 * r + gape),
            fill=self._lit((150, 50, 55)),
        )

    def _draw_arm(
        self, pen: ImageDraw.ImageDraw, hand: list[float], side: float, lean: float
    ) -> None:
        look = self.signer
        x, y, angle = hand[0] + lean, hand[1], math.radians(hand[2])
        # 0 degrees points up, 90 towards the other hand.
        point = (-side * math.sin(angle), -math.cos(angle))
        wrist = (x - 0.05 * point[0], y - 0.05 * point[1])
        shoulder = (side * SHOULDER[0], SHOULDER[1])
        elbow, wrist = bend(shoulder, wrist, 0.235 * look.arm, side)
        palm = (wrist[0] + 0.05 * point[0], wrist[1] + 0.05 * point[1])
        joints = [self._at(*joint) for joint in (shoulder, elbow, wrist)]
        for widen, shade in ((0.012, 0.55), (0.0, 0.85)):
            sleeve = self._lit(darker(look.shirt, shade))
            thick = self._px(0.07 + 2 * widen)
            pen.line(joints, fill=sleeve, width=round(thick), joint="curve")
            for joint in joints[:2]:
                self._disc(pen, joint, thick / 2, sleeve)
        self._draw_hand(pen, palm, point, hand, side)

    def _draw_hand(
        self,
        pen: ImageDraw.ImageDraw,
        palm: tuple[float, float],
        point: tuple[float, float],
        hand: list[float],
        side: float,
    ) -> None:
        size, spread = self.signer.hand, hand[8]
        across = (point[1] * side, -point[0] * side)
        strokes = []
        for i, stretched in enumerate(hand[3:8]):
            if stretched < 0.1:
                continue
            # The thumb leaves the palm's side, the fingers its far edge.
            root = (1.5 - i + 1.0) * 0.030 if i else 0.045
            fan = math.radians((2.5 - i) * (4 + 14 * spread) if i else 40 + 35 * spread)
            along = (
                point[0] * math.cos(fan) + across[0] * math.sin(fan),
                point[1] * math.cos(fan) + across[1] * math.sin(fan),
            )
            start = (
                palm[0] + size * (across[0] * root + (0.03 if i else 0) * point[0]),
                palm[1] + size * (across[1] * root + (0.03 if i else 0) * point[1]),
            )
            reach = size * stretched * (FINGER if i else 0.095)
            end = (start[0] + along[0] * reach, start[1] + along[1] * reach)
            strokes.append((self._at(*start), self._at(*end)))
        center = self._at(*palm)
        radius = self._px(PALM * size * (1 + 0.25 * hand[9]))
        edge = self._px(0.010)
        for widen, shade in ((edge, 0.35), (0.0, 1.0)):
            skin = self._lit(darker(self.signer.skin, shade))
            thick = self._px(FINGER_THICKNESS * size) + 2 * widen
            for start, end in strokes:
                pen.line((start, end), fill=skin, width=round(thick))
                self._disc(pen, end, thick / 2, skin)
            self._disc(pen, center, radius + widen, skin)
        if hand[9] > 0.5:
            self._disc(pen, center, 0.62 * radius, self._lit(darker(self.signer.skin, 0.25)))

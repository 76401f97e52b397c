"""The sign lexicon: how each sign of the demo language is formed.

A sign is a handshape, a place, a movement and the role of the other hand. Coordinates are the
signer's: x grows towards the dominant hand's side, y grows downwards, the frame is one unit high
and x = 0 is its middle. Angles are in degrees: 0 points the fingers up, 90 towards the other hand.
"""

from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Handshape:
    """What a hand looks like."""

    fingers: tuple[float, float, float, float, float]
    """How far thumb, index, middle, ring and little finger are stretched, 0 to 1."""
    spread: float
    """How far the fingers fan out, 0 to 1."""
    hole: float = 0.0
    """1 when the fingers form a ring that one can look through."""


@dataclass(frozen=True)
class Sign:
    """The form of one sign."""

    shape: str
    place: str
    angle: float
    move: str
    hands: str = "one"
    """`one`; `both` mirrors the dominant hand; `base` rests it above the flat other hand."""


HANDSHAPES = {
    "fist": Handshape((0.0, 0.0, 0.0, 0.0, 0.0), 0.0),
    "flat": Handshape((0.3, 1.0, 1.0, 1.0, 1.0), 0.0),
    "five": Handshape((1.0, 1.0, 1.0, 1.0, 1.0), 1.0),
    "index": Handshape((0.0, 1.0, 0.0, 0.0, 0.0), 0.0),
    "vee": Handshape((0.0, 1.0, 1.0, 0.0, 0.0), 1.0),
    "horns": Handshape((1.0, 0.0, 0.0, 0.0, 1.0), 1.0),
    "ell": Handshape((1.0, 1.0, 0.0, 0.0, 0.0), 1.0),
    "ring": Handshape((0.0, 0.0, 0.0, 0.0, 0.0), 0.0, 1.0),
}

PLACES: dict[str, Point] = {
    "crown": (0.02, 0.13),
    "chin": (0.02, 0.40),
    "chest": (0.00, 0.60),
    "belly": (0.02, 0.83),
    "high": (0.34, 0.20),
    "side": (0.36, 0.52),
    "low": (0.34, 0.83),
    "across": (-0.28, 0.22),
    "shoulder": (-0.25, 0.52),
    "face": (0.15, 0.27),
    "front": (0.13, 0.62),
}

# Steps of the dominant hand around its place, one tuple (x, y, degrees) a key pose.
MOVES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "hold": ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "drop": ((0.0, -0.10, 0.0), (0.0, 0.10, 0.0)),
    "rise": ((0.0, 0.10, 0.0), (0.0, -0.10, 0.0)),
    "out": ((-0.10, 0.0, 0.0), (0.10, 0.0, 0.0)),
    "in": ((0.10, 0.0, 0.0), (-0.10, 0.0, 0.0)),
    "nod": ((0.0, -0.05, 0.0), (0.0, 0.08, 0.0), (0.0, -0.05, 0.0)),
    "shake": ((-0.07, 0.0, 0.0), (0.07, 0.0, 0.0), (-0.07, 0.0, 0.0), (0.07, 0.0, 0.0)),
    "circle": ((0.0, -0.08, 0.0), (0.08, 0.0, 0.0), (0.0, 0.08, 0.0), (-0.08, 0.0, 0.0)),
    "twist": ((0.0, 0.0, -45.0), (0.0, 0.0, 45.0), (0.0, 0.0, -45.0)),
    "open": ((0.0, 0.04, 0.0), (0.0, -0.04, 0.0)),
}

SIGNS: dict[str, Sign] = {
    # People and animals: mostly at the head, or with both hands.
    "TEACHER": Sign("flat", "face", 0, "out", "both"),
    "DOCTOR": Sign("vee", "low", 180, "nod"),
    "MOTHER": Sign("five", "chin", 20, "hold"),
    "FATHER": Sign("five", "crown", 0, "nod"),
    "FRIEND": Sign("index", "front", 90, "twist", "both"),
    "CHILD": Sign("flat", "low", 90, "drop"),
    "DOG": Sign("fist", "low", 180, "shake"),
    "CAT": Sign("vee", "face", 90, "out", "both"),
    "HORSE": Sign("horns", "crown", 0, "hold"),
    "BIRD": Sign("five", "side", -60, "drop", "both"),
    # Things.
    "APPLE": Sign("fist", "chin", 0, "twist"),
    "EGG": Sign("ring", "front", 0, "drop", "both"),
    "CAKE": Sign("five", "chest", 180, "rise", "base"),
    "BOOK": Sign("flat", "front", 60, "out", "both"),
    "LETTER": Sign("ell", "shoulder", 90, "hold"),
    "CAR": Sign("fist", "side", 0, "circle", "both"),
    "HOUSE": Sign("flat", "high", 45, "drop", "both"),
    "FLOWER": Sign("five", "high", 0, "open"),
    "SHIRT": Sign("ell", "belly", 90, "out"),
    # Places.
    "SCHOOL": Sign("flat", "chest", 90, "nod", "base"),
    "GARDEN": Sign("five", "low", 0, "rise", "both"),
    "CITY": Sign("index", "high", 45, "in", "both"),
    # Pronouns and owners: pointing.
    "I": Sign("index", "chest", 90, "hold"),
    "YOU": Sign("index", "side", 90, "out"),
    "WE": Sign("index", "shoulder", 45, "out"),
    "MY": Sign("flat", "chest", 90, "nod"),
    # Verbs.
    "SEE": Sign("vee", "high", -45, "out"),
    "BUY": Sign("ring", "side", 0, "drop"),
    "EAT": Sign("ring", "chin", 45, "nod"),
    "GIVE": Sign("flat", "side", -90, "out", "both"),
    "READ": Sign("vee", "chest", 150, "drop", "base"),
    "WASH": Sign("fist", "front", 90, "circle", "both"),
    "DRAW": Sign("horns", "side", 45, "shake"),
    "SELL": Sign("ring", "low", 180, "out", "both"),
    "GO": Sign("index", "side", 180, "out", "both"),
    "HAVE": Sign("horns", "front", 90, "in", "both"),
    "SAY": Sign("index", "chin", 60, "out"),
    "FIND": Sign("ring", "belly", 0, "rise"),
    # Modals come last.
    "WANT": Sign("five", "belly", 90, "hold"),
    "CAN": Sign("fist", "high", 0, "drop", "both"),
    "MUST": Sign("ell", "low", 180, "drop"),
    # Properties.
    "BIG": Sign("ell", "side", 0, "out", "both"),
    "SMALL": Sign("fist", "shoulder", 0, "nod"),
    "OLD": Sign("fist", "belly", 180, "drop"),
    "RED": Sign("index", "face", 0, "drop", "both"),
    "HAPPY": Sign("five", "face", -30, "rise", "both"),
    "SICK": Sign("ell", "crown", 90, "twist"),
    "HUNGRY": Sign("ring", "chest", 180, "drop"),
    # Time comes first.
    "YESTERDAY": Sign("horns", "across", 0, "in"),
    "TOMORROW": Sign("fist", "high", 0, "out"),
    "NOW": Sign("horns", "low", 180, "drop", "both"),
    "EVERY-DAY": Sign("flat", "across", 45, "shake"),
    # Numbers.
    "TWO": Sign("vee", "side", 0, "hold"),
    "THREE": Sign("five", "side", 90, "twist"),
    "MANY": Sign("five", "shoulder", 0, "open"),
    # Negation and questions come last.
    "NOT": Sign("flat", "side", 0, "shake"),
    "WHO": Sign("ell", "high", 0, "circle"),
    "WHAT": Sign("five", "high", -45, "shake", "both"),
    "WHERE": Sign("index", "across", 0, "shake"),
    "WHY": Sign("horns", "face", 0, "nod", "both"),
    "ASK": Sign("vee", "across", 90, "drop"),
    # Social.
    "HELLO": Sign("flat", "crown", 45, "out"),
    "THANKS": Sign("flat", "belly", -45, "rise"),
    "PLEASE": Sign("vee", "belly", 45, "circle"),
}

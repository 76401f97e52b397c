"""How far a cost is from growing on a straight line."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Line(NamedTuple):
    """The straight line nearest to some points."""

    offset: float
    """Cost of nothing."""
    slope: float
    """Cost of one more."""
    r_squared: float
    """Share of the costs' variance that the line explains; 1: all."""
    max_deviation: float
    """Largest distance of a cost from the line, as a fraction of the largest cost."""


def fit_line(amounts: Sequence[float], costs: Sequence[float]) -> Line:
    """Fit costs by least squares.

    Args:
        amounts: Of what is paid for; at least two different ones.
        costs: One for each.

    Raises:
        ValueError: There are fewer than two different amounts.
    """
    if len(set(amounts)) < 2:
        raise ValueError(f"a line needs two different amounts, got {list(amounts)}.")
    x, y = np.asarray(amounts, np.float64), np.asarray(costs, np.float64)
    slope, offset = np.polyfit(x, y, 1)
    residuals = y - (offset + slope * x)
    variance = float(((y - y.mean()) ** 2).sum())
    return Line(
        offset=float(offset),
        slope=float(slope),
        r_squared=1 - float((residuals**2).sum()) / variance if variance else 1.0,
        max_deviation=float(np.abs(residuals).max() / np.abs(y).max()),
    )

"""Charts as places on a small canvas; the report's template draws them as SVG.

Lengths are in the canvas' own units, which the browser scales to the width that there is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fla.compare.records import Curve

WIDTH, HEIGHT = 300, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 10, 38
ROW_HEIGHT = 22
MAX_POINTS = 300
"""Points that are drawn of a line; more would not be seen."""
_NUM_TICKS = 5


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A number at an axis."""

    place: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a chart shows of a run."""

    run: int
    """Number of the run, which is its color."""
    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def path(self) -> str:
        """The points of an SVG polyline."""
        return " ".join(f"{x:g},{y:g}" for x, y in self.points)


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Lines over axes from left to right and from bottom to top."""

    title: str
    description: str
    """In words, for who does not see it."""
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class IntervalRow:
    """One run's score and its interval."""

    run: int
    name: str
    y: float
    low: float
    value: float
    high: float


@dataclass(frozen=True, kw_only=True)
class IntervalChart:
    """Scores with their intervals, one row a run."""

    title: str
    description: str
    height: int
    x_ticks: tuple[Tick, ...]
    rows: tuple[IntervalRow, ...]


def draw_curves(title: str, curves: Mapping[int, tuple[str, Curve]], *, x_label: str) -> LineChart:
    """Draw a line a run.

    Args:
        title: What the values are.
        curves: Name and curve by the number of the run; no curve is empty.
        x_label: What the steps are.
    """
    values = [value for _, curve in curves.values() for _, value in curve if math.isfinite(value)]
    steps = [step for _, curve in curves.values() for step, _ in curve]
    x_scale = _Scale(0 if min(steps) > 0 else min(steps), max(steps), LEFT, WIDTH - RIGHT)
    y_scale = _Scale(min(values, default=0), max(values, default=1), HEIGHT - BOTTOM, TOP)
    lines = tuple(
        Line(
            run=run,
            name=name,
            points=tuple((x_scale(step), y_scale(value)) for step, value in _thin(curve)),
        )
        for run, (name, curve) in curves.items()
    )
    ends = [
        f"{name} from {curve[0][1]:.4g} to {curve[-1][1]:.4g}" for name, curve in curves.values()
    ]
    return LineChart(
        title=title,
        description=f"{title} by {x_label}: {'; '.join(ends)}.",
        x_label=x_label,
        x_ticks=x_scale.ticks,
        y_ticks=y_scale.ticks,
        lines=lines,
    )


def draw_intervals(title: str, rows: Sequence[tuple[str, float, float, float]]) -> IntervalChart:
    """Draw a row a run.

    Args:
        title: Name of the metric.
        rows: Name, lower end, value and upper end.
    """
    scale = _Scale(
        min(low for _, low, _, _ in rows), max(high for *_, high in rows), 8, WIDTH - RIGHT
    )
    told = [f"{name} {value:.2f} ({low:.2f} to {high:.2f})" for name, low, value, high in rows]
    return IntervalChart(
        title=title,
        description=f"{title} with 95 % intervals: {'; '.join(told)}.",
        height=ROW_HEIGHT * len(rows) + BOTTOM,
        x_ticks=scale.ticks,
        rows=tuple(
            IntervalRow(
                run=run,
                name=name,
                y=ROW_HEIGHT * (run + 0.7),
                low=scale(low),
                value=scale(value),
                high=scale(high),
            )
            for run, (name, low, value, high) in enumerate(rows)
        ),
    )


def choose_ticks(low: float, high: float) -> tuple[float, ...]:
    """Round numbers from at most `low` to at least `high`, evenly spaced."""
    span = high - low or abs(high) or 1.0
    rough = span / (_NUM_TICKS - 1)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(step * number for number in range(first, max(last, first + 1) + 1))


class _Scale:
    """From values to places, with ticks at round values."""

    def __init__(self, low: float, high: float, begin: float, end: float) -> None:
        ticks = choose_ticks(low, high)
        self._low, self._high = ticks[0], ticks[-1]
        self._begin, self._end = begin, end
        self.ticks = tuple(Tick(place=self(tick), label=f"{tick:.6g}") for tick in ticks)

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return round(self._begin + share * (self._end - self._begin), 1)


def _thin(curve: Curve) -> Curve:
    """At most MAX_POINTS of a curve, evenly chosen; the last one always."""
    finite = [point for point in curve if math.isfinite(point[1])]
    every = math.ceil(len(finite) / MAX_POINTS) or 1
    return tuple(finite[::-1][::every][::-1])

"""Charts as one SVG file that needs nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from fla.compare.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, LineChart

_COLORS = ("#0550ae", "#bc4c00")
_DASHES = ("", "7 3")
_TITLE = 22
_LEGEND = 26


def draw_svg(charts: Sequence[LineChart], *, columns: int, legend: Mapping[int, str]) -> str:
    """Put charts on a white sheet, row by row.

    Args:
        charts: As `fla.compare.charts` lays them out.
        columns: Charts beside each other.
        legend: Names by the number of a line, which is its color.
    """
    num_rows = -(-len(charts) // columns)
    width, height = columns * WIDTH, num_rows * (HEIGHT + _TITLE) + _LEGEND
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for place, (number, name) in enumerate(legend.items()):
        x = LEFT + place * 160
        lines.append(f'<path d="M{x} 14h24" {_stroke(number)}/>')
        lines.append(f'<text x="{x + 30}" y="18">{escape(name)}</text>')
    for number, chart in enumerate(charts):
        x, y = number % columns * WIDTH, number // columns * (HEIGHT + _TITLE) + _LEGEND
        lines += [f'<g transform="translate({x} {y})">', *_draw_chart(chart), "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _draw_chart(chart: LineChart) -> Iterator[str]:
    floor = HEIGHT - BOTTOM
    yield f"<desc>{escape(chart.description)}</desc>"
    yield f'<text x="{LEFT}" y="15" font-size="12">{escape(chart.title)}</text>'
    yield f'<g transform="translate(0 {_TITLE})">'
    for tick in chart.y_ticks:
        yield f'<path d="M{LEFT} {tick.place}H{WIDTH - RIGHT}" stroke="#d0d7de"/>'
        yield (
            f'<text x="{LEFT - 6}" y="{tick.place + 4}" text-anchor="end">'
            f"{escape(tick.label)}</text>"
        )
    for tick in chart.x_ticks:
        yield f'<path d="M{tick.place} {floor}v4" stroke="#d0d7de"/>'
        anchor = "end" if tick is chart.x_ticks[-1] else "middle"
        yield (
            f'<text x="{tick.place}" y="{floor + 16}" text-anchor="{anchor}">'
            f"{escape(tick.label)}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield (
        f'<text x="{middle:g}" y="{HEIGHT - 6}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    for line in chart.lines:
        yield f'<polyline points="{line.path}" {_stroke(line.run)}/>'
        if len(line.points) <= 12:
            color = _COLORS[line.run % len(_COLORS)]
            for x, y in line.points:
                yield f'<circle cx="{x:g}" cy="{y:g}" r="3" fill="{color}"/>'
    yield "</g>"


def _stroke(number: int) -> str:
    color, dash = _COLORS[number % len(_COLORS)], _DASHES[number % len(_DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'fill="none" stroke="{color}" stroke-width="2"{dashes}'

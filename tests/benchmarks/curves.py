"""What a step of stage 1 costs by frames, sentences and ranks: python -m tests.benchmarks.curves

Every point has a process of its own, or one a rank: seconds, and the memory that the step takes
above what model, gradients and optimizer hold. A line is fitted to each curve; plots lie in the
folder. On ranks the sentences of a rank stay the same: flat as far as each has a core of its own.
"""

import html
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from fla.batch import Batch, pad_labels
from fla.compare.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, LineChart, draw_curves
from tests.benchmarks.line import fit_line
from tests.benchmarks.memory import measure_peak, measure_seconds
from tests.benchmarks.rows import Row, run_benchmark

NUM_FRAMES, NUM_SENTENCES = 8, 4
FRAME_PX, SIGN_WIDTH, VOCABULARY, NUM_TOKENS = 64, 512, 400, 12
TIMES = (1, 2, 4, 8)
NUM_RANKS = (1, 2, 4)
"""The last share cores where there are two: what is seen of them is what ranks cost."""
SEED = 1
MAX_DEVIATION_PERCENT = 10.0


class Cost(NamedTuple):
    """Of a step."""

    seconds: float
    peak_mib: float
    """Above what is there between steps."""


Costs = Mapping[int, Cost]
"""By how much there is of what is paid for."""


def measure(folder: Path) -> list[Row]:
    """Three curves, of time and of memory."""
    frames = {NUM_FRAMES * n: _measure(NUM_FRAMES * n, NUM_SENTENCES) for n in TIMES}
    sentences = {n: _measure(2 * NUM_FRAMES, n) for n in TIMES}
    ranks = {n: _measure(2 * NUM_FRAMES, NUM_SENTENCES, world_size=n) for n in NUM_RANKS}
    _plot(folder / "plots", "frames a clip", frames)
    _plot(folder / "plots", "sentences", sentences)
    _plot(folder / "plots", "ranks", ranks)
    return [
        *rows_of("frames a clip", frames),
        *rows_of("sentences", sentences),
        *_rows_of_ranks(ranks),
    ]


def rows_of(what: str, costs: Costs) -> list[Row]:
    """A row a point, and how far the points are from a line.

    Args:
        what: Is paid for, plural.
        costs: At least two.
    """
    rows = [
        row
        for amount, cost in costs.items()
        for row in (
            Row(
                name=f"curves: a step of {amount} {what}, time", value=cost.seconds, unit="s",
                better="lower",
            ),
            Row(
                name=f"curves: a step of {amount} {what}, memory", value=cost.peak_mib,
                unit="MiB", better="lower",
            ),
        )
    ]  # fmt: skip
    for kind, values in (
        ("time", [cost.seconds for cost in costs.values()]),
        ("memory", [cost.peak_mib for cost in costs.values()]),
    ):
        line = fit_line([*costs], values)
        rows.append(
            Row(
                name=f"curves: {kind} by {what}, largest distance from a line",
                value=100 * line.max_deviation,
                unit="%",
                better="lower",
                target=MAX_DEVIATION_PERCENT,
                note=f"R^2 {line.r_squared:.4f}",
            )
        )
    return rows


def _rows_of_ranks(costs: Costs) -> list[Row]:
    one, two, four = (costs[number] for number in NUM_RANKS)
    return [
        Row(
            name="curves: sentences a second of 2 ranks / of 1",
            value=2 * one.seconds / two.seconds, unit="ratio", better="higher", target=1.6,
        ),
        Row(
            name="curves: sentences a second of 4 ranks / of 2",
            value=2 * two.seconds / four.seconds, unit="ratio", better="higher",
            note="1 would be ranks that cost nothing, where 4 share 2 cores",
        ),
        Row(
            name="curves: memory of a step on a rank of 2 / on 1",
            value=two.peak_mib / one.peak_mib, unit="ratio", better="lower",
        ),
        Row(
            name="curves: memory of a step on a rank of 4 / on 1",
            value=four.peak_mib / one.peak_mib, unit="ratio", better="lower",
        ),
    ]  # fmt: skip


def _measure(num_frames: int, num_sentences: int, *, world_size: int = 1) -> Cost:
    args = (make_step, num_frames, num_sentences)
    return Cost(
        seconds=measure_seconds(*args, world_size=world_size),
        peak_mib=measure_peak(*args, world_size=world_size),
    )


def make_step(num_frames: int, num_sentences: int) -> Callable[[], object]:
    """A training step of one micro-batch on this rank."""
    # Here, so that the process that forks the others imports nothing that starts threads.
    from fla.config.deepspeed import read_deepspeed_config
    from fla.engine import open_engine
    from fla.models.adapters import Adapter
    from fla.models.light_t import build_light_t
    from fla.models.stages import Stage1Model
    from fla.models.visual_encoder import build_visual_encoder
    from fla.optim import build_adamw, cosine_schedule, decay_groups
    from fla.runtime import start_runtime

    runtime = start_runtime()
    torch.manual_seed(SEED)
    light_t = build_light_t(
        size="tiny", vocab_size=VOCABULARY, dropout=0.0, pad_id=1, eos_id=2, start_id=4
    )
    model = Stage1Model(
        build_visual_encoder(sign_width=SIGN_WIDTH, kernel_size=3),
        Adapter(in_width=SIGN_WIDTH, out_width=light_t.config.d_model),
        light_t,
        label_smoothing=0.2,
        start_id=4,
    )
    groups = decay_groups([model], learning_rate=1e-3, weight_decay=1e-2, name="all")
    config = read_deepspeed_config(
        Path("ds_configs/zero1_fp32.json"),
        micro_batch_size=num_sentences,
        world_size=runtime.world_size,
        max_grad_norm=1.0,
        has_gpu=False,
    )
    engine = open_engine(
        model,
        optimizer=build_adamw(groups, betas=(0.9, 0.98)),
        schedule=cosine_schedule(num_steps=1000, warmup_fraction=0.0),
        config=config,
        runtime=runtime,
    )
    batch = _draw_batch(num_frames, num_sentences)
    num_tokens = num_sentences * NUM_TOKENS * runtime.world_size

    def step() -> None:
        loss = engine(batch)
        engine.backward(loss.nats, num_tokens=num_tokens, is_last=True)
        engine.step()

    return step


def _draw_batch(num_frames: int, num_sentences: int) -> Batch:
    frames = torch.randn(num_sentences * num_frames, 3, FRAME_PX, FRAME_PX)
    return Batch(
        sample_ids=("",) * num_sentences,
        references=("",) * num_sentences,
        frame_lengths=torch.full((num_sentences,), num_frames),
        labels=pad_labels(torch.randint(5, VOCABULARY, (num_sentences, NUM_TOKENS)).tolist()),
        frames=frames.to(memory_format=torch.channels_last),
    )


def _plot(folder: Path, what: str, costs: Costs) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, unit, values in (
        ("time", "s", {n: cost.seconds for n, cost in costs.items()}),
        ("memory", "MiB", {n: cost.peak_mib for n, cost in costs.items()}),
    ):
        line = fit_line([*values], [*values.values()])
        fitted = tuple((n, line.offset + line.slope * n) for n in (min(values), max(values)))
        chart = draw_curves(
            f"A step's {kind} in {unit}",
            {0: ("measured", tuple(values.items())), 1: ("a straight line", fitted)},
            x_label=what,
        )
        path = folder / f"{kind}_by_{what.replace(' ', '_')}.svg"
        path.write_text(svg_of(chart), encoding="utf-8")


def svg_of(chart: LineChart) -> str:
    """A file of its own, with the first line's points as dots."""
    floor = HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' width="{2 * WIDTH}" font-family="sans-serif" font-size="9">',
        f"<title>{html.escape(chart.title)}</title><desc>{html.escape(chart.description)}</desc>",
        f'<text x="{LEFT}" y="8">{html.escape(chart.title)}</text>',
    ]
    for tick in chart.y_ticks:
        parts.append(f'<path d="M{LEFT} {tick.place}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{LEFT - 4}" y="{tick.place + 3}" text-anchor="end">{tick.label}</text>'
        )
    for tick in chart.x_ticks:
        parts.append(
            f'<text x="{tick.place}" y="{floor + 14}" text-anchor="middle">{tick.label}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{html.escape(chart.x_label)}</text>"
    )
    for line, color in zip(chart.lines, ("#0b62a8", "#999"), strict=False):
        parts.append(f'<polyline points="{line.path}" fill="none" stroke="{color}"/>')
    parts += [
        f'<circle cx="{x}" cy="{y}" r="2.5" fill="#0b62a8"/>' for x, y in chart.lines[0].points
    ]
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    sys.exit(run_benchmark(measure, description=__doc__))

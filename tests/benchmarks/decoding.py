"""Beam search beside transformers' own: python -m tests.benchmarks.decoding

The same small mBART with random weights, the same features, the same beams; what is found must be
the same, too. Ours also says how probable each hypothesis is. Random weights hardly ever end a
sentence, so that the work is known: all hypotheses have the most tokens that they may.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fla.models.ensemble import Member
from fla.models.light_t import build_small_mbart
from fla.models.translator import Translator, decode
from fla.search import Found, Search
from tests.benchmarks.line import fit_line
from tests.benchmarks.memory import measure_peak
from tests.benchmarks.race import ratios, seconds_of, take_turns
from tests.benchmarks.rows import Row, median_row, run_benchmark

ROUNDS = 4
SEED = 1
BATCH_SIZE, NUM_FRAMES, WIDTH = 16, 24, 256
SMALL_VOCABULARY, LARGE_VOCABULARY = 400, 32_000
START_ID = 4
SEARCH = Search(num_beams=5, max_new_tokens=25)
NUM_SENTENCES = (2, 16, 32, 48, 64)
FEW, MANY = NUM_SENTENCES[0], NUM_SENTENCES[-1]


def measure(_: Path) -> list[Row]:
    """Speed, memory, and the cost of a sentence by their number."""
    torch.set_num_threads(1)
    rows = []
    for vocabulary in (SMALL_VOCABULARY, LARGE_VOCABULARY):
        rows += _compare(vocabulary)
    return [*rows, *_lengthen()]


def _compare(vocabulary: int) -> list[Row]:
    name = f"decoding: {vocabulary} tokens"
    model, embeds = build(vocabulary), draw_embeds(BATCH_SIZE)
    if not torch.equal(_ours(model, embeds).ids[:, 0], _theirs(model, embeds)):
        raise RuntimeError("transformers' own search finds something else.")
    times = take_turns(
        {
            "ours": lambda: seconds_of(lambda: _ours(model, embeds)),
            "theirs": lambda: seconds_of(lambda: _theirs(model, embeds)),
        },
        rounds=ROUNDS,
        seed=SEED,
    )
    num_tokens = BATCH_SIZE * SEARCH.max_new_tokens
    peaks = {way: measure_peak(_work_of, way, vocabulary) for way in times}
    return [
        median_row(
            f"{name}, ours / generate()", ratios(times["theirs"], times["ours"]),
            unit="ratio of tokens a second", better="higher", target=1.0,
        ),
        median_row(
            f"{name}, ours", [num_tokens / second for second in times["ours"]],
            unit="tokens/s", better="higher",
        ),
        *(
            Row(name=f"{name}, memory of a batch, {way}", value=peak, unit="MiB", better="lower")
            for way, peak in peaks.items()
        ),
    ]  # fmt: skip


def _lengthen() -> list[Row]:
    model = build(SMALL_VOCABULARY)
    embeds = {count: draw_embeds(count) for count in NUM_SENTENCES}
    ways = {str(count): partial(_decode_all, model, embeds[count]) for count in NUM_SENTENCES}
    times = take_turns(ways, rounds=ROUNDS, seed=SEED)
    few, many = ([second / count for second in times[str(count)]] for count in (FEW, MANY))
    whole = [count for count in NUM_SENTENCES if count % BATCH_SIZE == 0]
    line = fit_line(whole, [min(times[str(count)]) for count in whole])
    return [
        median_row(
            f"decoding: a sentence of {MANY}, in batches of {BATCH_SIZE}",
            [1000 * second for second in many], unit="ms", better="lower",
        ),
        median_row(
            f"decoding: a sentence of {FEW}, against one of {MANY}", ratios(few, many),
            unit="ratio", better="lower",
        ),
        Row(
            name=f"decoding: {whole[0]} to {whole[-1]} sentences, largest distance from a line",
            value=100 * line.max_deviation, unit="%", better="lower", target=10.0,
        ),
    ]  # fmt: skip


def build(vocabulary: int) -> Translator:
    """The demo's small mBART with any vocabulary."""
    torch.manual_seed(SEED)
    return build_small_mbart(
        d_model=WIDTH, num_layers=3, num_heads=4, ffn_width=1024, dropout=0.0,
        vocab_size=vocabulary, pad_id=1, eos_id=2, start_id=START_ID,
    ).eval()  # fmt: skip


def draw_embeds(count: int) -> Tensor:
    """What the adapter would give, `(B, T, E)`."""
    torch.manual_seed(SEED)
    return torch.randn(count, NUM_FRAMES, WIDTH)


def _ours(model: Translator, embeds: Tensor) -> Found:
    member = Member(model=model, inputs_embeds=embeds, attention_mask=_mask(embeds))
    sample_ids = [str(number) for number in range(len(embeds))]
    return decode([member], search=SEARCH, start_id=START_ID, sample_ids=sample_ids)


@torch.no_grad()
def _theirs(model: Any, embeds: Tensor) -> Tensor:
    ids: Tensor = model.generate(
        inputs_embeds=embeds,
        attention_mask=_mask(embeds),
        num_beams=SEARCH.num_beams,
        length_penalty=SEARCH.length_penalty,
        max_new_tokens=SEARCH.max_new_tokens,
        decoder_start_token_id=START_ID,
        do_sample=False,
    )
    return ids


def _mask(embeds: Tensor) -> Tensor:
    return torch.ones(embeds.shape[:2], dtype=torch.int64)


def _decode_all(model: Translator, embeds: Tensor) -> float:
    return seconds_of(lambda: [_ours(model, batch) for batch in _batches(embeds)])


def _batches(embeds: Tensor) -> Iterator[Tensor]:
    yield from embeds.split(BATCH_SIZE)


def _work_of(way: str, vocabulary: int) -> Callable[[], object]:
    """For a process of its own."""
    search = {"ours": _ours, "theirs": _theirs}[way]
    model, embeds = build(vocabulary), draw_embeds(BATCH_SIZE)
    return lambda: search(model, embeds)


if __name__ == "__main__":
    sys.exit(run_benchmark(measure, description=__doc__))

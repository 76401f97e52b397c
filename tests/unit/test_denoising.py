from itertools import groupby

import numpy as np
import pytest

from fla.batch import IGNORE_INDEX, TextBatch
from fla.text.denoising import DenoisingLoader, mask_spans

MASK, PAD, EOS, LANGUAGE = 99, 1, 2, 90


def damage(tokens: list[int], seed: int = 0, **changes: float) -> list[int]:
    numbers = {"mask_fraction": 0.35, "mean_span_tokens": 3.5} | changes
    return mask_spans(tokens, rng=np.random.default_rng(seed), mask_id=MASK, **numbers)


def sentences(count: int) -> list[list[int]]:
    """Sentences of different lengths, the first token of each its own."""
    return [[100 + i, *range(10, 14 + i % 3), EOS, LANGUAGE] for i in range(count)]


def loader(
    count: int = 11, *, rank: int = 0, world_size: int = 1, seed: int = 1
) -> DenoisingLoader:
    return DenoisingLoader(
        sentences(count),
        rank=rank,
        world_size=world_size,
        seed=seed,
        global_batch_size=4,
        mask_id=MASK,
        pad_id=PAD,
        mask_fraction=0.35,
        mean_span_tokens=3.5,
    )


def written(batch: TextBatch) -> list[list[int]]:
    """The sentences that a batch asks for."""
    return [[i for i in row if i != IGNORE_INDEX] for row in batch.labels.tolist()]


def as_lists(batch: TextBatch) -> list[list[list[int]]]:
    return [batch.input_ids.tolist(), batch.attention_mask.tolist(), batch.labels.tolist()]


@pytest.mark.parametrize("seed", range(20))
def test_as_many_tokens_as_asked_for_disappear(seed):
    # 35 % of 20 is 7, wherever the spans fall.
    kept = [token for token in damage(list(range(20)), seed) if token != MASK]

    assert len(kept) == 13


@pytest.mark.parametrize("seed", range(20))
def test_what_stays_keeps_its_order_and_each_gap_is_one_mask(seed):
    damaged = damage(list(range(20)), seed)

    kept = [token for token in damaged if token != MASK]
    assert kept == sorted(kept)
    assert max(len(list(run)) for token, run in groupby(damaged) if token == MASK) == 1
    # A mask stands where tokens are missing, and nowhere else.
    bounded = [-1, *damaged, 20]
    for before, token, after in zip(bounded, bounded[1:], bounded[2:], strict=False):
        assert token != MASK or after - before > 1
        assert MASK in (before, token) or token - before == 1


def test_longer_spans_need_fewer_masks():
    def num_masks(mean: float) -> int:
        return sum(
            damage(list(range(40)), seed, mean_span_tokens=mean).count(MASK) for seed in range(30)
        )

    assert num_masks(8.0) < 0.6 * num_masks(1.0)


def test_a_sentence_too_short_for_a_mask_stays_as_it_is():
    assert damage([5]) == [5]
    assert damage([]) == []


def test_everything_can_be_masked():
    assert damage([5, 6, 7], mask_fraction=1.0) == [MASK]


def test_a_batch_asks_for_whole_sentences_and_shows_damaged_ones():
    (batch,) = next(iter(loader().epoch(0))).micro_batches

    known = {tuple(ids) for ids in sentences(11)}
    assert {tuple(row) for row in written(batch)} <= known
    for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
        length = int(mask.sum())
        assert mask.tolist() == [1] * length + [0] * (len(mask) - length)
        assert row[length - 2 : length].tolist() == [EOS, LANGUAGE]
        assert set(row[length:].tolist()) <= {PAD}
        assert MASK in row[:length]


def test_an_epoch_depends_on_seed_and_number_alone():
    def epoch(number: int, seed: int = 1) -> list[object]:
        return [as_lists(step.micro_batches[0]) for step in loader(seed=seed).epoch(number)]

    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(0, seed=2)


def test_epochs_differ_in_order_and_in_noise():
    def epoch(number: int) -> tuple[list[list[int]], dict[tuple[int, ...], list[int]]]:
        batches = [step.micro_batches[0] for step in loader().epoch(number)]
        damaged = {tuple(w): row for b in batches
                   for w, row in zip(written(b), b.input_ids.tolist(), strict=True)}  # fmt: skip
        return [row for batch in batches for row in written(batch)], damaged

    (first_order, first_noise), (second_order, second_noise) = epoch(0), epoch(1)

    assert first_order != second_order
    both = first_noise.keys() & second_noise.keys()
    assert any(first_noise[row].index(MASK) != second_noise[row].index(MASK) for row in both)


def test_going_on_within_an_epoch_gives_what_was_left():
    whole = [as_lists(step.micro_batches[0]) for step in loader().epoch(3)]

    left = [as_lists(step.micro_batches[0]) for step in loader().epoch(3, first_step=1)]

    assert len(whole) == 2
    assert left == whole[1:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_the_steps_of_one(world_size):
    alone = list(loader().epoch(0))

    ranks = [list(loader(rank=r, world_size=world_size).epoch(0)) for r in range(world_size)]

    for number, step in enumerate(alone):
        shares = [rank[number].micro_batches[0] for rank in ranks]
        together = sorted(row for share in shares for row in written(share))
        assert together == sorted(written(step.micro_batches[0]))
        assert len({tuple(row) for row in together}) == 4
        num_tokens = sum(len(row) for row in together)
        assert [rank[number].num_tokens for rank in ranks] == [num_tokens] * world_size
        assert step.num_tokens == num_tokens


def test_no_sentence_comes_twice_in_an_epoch():
    steps = [step.micro_batches[0] for step in loader().epoch(0)]

    rows = [tuple(row) for batch in steps for row in written(batch)]
    # 11 sentences fill two steps of 4; three sit out.
    assert len(rows) == len(set(rows)) == 8


def test_too_few_sentences_for_a_step_are_refused():
    with pytest.raises(ValueError, match="3 sentences"):
        loader(3)


def test_the_noise_of_a_sentence_is_the_same_on_any_number_of_ranks():
    def damaged_by_sentence(world_size: int) -> dict[tuple[int, ...], list[int]]:
        found = {}
        for rank in range(world_size):
            for step in loader(rank=rank, world_size=world_size).epoch(0):
                (batch,) = step.micro_batches
                lengths = batch.attention_mask.sum(1).tolist()
                rows = [row[:n] for row, n in zip(batch.input_ids.tolist(), lengths, strict=True)]
                found |= dict(zip(map(tuple, written(batch)), rows, strict=True))
        return found

    assert damaged_by_sentence(1) == damaged_by_sentence(2)
    assert len(damaged_by_sentence(1)) == 8

"""Intervals and tests: what is certain is found certain, what is chance is not."""

import random

import pytest

from fla.metrics.protocols import PROTOCOLS
from fla.metrics.scores import score
from fla.metrics.significance import compare_systems, score_on_two_cores, score_with_intervals

TEXT = PROTOCOLS["text"]
WORDS = "rain snow wind sun cloud north south east west today tomorrow night".split()


def corpus(num_sentences: int, *, wrong: float, seed: int) -> tuple[list[str], list[str]]:
    """Hypotheses of which a share of the words is wrong, and their references."""
    of_references, of_errors = random.Random(0), random.Random(seed)
    references = [
        " ".join(of_references.choices(WORDS, k=of_references.randint(4, 12)))
        for _ in range(num_sentences)
    ]
    hypotheses = [
        " ".join("x" if of_errors.random() < wrong else word for word in reference.split())
        for reference in references
    ]
    return hypotheses, references


def test_an_interval_holds_the_score_and_narrows_with_the_square_root_of_the_sentences():
    widths = {}
    for num_sentences in (50, 800):
        hypotheses, references = corpus(num_sentences, wrong=0.3, seed=1)
        scores, found = score_with_intervals(hypotheses, references, protocol=TEXT)
        assert found.keys() == {"bleu4", "rouge_l", "chrf2", "chrf_pp"}
        for name, interval in found.items():
            assert interval.low < getattr(scores, name) < interval.high
        widths[num_sentences] = found["rouge_l"].high - found["rouge_l"].low

    # Of 16 times the sentences: a quarter.
    assert widths[50] / widths[800] == pytest.approx(4, rel=0.25)


def test_an_interval_of_a_mean_is_that_of_the_normal_distribution():
    # ROUGE-L is a mean of sentences that score 0 or 100, half of them: 1.96 x 50 / sqrt(400).
    hypotheses, references = ["rain", "snow"] * 200, ["rain"] * 400

    _, intervals = score_with_intervals(hypotheses, references, protocol=TEXT)
    interval = intervals["rouge_l"]

    assert interval.low == pytest.approx(50 - 4.9, abs=0.5)
    assert interval.high == pytest.approx(50 + 4.9, abs=0.5)


def test_the_same_corpus_gets_the_same_interval_each_time():
    pairs = corpus(60, wrong=0.3, seed=1)

    first = score_with_intervals(*pairs, protocol=TEXT)

    assert score_with_intervals(*pairs, protocol=TEXT) == first


def test_scores_with_intervals_are_those_without():
    pairs = corpus(60, wrong=0.3, seed=1)

    scores, intervals = score_with_intervals(*pairs, protocol=TEXT)

    assert scores == score(*pairs, protocol=TEXT)
    assert score_on_two_cores(*pairs, protocol=TEXT) == (scores, intervals)


def test_what_reduced_bleu_leaves_out_altogether_scores_nothing_and_differs_by_chance():
    protocol = PROTOCOLS["how2sign-rbleu"]
    pairs = (["clay", "wood"], ["That's it.", "And so on."])

    scores, intervals = score_with_intervals(*pairs, protocol=protocol)

    assert (scores.num_sentences, scores.bleu4, scores.rouge_l, scores.chrf2) == (0, 0, 0, 0)
    assert {(it.low, it.high) for it in intervals.values()} == {(0, 0)}
    for it in compare_systems(["clay", "x"], *pairs, protocol=protocol).values():
        assert (it.baseline, it.other, it.bootstrap_p, it.randomisation_p) == (0, 0, 1, 1)


def test_a_system_does_not_differ_from_itself():
    hypotheses, references = corpus(60, wrong=0.3, seed=1)

    for it in compare_systems(hypotheses, hypotheses, references, protocol=TEXT).values():
        assert it.baseline == it.other
        assert (it.bootstrap_p, it.randomisation_p) == (1, 1)


def test_a_system_with_half_the_errors_is_better_beyond_chance():
    good, references = corpus(200, wrong=0.1, seed=1)
    poor, _ = corpus(200, wrong=0.3, seed=2)

    for it in compare_systems(poor, good, references, protocol=TEXT).values():
        assert it.other > it.baseline
        assert max(it.bootstrap_p, it.randomisation_p) < 0.01


def test_two_systems_with_errors_alike_differ_by_chance():
    one, references = corpus(200, wrong=0.3, seed=1)
    other, _ = corpus(200, wrong=0.3, seed=2)

    for it in compare_systems(one, other, references, protocol=TEXT).values():
        assert min(it.bootstrap_p, it.randomisation_p) > 0.05


def test_which_of_two_systems_is_the_baseline_makes_no_difference():
    one, references = corpus(100, wrong=0.3, seed=1)
    other, _ = corpus(100, wrong=0.25, seed=2)

    there = compare_systems(one, other, references, protocol=TEXT)
    back = compare_systems(other, one, references, protocol=TEXT)

    for name, it in there.items():
        assert (it.baseline, it.other) == (back[name].other, back[name].baseline)
        assert it.bootstrap_p == pytest.approx(back[name].bootstrap_p, abs=0.02)
        assert it.randomisation_p == pytest.approx(back[name].randomisation_p, abs=0.02)


def test_reduced_bleu_compares_systems_on_the_same_sentences():
    # Alone, the first system's second sentence would be left out.
    references = ["red clay", "blue paint", "green wood"]
    found = compare_systems(
        ["red clay", ".", "green wood"],
        ["red clay", "blue paint", "green wood"],
        references,
        protocol=PROTOCOLS["how2sign-rbleu"],
    )

    assert found["rouge_l"].baseline == pytest.approx(200 / 3)
    assert found["rouge_l"].other == pytest.approx(100)

"""Scores of sentences that can be counted by hand."""

import math
import subprocess
import sys

import pytest

from fla.metrics.protocols import PROTOCOLS
from fla.metrics.scores import Scores
from fla.metrics.scores import score as score_by

# Matches: 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples; as long as its reference.
CAT = ("the cat sat on the mat", "the cat sat on a mat")
# Everything matches, 4 words for 6.
SHORT = ("the cat sat on", "the cat sat on the mat")


def score(hypotheses: list[str], references: list[str]) -> Scores:
    return score_by(hypotheses, references, protocol=PROTOCOLS["text"])


def test_bleu_of_one_sentence_is_the_geometric_mean_of_its_precisions():
    scores = score([CAT[0]], [CAT[1]])

    assert scores.bleu1 == pytest.approx(100 * 5 / 6)
    assert scores.bleu2 == pytest.approx(70.7107, abs=1e-4)  # sqrt(5/6 x 3/5)
    assert scores.bleu3 == pytest.approx(62.9961, abs=1e-4)  # (5/6 x 3/5 x 2/4) ^ 1/3
    assert scores.bleu4 == pytest.approx(53.7285, abs=1e-4)  # (1/12) ^ 1/4


def test_bleu_pools_the_counts_of_the_corpus_and_its_length():
    scores = score([CAT[0], SHORT[0]], [CAT[1], SHORT[1]])

    brevity = math.exp(1 - 12 / 10)
    assert scores.bleu1 == pytest.approx(100 * brevity * 9 / 10)
    assert scores.bleu2 == pytest.approx(100 * brevity * (9 / 10 * 6 / 8) ** (1 / 2))
    assert scores.bleu3 == pytest.approx(100 * brevity * (9 / 10 * 6 / 8 * 4 / 6) ** (1 / 3))
    assert scores.bleu4 == pytest.approx(
        100 * brevity * (9 / 10 * 6 / 8 * 4 / 6 * 2 / 4) ** (1 / 4)
    )


def test_rouge_l_weighs_recall_and_averages_over_sentences():
    scores = score([CAT[0], SHORT[0]], [CAT[1], SHORT[1]])

    # Longest common subsequences: 5 words of 6 and 6; 4 words of 4 and 6.
    # F = (1 + 1.2^2) P R / (R + 1.2^2 P)
    assert scores.rouge_l == pytest.approx(100 * (0.833333 + 0.772152) / 2, abs=1e-3)


def test_chrf2_weighs_recall_twice():
    # Characters: P 2/2, R 2/3; pairs: P 1/1, R 1/2; F2 = 5 P R / (4 P + R), P = 1, R = 7/12.
    assert score(["ab"], ["abc"]).chrf2 == pytest.approx(100 * 7 / 11)


def test_case_and_punctuation_count():
    assert score(["Is it cold today ?"], ["Is it cold today?"]).bleu4 == pytest.approx(100)
    assert score(["is it cold today?"], ["Is it cold today?"]).bleu1 == pytest.approx(80)


def test_words_of_any_script_count_in_rouge_l():
    assert score(["über 天 气"], ["über 天 气"]).rouge_l == pytest.approx(100)


def test_the_four_orders_equal_four_runs_of_sacrebleu():
    from sacrebleu.metrics.bleu import BLEU

    hypotheses = ["we saw a red house by the sea", "no", "it never rains here"]
    references = ["we saw the red house by the sea", "no it does not", "it rains here"]
    scores = score(hypotheses, references)

    for order in (1, 2, 3, 4):
        expected = BLEU(max_ngram_order=order).corpus_score(hypotheses, [references]).score
        assert scores.as_dict()[f"bleu{order}"] == pytest.approx(expected)


def test_empty_hypotheses_score_zero():
    scores = score(["", ""], ["some words", "more words"])

    assert scores.as_metrics("dev") == {
        "dev/bleu1": 0.0,
        "dev/bleu2": 0.0,
        "dev/bleu3": 0.0,
        "dev/bleu4": 0.0,
        "dev/rouge_l": 0.0,
        "dev/chrf2": 0.0,
        "dev/chrf_pp": 0.0,
    }


def test_signature_names_the_whole_protocol():
    signature = score(["a"], ["a"]).signature

    assert signature.startswith(
        "text.v1|prep:none BLEU-4|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:"
    )
    assert " ROUGE-L|nrefs:1|rouge:mscoco.beta1.2.blanks.sentence-mean|" in signature
    assert " chrF2|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|" in signature
    assert " chrF++|nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|" in signature


@pytest.mark.parametrize(("hypotheses", "references"), [(["a"], ["a", "b"]), ([], [])])
def test_unequal_or_empty_lists_are_refused(hypotheses, references):
    with pytest.raises(ValueError, match=f"got {len(hypotheses)} and {len(references)}"):
        score(hypotheses, references)


def test_importing_the_module_imports_no_metric_library():
    code = (
        "import sys, fla.metrics.scores; print(*{'sacrebleu', 'nltk', 'torch'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""

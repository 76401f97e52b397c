"""Every protocol on sentences that can be counted by hand, and against other people's code."""

import hashlib
import random
import subprocess
import sys
from math import exp
from typing import get_args

import pytest

from fla.config.schema import ProtocolName
from fla.errors import ConfigError
from fla.metrics.preparation import FREQUENT_WORDS, prepare, prepare_pairs
from fla.metrics.protocols import PROTOCOLS, find_protocol
from fla.metrics.scores import Scores, score, score_sentences

# BLEU-1, BLEU-4, ROUGE-L, chrF2, chrF++.
EXPECTED = {
    "text": [66.187, 31.541, 41.418, 65.821, 65.475],
    "phoenix14t": [71.703, 41.836, 45.81, 67.924, 68.795],
    "phoenix14t-period": [70.456, 15.394, 66.957, 67.277, 68.174],
    "csl-daily-char": [85.657, 72.19, 84.804, 65.821, 69.901],
    "csl-daily-char-nfkc": [87.441, 76.934, 89.303, 70.803, 74.337],
    "how2sign": [66.187, 31.541, 41.418, 65.821, 65.475],
    "how2sign-rbleu": [80.0, 80.089, 61.905, 91.042, 89.006],
}

WEATHER = "und nun die wettervorhersage für morgen"


def scores_of(name: str, hypothesis: str, reference: str) -> Scores:
    return score([hypothesis], [reference], protocol=PROTOCOLS[name])


def test_an_unknown_protocol_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"protocol \(bleu\): .*Use one of text, phoenix14t, "):
        find_protocol("bleu")


def test_the_names_of_the_configuration_are_those_of_the_protocols():
    assert get_args(ProtocolName) == tuple(PROTOCOLS)


def test_each_version_scores_a_fixed_corpus_as_it_always_did():
    # A change here raises the protocol's version.
    hypotheses = [
        "Es regnet im Norden, und im Süden.",
        "我今天去，学校。",
        "Now take the red clay.",
    ]
    references = [
        "es regnet im Norden und im Süden .",
        "我今天去,学校",
        "Now you take some red clay.",
    ]
    found = {
        name: [round(value, 3) for value in (it.bleu1, it.bleu4, it.rouge_l, it.chrf2, it.chrf_pp)]
        for name, protocol in PROTOCOLS.items()
        for it in [score(hypotheses, references, protocol=protocol)]
    }

    assert {protocol.version for protocol in PROTOCOLS.values()} == {1}
    assert found == EXPECTED


def test_german_without_case_on_phoenix():
    # 4 of 5 words; no pair of pairs is lost but those around the wrong word: 2 of 4, 1 of 3, 0.
    scores = scores_of("phoenix14t", "Im Norden regnet es HEUTE", "im norden schneit es heute")

    assert scores.bleu1 == pytest.approx(100 * 4 / 5)
    assert scores.bleu2 == pytest.approx(100 * (4 / 5 * 2 / 4) ** (1 / 2))
    # Two words before and two behind: P = R = F = 4/5.
    assert scores.rouge_l == pytest.approx(80)
    assert scores_of("text", "Im Norden", "im norden").bleu1 == 0


def test_a_period_on_both_sides_of_phoenix_is_one_more_word():
    # Without it 2 of 3 words; with it 3 of 4.
    assert scores_of("phoenix14t", "es ist kalt", "es ist warm").bleu1 == pytest.approx(200 / 3)
    assert scores_of("phoenix14t-period", "es ist kalt", "es ist warm").bleu1 == pytest.approx(75)


def test_a_period_that_is_there_is_not_doubled():
    protocol = PROTOCOLS["phoenix14t-period"]

    assert prepare(f"{WEATHER} .", protocol) == prepare(WEATHER, protocol) == f"{WEATHER} ."


def test_period_counts_by_blanks_alone():
    # tokenize none: `kalt,` is another word than `kalt`; 13a would part them.
    assert scores_of("phoenix14t-period", "kalt, ja", "kalt ja").bleu1 == pytest.approx(200 / 3)


def test_chinese_characters_are_words():
    # The last of 5 characters is wrong, and with it the last pair, triple and quadruple.
    scores = scores_of("csl-daily-char", "我去学校吗", "我去学校了")

    assert scores.bleu1 == pytest.approx(80)
    assert scores.bleu2 == pytest.approx(100 * (4 / 5 * 3 / 4) ** (1 / 2))
    assert scores.bleu4 == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4))
    assert scores.rouge_l == pytest.approx(80)
    # chrF takes blanks for nothing, so it is the same with and without them.
    assert scores.chrf2 == pytest.approx(scores_of("text", "我去学校吗", "我去学校了").chrf2)


def test_blanks_in_chinese_do_not_count():
    assert scores_of("csl-daily-char", "我 去 学 校", "我去学校").bleu4 == pytest.approx(100)


def test_full_and_half_width_punctuation_are_alike_by_a_named_choice_only():
    hypothesis, reference = "你好,吗?", "你好，吗？"

    # 3 of 5 characters.
    assert scores_of("csl-daily-char", hypothesis, reference).bleu1 == pytest.approx(60)
    assert scores_of("csl-daily-char-nfkc", hypothesis, reference).bleu4 == pytest.approx(100)


def test_how2sign_counts_case_and_punctuation():
    # 13a parts the period: 3 of 4 words, as `we` is not `We`.
    assert scores_of("how2sign", "we try again.", "We try again.").bleu1 == pytest.approx(75)


def test_the_word_list_of_reduced_bleu_is_the_published_one():
    assert len(FREQUENT_WORDS) == 290
    assert hashlib.sha256("\n".join(FREQUENT_WORDS).encode()).hexdigest() == (
        "35038fc3aa16e4cd7286a2ff49068262656d92f6056d18caca227bbe680f2496"
    )


def test_reduced_bleu_counts_the_words_that_say_something():
    protocol = PROTOCOLS["how2sign-rbleu"]

    # "Was" slipped through the published list, and so it stays.
    assert prepare("Now, I'm going to sand the red wood.", protocol) == "sand red wood"
    assert prepare("Was it the WOOD?", protocol) == "Was WOOD"
    # 2 of 3, shorter than its reference of 4: exp(1 - 4/3).
    scores = scores_of(
        "how2sign-rbleu", "You sand the red wood.", "Sand your red wood here gently."
    )
    assert scores.bleu1 == pytest.approx(100 * exp(1 - 4 / 3) * 2 / 3)


def test_reduced_bleu_leaves_out_the_pairs_that_its_authors_leave_out():
    protocol = PROTOCOLS["how2sign-rbleu"]
    hypotheses = ["clay", "the", ".", "clay"]
    references = ["red clay", "red clay", "red clay", "That's it."]

    kept, expected = prepare_pairs(hypotheses, references, protocol)

    # A hypothesis of frequent words counts against the system; one without words does not.
    assert kept == ["clay", ""]
    assert expected == ["red clay", "red clay"]
    assert score(hypotheses, references, protocol=protocol).num_sentences == 2
    assert score(["clay"], ["That's it."], protocol=protocol).num_sentences == 0


def test_sentences_are_scored_one_by_one_in_their_order():
    protocol = PROTOCOLS["text"]
    found = score_sentences(["a b c", "x", ""], ["a b d", "x", "y"], protocol=protocol)

    # Three words have no quadruple; the triple that is wrong is smoothed to half a match.
    assert found[0].bleu4 == pytest.approx(100 * (2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3))
    assert found[0].rouge_l == pytest.approx(200 / 3)
    assert [it.chrf2 for it in found[1:]] == [pytest.approx(100), 0]


def random_pairs(num_pairs: int) -> tuple[list[str], list[str]]:
    rng = random.Random(1)
    words = "der die regen schnee wind morgen heute im norden süden 天 气 it's red, clay .".split()
    references = [" ".join(rng.choices(words, k=rng.randint(1, 20))) for _ in range(num_pairs)]
    hypotheses = []
    for reference in references:
        kept = [word for word in reference.split() if rng.random() < 0.7]
        added = rng.choices(words, k=rng.randint(0, 5))
        hypotheses.append(" ".join(kept + added))
    return hypotheses, references


def test_rouge_l_of_a_thousand_pairs_is_the_caption_metrics():
    from pycocoevalcap.rouge.rouge import Rouge

    hypotheses, references = random_pairs(1000)

    expected, by_sentence = Rouge().compute_score(
        {i: [text] for i, text in enumerate(references)},
        {i: [text] for i, text in enumerate(hypotheses)},
    )

    protocol = PROTOCOLS["text"]
    assert score(hypotheses, references, protocol=protocol).rouge_l == pytest.approx(100 * expected)
    ours = [it.rouge_l for it in score_sentences(hypotheses, references, protocol=protocol)]
    assert ours == pytest.approx([100 * value for value in by_sentence])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text", []),
        ("phoenix14t-period", ["--tokenize", "none", "--smooth-method", "floor"]),
    ],
)
def test_bleu_and_chrf_of_a_thousand_pairs_are_those_of_sacrebleus_command(name, words, tmp_path):
    protocol = PROTOCOLS[name]
    hypotheses, references = random_pairs(1000)
    prepared, expected = prepare_pairs(hypotheses, references, protocol)
    for file, texts in (("hyp", prepared), ("ref", expected)):
        (tmp_path / file).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")

    def command(*more: str) -> float:
        done = subprocess.run(
            [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-b", "-w", "6", *more],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout)

    found = score(hypotheses, references, protocol=protocol)
    assert found.bleu4 == pytest.approx(command("-m", "bleu", *words), abs=1e-5)
    assert found.chrf2 == pytest.approx(command("-m", "chrf"), abs=1e-5)
    assert found.chrf_pp == pytest.approx(command("-m", "chrf", "--chrf-word-order", "2"), abs=1e-5)

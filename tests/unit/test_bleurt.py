"""BLEURT from a checkpoint: a small one, which another implementation of the model knows, too."""

from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import BertForSequenceClassification

from fla.errors import CheckpointError
from fla.metrics.bleurt import score_pairs
from tests.helpers.bleurt import MAX_TOKENS, WORDS, write_bleurt

PAIRS = [
    ("rain north west", "snow north west"),
    ("", "sun today"),
    ("wind", "west wind tomorrow night east wind today"),
    ("wind", "wind"),
    ("wind", "wind"),
]


@pytest.fixture
def bert(tmp_path: Path) -> BertForSequenceClassification:
    return write_bleurt(tmp_path)


@pytest.fixture
def checkpoint(bert: BertForSequenceClassification, tmp_path: Path) -> Path:
    return tmp_path


@torch.no_grad()
def score_by_bert(bert: BertForSequenceClassification, checkpoint: Path, pair: tuple[str, str]):
    """One pair at a time, as published: the reference comes first."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(checkpoint / "spm.model"))
    hypothesis, reference = map(pieces.encode, pair)
    begin, end = map(pieces.piece_to_id, ("[CLS]", "[SEP]"))
    ids = [begin, *reference, end, *hypothesis, end]
    kinds = [0] * (len(reference) + 2) + [1] * (len(hypothesis) + 1)
    assert len(ids) <= MAX_TOKENS
    said = bert(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([kinds]))
    return said.logits.item()


def test_pairs_are_scored_in_a_batch_as_bert_scores_them_one_by_one(bert, checkpoint):
    metric = score_pairs(PAIRS, checkpoint)

    expected = [score_by_bert(bert, checkpoint, pair) for pair in PAIRS]
    assert [metric.score_pair(*pair) for pair in PAIRS] == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in expected}) == 4
    hypotheses, references = zip(*PAIRS, strict=True)
    found = metric.corpus_score(hypotheses, [references])
    assert found.score == pytest.approx(100 * sum(expected) / len(expected), abs=1e-3)


def test_a_pair_that_is_too_long_is_cut_where_it_is_longer(checkpoint):
    long = " ".join(WORDS * 10)

    metric = score_pairs([("wind", long), ("wind", f"{long} snow")], checkpoint)

    # Both are cut at the same place, the hypothesis not at all.
    assert metric.score_pair("wind", long) == metric.score_pair("wind", f"{long} snow")


def test_the_signature_names_the_weights(checkpoint):
    metric = score_pairs(PAIRS, checkpoint)
    hypotheses, references = zip(*PAIRS, strict=True)
    metric.corpus_score(hypotheses, [references])

    assert f"weights:{metric.weights}|prep:none" in str(metric.get_signature())
    other = torch.zeros(1)
    save_file({"x": other}, checkpoint / "more.safetensors")
    assert score_pairs(PAIRS, checkpoint).weights != metric.weights


def spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def spoil_weights(folder: Path) -> None:
    save_file({"bleurt.pooler.dense.bias": torch.zeros(3)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda folder: (folder / "spm.model").unlink(), "there is no spm.model"),
        (lambda folder: (folder / "spm.model").write_bytes(b"x"), "this is no SentencePiece model"),
        (lambda folder: (folder / "saved_model.pb").touch(), "this is BLEURT-20 as TensorFlow has"),
        (spoil_config, "config.json: this does not describe a BLEURT-20 ('vocab_size')"),
        (spoil_weights, "word_embeddings.weight is missing, or has another shape"),
        (lambda folder: (folder / "model.safetensors").unlink(), "there are no weights"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_a_sentence(checkpoint, spoil, expected):
    spoil(checkpoint)

    with pytest.raises(CheckpointError) as error:
        score_pairs(PAIRS, checkpoint)

    assert expected in str(error.value)

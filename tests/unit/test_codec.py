import json
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import MBartTokenizer

from fla.errors import CheckpointError, ConfigError, DataError
from fla.text.codec import LANGUAGES, TextCodec, normalize_sentence, read_codec, train_codec

CORPUS = [
    "The cat isn't here, is it?",
    "I don't like dogs.",
    "Where do you live now?",
    "My father's house has two big windows!",
    "Put the cat outside; it likes the garden.",
] * 20

# Written by transformers 5.23.0 from CORPUS; ids must outlive upgrades, or old exports speak
# gibberish.
FROZEN = Path(__file__).parent / "tokenizer"
FROZEN_VOCAB_SIZE = 142
# fmt: off
FROZEN_IDS = [
    4, 44, 30, 4, 19, 11, 22, 5, 4, 55, 20, 4, 41, 11, 33, 9, 5, 4, 14, 8, 6, 46, 14, 5, 35, 12,
    16, 5, 6, 9, 7, 24, 18, 2, 119,
]
# fmt: on


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    return train_codec(CORPUS, max_pieces=200, language="en_XX")


@pytest.fixture
def folder(codec: TextCodec, tmp_path: Path) -> Path:
    codec.save(tmp_path / "codec")
    return tmp_path / "codec"


def encode(codec: TextCodec, sentence: str) -> list[int]:
    return codec.encode([sentence], max_tokens=500)[0]


def round_trip(codec: TextCodec, sentence: str) -> str:
    return codec.decode(torch.tensor([encode(codec, sentence)]))[0]


def test_labels_end_with_eos_and_the_language(codec: TextCodec):
    ids = encode(codec, "I like it.")

    assert ids[-2:] == [codec.eos_id, codec.language_id]
    assert not {codec.eos_id, codec.language_id, codec.pad_id} & set(ids[:-2])


def test_an_empty_sentence_is_eos_and_the_language(codec: TextCodec):
    assert encode(codec, "") == [codec.eos_id, codec.language_id]


@pytest.mark.parametrize(
    "sentence",
    [
        *CORPUS[:5],
        'Zebras quizzed Jack, 17 "vexing" e-mails & co. (at 50%)...',
        "x" * 200,
        "\ufb01sh \uff21\uff22 \u2460 h\u2082o",
        "  two\tspaces \u00a0 here\n",
    ],
)
def test_decoding_gives_the_normalized_sentence_back(codec: TextCodec, sentence: str):
    normal = " ".join(unicodedata.normalize("NFKC", sentence).split())

    assert round_trip(codec, sentence) == normal


def test_ligatures_and_full_width_letters_are_folded():
    assert normalize_sentence(" \ufb01sh\u00a0\uff21\uff22  e\u0301 ") == "fish AB \u00e9"


def test_unseen_words_are_spelled_out_and_never_unknown(codec: TextCodec):
    tokenizer = codec._tokenizer

    ids = encode(codec, "Qwertz Xylophone 12345 #@~^{}")

    assert tokenizer.unk_token_id not in ids


def test_unseen_characters_are_left_out_without_a_crash(codec: TextCodec):
    assert round_trip(codec, "\u4e2d the \U0001f600 cat") == "the cat"


def test_too_long_a_sentence_is_named_with_its_length(codec: TextCodec):
    length = len(encode(codec, "x x x x"))

    with pytest.raises(DataError, match=rf'"x x x x" has {length} tokens, but max_tokens is'):
        codec.encode(["I", "x x x x"], max_tokens=length - 1)
    assert len(codec.encode(["x x x x"], max_tokens=length)[0]) == length


@pytest.mark.parametrize("word", ["</s>", "<pad>", "en_XX", "<mask>"])
def test_a_control_token_in_the_text_is_refused(codec: TextCodec, word: str):
    with pytest.raises(DataError, match="control token"):
        encode(codec, f"the {word} cat")


def test_the_layout_is_mbarts(codec: TextCodec):
    tokens = codec._tokenizer.convert_ids_to_tokens(list(range(codec.vocab_size)))

    assert tokens[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert tokens[-26:] == [*LANGUAGES, "<mask>"]
    assert len(set(tokens)) == codec.vocab_size
    assert (codec.pad_id, codec.eos_id, codec.mask_id) == (1, 2, codec.vocab_size - 1)


def test_the_same_text_gives_the_same_vocabulary(codec: TextCodec):
    again = train_codec(CORPUS, max_pieces=200, language="en_XX")

    assert (
        again._tokenizer.backend_tokenizer.to_str() == codec._tokenizer.backend_tokenizer.to_str()
    )


def test_a_saved_codec_reads_back_the_same(codec: TextCodec, folder: Path):
    back = read_codec(folder, language="en_XX")

    assert back.vocab_size == codec.vocab_size
    assert back.mask_id == codec.mask_id
    for sentence in CORPUS[:5]:
        assert encode(back, sentence) == encode(codec, sentence)


def test_the_sentencepiece_file_of_older_releases_is_read_in_mbarts_layout(tmp_path: Path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(tmp_path / "sentencepiece.bpe"),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(str(tmp_path / "sentencepiece.bpe.model"))

    codec = read_codec(tmp_path, language="en_XX")

    assert codec.vocab_size == pieces.get_piece_size() + 27
    # mBART has <pad> in front, so every piece moves by one.
    expected = [piece + 1 for piece in pieces.encode("I like cats.")]
    assert encode(codec, "I like cats.")[:-2] == expected
    assert round_trip(codec, "I like cats.") == "I like cats."


def test_the_language_is_the_callers_and_not_the_folders(codec: TextCodec, folder: Path):
    german = read_codec(folder, language="de_DE")

    assert german.language_id == codec.language_id - 1
    assert encode(german, "I like it.")[-1] == german.language_id


def test_a_saved_codec_speaks_its_language_in_transformers_too(folder: Path, tmp_path: Path):
    german = read_codec(folder, language="de_DE")

    german.save(tmp_path / "german")

    tokenizer = MBartTokenizer.from_pretrained(tmp_path / "german")
    assert tokenizer("I like it.")["input_ids"] == encode(german, "I like it.")


def test_ids_of_a_frozen_tokenizer_never_change():
    codec = read_codec(FROZEN, language="en_XX")

    assert codec.vocab_size == FROZEN_VOCAB_SIZE
    assert (codec.pad_id, codec.eos_id, codec.mask_id) == (1, 2, FROZEN_VOCAB_SIZE - 1)
    assert codec.language_id == FROZEN_VOCAB_SIZE - 23
    assert encode(codec, "The cat likes my father's windows, doesn't it?") == FROZEN_IDS


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        read_codec(tmp_path, language="en_XX")


def test_a_language_that_mbart_does_not_have_is_refused(folder: Path):
    with pytest.raises(ConfigError, match=r"text\.language \(en\) is no language code"):
        read_codec(folder, language="en")
    with pytest.raises(ConfigError, match=r"text\.language \(en\) is no language code"):
        train_codec(CORPUS, max_pieces=200, language="en")


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {"type": "BPE"}}'])
def test_a_tokenizer_of_another_kind_is_refused(folder: Path, content: str):
    (folder / "tokenizer.json").write_text(content)

    with pytest.raises(CheckpointError, match=r"tokenizer\.json: "):
        read_codec(folder, language="en_XX")


def test_a_vocabulary_that_lost_its_languages_is_refused(folder: Path):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    rows = content["model"]["vocab"]
    content["model"]["vocab"] = [row for row in rows if row[0] not in LANGUAGES[:-2]]
    content["added_tokens"] = []
    path.write_text(json.dumps(content))

    with pytest.raises(CheckpointError, match="lacks 23 of mBART's control tokens"):
        read_codec(folder, language="en_XX")


def test_too_few_pieces_for_the_characters_are_refused_with_both_numbers():
    with pytest.raises(ConfigError, match=r"\(60\) .* Set it to 98 or more"):
        train_codec(CORPUS, max_pieces=60, language="en_XX")

    assert train_codec(CORPUS, max_pieces=98, language="en_XX").vocab_size == 98 + 27


def test_no_text_is_refused():
    with pytest.raises(DataError, match="no sentence"):
        train_codec(["", "  "], max_pieces=200, language="en_XX")

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import MBartTokenizer, T5Tokenizer

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


def write_spiece(folder: Path, **config: object) -> sentencepiece.SentencePieceProcessor:
    """A T5 vocabulary as Google ships it: one SentencePiece model, ids as they are in it."""
    folder.mkdir(exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(folder / "spiece"),
        vocab_size=80,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))


# google/mt5-base has these lines, and no tokenizer_class.
MT5_CONFIG = {
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "extra_ids": 0,
    "additional_special_tokens": None,
}


@pytest.fixture
def t5_folder(tmp_path: Path) -> Path:
    write_spiece(tmp_path / "t5", **MT5_CONFIG)
    return tmp_path / "t5"


def encode(codec: TextCodec, sentence: str) -> list[int]:
    return codec.encode([sentence], max_tokens=500)[0]


def round_trip(codec: TextCodec, sentence: str) -> str:
    return codec.decode(torch.tensor([encode(codec, sentence)]))[0]


def test_labels_end_with_eos_and_the_language(codec: TextCodec):
    ids = encode(codec, "I like it.")

    assert ids[-2:] == [codec.eos_id, codec.start_id]
    assert not {codec.eos_id, codec.start_id, codec.pad_id} & set(ids[:-2])


def test_an_empty_sentence_is_eos_and_the_language(codec: TextCodec):
    assert encode(codec, "") == [codec.eos_id, codec.start_id]


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


@pytest.mark.parametrize("kind", ["mbart", "t5"])
def test_spaces_stay_for_who_decodes_with_a_saved_tokenizer(
    folder: Path, t5_folder: Path, tmp_path: Path, kind: str
):
    source = shutil.copytree(folder if kind == "mbart" else t5_folder, tmp_path / "source")
    config = source / "tokenizer_config.json"
    fields = json.loads(config.read_text()) if config.is_file() else {}
    # As transformers had it before version 5.
    config.write_text(json.dumps(fields | {"clean_up_tokenization_spaces": True}))
    codec = read_codec(source, language="en_XX")
    ids = encode(codec, "the cat .")

    codec.save(tmp_path / "saved")
    theirs = (MBartTokenizer if kind == "mbart" else T5Tokenizer).from_pretrained(
        tmp_path / "saved"
    )

    assert codec.decode([ids]) == ["the cat ."]
    assert theirs.batch_decode([ids], skip_special_tokens=True) == ["the cat ."]


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

    assert german.start_id == codec.start_id - 1
    assert encode(german, "I like it.")[-1] == german.start_id


def test_a_saved_codec_speaks_its_language_in_transformers_too(folder: Path, tmp_path: Path):
    german = read_codec(folder, language="de_DE")

    german.save(tmp_path / "german")

    tokenizer = MBartTokenizer.from_pretrained(tmp_path / "german")
    assert tokenizer("I like it.")["input_ids"] == encode(german, "I like it.")


def test_ids_of_a_frozen_tokenizer_never_change():
    codec = read_codec(FROZEN, language="en_XX")

    assert codec.vocab_size == FROZEN_VOCAB_SIZE
    assert (codec.pad_id, codec.eos_id, codec.mask_id) == (1, 2, FROZEN_VOCAB_SIZE - 1)
    assert codec.start_id == FROZEN_VOCAB_SIZE - 23
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


def test_labels_of_t5_end_with_eos_and_translations_start_with_padding(t5_folder: Path):
    codec = read_codec(t5_folder, language="de_DE")

    ids = encode(codec, "I like it.")

    assert ids[-1] == codec.eos_id
    assert not {codec.eos_id, codec.pad_id} & set(ids[:-1])
    assert (codec.pad_id, codec.eos_id, codec.start_id, codec.end_ids) == (0, 1, 0, (1,))
    assert encode(codec, "") == [codec.eos_id]


def test_t5s_ids_are_those_of_its_sentencepiece_model(tmp_path: Path):
    pieces = write_spiece(tmp_path, **MT5_CONFIG)

    codec = read_codec(tmp_path, language="en_XX")

    assert codec.vocab_size == pieces.get_piece_size()
    for sentence in CORPUS[:5]:
        assert encode(codec, sentence)[:-1] == pieces.encode(sentence)
        assert round_trip(codec, sentence) == sentence


def test_a_t5_without_a_word_on_its_sentinels_has_100_of_them(tmp_path: Path):
    pieces = write_spiece(tmp_path)

    codec = read_codec(tmp_path, language="en_XX")

    assert codec.vocab_size == pieces.get_piece_size() + 100
    with pytest.raises(DataError, match="control token"):
        encode(codec, "the <extra_id_7> cat")


def test_a_saved_t5_codec_reads_back_the_same_in_transformers_too(t5_folder: Path, tmp_path: Path):
    codec = read_codec(t5_folder, language="en_XX")
    codec.save(tmp_path / "saved")

    back = read_codec(tmp_path / "saved", language="en_XX")
    theirs = T5Tokenizer.from_pretrained(tmp_path / "saved")

    assert (back.vocab_size, back.start_id, back.end_ids) == (codec.vocab_size, 0, (1,))
    for sentence in CORPUS[:5]:
        assert encode(back, sentence) == encode(codec, sentence)
        assert theirs(sentence)["input_ids"] == encode(codec, sentence)


def test_t5_gets_normalized_sentences_and_leaves_unseen_characters_out(t5_folder: Path):
    codec = read_codec(t5_folder, language="en_XX")

    assert round_trip(codec, "the  \ufb01ne\u00a0\u4e2d cat") == "the fine cat"
    assert encode(codec, "\uff34he cat") == encode(codec, "The cat")


def test_ids_behind_the_tokens_are_left_out(t5_folder: Path):
    # A T5 has more rows than tokens, so a new one may say such an id.
    codec = read_codec(t5_folder, language="en_XX")
    ids = [codec.start_id, *encode(codec, "the cat")[:-1], codec.vocab_size + 7, codec.eos_id, 0]

    assert codec.decode(torch.tensor([ids])) == ["the cat"]


def test_too_long_a_sentence_for_t5_is_named_with_its_length(t5_folder: Path):
    codec = read_codec(t5_folder, language="en_XX")
    length = len(encode(codec, "I like it."))

    with pytest.raises(DataError, match=rf'"I like it." has {length} tokens, but max_tokens is'):
        codec.encode(["I like it."], max_tokens=length - 1)


def test_t5_takes_any_language_and_has_no_mask(t5_folder: Path):
    codec = read_codec(t5_folder, language="Deutsche Gebaerdensprache")

    with pytest.raises(ValueError, match="no <mask>"):
        print(codec.mask_id)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "T5TokenizerFast"}),
        ("config.json", {"tokenizer_class": "T5Tokenizer", "model_type": "mt5"}),
        ("config.json", {"model_type": "umt5"}),
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
    ],
)
def test_a_tokenizer_is_known_by_its_class_or_its_model_or_its_file(tmp_path, file, content):
    write_spiece(tmp_path)
    (tmp_path / file).write_text(json.dumps(content))

    assert read_codec(tmp_path, language="en_XX").end_ids == (1,)


def test_the_model_tells_the_tokenizer_where_nothing_else_does(t5_folder: Path, tmp_path: Path):
    codec = read_codec(t5_folder, language="en_XX")
    codec.save(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer_config.json").unlink()
    (tmp_path / "saved" / "config.json").write_text('{"model_type": "mt5"}')

    back = read_codec(tmp_path / "saved", language="en_XX")

    assert encode(back, "I like it.") == encode(codec, "I like it.")


def test_a_name_in_the_config_counts_more_than_the_names_of_files(codec: TextCodec, folder: Path):
    write_spiece(folder.parent / "other")
    (folder.parent / "other" / "spiece.model").rename(folder / "spiece.model")

    assert read_codec(folder, language="en_XX").end_ids == codec.end_ids


@pytest.mark.parametrize("name", ["MBart50Tokenizer", "NllbTokenizerFast", "BartTokenizer"])
def test_a_tokenizer_of_another_class_is_refused_by_name(folder: Path, name: str):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": name}))

    with pytest.raises(CheckpointError, match=f"the tokenizer is a {name.removesuffix('Fast')}"):
        read_codec(folder, language="en_XX")


def test_a_t5_vocabulary_without_its_control_tokens_is_refused(t5_folder: Path, tmp_path: Path):
    read_codec(t5_folder, language="en_XX").save(tmp_path / "saved")
    path = tmp_path / "saved" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"][1][0] = "other"
    content["added_tokens"] = []
    path.write_text(json.dumps(content))

    with pytest.raises(CheckpointError, match=r"lacks </s> of T5's control tokens"):
        read_codec(tmp_path / "saved", language="en_XX")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json"])
def test_a_broken_config_beside_a_tokenizer_is_named(t5_folder: Path, name: str):
    (t5_folder / name).write_text("{")

    with pytest.raises(CheckpointError, match=rf"{name}: this is no JSON"):
        read_codec(t5_folder, language="en_XX")


def test_a_damaged_sentencepiece_model_is_refused(t5_folder: Path):
    (t5_folder / "spiece.model").write_bytes(b"\xff\xff no model")

    with pytest.raises(CheckpointError, match="the tokenizer does not load"):
        read_codec(t5_folder, language="en_XX")

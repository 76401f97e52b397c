"""What transformers 5 does to mBART when it is used as its examples do, and what ours does."""

import json
from pathlib import Path

import pytest
import torch
from transformers import MBartForConditionalGeneration, MBartTokenizer

from fla.models.light_t import build_small_mbart
from fla.models.llm import load_llm, read_llm, save_llm
from fla.search import Search
from fla.text.codec import TextCodec, read_codec, train_codec
from fla.text.coverage import encode_pieces
from fla.trim import trim_mbart
from tests.helpers.decoding import decode_alone

CORPUS = ["Fish and 1 dog ...", "AB 12 h2o find it", "fi re 1/2 off"] * 20
# Each with what NFKC makes of it.
LOOKALIKES = [
    ("wait\u2026", "wait..."),
    ("\u00bd", "1\u20442"),
    ("\ufb01sh", "fish"),
    ("\uff21\uff22\u3000\uff11", "AB 1"),
    ("h\u2082o", "h2o"),
    ("A\u00a0B", "A B"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mBART as facebook/mbart-large-cc25 is: it does not say how a translation starts."""
    folder = tmp_path_factory.mktemp("mbart")
    codec = train_codec([*CORPUS, "\u2044"], max_pieces=200, language="en_XX")
    torch.manual_seed(0)
    mbart = build_small_mbart(
        vocab_size=codec.vocab_size,
        d_model=16,
        num_layers=1,
        num_heads=2,
        ffn_width=32,
        dropout=0.0,
        pad_id=codec.pad_id,
        eos_id=codec.eos_id,
        start_id=codec.start_id,
    )
    save_llm(mbart, folder)
    codec.save(folder)
    for path in (folder / "config.json", folder / "generation_config.json"):
        fields = json.loads(path.read_text())
        fields.pop("decoder_start_token_id", None)
        path.write_text(json.dumps(fields))
    return folder


@pytest.fixture(scope="module")
def trimmed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trimmed to sentences that look like others, in German."""
    target = tmp_path_factory.mktemp("trimmed") / "mbart"
    texts = {"train": [written for written, _ in LOOKALIKES]}
    trim_mbart(folder, target, texts=texts, language="de_DE", characters=False)
    return target


@pytest.mark.parametrize(("written", "meant"), LOOKALIKES[:4])
def test_the_tokenizer_alone_takes_lookalikes_for_something_else(
    written: str, meant: str, folder: Path
):
    tokenizer = MBartTokenizer.from_pretrained(folder, local_files_only=True)

    assert tokenizer(written)["input_ids"] != tokenizer(meant)["input_ids"]


def pieces(codec: TextCodec, sentence: str) -> list[int]:
    (ids,) = encode_pieces(codec, [sentence])
    return ids


@pytest.mark.parametrize(("written", "meant"), LOOKALIKES)
def test_the_codec_gives_lookalikes_the_pieces_of_what_is_meant(
    written: str, meant: str, folder: Path
):
    codec = read_codec(folder, language="en_XX")
    tokenizer = MBartTokenizer.from_pretrained(folder, local_files_only=True)

    assert pieces(codec, written) == tokenizer(meant, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in pieces(codec, written)


@pytest.mark.parametrize(("written", "meant"), LOOKALIKES)
def test_trimming_to_lookalikes_keeps_the_pieces_of_what_is_meant(
    written: str, meant: str, folder: Path, trimmed: Path
):
    old_ids = json.loads((trimmed / "vocab_map.json").read_text())

    ids = pieces(read_codec(trimmed, language="de_DE"), written)

    assert [old_ids[i] for i in ids] == pieces(read_codec(folder, language="de_DE"), meant)


def first_of_generate(folder: Path) -> int:
    """Where plain transformers begins, told nothing."""
    mbart = MBartForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    words = torch.tensor([[5, 6, 2]])
    return int(mbart.generate(input_ids=words, max_new_tokens=3, do_sample=False)[0, 0])


def first_of_decode(folder: Path, language: str) -> tuple[int, int]:
    """Where ours begins, and where it should."""
    codec = read_codec(folder, language=language)
    description = read_llm(
        folder,
        dropout=0.0,
        attention_dropout=0.0,
        pad_id=codec.pad_id,
        eos_id=codec.eos_id,
        start_id=codec.start_id,
        vocab_size=codec.vocab_size,
    )
    mbart = load_llm(folder, description)
    found = decode_alone(
        mbart,
        torch.randn(1, 4, 16),
        torch.ones(1, 4, dtype=torch.int64),
        search=Search(num_beams=2, max_new_tokens=3),
        start_id=codec.start_id,
    )
    return int(found.ids[0, 0, 0]), codec.start_id


def test_generate_of_an_untrimmed_folder_begins_with_s(folder: Path):
    assert first_of_generate(folder) == 0


@pytest.mark.parametrize("language", ["en_XX", "de_DE", "zh_CN"])
def test_ours_begins_with_the_language_trimmed_or_not(language: str, folder: Path, trimmed: Path):
    for model in (folder, trimmed):
        begin, expected = first_of_decode(model, language)
        assert begin == expected


def test_generate_of_a_trimmed_folder_begins_with_the_language_too(trimmed: Path):
    assert first_of_generate(trimmed) == read_codec(trimmed, language="de_DE").start_id

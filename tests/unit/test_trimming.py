import json
import resource
import shutil
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from transformers import MBartForConditionalGeneration

from fla.errors import CheckpointError, ConfigError, DataError, DiskError, FlaError
from fla.models.light_t import build_small_mbart
from fla.models.llm import save_llm
from fla.text.codec import LANGUAGES, TextCodec, normalize_sentence, read_codec, train_codec
from fla.text.coverage import encode_pieces
from fla.text.trimming import choose_pieces, read_vocabulary, save_tokenizer
from fla.trim import TrimReport, trim_mbart

TRAIN = ["Am Tag \ufb01ndet man Schnee.", "Im Norden regnet es!", "Am Abend schneit es \u2026"]
DEV = ["Im Xylophon quakt es.", "Am Tag \u4e2d schneit es."]
OTHER = ["Where do you live now, and why?", "My father's house has two windows.", "\u4e0b\u96e8"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mBART whose vocabulary knows more than the corpus."""
    folder = tmp_path_factory.mktemp("whole")
    codec = train_codec([*TRAIN, *OTHER] * 20, max_pieces=400, language="en_XX")
    save_random_mbart(folder, codec)
    codec.save(folder)
    return folder


def save_random_mbart(folder: Path, codec: TextCodec) -> None:
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
    mbart.final_logits_bias.normal_()
    save_llm(mbart, folder)


@pytest.fixture
def source(whole: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "source"))


def trim(source: Path, target: Path, *, text: Sequence[str] = TRAIN, characters: bool = False):
    texts = {"train": text, "dev": DEV}
    return trim_mbart(source, target, texts=texts, language="de_DE", characters=characters)


@pytest.fixture(scope="module")
def trimmed(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrimReport]:
    folder = tmp_path_factory.mktemp("out") / "new" / "trimmed"
    return folder, trim(whole, folder)


@pytest.fixture(scope="module")
def folder(trimmed: tuple[Path, TrimReport]) -> Path:
    return trimmed[0]


@pytest.fixture(scope="module")
def codec(folder: Path) -> TextCodec:
    return read_codec(folder, language="de_DE")


def old_ids(folder: Path) -> list[int]:
    return json.loads((folder / "vocab_map.json").read_text())


def tokens(folder: Path) -> list[str]:
    return [piece for piece, _ in read_vocabulary(folder).pieces]


def load(folder: Path) -> MBartForConditionalGeneration:
    return MBartForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()


def change_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_logits_of_kept_tokens_are_bit_for_bit_those_of_before(whole: Path, folder: Path):
    keep = torch.tensor(old_ids(folder))
    before, after = load(whole), load(folder)
    new_ids = torch.randint(len(keep), (3, 7), generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        expected = before(input_ids=keep[new_ids], decoder_input_ids=keep[new_ids]).logits
        logits = after(input_ids=new_ids, decoder_input_ids=new_ids).logits

    assert len(keep) < expected.shape[-1]
    assert torch.equal(logits, expected[..., keep])


def test_the_text_that_decided_is_cut_as_before(whole: Path, folder: Path, codec: TextCodec):
    keep = old_ids(folder)

    before = encode_pieces(read_codec(whole, language="de_DE"), TRAIN)

    assert [[keep[i] for i in ids] for ids in encode_pieces(codec, TRAIN)] == before


@pytest.mark.parametrize("sentence", [*TRAIN, DEV[0], "Zyx 17 % (q)", "\u4e0b"])
def test_every_sentence_comes_back_normalized(codec: TextCodec, sentence: str):
    ids = codec.encode([sentence], max_tokens=100)

    assert codec.decode(torch.tensor(ids)) == [normalize_sentence(sentence)]


def test_the_layout_stays_mbarts_in_the_old_order(whole: Path, folder: Path):
    names, keep = tokens(folder), old_ids(folder)

    assert names[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert names[-26:] == [*LANGUAGES, "<mask>"]
    assert keep == sorted(keep)
    assert [read_vocabulary(whole).pieces[i] for i in keep] == list(read_vocabulary(folder).pieces)


def test_pieces_that_nobody_needs_are_gone(whole: Path, folder: Path):
    gone = set(tokens(whole)) - set(tokens(folder))

    assert gone
    assert min(len(piece) for piece in gone) > 1


def test_transformers_loads_the_folder_tied_and_whole(folder: Path, codec: TextCodec):
    mbart, report = MBartForConditionalGeneration.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )

    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert mbart.lm_head.weight is mbart.model.shared.weight
    assert mbart.model.encoder.embed_tokens.weight is mbart.model.shared.weight
    assert mbart.model.shared.num_embeddings == codec.vocab_size == mbart.config.vocab_size
    assert mbart.final_logits_bias.shape == (1, codec.vocab_size)


def test_configs_speak_the_language_by_new_ids(source: Path, tmp_path: Path):
    romanian = read_codec(source, language="ro_RO").start_id
    task = {"translation_en_to_ro": {"decoder_start_token_id": romanian}}
    change_json(source / "config.json", task_specific_params=task, decoder_start_token_id=None)
    change_json(source / "generation_config.json", eos_token_id=[2, romanian], num_beams=3)

    trim(source, tmp_path / "out")

    codec = read_codec(tmp_path / "out", language="de_DE")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == codec.vocab_size
    assert config["decoder_start_token_id"] == codec.start_id
    new_romanian = read_codec(tmp_path / "out", language="ro_RO").start_id
    params = config["task_specific_params"]["translation_en_to_ro"]
    assert params["decoder_start_token_id"] == new_romanian
    generation = load(tmp_path / "out").generation_config
    assert generation.decoder_start_token_id == codec.start_id
    assert generation.eos_token_id == [2, new_romanian]
    assert (generation.bos_token_id, generation.pad_token_id, generation.num_beams) == (0, 1, 3)


def test_generation_settings_of_an_old_config_move_to_where_they_are_looked_for(
    source: Path, tmp_path: Path
):
    (source / "generation_config.json").unlink()
    change_json(source / "config.json", num_beams=5, max_length=77)

    trim(source, tmp_path / "out")

    generation = load(tmp_path / "out").generation_config
    assert (generation.num_beams, generation.max_length) == (5, 77)
    assert generation.forced_eos_token_id == 2


def as_pickle(source: Path) -> None:
    """As facebook ships it: every name of a tied matrix, in float32."""
    torch.save(load(source).state_dict(), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()


def as_old_pickle(source: Path) -> None:
    state = load(source).state_dict()
    torch.save(state, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (source / "model.safetensors").unlink()


def as_shards(source: Path) -> None:
    load(source).save_pretrained(source, max_shard_size="8KB")
    assert len(list(source.glob("model-*.safetensors"))) > 1
    (source / "model.safetensors").unlink(missing_ok=True)


def as_head(source: Path) -> None:
    """The embedding under one of its other names."""
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.shared.weight")
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("change", [as_pickle, as_old_pickle, as_shards, as_head])
def test_every_kind_of_file_gives_the_same_weights(
    change: Callable[[Path], None], source: Path, folder: Path, tmp_path: Path
):
    change(source)

    trim(source, tmp_path / "out")

    expected = load_file(folder / "model.safetensors")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_sentencepiece_file_of_older_releases_is_trimmed_too(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TRAIN, *OTHER] * 20),
        model_prefix=str(source / "sentencepiece.bpe"),
        vocab_size=120,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(str(source / "sentencepiece.bpe.model"))
    save_random_mbart(source, read_codec(source, language="de_DE"))

    report = trim(source, tmp_path / "out")

    assert report.after.num_tokens < report.before.num_tokens == pieces.get_piece_size() + 27
    (ids,) = encode_pieces(read_codec(tmp_path / "out", language="de_DE"), TRAIN[:1])
    names = tokens(tmp_path / "out")
    assert [names[i] for i in ids] == pieces.encode(TRAIN[0], out_type=str)


def test_types_of_numbers_stay(source: Path, tmp_path: Path):
    weights = load_file(source / "model.safetensors")
    halves = {name: tensor.bfloat16() for name, tensor in weights.items()}
    save_file(halves, source / "model.safetensors", metadata={"format": "pt"})

    trim(source, tmp_path / "out")

    out = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in out.values()} == {torch.bfloat16}
    keep = old_ids(tmp_path / "out")
    assert torch.equal(out["model.shared.weight"], halves["model.shared.weight"][keep])


def test_a_head_of_its_own_is_trimmed_too(source: Path, tmp_path: Path):
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = weights["model.shared.weight"] + 1.0
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    change_json(source / "config.json", tie_word_embeddings=False)

    trim(source, tmp_path / "out")

    out = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(out["lm_head.weight"], weights["lm_head.weight"][old_ids(tmp_path / "out")])


def test_the_report_counts_what_trimming_did(trimmed: tuple[Path, TrimReport], whole: Path):
    folder, report = trimmed
    num_gone = len(tokens(whole)) - len(tokens(folder))

    assert report.before.num_tokens - report.after.num_tokens == num_gone
    assert report.before.num_parameters - report.after.num_parameters == num_gone * 16
    # A row of the embedding and an entry of the bias, 4 bytes each number.
    assert report.before.num_bytes - report.after.num_bytes == num_gone * 17 * 4
    assert report.after.num_parameters == load(folder).num_parameters()
    train, dev = report.splits["train"], report.splits["dev"]
    assert (train.num_sentences, train.num_words, train.num_changed) == (3, 14, 0)
    assert (train.trimmed.num_unknown, train.unknown_characters) == (0, "")
    assert train.trimmed == train.whole
    # 2 sentences; of all characters only the Chinese one is in no piece.
    assert (dev.num_sentences, dev.trimmed.num_unknown, dev.whole.num_unknown) == (2, 1, 1)
    assert dev.unknown_characters == "\u4e2d"
    saved = json.loads((folder / "coverage.json").read_text())
    assert saved["after"]["num_tokens"] == report.after.num_tokens
    assert saved["splits"]["dev"]["unknown_fraction"] == 1 / dev.trimmed.num_pieces


def test_the_summary_names_sizes_splits_and_unknown_characters(
    trimmed: tuple[Path, TrimReport],
):
    _, report = trimmed

    text = report.summarize()

    assert f"{report.before.num_tokens:,} ->" in text
    assert "dev: no piece for \u4e2d" in text
    assert [line.split()[0] for line in text.splitlines()[5:8]] == ["split", "train", "dev"]


def test_sentences_that_are_cut_otherwise_are_counted(whole: Path, tmp_path: Path):
    report = trim(whole, tmp_path / "out", text=["x"])

    texts = report.splits
    assert (texts["train"].num_changed, texts["dev"].num_changed) == (0, 2)
    assert texts["dev"].trimmed.num_pieces > texts["dev"].whole.num_pieces


def test_characters_cut_sentences_into_characters(whole: Path, tmp_path: Path):
    report = trim(whole, tmp_path / "out", characters=True)

    codec = read_codec(tmp_path / "out", language="zh_CN")
    names = tokens(tmp_path / "out")
    (ids,) = encode_pieces(codec, ["\u4e0b\u96e8 Schnee"])
    assert [names[i] for i in ids] == [*"\u2581\u4e0b\u96e8\u2581Schnee"]
    assert {len(name) for name in names[4:-26]} == {1}
    assert codec.decode(torch.tensor([ids])) == ["\u4e0b\u96e8 Schnee"]
    assert report.splits["train"].trimmed.num_unknown == 0


def test_unknown_characters_cost_what_they_did(tmp_path: Path):
    # Only the piece "?b" knows the question mark. It is worth its four expensive followers, as
    # long as an unknown character costs 10 more than the worst piece of the whole vocabulary.
    rows = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    rows += [("\u2581a", -1.0), ("\u2581x", -1.0), ("?b", -12.0), ("bcde", -1.0), ("zzz", -60.0)]
    rows += [(character, -12.0) for character in "\u2581bcde"]
    rows += [(code, 0.0) for code in LANGUAGES] + [("<mask>", 0.0)]
    save_tokenizer(tmp_path / "whole", rows, language="en_XX")
    vocabulary = read_vocabulary(tmp_path / "whole")
    text = ["a?bcde xbcde"]
    (used,) = encode_pieces(read_codec(tmp_path / "whole", language="en_XX"), text)

    keep = choose_pieces(vocabulary, used)

    save_tokenizer(tmp_path / "out", [rows[i] for i in keep], language="en_XX")
    (ids,) = encode_pieces(read_codec(tmp_path / "out", language="en_XX"), text)
    assert [keep[i] for i in ids] == used
    assert vocabulary.unknown_id not in used


def without_config(source: Path) -> None:
    (source / "config.json").unlink()


def of_another_kind(source: Path) -> None:
    change_json(source / "config.json", model_type="t5")


def with_broken_config(source: Path) -> None:
    (source / "config.json").write_text("[]")


def with_another_tokenizer(source: Path) -> None:
    train_codec(["Hi."], max_pieces=98, language="en_XX").save(source)


def without_tokenizer(source: Path) -> None:
    (source / "tokenizer.json").unlink()


def without_weights(source: Path) -> None:
    (source / "model.safetensors").unlink()


def cut_short(source: Path) -> None:
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_a_flipped_bit(source: Path) -> None:
    trim(source, source.parent / "once")
    # Only files that carry checksums can tell.
    data = bytearray((source.parent / "once" / "model.safetensors").read_bytes())
    data[-1] ^= 1
    shutil.rmtree(source)
    (source.parent / "once").rename(source)
    (source / "model.safetensors").write_bytes(data)


def with_code(source: Path) -> None:
    torch.save({"model.shared.weight": Path("/")}, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()


def without_embedding(source: Path) -> None:
    weights = load_file(source / "model.safetensors")
    del weights["model.shared.weight"]
    save_file(weights, source / "model.safetensors")


def with_an_id_that_is_dropped(source: Path) -> None:
    names = tokens(source)
    gone = next(i for i, name in enumerate(names) if len(name) > 3 and i not in range(4))
    change_json(source / "generation_config.json", forced_bos_token_id=gone)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_config, r"there is no config\.json"),
        (of_another_kind, r"model_type is 't5', not 'mbart'"),
        (with_broken_config, r"config\.json: this is no JSON object"),
        (with_another_tokenizer, r"has rows for \d+ tokens, the tokenizer has 125\."),
        (without_tokenizer, r"no tokenizer\.json"),
        (without_weights, "there are no weights"),
        (cut_short, "no whole safetensors file"),
        (with_a_flipped_bit, "the bytes of .* are not those that were written"),
        (with_code, "holds more than tensors"),
        (without_embedding, r"the weights have no model\.shared\.weight"),
        (with_an_id_that_is_dropped, r"forced_bos_token_id \(\d+\) is none of the control tokens"),
    ],
)
def test_a_folder_that_cannot_be_trimmed_is_refused_and_leaves_nothing(
    damage: Callable[[Path], None], message: str, source: Path, tmp_path: Path
):
    damage(source)
    there = sorted(tmp_path.iterdir())

    with pytest.raises(CheckpointError, match=message):
        trim(source, tmp_path / "out", text=["x"])

    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    ("texts", "language", "error", "message"),
    [
        ({"train": []}, "de_DE", DataError, "train has no sentence"),
        ({"train": [" ", ""], "dev": ["x"]}, "de_DE", DataError, "train has no sentence"),
        ({"train": ["x </s> y"]}, "de_DE", DataError, "spells out a control token"),
        ({"train": ["x"]}, "de", ConfigError, "no language code of mBART"),
    ],
)
def test_text_that_decides_nothing_is_refused(
    texts: dict[str, list[str]],
    language: str,
    error: type[FlaError],
    message: str,
    whole: Path,
    tmp_path: Path,
):
    with pytest.raises(error, match=message):
        trim_mbart(whole, tmp_path / "out", texts=texts, language=language, characters=False)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(whole: Path, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")

    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ConfigError, match="exists and is not empty"):
            trim(whole, target)

    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_and_the_rest_of_a_killed_attempt_are_no_hindrance(
    whole: Path, tmp_path: Path
):
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / ".out.unfinished" / "half").touch()

    trim(whole, tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "half").exists()


@contextmanager
def files_limited_to(num_bytes: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_is_one_sentence_and_leaves_nothing(whole: Path, tmp_path: Path):
    with (
        files_limited_to(10_000),
        pytest.raises(DiskError, match=r"it could not be written .*Free some space"),
    ):
        trim(whole, tmp_path / "out")

    assert list(tmp_path.iterdir()) == []

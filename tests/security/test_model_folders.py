"""Folders of tokenizers, models and exports: code that lies in them, or that they name, stays."""

import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer

from fla.description import read_description
from fla.errors import CheckpointError
from fla.export import load_translator, write_export
from fla.models.llm import build_llm, load_llm, read_llm, save_llm
from fla.text.codec import read_codec, train_codec
from fla.trim import trim_mbart
from fla.weights import layouts_of
from tests.helpers.exports import write_untrained_export
from tests.security.traps import code_that_leaves, files_below

CODE = {
    "AutoConfig": "evil.Config",
    "AutoModelForSeq2SeqLM": "evil.Model",
    "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
}
REMOTE = {"AutoTokenizer": ["somebody/repository--evil.Tokenizer"] * 2}


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers asks at the terminal whether to run code; a tired user says yes."""
    monkeypatch.setattr(builtins, "input", lambda _: "y")


@pytest.fixture
def tokenizer(tmp_path: Path, mark: Path) -> Path:
    """A tokenizer with code beside it, which its configuration names."""
    folder = tmp_path / "tokenizer"
    codec = train_codec(["the cat is here", "where is a dog"], max_pieces=110, language="en_XX")
    codec.save(folder)
    (folder / "evil.py").write_text(code_that_leaves(mark))
    change(folder / "tokenizer_config.json", auto_map=CODE)
    return folder


@pytest.fixture
def mbart(tokenizer: Path, tmp_path: Path, mark: Path) -> Path:
    """An mBART with code beside it, which config.json names."""
    codec = read_codec(tokenizer, language="en_XX")
    fields: dict[str, Any] = {
        "model_type": "mbart",
        "vocab_size": codec.vocab_size,
        "d_model": 16,
        "max_position_embeddings": 64,
        "pad_token_id": codec.pad_id,
        "eos_token_id": codec.eos_id,
        "decoder_start_token_id": codec.start_id,
    }
    for side in ("encoder", "decoder"):
        fields |= {f"{side}_layers": 1, f"{side}_ffn_dim": 24, f"{side}_attention_heads": 2}
    folder = tmp_path / "mbart"
    save_llm(build_llm(fields), folder)
    (folder / "evil.py").write_text(code_that_leaves(mark))
    change(folder / "config.json", auto_map=CODE)
    return folder


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def read(folder: Path, tokenizer: Path) -> dict[str, Any]:
    codec = read_codec(tokenizer, language="en_XX")
    return read_llm(
        folder,
        dropout=0.3,
        attention_dropout=0.1,
        pad_id=codec.pad_id,
        eos_id=codec.eos_id,
        start_id=codec.start_id,
        vocab_size=codec.vocab_size,
    )


@pytest.mark.parametrize(
    "load",
    [
        lambda folder: AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=True),
        lambda folder: AutoConfig.from_pretrained(folder / "mbart", trust_remote_code=True),
    ],
    ids=["tokenizer", "model"],
)
def test_transformers_runs_the_code_where_it_is_trusted(
    load: Callable[[Path], object], mbart, mark, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules")
    )

    load(tmp_path)

    assert mark.is_dir()


def test_a_tokenizers_own_code_is_not_run(tokenizer, mark):
    codec = read_codec(tokenizer, language="en_XX")

    assert codec.vocab_size > 30
    assert not mark.exists()


def test_a_tokenizer_whose_model_is_of_a_new_kind_is_not_looked_for_in_its_code(tokenizer, mark):
    (tokenizer / "tokenizer_config.json").unlink()
    (tokenizer / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": CODE}))

    read_codec(tokenizer, language="en_XX")

    assert not mark.exists()


def test_a_tokenizer_of_a_class_of_its_own_is_refused(tokenizer, mark):
    change(tokenizer / "tokenizer_config.json", tokenizer_class="Tokenizer")

    with pytest.raises(CheckpointError, match="the tokenizer is a Tokenizer"):
        read_codec(tokenizer, language="en_XX")

    assert not mark.exists()


@pytest.mark.parametrize("code", [CODE, REMOTE], ids=["in the folder", "on the hub"])
def test_an_export_hands_on_no_code_of_the_tokenizer_that_it_started_from(
    code, tokenizer, tmp_path
):
    change(tokenizer / "tokenizer_config.json", auto_map=code)

    read_codec(tokenizer, language="en_XX").save(tmp_path / "export")

    config = json.loads((tmp_path / "export" / "tokenizer_config.json").read_text())
    assert "auto_map" not in config
    assert files_below(tmp_path / "export") == {"tokenizer.json", "tokenizer_config.json"}


def test_a_trimmed_model_hands_on_no_code_of_the_one_that_it_comes_from(mbart, tokenizer, tmp_path):
    source, target = tmp_path / "source", tmp_path / "trimmed"
    for folder in (tokenizer, mbart):
        shutil.copytree(folder, source, dirs_exist_ok=True)
    change(source / "config.json", auto_map=REMOTE)

    texts = {"train": ["the cat is here"]}
    trim_mbart(source, target, texts=texts, language="en_XX", characters=False)

    assert "auto_map" not in json.loads((target / "config.json").read_text())
    assert not [path for path in files_below(target) if path.endswith(".py")]


def test_the_name_of_a_chats_template_leads_nowhere(tokenizer, tmp_path):
    templates = [
        {"name": name, "template": "evil"} for name in ("default", "../../../escaped", "other")
    ]
    change(tokenizer / "tokenizer_config.json", chat_template=templates)
    before = files_below(tmp_path)

    read_codec(tokenizer, language="en_XX").save(tmp_path / "a" / "b" / "export")

    new = files_below(tmp_path) - before
    assert {path for path in new if not path.startswith("a")} == set()
    assert not [path for path in new if path.endswith(".jinja")]


def test_a_language_models_own_code_is_not_run_nor_handed_on(mbart, tokenizer, mark):
    description = read(mbart, tokenizer)
    model = load_llm(mbart, description)

    assert type(model).__module__.startswith("transformers.models.mbart.")
    assert "evil" not in json.dumps(description)
    assert not mark.exists()


def test_a_language_model_of_a_kind_of_its_own_is_refused(mbart, tokenizer, mark):
    change(mbart / "config.json", model_type="evil")

    with pytest.raises(CheckpointError, match=r"model_type is 'evil', and that is no encoder-dec"):
        read(mbart, tokenizer)

    assert not mark.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_no_kernel_is_taken_from_the_hub_for_an_export_that_names_one(key, mbart, tokenizer):
    # transformers would download it, or say that its package for that is not installed.
    description = read(mbart, tokenizer) | {key: "somebody/kernel"}

    model = build_llm(description)

    assert model.config._attn_implementation == "sdpa"


def test_a_type_of_numbers_that_is_none_is_refused(mbart, tokenizer):
    change(mbart / "config.json", dtype="load")

    with pytest.raises(CheckpointError, match=r"config\.json: .* Restore the file\."):
        read(mbart, tokenizer)


def test_the_code_in_an_export_is_for_others_and_not_run_here(tmp_path, mark):
    export = write_untrained_export(tmp_path)
    for path in export.glob("*.py"):
        path.write_text(code_that_leaves(mark))
    (export / "evil.py").write_text(code_that_leaves(mark))
    change(export / "config.json", auto_map=CODE)
    change(export / "tokenizer_config.json", auto_map=CODE)

    translator = load_translator(export, device="cpu")

    assert type(translator.model).__module__ == "fla.models.stages"
    assert not mark.exists()


def test_an_export_of_an_export_has_the_toolkits_code_again(tmp_path, mark):
    export = write_untrained_export(tmp_path)
    for path in export.glob("*.py"):
        path.write_text(code_that_leaves(mark))
    tensors = {"weight": torch.zeros(2)}

    write_export(
        export,
        layouts_of(tensors),
        tensors.items(),
        description=read_description(export),
        codec=read_codec(export, language="en_XX"),
    )

    assert not [path for path in export.glob("*.py") if str(mark) in path.read_text()]

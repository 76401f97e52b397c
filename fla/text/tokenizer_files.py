"""What kind of tokenizer a Hugging Face folder holds, told by its files without building it."""

import json
from pathlib import Path
from typing import Any, Literal

from fla.errors import CheckpointError

Kind = Literal["mbart", "t5"]

_KINDS_BY_CLASS: dict[str, Kind] = {
    "MBartTokenizer": "mbart",
    "MT5Tokenizer": "t5",
    "T5Tokenizer": "t5",
}
# Classes of any tokenizer at all, which tell nothing.
_ANY_CLASS = ("PreTrainedTokenizer", "TokenizersBackend")
_KINDS_BY_MODEL: dict[str, Kind] = {
    "longt5": "t5",
    "mbart": "mbart",
    "mt5": "t5",
    "t5": "t5",
    "umt5": "t5",
}
_SENTENCEPIECE: dict[Kind, str] = {"mbart": "sentencepiece.bpe.model", "t5": "spiece.model"}


def find_kind(folder: Path) -> Kind:
    """Tell whose tokenizer lies in a folder, and that its files are there.

    tokenizer_config.json and then config.json name the tokenizer or the model; where there is
    neither, the name of the vocabulary's file tells.

    Raises:
        CheckpointError: There is no tokenizer, or one of another kind.
    """
    kind = _named_kind(folder) or _kind_by_vocabulary(folder)
    path = folder / "tokenizer.json"
    if path.is_file():
        _check_unigram(path)
    elif not (folder / _SENTENCEPIECE[kind]).is_file():
        raise CheckpointError(
            f"{folder}: there is no tokenizer.json and no {_SENTENCEPIECE[kind]}, so this is no "
            "tokenizer. Give the folder of one, such as tools/pretrain_mbart.py makes."
        )
    return kind


def _named_kind(folder: Path) -> Kind | None:
    for path in (folder / "tokenizer_config.json", folder / "config.json"):
        fields = _read_object(path)
        name = str(fields.get("tokenizer_class") or "").removesuffix("Fast")
        if name in _KINDS_BY_CLASS:
            return _KINDS_BY_CLASS[name]
        if name and name not in _ANY_CLASS:
            raise CheckpointError(
                f"{path}: the tokenizer is a {name}. Give the folder of an MBartTokenizer or a "
                "T5Tokenizer; other kinds begin and end sentences in other ways."
            )
        if fields.get("model_type") in _KINDS_BY_MODEL:
            return _KINDS_BY_MODEL[fields["model_type"]]
    return None


def _kind_by_vocabulary(folder: Path) -> Kind:
    return "t5" if (folder / _SENTENCEPIECE["t5"]).is_file() else "mbart"


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: this is no JSON ({error}). Restore the file.") from error
    return fields if isinstance(fields, dict) else {}


def _check_unigram(path: Path) -> None:
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]["type"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: this is no tokenizer. Restore the file.") from error
    if model != "Unigram":
        raise CheckpointError(
            f"{path}: the tokenizer is of type {model}, those of mBART and T5 are Unigram. Give "
            "the folder of one of them."
        )

"""Trim mBART to the words of a corpus: assembles the parts.

Of facebook/mbart-large-cc25's 611 million parameters 256 million are the embedding of 250,027
tokens in 25 languages; a corpus of sign language translation uses some thousand of them.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fla.data.manifest import read_manifest
from fla.errors import CheckpointError, ConfigError, DataError
from fla.models.trimming import ModelSize, check_embedding, trim_weights
from fla.text.codec import normalize_sentence, read_codec
from fla.text.coverage import Coverage, coverage_table, encode_pieces, measure_coverage
from fla.text.trimming import (
    choose_characters,
    choose_pieces,
    read_vocabulary,
    save_tokenizer,
)
from fla.weights import SAFETENSORS, open_weights

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
VOCAB_MAP = "vocab_map.json"
COVERAGE = "coverage.json"

_SPLITS = ("train", "dev", "test")
# What older releases of transformers kept in config.json, where generate() no longer looks once
# there is a generation_config.json.
_GENERATION_KEYS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "forced_eos_token_id",
    "max_length",
    "num_beams",
)


@dataclass(frozen=True, kw_only=True)
class TrimReport:
    """What trimming did; coverage.json has it."""

    before: ModelSize
    after: ModelSize
    num_control_tokens: int
    splits: Mapping[str, Coverage]
    """The first one decided."""

    def summarize(self) -> str:
        """The report for people."""
        decisive, *_ = self.splits.values()
        rows = [
            ("tokens", self.before.num_tokens, self.after.num_tokens),
            ("parameters", self.before.num_parameters, self.after.num_parameters),
            ("bytes of weights", self.before.num_bytes, self.after.num_bytes),
        ]
        lines = [
            *(f"{name:<17}{before:>14,} ->{after:>14,}" for name, before, after in rows),
            f"{decisive.trimmed.num_distinct_pieces:,} tokens occur in the text that decided, "
            f"{self.num_control_tokens} are for control, the others spell what it lacks.",
            "",
            coverage_table(self.splits),
        ]
        unknown = {name: split.unknown_characters for name, split in self.splits.items()}
        return "\n".join([*lines, *(f"{k}: no piece for {v}" for k, v in unknown.items() if v)])

    def as_json(self) -> dict[str, Any]:
        """The report as plain values, fractions included."""
        splits = {name: split.as_json() for name, split in self.splits.items()}
        return {**asdict(self), "splits": splits}


def read_manifest_texts(folder: Path) -> dict[str, list[str]]:
    """Sentences of a folder's manifests by split; train comes first and must be there.

    Raises:
        DataError: There is no train.tsv, or a file is no manifest.
    """
    names = [name for name in _SPLITS if name == "train" or (folder / f"{name}.tsv").exists()]
    manifests = {name: read_manifest(folder / f"{name}.tsv") for name in names}
    return {name: [s.sentence for s in manifest.samples] for name, manifest in manifests.items()}


def read_text(path: Path) -> dict[str, list[str]]:
    """Sentences of a text file, one a line, as the only split.

    Raises:
        DataError: There is no such file, or it is not UTF-8.
    """
    try:
        return {"text": path.read_text(encoding="utf-8").splitlines()}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Give a file with one sentence a line.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8. Save the file as UTF-8.") from None


def trim_mbart(
    source: Path,
    target: Path,
    *,
    texts: Mapping[str, Sequence[str]],
    language: str,
    characters: bool,
) -> TrimReport:
    """Write an mBART that has only the tokens that a text needs.

    Args:
        source: Local Hugging Face folder of an mBART.
        target: New folder, made whole or not at all.
        texts: Sentences by split. The first split decides; the others are only measured.
        language: mBART's code of the language that the new folder speaks.
        characters: Keep pieces of one character alone, whatever the text.

    Raises:
        CheckpointError: `source` is no whole mBART, or the disk is full.
        ConfigError: `target` is in use, or mBART has no such language.
        DataError: There is no text, or it spells out a control token.
    """
    target = target.resolve()
    _check_free(target)
    texts = {name: [s for s in text if normalize_sentence(s)] for name, text in texts.items()}
    decisive, *_ = texts
    if not texts[decisive]:
        raise DataError(f"{decisive} has no sentence to choose tokens by. Give some text.")
    config = _read_config(source)
    whole = read_codec(source, language=language)
    weights = open_weights(source)
    check_embedding(weights, num_tokens=whole.vocab_size)
    weights.check()
    vocabulary = read_vocabulary(source)
    if characters:
        old_ids = choose_characters(vocabulary)
    else:
        used_ids = {i for ids in encode_pieces(whole, texts[decisive]) for i in ids}
        old_ids = choose_pieces(vocabulary, used_ids)
    pieces = [vocabulary.pieces[i] for i in old_ids]
    with _new_folder(target) as folder:
        # Weights first: they are what a disk has no room for.
        before, after = trim_weights(weights, folder / SAFETENSORS, old_ids=old_ids)
        _write_configs(source, folder, config, old_ids, start_id=whole.start_id)
        save_tokenizer(folder, pieces, language=language)
        _write_json(folder / VOCAB_MAP, old_ids)
        measure = partial(
            measure_coverage,
            whole=whole,
            trimmed=read_codec(folder, language=language),
            old_ids=old_ids,
            unknown_id=vocabulary.unknown_id,
            characters=frozenset(piece for piece, _ in pieces if len(piece) == 1),
        )
        report = TrimReport(
            before=before,
            after=after,
            num_control_tokens=len(vocabulary.control_ids),
            splits={name: measure(text) for name, text in texts.items()},
        )
        _write_json(folder / COVERAGE, report.as_json())
    return report


def _check_free(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not empty. Name a new folder.")


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which is moved to `target` when that has gone well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.unfinished")
    # Of an attempt that was killed.
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        beside.replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_configs(
    source: Path,
    folder: Path,
    config: dict[str, Any],
    old_ids: Sequence[int],
    *,
    start_id: int,
) -> None:
    new_ids = {old_id: new_id for new_id, old_id in enumerate(old_ids)}
    # Where a model has code: none of it is handed on.
    config = {key: value for key, value in config.items() if key != "auto_map"}
    path = source / GENERATION_CONFIG
    if path.is_file():
        generation = _read_object(path)
    else:
        generation = {key: config[key] for key in _GENERATION_KEYS if key in config}
    config = {**config, "vocab_size": len(old_ids)}
    for name, fields in ((CONFIG, config), (GENERATION_CONFIG, generation)):
        # Without it generate() starts with <s>; mBART was trained to start with the language.
        started = {**fields, "decoder_start_token_id": start_id}
        _write_json(folder / name, _renumber(started, new_ids, where=source / name))


def _renumber(fields: dict[str, Any], new_ids: Mapping[int, int], *, where: Path) -> dict[str, Any]:
    """Put new ids in the place of old ones, also in settings of single tasks."""

    def new_id(key: str, old_id: Any) -> Any:
        if old_id is None:
            return None
        if isinstance(old_id, list):
            return [new_id(key, one) for one in old_id]
        if old_id not in new_ids:
            raise CheckpointError(
                f"{where}: {key} ({old_id}) is none of the control tokens. Set or remove it."
            )
        return new_ids[old_id]

    renumbered: dict[str, Any] = {}
    for key, value in fields.items():
        if key.endswith("_token_id"):
            renumbered[key] = new_id(key, value)
        elif isinstance(value, dict):
            renumbered[key] = _renumber(value, new_ids, where=where)
        else:
            renumbered[key] = value
    return renumbered


def _read_config(source: Path) -> dict[str, Any]:
    path = source / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{source}: there is no {CONFIG}, so this is no model in Hugging Face format. Give the "
            "folder of an mBART."
        )
    config = _read_object(path)
    if config.get("model_type") != "mbart":
        raise CheckpointError(
            f"{path}: model_type is {config.get('model_type')!r}, not 'mbart'. Give the folder of "
            "an mBART."
        )
    return config


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: this is no JSON object. Restore the file.")
    return value


def _write_json(path: Path, value: Any) -> None:
    indent = 2 if isinstance(value, dict) else None
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")

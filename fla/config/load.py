"""The door to the configuration: defaults < recipe files < `key=value` words.

Nothing here imports torch, so that `--help` and a mistyped key are answered at once.
"""

import dataclasses
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fla.config.keys import REQUIRED, Key, list_keys, list_sections, nearest_key
from fla.errors import ConfigError, FlaError, RunStopped

T = TypeVar("T")

RECIPE_SUFFIXES = (".yaml", ".yml")

# The deepspeed launcher puts --local_rank=N before the user's own words.
LOCAL_RANK_WORD = re.compile(r"--local[-_]rank(=\d+)?")
ASSIGNMENT = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
CHECK_WORD = "--check"

INDENT = " " * 6

# Longer than a launcher takes to end the other ranks after one of them has failed.
PATIENCE_S = 5.0


def load_config(
    schema: type[T],
    argv: Sequence[str],
    *,
    default_recipe: Path | None = None,
    doc: str | None = None,
) -> T:
    """Turn the words behind a launcher's name into one typed value.

    Args:
        schema: One of the top classes of `schema.py`.
        argv: `[recipe.yaml ...] [key=value ...]` in any order, without the program's name. A later
            recipe wins over an earlier one, a later word over an earlier one, and words over all
            recipes. `--help` prints every key and exits with 0.
        default_recipe: Read where the words name no recipe.
        doc: What the program does and how it is called; `--help` begins with it.

    Raises:
        ConfigError: Every unknown key, every value of another type and every missing key, one
            sentence each; a word that is neither; a recipe that cannot be read.
    """
    words = _without_local_rank(argv)
    if "-h" in words or "--help" in words:
        if _is_speaker():
            _print_to_a_pager(describe(schema, doc=doc or ""))
        raise SystemExit(0)
    recipes, assignments = _sort_words(words)
    if not recipes and default_recipe is not None:
        recipes = [default_recipe]
    given = [(str(path), *leaf) for path in recipes for leaf in _leaves(_read_recipe(path))]
    given += [("", name, text) for name, text in assignments]
    return _fill(schema, given)


def take_check_word(argv: Sequence[str]) -> tuple[list[str], bool]:
    """The words without `--check`, for `load_config`, and whether it was among them."""
    return [word for word in argv if word != CHECK_WORD], CHECK_WORD in argv


def save_config(config: Any, path: Path) -> None:
    """Write a configuration as a recipe that `load_config` reads back to an equal value."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(config_as_dict(config))), encoding="utf-8")


def config_as_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain nested dicts."""
    return dataclasses.asdict(config)


def flatten(config: Any) -> dict[str, Any]:
    """A configuration as `{"optim.learning_rate": 0.01, ...}`."""
    return dict(_leaves(config_as_dict(config)))


def describe(schema: type[Any], *, doc: str) -> str:
    """The text of `--help`: every key with type, default and meaning."""
    lines = [
        doc.strip(),
        "",
        "Later recipes win over earlier ones, and key=value over all recipes. Keys:",
        "",
    ]
    section = ""
    for key in list_keys(schema).values():
        if key.name.rpartition(".")[0] != section:
            section = key.name.rpartition(".")[0]
            lines += ["", f"{section}:"]
        lines += [f"  {key.name}  ({key.expected}; {_show_default(key)})"]
        lines += textwrap.wrap(key.meaning, 92, initial_indent=INDENT, subsequent_indent=INDENT)
    return "\n".join(lines)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """End the process with one sentence and its exit code where a user's mistake is found.

    All ranks of a machine find most mistakes together; then local rank 0 alone speaks.
    """
    try:
        yield
    except FlaError as error:
        if isinstance(error, RunStopped) and not _is_speaker():
            # All ranks stop together, and whoever started them should see this code of each.
            raise SystemExit(error.exit_code) from None
        if not _is_speaker():
            # Where rank 0 failed too, the launcher ends this process before it repeats the
            # sentence; where only this rank failed, nobody else will say it.
            time.sleep(PATIENCE_S)
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None


def _print_to_a_pager(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # `--help | head` has seen enough. Python would try again when it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_speaker() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _without_local_rank(argv: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skip_number = False
    for word in argv:
        if skip_number and word.isdigit():
            skip_number = False
            continue
        match = LOCAL_RANK_WORD.fullmatch(word)
        skip_number = match is not None and match[1] is None
        if match is None:
            kept.append(word)
    return kept


def _sort_words(words: Sequence[str]) -> tuple[list[Path], list[tuple[str, str]]]:
    recipes: list[Path] = []
    assignments: list[tuple[str, str]] = []
    for word in words:
        if word.startswith("-"):
            bare = word.lstrip("-")
            raise ConfigError(
                f"{word}: keys are written without dashes. "
                f"Write {bare if '=' in bare else bare + '=VALUE'}, or --help for all keys."
            )
        if match := ASSIGNMENT.fullmatch(word):
            assignments.append((match[1], match[2]))
        elif word.endswith(RECIPE_SUFFIXES):
            recipes.append(Path(word))
        else:
            raise ConfigError(
                f"{word}: neither KEY=VALUE nor a recipe, whose name ends in .yaml. "
                "See --help for all keys."
            )
    return recipes, assignments


def _read_recipe(path: Path) -> Mapping[Any, Any]:
    if not path.is_file():
        names = sorted(p.name for p in path.parent.glob("*") if p.suffix in RECIPE_SUFFIXES)
        there = f"{path.parent} has {', '.join(names)}." if names else "Check the path."
        raise ConfigError(f"{path}: there is no such recipe. {there}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a recipe holds `key: value` lines, this file a list.")
    return content


def _leaves(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _fill(schema: type[T], given: Sequence[tuple[str, str, Any]]) -> T:
    """Set every `(source, key, value)` in turn; the source is empty for a word."""
    tree = OmegaConf.structured(schema)
    keys = list_keys(schema)
    for section in ("", *list_sections(keys)):
        OmegaConf.set_readonly(OmegaConf.select(tree, section) if section else tree, False)
    problems = []
    for source, name, value in given:
        if problem := _set(tree, keys, name, value):
            problems.append(f"{source}: {problem}" if source else problem)
    if problems:
        raise ConfigError("\n".join(problems))
    try:
        missing = OmegaConf.missing_keys(tree)
        filled = None if missing else OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}.") from None
    if missing:
        names = [name for name in keys if name in missing]
        raise ConfigError(
            f"{', '.join(names)}: required, and neither a recipe nor a word sets it. "
            f"Add {' '.join(name + '=VALUE' for name in names)}."
        )
    assert isinstance(filled, schema)
    return filled


def _set(tree: Any, keys: dict[str, Key], name: str, value: Any) -> str | None:
    """Set one key; a sentence where that cannot be done."""
    if f"{name}.mode" in keys and value is not None:
        # A section with a mode goes by it: features=cached.
        name = f"{name}.mode"
    if name in list_sections(keys):
        # All lines below a section's name may be commented out.
        return None if value is None else f"{name}: a section, got {value!r}. Set {name}.KEY."
    if name not in keys:
        return f"{name}: there is no such key. {nearest_key(list(keys), name)}"
    key = keys[name]
    try:
        if not _has_other_type(key, value):
            OmegaConf.update(tree, name, value)
            return None
    except OmegaConfBaseException:
        pass
    hint = " Put it in quotes." if key.type is str and isinstance(value, int | float) else ""
    return f"{name}: expected {key.expected}, got {value!r}.{hint}"


def _has_other_type(key: Key, value: Any) -> bool:
    """Whether OmegaConf would accept a value that is hardly what the user means."""
    if key.type is bool:
        return str(value).lower() not in ("true", "false")
    if key.type is float and isinstance(value, float | str):
        return str(value).strip().lower().lstrip("+-") in ("nan", "inf", "infinity", ".nan", ".inf")
    return key.type is str and not isinstance(value, str)


def _show_default(key: Key) -> str:
    if key.default == REQUIRED:
        return "required"
    if key.default == "":
        return "default empty"
    return f"default {str(key.default).lower() if key.type is bool else key.default}"

"""The schema read as a flat list of keys: what load.py accepts and --help shows."""

import ast
import difflib
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, dataclass, fields, is_dataclass
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin, get_type_hints

REQUIRED = "???"
"""OmegaConf's mark of a key without default."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One leaf of a schema."""

    name: str
    """Full name with dots, as a user writes it."""
    type: Any
    """str, int, float, bool or a Literal of strings."""
    default: Any
    """REQUIRED where the user must give a value."""
    meaning: str
    """The docstring under the field."""

    @property
    def expected(self) -> str:
        """The type in a user's words."""
        if get_origin(self.type) is Literal:
            return "one of " + ", ".join(get_args(self.type))
        return "true or false" if self.type is bool else str(self.type.__name__)


def list_keys(schema: type[Any]) -> dict[str, Key]:
    """Every leaf of a schema by its full name, in the order of the source."""
    return {key.name: key for key in _walk(schema, "", _defaults(schema))}


def list_sections(keys: Iterable[str]) -> set[str]:
    """Names of the sections that hold the keys."""
    return {name.rpartition(".")[0] for name in keys} - {""}


def nearest_key(known: Sequence[str], name: str) -> str:
    """A sentence for whoever mistyped `name`: the nearest key, else what its section holds."""
    section, _, leaf = name.rpartition(".")
    sections = sorted(list_sections(known))
    if section and section not in sections:
        near = difflib.get_close_matches(section, sections, n=1)
        return (
            f"Did you mean: '{near[0]}'?" if near else f"The sections are: {', '.join(sections)}."
        )
    siblings = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section]
    if not section:
        siblings += sections
    if near := difflib.get_close_matches(leaf, siblings, n=1):
        return f"Did you mean: '{near[0]}'?"
    full_names = {key.rpartition(".")[2]: key for key in reversed(known)}
    if near := difflib.get_close_matches(leaf, full_names, n=1):
        return f"Did you mean: '{full_names[near[0]]}'?"
    return f"{section or 'The top level'} has: {', '.join(siblings)}."


def _walk(schema: type[Any], prefix: str, defaults: dict[str, Any]) -> Iterator[Key]:
    types = get_type_hints(schema)
    meanings = _read_meanings(schema)
    for field in fields(schema):
        default = defaults[field.name]
        if is_dataclass(default):
            section = type(default)
            yield from _walk(section, f"{prefix}{field.name}.", vars(default))
            continue
        yield Key(
            name=prefix + field.name,
            type=types[field.name],
            default=default,
            meaning=meanings.get(field.name, ""),
        )


def _defaults(schema: type[Any]) -> dict[str, Any]:
    return {field.name: _default(field) for field in fields(schema)}


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not NO_DEFAULT:
        return field.default_factory()
    return REQUIRED if field.default is NO_DEFAULT else field.default


def _read_meanings(schema: type[Any]) -> dict[str, str]:
    # Python keeps no docstrings of fields, the source does.
    tree = ast.parse(textwrap.dedent(inspect.getsource(schema)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    return {
        statement.target.id: " ".join(below.value.value.split())
        for statement, below in pairwise(body)
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }

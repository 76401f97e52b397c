"""Weights on disk, one tensor at a time: a model of any size takes no second copy of memory.

Reading gives views of the file's pages, which the ranks of a machine share. Writing keeps only the
tensor at hand, and notes its SHA-256 in the header, so that a flipped bit is noticed. The files are
safetensors and can be read by anyone; PyTorch's own format is read without running what is in it.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fla.errors import CheckpointError, DiskError, first_line

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PYTORCH = "pytorch_model.bin"
PYTORCH_INDEX = "pytorch_model.bin.index.json"

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DIGEST = "sha256 "
_HEX_DIGITS = 64


class Layout(NamedTuple):
    """What a tensor will be, before it is there."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of the data."""
        return prod(self.shape) * self.dtype.itemsize


class _File(Protocol):
    def get_tensor(self, name: str) -> Tensor: ...


class Weights:
    """Named tensors of a model's files; opened by `open_weights` or `open_tensors`.

    Args:
        path: For messages: the file, or the index of several.
        files: Each file by the names that it holds.
        digests: SHA-256 of tensors by name, as far as the files know it.
    """

    def __init__(
        self, path: Path, files: Mapping[str, _File], digests: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        self._files = files
        self._digests = digests or {}

    def __contains__(self, name: object) -> bool:
        return name in self._files

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        return tuple(sorted(self._files))

    def tensor(self, name: str) -> Tensor:
        """A view of the file's pages, in the stored type; not to be written to.

        Raises:
            KeyError: There is no such tensor.
        """
        return self._files[name].get_tensor(name)

    def renamed(self, prefixes: Mapping[str, str]) -> "Weights":
        """The same tensors under other names, those alone that have one of the prefixes.

        Args:
            prefixes: Beginning of the names here, by what takes its place.
        """
        names = {
            new + name.removeprefix(old): name
            for new, old in prefixes.items()
            for name in self._files
            if name.startswith(old)
        }
        files = {new: _Renamed(self._files[name], name) for new, name in names.items()}
        return Weights(self.path, files)

    def check(self) -> None:
        """Read everything once and compare with the checksums, where the files have them.

        Raises:
            CheckpointError: Names the first tensor whose bytes are not those that were written.
        """
        for name, digest in sorted(self._digests.items()):
            if _digest(self.tensor(name)) != digest:
                raise CheckpointError(
                    f"{self.path}: the bytes of {name} are not those that were written. Copy or "
                    "make the file again."
                )


def open_weights(folder: Path) -> Weights:
    """Open the weights of a Hugging Face folder; safetensors come before PyTorch's format.

    Args:
        folder: With model.safetensors or pytorch_model.bin, or an index of several such files.

    Raises:
        CheckpointError: There are no weights, a file is damaged, or a pickle holds more than
            tensors; nothing in it is run.
    """
    if (folder / SAFETENSORS).is_file():
        return open_tensors(folder / SAFETENSORS)
    if (folder / SAFETENSORS_INDEX).is_file():
        return _open_parts(folder / SAFETENSORS_INDEX, open_tensors)
    if (folder / PYTORCH).is_file():
        return _open_pickle(folder / PYTORCH)
    if (folder / PYTORCH_INDEX).is_file():
        return _open_parts(folder / PYTORCH_INDEX, _open_pickle)
    raise CheckpointError(
        f"{folder}: there are no weights, no {SAFETENSORS} and no {PYTORCH}. Give a folder with "
        "one of them."
    )


def open_tensors(path: Path) -> Weights:
    """Open one safetensors file.

    Raises:
        CheckpointError: The file is missing, cut short, or no safetensors file.
    """
    try:
        file: Any = safe_open(path, framework="pt")
        metadata: dict[str, str] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: this is no whole safetensors file ({first_line(error)}). Copy or make it "
            "again."
        ) from error
    digests = {
        name.removeprefix(_DIGEST): value
        for name, value in metadata.items()
        if name.startswith(_DIGEST)
    }
    return Weights(path, dict.fromkeys(file.keys(), file), digests)


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that `write_tensors` was given beside the tensors; errors as of `open_tensors`."""
    open_tensors(path)
    file: Any = safe_open(path, framework="pt")
    metadata: dict[str, str] = file.metadata() or {}
    return {name: value for name, value in metadata.items() if not name.startswith(_DIGEST)}


def write_tensors(
    path: Path,
    layouts: Mapping[str, Layout],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file; a reader sees the former file or the whole new one.

    Args:
        path: Its folder exists.
        layouts: All tensors that will come, by name.
        tensors: Each once, in any order; they are taken one at a time.
        metadata: Texts to keep in the header.

    Raises:
        DiskError: The disk is full, or not to be written to; the former file stays.
        ValueError: A tensor is missing, comes twice, or is not as its layout says.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w+b") as file:
            starts = _write_header(file, layouts, metadata or {}, dict.fromkeys(layouts, ""))
            digests = {}
            for name, tensor in tensors:
                if name in digests or Layout(tuple(tensor.shape), tensor.dtype) != layouts[name]:
                    raise ValueError(f"{name} comes twice, or is not {layouts[name]}.")
                digests[name] = _digest(tensor)
                file.seek(starts[name])
                file.write(_bytes(tensor))
            if digests.keys() != layouts.keys():
                raise ValueError(f"Missing: {sorted(layouts.keys() - digests.keys())}.")
            file.seek(0)
            _write_header(file, layouts, metadata or {}, digests)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise DiskError(path, error) from error
    finally:
        with suppress(OSError):
            beside.unlink()


def _write_header(
    file: Any,
    layouts: Mapping[str, Layout],
    metadata: Mapping[str, str],
    digests: Mapping[str, str],
) -> dict[str, int]:
    """Write the header, always of the same length, and tell where each tensor begins."""
    notes = {_DIGEST + name: digests[name].ljust(_HEX_DIGITS, "0") for name in layouts}
    header: dict[str, Any] = {"__metadata__": {**metadata, **notes}}
    offset = 0
    # Wide types first, or the views of their pages would not be aligned.
    for name in sorted(layouts, key=lambda name: (-layouts[name].dtype.itemsize, name)):
        shape, dtype = layouts[name]
        end = offset + layouts[name].num_bytes
        header[name] = {
            "dtype": _DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    start = 8 + len(text)
    return {name: start + header[name]["data_offsets"][0] for name in layouts}


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(_bytes(tensor)).hexdigest()


class _Renamed:
    """One tensor of a file under another name."""

    def __init__(self, file: _File, name: str) -> None:
        self._file, self._name = file, name

    def get_tensor(self, name: str) -> Tensor:
        return self._file.get_tensor(self._name)


class _Pickled:
    """Tensors of a PyTorch file whose pages are mapped, not read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def get_tensor(self, name: str) -> Tensor:
        return self._tensors[name]


def _open_pickle(path: Path) -> Weights:
    try:
        content = torch.load(path, map_location="cpu", mmap=_is_zip(path), weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path}: the file holds more than tensors, and what it holds is not run. Get the "
            f"weights as {SAFETENSORS}."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(
            f"{path}: this is no whole PyTorch file ({first_line(error)}). Copy it again, or get "
            f"the weights as {SAFETENSORS}."
        ) from error
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise CheckpointError(f"{path}: this is no table of tensors. Give a model's weights.")
    return Weights(path, dict.fromkeys(content, _Pickled(content)))


def _is_zip(path: Path) -> bool:
    # PyTorch wrote another format before 1.6, which has no pages to map and is read whole.
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _open_parts(index: Path, open_part: Any) -> Weights:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        parts = {file: open_part(index.parent / Path(file).name) for file in set(names.values())}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: this is no index of weights. Restore the file.") from error
    missing = [name for name, file in names.items() if name not in parts[file]]
    if missing:
        raise CheckpointError(
            f"{index}: {names[missing[0]]} lacks {missing[0]}. Copy all files of one model."
        )
    digests = {k: v for part in parts.values() for k, v in part._digests.items()}
    return Weights(index, {name: parts[file]._files[name] for name, file in names.items()}, digests)


def layouts_of(tensors: Mapping[str, Tensor]) -> dict[str, Layout]:
    """Layouts of tensors that are there."""
    return {name: Layout(tuple(t.shape), t.dtype) for name, t in tensors.items()}

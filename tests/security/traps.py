"""What is planted in hostile files: whoever runs it leaves a mark, which is a new folder."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Trap:
    """Makes a folder when it is unpickled without care.

    Args:
        mark: The folder.
    """

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def _by_class(mark: Path) -> bytes:
    return b"(S'%s'\nios\nmkdir\n." % str(mark).encode()


def _by_object(mark: Path) -> bytes:
    return b"(cos\nmkdir\nS'%s'\no." % str(mark).encode()


PICKLES: dict[str, Callable[[Path], bytes]] = {
    **{
        f"protocol {protocol}": lambda mark, protocol=protocol: pickle.dumps(
            {"weight": [Trap(mark)]}, protocol
        )
        for protocol in range(6)
    },
    # As no pickle.dumps writes them any more, and every pickle.load runs them.
    "INST": _by_class,
    "OBJ": _by_object,
}
"""Pickles that make a folder, by how they do it."""


def write_torch_file(path: Path, pickled: bytes) -> None:
    """Write a file that `torch.load` takes for one of `torch.save`, with a pickle of one's own."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")


def code_that_leaves(mark: Path) -> str:
    """A module that makes a folder when it is imported, and then is of use."""
    return (
        f"import os\nos.mkdir({str(mark)!r})\n"
        "from transformers import MBartConfig, MBartTokenizer\n"
        "class Config(MBartConfig): pass\n"
        "class Tokenizer(MBartTokenizer): pass\n"
    )


def files_below(folder: Path) -> set[str]:
    """Everything in a folder, relative to it: to be compared with what was there before."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}

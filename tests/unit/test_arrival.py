"""Files that a network disk shows late are waited for."""

import threading
from pathlib import Path

import pytest

from fla.arrival import sizes_of, wait_for_files
from fla.errors import DataError


def later(act) -> None:
    threading.Timer(0.3, act).start()


def test_a_file_that_appears_late_is_waited_for(tmp_path: Path):
    later(lambda: (tmp_path / "shard").write_bytes(b"123"))

    wait_for_files(tmp_path, {"shard": 3})

    assert (tmp_path / "shard").read_bytes() == b"123"


def test_a_folder_that_appears_late_is_waited_for_too(tmp_path: Path):
    def write() -> None:
        (tmp_path / "a/b").mkdir(parents=True)
        (tmp_path / "a/b/shard").touch()

    later(write)

    wait_for_files(tmp_path, {"a/b/shard": None})


def test_a_file_of_which_only_the_beginning_is_shown_is_waited_for(tmp_path: Path):
    (tmp_path / "shard").write_bytes(b"1")
    later(lambda: (tmp_path / "shard").write_bytes(b"123"))

    wait_for_files(tmp_path, {"shard": 3})

    assert (tmp_path / "shard").read_bytes() == b"123"


def test_a_file_that_never_appears_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"/shard: another rank sees this file, and after 0\.2 s"):
        wait_for_files(tmp_path, {"shard": 3}, patience_s=0.2)


def test_sizes_are_those_of_all_files_but_hidden_ones(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_bytes(b"12")
    (tmp_path / ".lock").touch()

    assert sizes_of(tmp_path) == {"a/x": 2}

"""What only rank 0 looks up, every rank knows."""

import pytest
from torch import distributed

from fla.errors import DataError
from tests.helpers.ranks import run_ranks

LOOKS: list[int] = []


def look() -> str:
    LOOKS.append(distributed.get_rank())
    return f"seen by {LOOKS}"


def look_in_vain() -> str:
    raise DataError("x.tsv has no sample.")


def ask(question) -> tuple[str, list[int]]:
    from fla.runtime import ask_main, start_runtime

    return ask_main(start_runtime(), question), LOOKS


def fail_and_tell() -> str:
    with pytest.raises(DataError) as caught:
        ask(look_in_vain)
    return str(caught.value)


def test_only_rank_0_looks_and_all_ranks_know():
    assert run_ranks(ask, look, world_size=2) == [("seen by [0]", [0]), ("seen by [0]", [])]


def test_what_is_wrong_is_raised_on_every_rank():
    assert run_ranks(fail_and_tell, world_size=2) == ["x.tsv has no sample."] * 2

"""The harness of the other tests here: real ranks, whose failures are seen."""

import os
import time

import pytest
import torch
from torch import distributed

from tests.helpers.ranks import run_ranks


def sum_of_ranks(factor: int) -> torch.Tensor:
    number = torch.tensor(factor * (distributed.get_rank() + 1))
    distributed.all_reduce(number)
    return torch.stack([number, torch.tensor(int(os.environ["RANK"]))])


def fail_on_rank_1() -> None:
    if distributed.get_rank() == 1:
        raise KeyError("the reason")
    distributed.barrier()


def die_on_rank_1() -> None:
    if distributed.get_rank() == 1:
        os._exit(3)
    distributed.barrier()


def hang() -> None:
    time.sleep(60)


def test_results_come_back_by_rank():
    results = run_ranks(sum_of_ranks, 7, world_size=3)

    assert [result.tolist() for result in results] == [[42, 0], [42, 1], [42, 2]]


def test_first_failure_is_raised_as_it_was():
    with pytest.raises(KeyError, match="the reason") as caught:
        run_ranks(fail_on_rank_1)

    assert "on rank 1" in caught.value.__notes__[0]


def test_rank_that_dies_is_named():
    with pytest.raises(RuntimeError, match="rank"):
        run_ranks(die_on_rank_1)


def test_rank_that_hangs_ends_the_run_in_time():
    start_s = time.monotonic()

    with pytest.raises(TimeoutError, match=r"ranks \[0, 1\] did not"):
        run_ranks(hang, timeout_s=1)

    assert time.monotonic() - start_s < 30

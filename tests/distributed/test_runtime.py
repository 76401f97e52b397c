"""What a rank does to its process when it starts."""

import psutil
import pytest
import torch

from fla.runtime import ROOMY_BYTES, start_runtime
from tests.helpers.ranks import run_ranks

MIB = 2**20


def free_a_large_block(num_mib: int) -> float:
    start_runtime()
    process = psutil.Process()
    before = process.memory_info().rss
    block = torch.ones(num_mib * MIB, dtype=torch.uint8)
    del block
    return (process.memory_info().rss - before) / MIB


@pytest.mark.skipif(
    psutil.virtual_memory().total < ROOMY_BYTES, reason="a machine with little memory"
)
def test_memory_that_a_rank_frees_on_the_cpu_is_kept_for_its_next_step():
    (kept_mib,) = run_ranks(free_a_large_block, 300, world_size=1)

    assert kept_mib > 290

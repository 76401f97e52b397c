"""What a rank does to its process when it starts."""

import psutil
import pytest
import torch

from fla.errors import ConfigError
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


def test_more_ranks_than_gpus_are_refused_with_the_number_that_there_is(monkeypatch):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr("fla.runtime.end_with_launcher", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError, match=r"shows 1 GPU, .* at least 2 ranks\. .*--num_gpus 1 "):
        start_runtime()


@pytest.mark.skipif(
    psutil.virtual_memory().total < ROOMY_BYTES, reason="a machine with little memory"
)
def test_memory_that_a_rank_frees_on_the_cpu_is_kept_for_its_next_step():
    (kept_mib,) = run_ranks(free_a_large_block, 300, world_size=1)

    assert kept_mib > 290

"""Every row of a split is scored exactly once, on any number of ranks."""

import numpy as np
import pytest
from torch import distributed

from fla.evaluate import arrange_decodes, gather_decodes
from fla.run_folder import DecodedRow
from tests.helpers.ranks import run_ranks


def split_of(num_samples: int) -> list[str]:
    # Not in the order of the alphabet.
    return [f"clip{number}" for number in reversed(range(num_samples))]


def row_of(sample_id: str) -> DecodedRow:
    return DecodedRow(sample_id, f"hypothesis of {sample_id}", f"reference\tof {sample_id}")


def decode_and_gather(sizes: list[int]) -> list[list[DecodedRow]]:
    """For splits of several sizes: what a rank holds after its share was gathered."""
    from fla.data.sampling import plan_evaluation

    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    arranged = []
    for num_samples in sizes:
        split_ids = split_of(num_samples)
        lengths = 3 + np.arange(num_samples) % 4
        plan = plan_evaluation(lengths, batch_size=2, frames_per_batch=12, world_size=world_size)
        share = [row_of(split_ids[index]) for batch in plan[rank] for index in batch]
        gathered = gather_decodes(share, world_size=world_size)
        arranged.append(arrange_decodes(gathered, split_ids=split_ids))
    return arranged


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_row_arrives_once_and_in_the_order_of_the_split(world_size):
    # 7 divides by none but 1; 1 and 2 are fewer than there are ranks.
    sizes = [7, 6, 2, 1]

    for rank in run_ranks(decode_and_gather, sizes, world_size=world_size):
        assert rank == [[row_of(name) for name in split_of(size)] for size in sizes]


@pytest.mark.parametrize(
    ("decoded", "complaint"),
    [
        (["a", "b", "b", "c"], r"1 repeated \['b'\], 0 missing \[\], 0 unknown"),
        (["c", "a"], r"0 repeated \[\], 1 missing \['b'\], 0 unknown"),
        (["a", "b", "c", "x"], r"0 missing \[\], 1 unknown \['x'\]"),
        (["a", "a", "x"], r"1 repeated \['a'\], 2 missing \['b', 'c'\], 1 unknown \['x'\]"),
        ([], r"3 missing \['a', 'b', 'c'\]"),
    ],
)
def test_a_list_that_differs_from_the_split_is_not_scored(decoded, complaint):
    with pytest.raises(RuntimeError, match=complaint):
        arrange_decodes([row_of(name) for name in decoded], split_ids=["a", "b", "c"])

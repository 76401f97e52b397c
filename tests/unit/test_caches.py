"""What a search keeps of what it has read."""

import torch

from fla.models.caches import BeamCache


def test_beams_that_change_places_take_what_they_wrote_along_and_leave_the_clip_where_it_is():
    cache = BeamCache()
    written_HhLd, read_HhTd = torch.randn(4, 2, 1, 8), torch.randn(4, 2, 5, 8)
    for part, states in (
        (cache.self_attention_cache, written_HhLd),
        (cache.cross_attention_cache, read_HhTd),
    ):
        part.update(states, states, 0)

    cache.reorder_cache(torch.tensor([1, 1, 3, 2]))

    assert torch.equal(cache.self_attention_cache.layers[0].keys, written_HhLd[[1, 1, 3, 2]])
    assert torch.equal(cache.cross_attention_cache.layers[0].keys, read_HhTd)

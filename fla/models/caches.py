"""Keys and values that a search keeps of what it has read."""

import inspect

import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel


class BeamCache(EncoderDecoderCache):
    """Moves what beams have written when they change places, and not what they read of the clip.

    The beams of a clip stay side by side and read the same, but transformers would copy that, too,
    after every token: 12 MiB for 16 clips of 24 frames with 5 beams on the demo's mBART.
    """

    def __init__(self) -> None:
        super().__init__(DynamicCache(), DynamicCache())

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Let each row go on from another one of the same clip.

        Args:
            beam_idx: The row that each row continues, `(H,)`.
        """
        self.self_attention_cache.reorder_cache(beam_idx)


def cache_word(model: PreTrainedModel) -> str:
    """Under which name a model takes its cache: it changed within transformers 5."""
    names = inspect.signature(model.forward).parameters
    return "cache" if "cache" in names else "past_key_values"

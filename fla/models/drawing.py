"""Sampling of translations: tokens are drawn, from the same numbers whatever the batch.

Shape letters:
- H = hypotheses of all clips that are being written
- L = tokens written so far
- V = vocabulary
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fla.search import Search


class DrawnTokens(LogitsProcessor):
    """Leaves of every row the one token that was drawn, with its log-probability.

    A token is drawn as the largest of log-probabilities with Gumbel noise. A row's noise comes from
    a generator of its own, so that neither the batch, nor the rank, nor the device changes it.

    Args:
        search: Says how to draw.
        names: Of the rows: what a row's noise depends on beside the seed.
    """

    def __init__(self, search: Search, names: Sequence[str]) -> None:
        self._generators = [
            torch.Generator().manual_seed(_seed(search.seed, name)) for name in names
        ]
        self._warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(search.temperature)]
        if search.top_k:
            self._warpers.append(TopKLogitsWarper(search.top_k))
        if search.top_p < 1:
            self._warpers.append(TopPLogitsWarper(search.top_p))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `(H, V)` that are -inf but at the drawn tokens.

        Args:
            input_ids: The hypotheses so far, `(H, L)`.
            scores: Logits or log-probabilities of the next token, `(H, V)`.
        """
        log_probs = scores.log_softmax(-1)
        warped = log_probs
        for warper in self._warpers:
            warped = warper(input_ids, warped)
        num_tokens = scores.shape[-1]
        noise = [torch.empty(num_tokens).exponential_(generator=it) for it in self._generators]
        # Gumbel noise is -log of what is distributed exponentially.
        gumbel = -torch.stack(noise).clamp_min(1e-30).log().to(scores.device)
        drawn = (warped + gumbel).argmax(-1, keepdim=True)
        only = torch.full_like(log_probs, -torch.inf)
        return only.scatter(-1, drawn, log_probs.gather(-1, drawn))


def _seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    # Within what torch takes.
    return int.from_bytes(digest[:8], "little") >> 1

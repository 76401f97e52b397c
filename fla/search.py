"""How a sentence is searched for, and what is found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Search:
    """Beam search or sampling, as a value."""

    num_beams: int = 5
    """Hypotheses kept while decoding (paper: 5)."""
    length_penalty: float = 1.0
    """Exponent of the length by which a hypothesis' log-probability is divided."""
    max_new_tokens: int = 150
    """Longest hypothesis in tokens, `</s>` included."""
    num_hypotheses: int = 1
    """Best hypotheses that are given back for each clip; at most `num_beams`, when sampling any."""
    temperature: float = 0.0
    """Above 0: tokens are drawn, by logits divided by this; `num_beams` must be 1 then."""
    top_k: int = 0
    """Tokens that are drawn from, the most probable ones; 0: all."""
    top_p: float = 1.0
    """Tokens are drawn from the most probable ones that have this probability together."""
    seed: int = 1
    """Of what is drawn; a clip's id and its hypothesis' number add to it."""

    @property
    def is_sampling(self) -> bool:
        """Tokens are drawn."""
        return self.temperature > 0


class Found(NamedTuple):
    """What a model found for a batch of B clips, the N best of each, L tokens at most."""

    ids: Tensor
    """Token ids `start tokens </s>`, int64, `(B, N, L)`, padded behind `</s>`; best first."""
    log_probs: Tensor
    """Mean log-probability of a hypothesis' tokens, in nats, `(B, N)`."""


class Hypothesis(NamedTuple):
    """One translation of a clip."""

    text: str
    log_prob: float
    """Mean log-probability of its tokens, in nats; its exponential is the confidence, 0 to 1."""


def read_hypotheses(
    found: Found, ids_to_text: Callable[[Tensor], list[str]]
) -> list[tuple[Hypothesis, ...]]:
    """What was found for each clip as text, best first.

    Args:
        found: For a batch.
        ids_to_text: The codec's decode.
    """
    return [
        tuple(map(Hypothesis, ids_to_text(ids), log_probs.tolist()))
        for ids, log_probs in zip(found.ids, found.log_probs, strict=True)
    ]

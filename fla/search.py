"""How a sentence is searched for, and what is found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Search:
    """Beam search, as a value."""

    num_beams: int = 5
    """Hypotheses kept while decoding (paper: 5)."""
    length_penalty: float = 1.0
    """Exponent of the length by which a hypothesis' log-probability is divided."""
    max_new_tokens: int = 150
    """Longest hypothesis in tokens, `</s>` included."""
    num_hypotheses: int = 1
    """Best hypotheses that are given back for each clip; at most `num_beams`."""


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

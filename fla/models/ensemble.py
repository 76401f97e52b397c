"""Several translators that predict every token together: the mean of their probabilities.

An ensemble of models is standard in translation. All must have the same vocabulary.

Shape letters:
- B = clips in the batch
- T = frames, padded to the longest clip
- E = width of the translator's embeddings
- H = hypotheses of all clips that are being written
- L = tokens written so far
- V = vocabulary
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.modeling_outputs import BaseModelOutput

from fla.models.caches import BeamCache, cache_word

if TYPE_CHECKING:
    from fla.models.translator import Translator


@dataclass(frozen=True, kw_only=True)
class Member:
    """A translator and what it reads of the batch, by its own encoder and adapter."""

    model: "Translator"
    inputs_embeds: Tensor
    """Adapted features, `(B, T, E)`; T and E may differ between members."""
    attention_mask: Tensor
    """1 on frames and 0 behind a clip's end, `(B, T)`."""


class MeanOfProbabilities(LogitsProcessor):
    """Adds the other members to what the first one, which searches, says of the next token.

    Args:
        others: All members but the first.
        rows_per_clip: Hypotheses of a clip that are written at once.
    """

    def __init__(self, others: Sequence[Member], *, rows_per_clip: int) -> None:
        self._readers = [_Reader(member, rows_per_clip) for member in others]
        self._rows_per_clip = rows_per_clip
        self._written: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Log-probabilities `(H, V)` of the ensemble.

        Args:
            input_ids: The hypotheses so far, `(H, L)`.
            scores: What the first member says, `(H, V)`; -inf: that token is out of question.
        """
        parents = self._find_parents(input_ids)
        self._written = input_ids
        is_out = torch.isneginf(scores)
        said = [scores.log_softmax(-1)]
        for reader in self._readers:
            logits = reader.read(input_ids, parents).masked_fill(is_out, -torch.inf)
            said.append(logits.log_softmax(-1))
        return torch.stack(said).logsumexp(0) - log(len(said))

    def _find_parents(self, input_ids: Tensor) -> Tensor | None:
        """The row that each hypothesis continues, `(H,)`: beam search moves them about."""
        if self._written is None:
            return None
        rows = self._rows_per_clip
        length = self._written.shape[1]
        before = self._written.reshape(-1, rows, length)
        now = input_ids[:, :-1].reshape(-1, rows, length)
        is_parent = (now[:, :, None] == before[:, None]).all(-1)
        if not is_parent.any(-1).all():
            raise RuntimeError("A hypothesis continues none of those before it.")
        # Rows that are alike were read alike: any of them will do.
        places = is_parent.int().argmax(-1)
        firsts = torch.arange(len(places), device=places.device)[:, None] * rows
        parents: Tensor = (firsts + places).flatten()
        return parents


class _Reader:
    """One member at work; it keeps keys and values of what it has read."""

    def __init__(self, member: Member, rows_per_clip: int) -> None:
        self._model: Any = member.model
        encoder = cast(Any, member.model).get_encoder()
        hidden = encoder(
            inputs_embeds=member.inputs_embeds, attention_mask=member.attention_mask
        ).last_hidden_state
        self._hidden = hidden.repeat_interleave(rows_per_clip, 0)
        self._mask = member.attention_mask.repeat_interleave(rows_per_clip, 0)
        self._cache = BeamCache()
        self._cache_word = cache_word(member.model)

    def read(self, input_ids: Tensor, parents: Tensor | None) -> Tensor:
        """Logits of the next token, `(H, V)`, in float32."""
        if parents is not None:
            self._cache.reorder_cache(cast(torch.LongTensor, parents))
        said = self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self._hidden),
            attention_mask=self._mask,
            decoder_input_ids=input_ids if parents is None else input_ids[:, -1:],
            use_cache=True,
            **{self._cache_word: self._cache},
        )
        logits: Tensor = said.logits[:, -1].float()
        return logits

"""Log-probabilities of the tokens of a search, without the whole vocabulary of every step.

generate() would keep all scores of all steps, and normalize them once more: with mBART's 250,027
tokens 2 GB for 25 steps of 16 clips with 5 beams.

Shape letters:
- N = hypotheses of all clips
- M = beams of all clips, those of a clip side by side
- K = tokens that some beam of a clip went on with, and those that end a sentence
- L = tokens of a hypothesis
- V = vocabulary
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class BestTokens(LogitsProcessor):
    """Remembers what a search has chosen, and changes nothing; the last of all processors.

    Which tokens were chosen, the next call tells: the beams end with them. Those that ended a
    sentence are in no beam any more.

    Args:
        num_beams: Of a clip.
        end_ids: Tokens that end a sentence.
        normalizes: Whether the scores are logits, as without beams.
    """

    def __init__(self, num_beams: int, *, end_ids: Sequence[int], normalizes: bool) -> None:
        self._num_beams = num_beams
        self._end_ids = tuple(end_ids)
        self._normalizes = normalizes
        self._steps: list[tuple[Tensor, Tensor]] = []
        self._last: Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self._last is not None:
            chosen_MB = (
                input_ids[:, -1].view(-1, self._num_beams).repeat_interleave(self._num_beams, 0)
            )
            ends_MB = chosen_MB.new_tensor(self._end_ids).expand(len(chosen_MB), -1)
            ids_MK = torch.cat([chosen_MB, ends_MB], dim=1)
            self._steps.append((self._last.gather(1, ids_MK), ids_MK))
        self._last = torch.log_softmax(scores, dim=-1) if self._normalizes else scores
        return scores

    def log_probs_of(self, tokens: Tensor, beams: Tensor | None) -> Tensor:
        """Log-probability of each token that was chosen.

        Args:
            tokens: `(N, L)`, without the start.
            beams: Row, below M, that a token was chosen from, `(N, L)`, negative behind the end;
                None: every hypothesis has one row of its own.

        Returns:
            `(N, L)`, minus infinity behind the end.
        """
        assert self._last is not None
        if beams is None:
            beams = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)
        columns = []
        for step, tokens_N in enumerate(tokens.unbind(dim=1)):
            rows_N = beams[:, step].clamp(min=0)
            if step < len(self._steps):
                log_probs_MK, ids_MK = self._steps[step]
                is_other_NK = ids_MK[rows_N] != tokens_N[:, None]
                found_N = log_probs_MK[rows_N].masked_fill(is_other_NK, -torch.inf).amax(dim=1)
            else:
                found_N = self._last[rows_N, tokens_N]
            columns.append(found_N.masked_fill(beams[:, step] < 0, -torch.inf))
        return torch.stack(columns, dim=1)

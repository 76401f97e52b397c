"""Log-probabilities of the tokens of a search, without the whole vocabulary of every step.

generate() would keep all scores of all steps, and normalize them once more: with mBART's 250,027
tokens 2 GB for 25 steps of 16 clips with 5 beams.

Shape letters:
- N = hypotheses of all clips
- M = beams of all clips
- K = tokens that a beam may go on with
- L = tokens of a hypothesis
- V = vocabulary
"""

import torch
from torch import Tensor
from transformers import LogitsProcessor


class BestTokens(LogitsProcessor):
    """Remembers what a search can choose from, and changes nothing; the last of all processors.

    Args:
        count: K; beam search looks at twice as many tokens as there are beams, of all of them.
        normalizes: Whether the scores are logits, as without beams.
    """

    def __init__(self, count: int, *, normalizes: bool) -> None:
        self._count = count
        self._normalizes = normalizes
        self._steps: list[tuple[Tensor, Tensor]] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        known = torch.log_softmax(scores, dim=-1) if self._normalizes else scores
        log_probs, ids = known.topk(min(self._count, known.shape[-1]), dim=-1)
        self._steps.append((log_probs, ids))
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
        if beams is None:
            beams = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)
        columns = []
        for step, (log_probs_MK, ids_MK) in enumerate(self._steps[: tokens.shape[1]]):
            rows_N = beams[:, step]
            is_chosen_NK = ids_MK[rows_N.clamp(min=0)] == tokens[:, step, None]
            is_chosen_NK &= (rows_N >= 0)[:, None]
            found_NK = log_probs_MK[rows_N.clamp(min=0)].masked_fill(~is_chosen_NK, -torch.inf)
            columns.append(found_NK.amax(dim=1))
        return torch.stack(columns, dim=1)

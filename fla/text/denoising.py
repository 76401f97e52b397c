"""mBART's pretraining task on sentences: mask spans, learn to write the sentence again.

Liu et al. 2020, "Multilingual Denoising Pre-training for Neural Machine Translation", section 2:
35 % of the words are masked in spans whose lengths follow a Poisson distribution of mean 3.5.
There is one sentence a document here, so there is no order of sentences to permute.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fla.batch import Step, TextBatch, pad_labels


def mask_spans(
    tokens: Sequence[int],
    *,
    rng: np.random.Generator,
    mask_id: int,
    mask_fraction: float,
    mean_span_tokens: float,
) -> list[int]:
    """Replace random spans by one mask token each.

    Args:
        tokens: A sentence without its closing `</s> language`.
        rng: Draws the spans.
        mask_id: Id of `<mask>`.
        mask_fraction: About this part of the tokens disappears, in [0, 1].
        mean_span_tokens: Mean span length; spans of length 0 are drawn again as 1.

    Returns:
        A sentence of at most the old length with at least one mask, unless nothing is masked.
    """
    budget = round(len(tokens) * mask_fraction)
    is_masked = np.zeros(len(tokens), dtype=bool)
    while is_masked.sum() < budget:
        length = min(max(1, rng.poisson(mean_span_tokens)), budget - int(is_masked.sum()))
        start = rng.integers(len(tokens))
        is_masked[start : start + length] = True
    damaged: list[int] = []
    for index, token in enumerate(tokens):
        if not is_masked[index]:
            damaged.append(token)
        elif index == 0 or not is_masked[index - 1]:
            damaged.append(mask_id)
    return damaged


class DenoisingLoader:
    """Steps of damaged and undamaged sentences, one micro-batch a rank.

    Args:
        token_ids: Sentences as `tokens </s> language`.
        rank: Of this process.
        world_size: Number of ranks; divides `global_batch_size`.
        seed: Of order and noise.
        global_batch_size: Sentences a step over all ranks; those left over in an epoch sit out.
        mask_id, pad_id: Ids of `<mask>` and `<pad>`.
        mask_fraction, mean_span_tokens: See `mask_spans`.

    Raises:
        ValueError: Fewer sentences than one step needs.
    """

    def __init__(
        self,
        token_ids: Sequence[Sequence[int]],
        *,
        rank: int,
        world_size: int,
        seed: int,
        global_batch_size: int,
        mask_id: int,
        pad_id: int,
        mask_fraction: float,
        mean_span_tokens: float,
    ) -> None:
        if len(token_ids) < global_batch_size:
            raise ValueError(f"{len(token_ids)} sentences do not fill a step.")
        self._token_ids = token_ids
        self._rank, self._world_size = rank, world_size
        self._seed, self._global_batch_size = seed, global_batch_size
        self._mask_id, self._pad_id = mask_id, pad_id
        self._mask_fraction, self._mean_span_tokens = mask_fraction, mean_span_tokens
        self.num_steps = len(token_ids) // global_batch_size
        self.waited_s = 0.0

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Step[TextBatch]]:
        """The steps of one epoch, a pure function of seed, epoch and rank."""
        order_rng = np.random.default_rng([self._seed, epoch])
        order = order_rng.permutation(len(self._token_ids))
        for number in range(first_step, self.num_steps):
            first = number * self._global_batch_size
            step = order[first : first + self._global_batch_size]
            share = step[self._rank :: self._world_size]
            yield Step(
                micro_batches=(self._damage(share, epoch),),
                num_tokens=sum(len(self._token_ids[index]) for index in step),
            )

    def _damage(self, indices: NDArray[np.int64], epoch: int) -> TextBatch:
        damaged = []
        for index in indices:
            *tokens, end, language = self._token_ids[index]
            masked = mask_spans(
                tokens,
                rng=np.random.default_rng([self._seed, epoch, int(index)]),
                mask_id=self._mask_id,
                mask_fraction=self._mask_fraction,
                mean_span_tokens=self._mean_span_tokens,
            )
            damaged.append([*masked, end, language])
        longest = max(len(ids) for ids in damaged)
        input_ids = torch.full((len(damaged), longest), self._pad_id, dtype=torch.int64)
        for row, ids in zip(input_ids, damaged, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        lengths = torch.tensor([len(ids) for ids in damaged])
        return TextBatch(
            input_ids=input_ids,
            attention_mask=(torch.arange(longest)[None] < lengths[:, None]).long(),
            labels=pad_labels([self._token_ids[index] for index in indices]),
        )

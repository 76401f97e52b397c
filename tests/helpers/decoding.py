"""One translator on features of one's own."""

import torch
from torch import Tensor

from fla.models.ensemble import Member
from fla.models.translator import Translator, decode
from fla.search import Found, Search


def decode_alone(
    model: Translator, inputs: Tensor, mask: Tensor, *, search: Search, start_id: int
) -> Found:
    """Decode with one translator; clips are named by their numbers."""
    return decode(
        [Member(model=model, inputs_embeds=inputs, attention_mask=mask)],
        search=search,
        start_id=start_id,
        sample_ids=[str(number) for number in range(len(inputs))],
    )


@torch.no_grad()
def mean_log_probs(
    model: Translator, inputs: Tensor, ids: Tensor, *, max_new_tokens: int
) -> Tensor:
    """What a model says of hypotheses `(B, L)` that it is given: the mean over their tokens."""
    logits = model(inputs_embeds=inputs, decoder_input_ids=ids[:, :-1]).logits
    spoken = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    # The language model is forced to end a sentence of full length.
    spoken[:, max_new_tokens - 1 :] = 0.0
    is_token = ids[:, 1:] != model.config.pad_token_id
    return (spoken * is_token).sum(1) / is_token.sum(1)

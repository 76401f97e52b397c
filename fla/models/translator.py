"""What every translator can do: predict a sentence from features, and decode one.

A translator is any encoder-decoder of transformers whose encoder takes embeddings: Light-T and the
small mBART (`fla.models.light_t`), and the LLM of stage 2 (`fla.models.llm`).

Shape letters:
- B = clips in the batch
- T = frames, padded to the longest clip
- E = width of the translator's embeddings
- L = target tokens
- S = tokens of a noisy sentence
- V = vocabulary
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel

from fla.batch import IGNORE_INDEX
from fla.models.best_tokens import BestTokens
from fla.models.caches import BeamCache, cache_word
from fla.models.drawing import DrawnTokens
from fla.models.ensemble import MeanOfProbabilities, Member
from fla.search import Found, Search

# Other modules name the class of transformers only by this alias.
Translator: TypeAlias = PreTrainedModel


def predict(
    model: Translator, labels: Tensor, *, inputs_embeds: Tensor, attention_mask: Tensor
) -> Tensor:
    """Predict every token of the reference from the ones before it.

    Args:
        model: Any translator.
        labels: As the codec makes them, int64, `(B, L)`, IGNORE_INDEX behind each end.
        inputs_embeds: Adapted features, `(B, T, E)`. Nothing scales them: the factor sqrt(E) of
            mbart-large-cc25 (`scale_embedding`) is part of looking a word up, and only decoders
            look words up here.
        attention_mask: 1 on frames and 0 behind a clip's end, `(B, T)`.

    Returns:
        Logits `(B, L, V)`, in the model's float type.

    Raises:
        ValueError: A clip has more frames than the model has positions.
    """
    _check_positions(model, inputs_embeds)
    logits: Tensor = model(
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        decoder_input_ids=_shift_right(model, labels),
        use_cache=False,
    ).logits
    return logits


def restore(
    model: Translator, labels: Tensor, *, input_ids: Tensor, attention_mask: Tensor
) -> Tensor:
    """Like `predict`, from a noisy sentence `(B, S)` of token ids instead of features."""
    logits: Tensor = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        decoder_input_ids=_shift_right(model, labels),
        use_cache=False,
    ).logits
    return logits


@torch.no_grad()
def decode(
    members: Sequence[Member], *, search: Search, start_id: int, sample_ids: Sequence[str]
) -> Found:
    """Translate by beam search, or by sampling.

    Args:
        members: One translator, or several that predict together; in evaluation mode.
        search: How many beams, and how long.
        start_id: Id that every hypothesis starts with: mBART's language, T5's padding.
        sample_ids: Of the clips; what is drawn for a clip depends on them.

    Raises:
        ValueError: A clip has more frames than a model has positions, or a model is in training
            mode.
    """
    for member in members:
        if member.model.training:
            raise ValueError(
                "The model is in training mode: dropout would decode too. Call eval()."
            )
        _check_positions(member.model, member.inputs_embeds)
    # What is drawn for one clip are rows of their own to generate().
    num_drawn = search.num_hypotheses if search.is_sampling else 1
    first, *others = (_repeat(member, num_drawn) for member in members)
    processors: list[LogitsProcessor] = []
    if others:
        processors.append(MeanOfProbabilities(others, rows_per_clip=search.num_beams))
    if search.is_sampling:
        names = [f"{sample_id} {k}" for sample_id in sample_ids for k in range(num_drawn)]
        processors.append(DrawnTokens(search, names))
    # What is left of a row after drawing is one token, which must not become certain.
    is_greedy = search.num_beams == 1 and not search.is_sampling
    model = cast(Any, first.model)
    best = BestTokens(search.num_beams, end_ids=[model.config.eos_token_id], normalizes=is_greedy)
    found = model.generate(
        inputs_embeds=first.inputs_embeds,
        attention_mask=first.attention_mask,
        num_beams=search.num_beams,
        num_return_sequences=search.num_hypotheses // num_drawn,
        length_penalty=search.length_penalty,
        max_new_tokens=search.max_new_tokens,
        # Without it generate() starts with <s> wherever the config has a bos_token_id.
        decoder_start_token_id=start_id,
        # DrawnTokens draws: generate() would draw other tokens in another batch.
        do_sample=False,
        logits_processor=[*processors, best],
        # Every rank decodes a replica of its own, so no rank waits for another.
        synced_gpus=False,
        return_dict_in_generate=True,
        **{cache_word(first.model): BeamCache()},
    )
    tokens = found.sequences[:, 1:]
    log_probs = best.log_probs_of(tokens, found.get("beam_indices"))
    is_token = torch.isfinite(log_probs) & (tokens != model.config.pad_token_id)
    sums = log_probs.masked_fill(~is_token, 0.0).sum(dim=1)
    means = sums / is_token.sum(dim=1).clamp(min=1)
    shape = (len(sample_ids), search.num_hypotheses)
    decoded = Found(ids=found.sequences.unflatten(0, shape), log_probs=means.unflatten(0, shape))
    return _best_first(decoded) if search.is_sampling else decoded


def _repeat(member: Member, times: int) -> Member:
    return replace(
        member,
        inputs_embeds=member.inputs_embeds.repeat_interleave(times, 0),
        attention_mask=member.attention_mask.repeat_interleave(times, 0),
    )


def _best_first(found: Found) -> Found:
    order = found.log_probs.argsort(dim=1, descending=True, stable=True)
    ids = found.ids.gather(1, order[:, :, None].expand_as(found.ids))
    return Found(ids=ids, log_probs=found.log_probs.gather(1, order))


def last_layer(model: Translator) -> list[nn.Parameter]:
    """Parameters of the decoder's last layer."""
    decoder = cast(Any, model).get_decoder()
    layers = decoder.layers if hasattr(decoder, "layers") else decoder.block
    return [*layers[-1].parameters()]


def set_generation(model: Translator, start_id: int) -> None:
    """Let beam search know the model's own tokens, and nothing else.

    A folder may bring its own beams, lengths and penalties, and generate() would mix them with
    ours: this starts from an empty page.

    Args:
        model: Newly built.
        start_id: Id that every translation starts with.
    """
    config: Any = model.config
    config.decoder_start_token_id = start_id
    # BART's family learned to end every sentence that reaches the longest length; T5's did not.
    forced_eos_id = config.eos_token_id if hasattr(config, "forced_eos_token_id") else None
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        pad_token_id=config.pad_token_id,
        bos_token_id=getattr(config, "bos_token_id", None),
        eos_token_id=config.eos_token_id,
        forced_eos_token_id=forced_eos_id,
        decoder_start_token_id=start_id,
    )


def enable_gradient_checkpointing(model: Translator) -> None:
    """Keep no activations inside of layers in training: less memory, a second forward pass."""
    with warnings.catch_warnings():
        # Its newer name is not in the oldest transformers that is allowed.
        warnings.simplefilter("ignore", FutureWarning)
        # Reentrant checkpoints find no gradient where a layer's input needs none.
        cast(Any, model).gradient_checkpointing_enable({"use_reentrant": False})


def _shift_right(model: Translator, labels: Tensor) -> Tensor:
    """What the decoder reads: the start, then each label before the one to predict."""
    config: Any = model.config
    starts = torch.full_like(labels[:, :1], config.decoder_start_token_id)
    shifted = torch.cat([starts, labels[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == IGNORE_INDEX, config.pad_token_id)


def _check_positions(model: Translator, inputs_embeds: Tensor) -> None:
    # T5's positions are distances between tokens, so it has no longest clip.
    num_positions = getattr(model.config, "max_position_embeddings", None)
    num_frames = inputs_embeds.shape[1]
    if num_positions is not None and num_frames > num_positions:
        raise ValueError(
            f"A clip has {num_frames} frames, the translator has {num_positions} positions. "
            "Choose fewer frames a clip."
        )

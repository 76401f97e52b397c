"""Several translators that predict every token together."""

from math import log

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, T5Config, T5ForConditionalGeneration

from fla.models.ensemble import Member
from fla.models.light_t import build_small_mbart
from fla.models.translator import Translator, decode, set_generation
from fla.search import Found, Search

START_ID, EOS_ID, PAD_ID, VOCAB_SIZE = 38, 2, 1, 40
LENGTHS = [6, 2, 4]


def build_mbart(seed: int, *, width: int = 16) -> Translator:
    torch.manual_seed(seed)
    mbart = build_small_mbart(
        vocab_size=VOCAB_SIZE, d_model=width, num_layers=2, num_heads=2, ffn_width=32, dropout=0.1,
        pad_id=PAD_ID, eos_id=EOS_ID, start_id=START_ID,
    )  # fmt: skip
    for parameter in mbart.parameters():
        # The model gets opinions, so that beams differ.
        parameter.data.mul_(4.0)
    return mbart.eval()


def build_t5(seed: int) -> Translator:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=VOCAB_SIZE, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        pad_token_id=PAD_ID, eos_token_id=EOS_ID, decoder_start_token_id=START_ID,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(2.0)
    set_generation(model, START_ID)
    return model


def member(model: Translator, *, seed: int = 5) -> Member:
    """A model on clips of several lengths; what is behind an end must not matter."""
    torch.manual_seed(seed)
    inputs = torch.randn(len(LENGTHS), max(LENGTHS), model.config.d_model)
    mask = torch.zeros(inputs.shape[:2], dtype=torch.int64)
    for row, length in zip(mask, LENGTHS, strict=True):
        row[:length] = 1
    inputs[mask == 0] = 100.0
    return Member(model=model, inputs_embeds=inputs, attention_mask=mask)


def search(num_beams: int) -> Search:
    return Search(num_beams=num_beams, num_hypotheses=num_beams, max_new_tokens=10)


def run(members: list[Member], num_beams: int) -> Found:
    sample_ids = [str(number) for number in range(len(LENGTHS))]
    return decode(members, search=search(num_beams), start_id=START_ID, sample_ids=sample_ids)


class SlowMean(LogitsProcessor):
    """Reads every hypothesis from its beginning at each step: no cache to go wrong."""

    def __init__(self, others: list[Member], num_beams: int) -> None:
        self.others, self.num_beams = others, num_beams

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        said = [scores.softmax(-1)]
        for other in self.others:
            logits = other.model(
                inputs_embeds=other.inputs_embeds.repeat_interleave(self.num_beams, 0),
                attention_mask=other.attention_mask.repeat_interleave(self.num_beams, 0),
                decoder_input_ids=input_ids,
            ).logits[:, -1]
            said.append(logits.masked_fill(scores.isneginf(), -torch.inf).softmax(-1))
        return (sum(said) / len(said)).log()


@torch.no_grad()
def run_slowly(members: list[Member], num_beams: int) -> Tensor:
    first, *others = members
    return first.model.generate(
        inputs_embeds=first.inputs_embeds,
        attention_mask=first.attention_mask,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=10,
        decoder_start_token_id=START_ID,
        do_sample=False,
        logits_processor=[SlowMean(others, num_beams)],
    ).reshape(len(LENGTHS), num_beams, -1)


@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_model_together_with_itself_says_what_it_says_alone(num_beams):
    one = member(build_mbart(0))

    alone, twice = run([one], num_beams), run([one, one], num_beams)

    assert twice.ids.tolist() == alone.ids.tolist()
    torch.testing.assert_close(twice.log_probs, alone.log_probs)


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("last", [lambda: build_mbart(2), lambda: build_t5(2)])
def test_three_models_say_what_the_mean_of_their_probabilities_does(num_beams, last):
    members = [member(build_mbart(0)), member(build_mbart(1, width=24), seed=6), member(last())]

    together = run(members, num_beams)

    assert together.ids.tolist() == run_slowly(members, num_beams).tolist()
    for alone in members:
        assert together.ids.tolist() != run([alone], num_beams).ids.tolist()


def test_which_model_comes_first_makes_no_difference():
    members = [member(build_mbart(0)), member(build_mbart(1)), member(build_mbart(2))]

    there, back = run(members, 3), run(members[::-1], 3)

    assert there.ids.tolist() == back.ids.tolist()
    torch.testing.assert_close(there.log_probs, back.log_probs)


def test_confidence_is_that_of_the_mean():
    members = [member(build_mbart(0)), member(build_mbart(1))]

    found = run(members, 1)

    ids = found.ids[:, 0]
    with torch.no_grad():
        log_probs = torch.stack([
            it.model(
                inputs_embeds=it.inputs_embeds,
                attention_mask=it.attention_mask,
                decoder_input_ids=ids[:, :-1],
            ).logits.log_softmax(-1)
            for it in members
        ]).logsumexp(0) - log(2)  # fmt: skip
    spoken = log_probs.gather(-1, ids[:, 1:, None])[..., 0]
    # A sentence of full length is forced to end.
    spoken[:, 9:] = 0.0
    is_token = ids[:, 1:] != PAD_ID
    torch.testing.assert_close(found.log_probs[:, 0], (spoken * is_token).sum(1) / is_token.sum(1))


def test_a_clip_is_translated_alike_in_a_batch_and_alone():
    members = [member(build_mbart(0)), member(build_mbart(1))]

    together = run(members, 3)

    for number, length in enumerate(LENGTHS):
        clip = [
            Member(
                model=it.model,
                inputs_embeds=it.inputs_embeds[number : number + 1, :length],
                attention_mask=it.attention_mask[number : number + 1, :length],
            )
            for it in members
        ]
        alone = decode(clip, search=search(3), start_id=START_ID, sample_ids=["x"])
        size = alone.ids.shape[-1]
        assert together.ids[number, :, :size].tolist() == alone.ids[0].tolist()


def test_no_member_may_be_in_training_mode():
    with pytest.raises(ValueError, match="training mode"):
        run([member(build_mbart(0)), member(build_mbart(1).train())], 1)

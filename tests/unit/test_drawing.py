"""Sampling: what is drawn has the model's probabilities, and is the same in every batch."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from fla.models.ensemble import Member
from fla.models.light_t import build_small_mbart
from fla.models.translator import Translator, decode
from fla.search import Found, Search
from tests.helpers.decoding import mean_log_probs

START_ID, EOS_ID, PAD_ID, VOCAB_SIZE = 38, 2, 1, 40


@pytest.fixture(scope="module")
def mbart() -> Translator:
    torch.manual_seed(0)
    mbart = build_small_mbart(
        vocab_size=VOCAB_SIZE, d_model=16, num_layers=1, num_heads=2, ffn_width=32, dropout=0.1,
        pad_id=PAD_ID, eos_id=EOS_ID, start_id=START_ID,
    )  # fmt: skip
    for parameter in mbart.parameters():
        parameter.data.mul_(4.0)
    return mbart.eval()


def clips(num_clips: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(num_clips, 5, 16), torch.ones(num_clips, 5, dtype=torch.int64)


def draw(
    model: Translator,
    inputs: Tensor,
    mask: Tensor,
    sample_ids: list[str],
    **words: float,
) -> Found:
    settings = {"num_beams": 1, "max_new_tokens": 6, "temperature": 1.0} | words
    return decode(
        [Member(model=model, inputs_embeds=inputs, attention_mask=mask)],
        search=Search(**settings),
        start_id=START_ID,
        sample_ids=sample_ids,
    )


def first_tokens(model: Translator, num_drawn: int, **words: float) -> Counter[int]:
    """How often each token came first for one clip."""
    found = draw(model, *clips(1), ["a"], num_hypotheses=num_drawn, max_new_tokens=2, **words)
    return Counter(found.ids[0, :, 1].tolist())


@torch.no_grad()
def first_probabilities(model: Translator) -> Tensor:
    inputs, _ = clips(1)
    start = torch.tensor([[START_ID]])
    return model(inputs_embeds=inputs, decoder_input_ids=start).logits[0, 0].softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_tokens_come_as_often_as_they_are_probable(mbart, temperature):
    counts = first_tokens(mbart, 4000, temperature=temperature)

    expected = (first_probabilities(mbart).log() / temperature).softmax(-1)
    found = torch.tensor([counts[token] / 4000 for token in range(VOCAB_SIZE)])
    # Four standard deviations of the most uncertain share.
    assert (found - expected).abs().max() < 4 * 0.5 / 4000**0.5
    assert len(counts) > 3


def test_only_the_most_probable_tokens_are_drawn_when_told_so(mbart):
    ranked = first_probabilities(mbart).argsort(descending=True).tolist()

    assert set(first_tokens(mbart, 500, temperature=5.0, top_k=3)) == set(ranked[:3])


def test_tokens_outside_of_the_most_probable_mass_are_not_drawn(mbart):
    probabilities = first_probabilities(mbart).sort(descending=True)
    inside = int((probabilities.values.cumsum(0) < 0.6).sum()) + 1

    counts = first_tokens(mbart, 2000, top_p=0.6)

    assert set(counts) == set(probabilities.indices[:inside].tolist())


def test_almost_no_temperature_is_greedy(mbart):
    inputs, mask = clips(4)

    drawn = draw(mbart, inputs, mask, list("abcd"), temperature=1e-4)
    greedy = draw(mbart, inputs, mask, list("abcd"), temperature=0.0)

    assert drawn.ids.tolist() == greedy.ids.tolist()
    torch.testing.assert_close(drawn.log_probs, greedy.log_probs)


def test_what_is_drawn_depends_on_seed_and_clip_and_not_on_the_batch(mbart):
    inputs, mask = clips(3)
    words = {"num_hypotheses": 4, "temperature": 2.0}

    together = draw(mbart, inputs, mask, list("abc"), **words)
    backwards = draw(mbart, inputs.flip(0), mask, list("cba"), **words)
    again = draw(mbart, inputs, mask, list("abc"), seed=2, **words)

    torch.testing.assert_close(backwards.log_probs.flip(0), together.log_probs)
    assert again.ids.tolist() != together.ids.tolist()
    for number, name in enumerate("abc"):
        alone = draw(mbart, inputs[number][None], mask[:1], [name], **words).ids[0]
        size = min(alone.shape[-1], together.ids.shape[-1])
        assert alone[:, :size].tolist() == together.ids[number, :, :size].tolist()


def test_hypotheses_come_best_first_with_the_models_own_log_probability(mbart):
    inputs, mask = clips(2)

    found = draw(mbart, inputs, mask, ["a", "b"], num_hypotheses=5, temperature=3.0)

    assert found.ids.shape[:2] == found.log_probs.shape == (2, 5)
    assert (found.log_probs.diff(dim=1) <= 0).all()
    for place in range(5):
        mean = mean_log_probs(mbart, inputs, found.ids[:, place], max_new_tokens=6)
        torch.testing.assert_close(found.log_probs[:, place], mean)

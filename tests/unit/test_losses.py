import math

import pytest
import torch

from fla.batch import IGNORE_INDEX
from fla.losses import translation_loss

LABELS = torch.tensor([[1, 0, IGNORE_INDEX], [2, IGNORE_INDEX, IGNORE_INDEX]])


def test_the_loss_is_a_sum_over_tokens_that_are_counted():
    # Even odds over 4 words: ln 4 for each of the 3 targets.
    loss = translation_loss(torch.zeros(2, 3, 4), LABELS, label_smoothing=0.0)

    assert float(loss.nats) == pytest.approx(3 * math.log(4))
    assert int(loss.num_tokens) == 3


def test_what_is_behind_the_end_has_neither_loss_nor_gradient():
    logits = torch.randn(2, 3, 4, requires_grad=True)

    translation_loss(logits, LABELS, label_smoothing=0.2).nats.backward()

    is_counted = logits.grad.abs().sum(-1) > 0
    assert is_counted.tolist() == (LABELS != IGNORE_INDEX).tolist()


def test_smoothing_spreads_its_mass_evenly_over_the_vocabulary():
    logits = torch.tensor([[[2.0, 0.0]]])
    log_z = math.log(math.exp(2) + 1)

    loss = translation_loss(logits, torch.tensor([[0]]), label_smoothing=0.2)

    # 0.8 on the target, and 0.1 on each of the two words.
    assert float(loss.nats) == pytest.approx(0.9 * (log_z - 2) + 0.1 * log_z)


def test_halves_of_a_batch_add_up_to_it():
    logits = torch.randn(2, 3, 4)

    whole = translation_loss(logits, LABELS, label_smoothing=0.2)
    halves = [translation_loss(logits[i : i + 1], LABELS[i : i + 1], label_smoothing=0.2)
              for i in range(2)]  # fmt: skip

    torch.testing.assert_close(whole.nats, halves[0].nats + halves[1].nats)
    assert int(whole.num_tokens) == sum(int(half.num_tokens) for half in halves)


def test_bfloat16_logits_lose_nothing_more():
    logits = torch.randn(2, 3, 4).bfloat16()

    loss = translation_loss(logits, LABELS, label_smoothing=0.2)

    assert loss.nats.dtype == torch.float32
    torch.testing.assert_close(
        loss.nats, translation_loss(logits.float(), LABELS, label_smoothing=0.2).nats
    )

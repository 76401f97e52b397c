import math

import pytest
import torch
from torch.nn.functional import cross_entropy

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


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_are_those_of_pytorch(dtype, label_smoothing):
    logits = torch.randn(2, 3, 4).mul(3).to(dtype).requires_grad_()
    theirs = logits.detach().float().requires_grad_()

    loss = translation_loss(logits, LABELS, label_smoothing=label_smoothing).nats
    expected = cross_entropy(
        theirs.flatten(0, 1), LABELS.flatten(), reduction="sum", label_smoothing=label_smoothing
    )
    # A step divides by its tokens.
    (loss / 3).backward()
    (expected / 3).backward()

    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    assert logits.grad.dtype == dtype
    tolerance = 1e-6 if dtype is torch.float32 else 2e-3
    torch.testing.assert_close(logits.grad.float(), theirs.grad, rtol=tolerance, atol=tolerance)


def test_some_tokens_at_a_time_are_as_all_at_once(monkeypatch: pytest.MonkeyPatch):
    logits = torch.randn(2, 3, 4, requires_grad=True)
    at_once = translation_loss(logits, LABELS, label_smoothing=0.2).nats
    (of_all,) = torch.autograd.grad(at_once, logits)

    # Two tokens, and two, and two.
    monkeypatch.setattr("fla.losses._CHUNK_OF_CPU", 8)
    in_parts = translation_loss(logits, LABELS, label_smoothing=0.2).nats
    (of_parts,) = torch.autograd.grad(in_parts, logits)

    assert torch.equal(in_parts, at_once)
    assert torch.equal(of_parts, of_all)


def test_the_backward_pass_keeps_logits_in_their_own_type_and_no_copy():
    logits = torch.randn(2, 3, 4).bfloat16().requires_grad_()
    kept: list[torch.Tensor] = []

    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        translation_loss(logits, LABELS, label_smoothing=0.2)

    storages = {tensor.untyped_storage().data_ptr() for tensor in kept if tensor.numel() == 24}
    assert storages == {logits.untyped_storage().data_ptr()}


def test_words_that_are_impossible_cost_nothing_without_smoothing():
    logits = torch.tensor([[[1.0, 1.0, -math.inf]]], requires_grad=True)

    loss = translation_loss(logits, torch.tensor([[0]]), label_smoothing=0.0).nats
    loss.backward()

    assert loss.item() == pytest.approx(math.log(2))
    assert logits.grad.tolist() == [[[-0.5, 0.5, 0.0]]]

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fla.batch import Batch, TextBatch, pad_labels
from fla.losses import LossSum
from fla.models.adapters import Adapter
from fla.models.light_t import build_light_t, build_small_mbart
from fla.models.packing import pad_clips
from fla.models.stages import DenoisingModel, Stage1Model, Stage2Model
from fla.models.translator import Translator
from fla.models.visual_encoder import VisualEncoder, build_visual_encoder
from fla.search import Search

LANGUAGE_ID, EOS_ID, PAD_ID, VOCAB_SIZE = 38, 2, 1, 40
SENTENCES = [[5, 6, 7, EOS_ID, LANGUAGE_ID], [8, EOS_ID, LANGUAGE_ID], [9, 9, EOS_ID, LANGUAGE_ID]]


def small_mbart() -> Translator:
    return build_small_mbart(
        vocab_size=VOCAB_SIZE,
        d_model=16,
        num_layers=1,
        num_heads=2,
        ffn_width=32,
        dropout=0.1,
        pad_id=PAD_ID,
        eos_id=EOS_ID,
        start_id=LANGUAGE_ID,
    )


@pytest.fixture
def encoder() -> VisualEncoder:
    torch.manual_seed(0)
    return build_visual_encoder(sign_width=24, kernel_size=3)


@pytest.fixture
def stage1(encoder: VisualEncoder) -> Stage1Model:
    light_t = build_light_t(
        size="tiny",
        vocab_size=VOCAB_SIZE,
        dropout=0.1,
        pad_id=PAD_ID,
        eos_id=EOS_ID,
        start_id=LANGUAGE_ID,
    )
    adapter = Adapter(in_width=24, out_width=256)
    return Stage1Model(encoder, adapter, light_t, label_smoothing=0.2, start_id=LANGUAGE_ID)


@pytest.fixture
def stage2() -> Stage2Model:
    torch.manual_seed(0)
    adapter = Adapter(in_width=24, out_width=16)
    return Stage2Model(None, adapter, small_mbart(), label_smoothing=0.2, start_id=LANGUAGE_ID)


def batch_of(
    *lengths: int, frames: Tensor | None = None, features: Tensor | None = None, first: int = 0
) -> Batch:
    names = tuple(f"clip{i}" for i in range(len(lengths)))
    return Batch(
        sample_ids=names,
        references=names,
        frame_lengths=torch.tensor(lengths),
        labels=pad_labels(SENTENCES[first : first + len(lengths)]),
        frames=frames,
        features=features,
    )


@pytest.mark.parametrize("stage", [1, 2])
def test_a_blank_batch_teaches_nothing(stage: int, stage1: Stage1Model, stage2: Stage2Model):
    model = stage1 if stage == 1 else stage2
    batch = replace(
        batch_of(5, frames=torch.zeros(5, 3, 32, 32), features=torch.zeros(5, 24)), is_blank=True
    )

    loss = model(batch)
    loss.nats.backward()

    assert (loss.nats.item(), int(loss.num_tokens)) == (0.0, 0)
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert gradients
    assert all(not gradient.any() for gradient in gradients)


def test_a_blank_batch_leaves_the_statistics_of_the_encoder_as_they_are(stage1: Stage1Model):
    blank = replace(batch_of(5, frames=torch.full((5, 3, 32, 32), 0.5)), is_blank=True)
    before = {name: buffer.clone() for name, buffer in stage1.named_buffers()}

    stage1.train()(blank).nats.backward()

    assert len(before) > 60
    assert all(buffer.equal(before[name]) for name, buffer in stage1.named_buffers())
    stage1(replace(blank, is_blank=False))
    assert not any(
        buffer.equal(before[name])
        for name, buffer in stage1.named_buffers()
        if name.endswith("running_mean")
    )


def total(losses: list[LossSum]) -> tuple[Tensor, int]:
    nats = torch.stack([loss.nats for loss in losses]).sum()
    return nats, sum(int(loss.num_tokens) for loss in losses)


def test_packed_clips_are_laid_side_by_side():
    padded, mask = pad_clips(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1, 2]))

    assert padded[..., 0].tolist() == [[1.0, 0.0], [2.0, 3.0]]
    assert mask.tolist() == [[1, 0], [1, 1]]


def test_padding_changes_nothing_in_the_loss_of_stage_2(stage2: Stage2Model):
    stage2.eval()
    features = torch.randn(9, 24)

    together = stage2(batch_of(2, 6, 1, features=features))
    alone = [
        stage2(batch_of(len(part), features=part, first=i))
        for i, part in enumerate(features.split([2, 6, 1]))
    ]

    nats, num_tokens = total(alone)
    torch.testing.assert_close(together.nats, nats)
    assert int(together.num_tokens) == num_tokens == 12


def test_padding_changes_nothing_in_the_loss_of_stage_1(stage1: Stage1Model):
    stage1.eval()
    frames = torch.randn(6, 3, 32, 32)

    with torch.no_grad():
        together = stage1(batch_of(2, 3, 1, frames=frames))
        alone = [
            stage1(batch_of(len(part), frames=part, first=i))
            for i, part in enumerate(frames.split([2, 3, 1]))
        ]

    nats, num_tokens = total(alone)
    torch.testing.assert_close(together.nats, nats)
    assert int(together.num_tokens) == num_tokens == 12


def test_every_parameter_of_stage_1_gets_a_gradient(stage1: Stage1Model):
    stage1(batch_of(2, 3, frames=torch.randn(5, 3, 48, 48))).nats.backward()

    assert [name for name, value in stage1.named_parameters() if value.grad is None] == []


def test_every_parameter_of_stage_2_gets_a_gradient(stage2: Stage2Model):
    stage2(batch_of(2, 3, features=torch.randn(5, 24))).nats.backward()

    assert [name for name, value in stage2.named_parameters() if value.grad is None] == []


def test_stage_1_decodes_a_sentence_a_clip(stage1: Stage1Model):
    ids = (
        stage1.eval()
        .generate(
            batch_of(2, 3, frames=torch.randn(5, 3, 32, 32)),
            search=Search(num_beams=2, max_new_tokens=4),
        )
        .ids
    )

    assert ids[:, 0, 0].tolist() == [LANGUAGE_ID] * 2


def test_stage_2_learns_to_say_what_the_features_show(stage2: Stage2Model):
    shown = torch.randn(3, 24).repeat_interleave(torch.tensor([2, 3, 1]), dim=0)
    batch = batch_of(2, 3, 1, features=shown)
    optimizer = torch.optim.Adam(stage2.parameters(), lr=1e-2)

    for _ in range(150):
        optimizer.zero_grad()
        loss = stage2(batch)
        (loss.nats / loss.num_tokens).backward()
        optimizer.step()
    ids = stage2.eval().generate(batch, search=Search(num_beams=3, max_new_tokens=8)).ids[:, 0]

    # Label: tokens </s> language. Hypothesis: language tokens </s>.
    expected = [[LANGUAGE_ID, *sentence[:-1]] for sentence in SENTENCES]
    assert [row[: len(e)] for row, e in zip(ids.tolist(), expected, strict=True)] == expected


def test_bfloat16_weights_give_a_float32_loss(stage2: Stage2Model):
    batch = batch_of(2, 3, features=torch.randn(5, 24))
    expected = stage2.eval()(batch).nats

    loss = stage2.to(torch.bfloat16)(batch).nats

    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0.0)


def test_a_batch_without_its_input_is_refused(stage1: Stage1Model, stage2: Stage2Model):
    with pytest.raises(ValueError, match="Stage 1 needs frames"):
        stage1(batch_of(1))
    with pytest.raises(ValueError, match="Stage 2 needs features"):
        stage2(batch_of(1))


def test_denoising_ignores_padding():
    model = DenoisingModel(small_mbart()).eval()
    noisy = pad_labels([[5, 39, EOS_ID, LANGUAGE_ID], [39, EOS_ID, LANGUAGE_ID]])
    mask = (noisy >= 0).long()
    both = TextBatch(
        input_ids=noisy.masked_fill(mask == 0, PAD_ID),
        attention_mask=mask,
        labels=pad_labels(SENTENCES[:2]),
    )
    first = TextBatch(
        input_ids=noisy[:1], attention_mask=mask[:1], labels=pad_labels(SENTENCES[:1])
    )
    second = TextBatch(
        input_ids=noisy[1:, :3], attention_mask=mask[1:, :3], labels=pad_labels(SENTENCES[1:2])
    )

    together = model(both)

    nats, num_tokens = total([model(first), model(second)])
    torch.testing.assert_close(together.nats, nats)
    assert int(together.num_tokens) == num_tokens == 8

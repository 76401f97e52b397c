"""Stage models: network, loss, and what a batch means to them.

Shape letters:
- B = clips in the micro-batch
- T = frames, padded to the longest clip
- R = real frames of all clips together, packed one clip after the other
- D = width of a sign-wise feature
- E = width of the translator's embeddings
- L = target tokens
- S = tokens of a noisy sentence
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from fla.batch import Batch, TextBatch
from fla.batch_norm import borrowed_statistics
from fla.losses import LossSum, translation_loss
from fla.models.adapters import Adapter
from fla.models.ensemble import Member
from fla.models.features import FeatureEncoder
from fla.models.packing import pad_clips
from fla.models.translator import Translator, decode, last_layer, predict, restore
from fla.models.visual_encoder import VisualEncoder
from fla.search import Found, Search


class Stage1Model(nn.Module):
    """Visual initialing: visual encoder, VL-Adapter and Light-T, all trained.

    Args:
        visual_encoder: Frames to sign-wise features.
        adapter: The VL-Adapter.
        light_t: The translator that is thrown away after stage 1.
        label_smoothing: Probability mass spread over the vocabulary; the paper uses 0.2.
        start_id: Id that every translation starts with.
    """

    def __init__(
        self,
        visual_encoder: VisualEncoder,
        adapter: Adapter,
        light_t: Translator,
        *,
        label_smoothing: float,
        start_id: int,
    ) -> None:
        super().__init__()
        self.visual_encoder = visual_encoder
        self.adapter = adapter
        self.light_t = light_t
        self.label_smoothing = label_smoothing
        self.start_id = start_id

    def forward(self, batch: Batch) -> LossSum:
        """Loss of a micro-batch with frames."""
        embeds_BTE, mask_BT = self.embed(batch)
        logits = predict(
            self.light_t, batch.labels, inputs_embeds=embeds_BTE, attention_mask=mask_BT
        )
        return translation_loss(logits, batch.targets, label_smoothing=self.label_smoothing)

    @torch.no_grad()
    def generate(self, batch: Batch, *, search: Search) -> Found:
        """Translate a micro-batch with frames, as `translate` says."""
        return translate([self], batch, search=search)

    def last_layers(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of the last layer of each part (FLa-LLM, figure 2)."""
        return {
            "visual": [*self.visual_encoder.temporal.parameters()],
            "adapter": [*self.adapter.out.parameters()],
            "translator": last_layer(self.light_t),
        }

    @property
    def translator(self) -> Translator:
        """What predicts tokens."""
        return self.light_t

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the translator reads, `(B, T, E)`, and its mask, `(B, T)`."""
        if batch.frames is None:
            raise ValueError("Stage 1 needs frames, but the batch has none.")
        with _counted(batch, self.visual_encoder):
            features_RD = self.visual_encoder(batch.frames, batch.frame_lengths)
        return pad_clips(self.adapter(features_RD), batch.frame_lengths)


class Stage2Model(nn.Module):
    """LLM fine-tuning: LLM-Adapter and LLM, on the features of a visual encoder.

    Args:
        encoder: What of the encoder is trained along, or is stored with the rest; None: the
            features of a frozen one are given.
        adapter: The LLM-Adapter.
        llm: The pretrained translator, mBART in the paper.
        label_smoothing: Probability mass spread over the vocabulary; the paper uses 0.2.
        start_id: Id that every translation starts with.
    """

    def __init__(
        self,
        encoder: FeatureEncoder | None,
        adapter: Adapter,
        llm: Translator,
        *,
        label_smoothing: float,
        start_id: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.adapter = adapter
        self.llm = llm
        self.label_smoothing = label_smoothing
        self.start_id = start_id

    def forward(self, batch: Batch) -> LossSum:
        """Loss of a micro-batch with features, or with what the encoder starts from."""
        embeds_BTE, mask_BT = self.embed(batch)
        logits = predict(self.llm, batch.labels, inputs_embeds=embeds_BTE, attention_mask=mask_BT)
        return translation_loss(logits, batch.targets, label_smoothing=self.label_smoothing)

    @torch.no_grad()
    def generate(self, batch: Batch, *, search: Search) -> Found:
        """Translate a micro-batch with features, as `translate` says."""
        return translate([self], batch, search=search)

    def last_layers(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of the last layer of each part that is trained (FLa-LLM, figure 2)."""
        layers = {
            "adapter": [*self.adapter.out.parameters()],
            "translator": last_layer(self.llm),
        }
        if self.encoder is None:
            return layers
        return {"visual": self.encoder.last_layer()} | layers

    @property
    def translator(self) -> Translator:
        """What predicts tokens."""
        return self.llm

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the translator reads, `(B, T, E)`, and its mask, `(B, T)`."""
        features = batch.features
        if self.encoder is not None:
            with _counted(batch, self.encoder):
                features = self.encoder(batch)
        if features is None:
            raise ValueError("Stage 2 needs features, but the batch has none.")
        return pad_clips(self.adapter(features), batch.frame_lengths)


def _counted(batch: Batch, encoder: nn.Module) -> AbstractContextManager[None]:
    """Whether the frames of a batch count in BatchNorm's statistics: gray ones do not."""
    return borrowed_statistics(encoder) if batch.is_blank else nullcontext()


def translate(
    models: Sequence[Stage1Model | Stage2Model], batch: Batch, *, search: Search
) -> Found:
    """Translate a micro-batch with one model or, as an ensemble, with several.

    Args:
        models: In evaluation mode; of either stage, with the same tokenizer.
        batch: With what the models read; those that keep a frozen encoder inside need frames.
        search: How sentences are searched for.

    Raises:
        ValueError: As of `fla.models.translator.decode`.
    """
    members = []
    for model in models:
        embeds_BTE, mask_BT = model.embed(batch)
        members.append(
            Member(model=model.translator, inputs_embeds=embeds_BTE, attention_mask=mask_BT)
        )
    return decode(members, search=search, start_id=models[0].start_id, sample_ids=batch.sample_ids)


class DenoisingModel(nn.Module):
    """mBART's pretraining: restore a sentence from its noisy form."""

    def __init__(self, mbart: Translator) -> None:
        super().__init__()
        self.mbart = mbart

    def forward(self, batch: TextBatch) -> LossSum:
        """Loss of a micro-batch, without label smoothing."""
        logits = restore(
            self.mbart,
            batch.labels,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
        )
        return translation_loss(logits, batch.labels, label_smoothing=0.0)

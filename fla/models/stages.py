"""Stage models: network, loss, and what a batch means to them.

Shape letters:
- B = clips in the micro-batch
- T = frames, padded to the longest clip
- R = real frames of all clips together, packed one clip after the other
- C = width of a frame-wise feature
- D = width of a sign-wise feature
- E = width of the translator's embeddings
- L = target tokens
- S = tokens of a noisy sentence
"""

import hashlib
from dataclasses import replace

import torch
from torch import Tensor, nn

from fla.batch import Batch, TextBatch
from fla.losses import LossSum, translation_loss
from fla.models.adapters import Adapter
from fla.models.translator import Translator, decode, predict, restore
from fla.models.visual_encoder import VisualEncoder

_FRAMES_PER_PASS = 128
"""Frames through the backbone at once: about 0.5 GiB of activations at 224 px in bfloat16."""


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
        embeds_BTE, mask_BT = self._embed(batch)
        logits = predict(
            self.light_t, batch.labels, inputs_embeds=embeds_BTE, attention_mask=mask_BT
        )
        return translation_loss(logits, batch.targets, label_smoothing=self.label_smoothing)

    @torch.no_grad()
    def generate(
        self, batch: Batch, *, num_beams: int, length_penalty: float, max_new_tokens: int
    ) -> Tensor:
        """Translate a micro-batch with frames, as `fla.models.translator.decode` says."""
        embeds_BTE, mask_BT = self._embed(batch)
        return decode(
            self.light_t,
            embeds_BTE,
            mask_BT,
            num_beams=num_beams,
            length_penalty=length_penalty,
            max_new_tokens=max_new_tokens,
            start_id=self.start_id,
        )

    def _embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.frames is None:
            raise ValueError("Stage 1 needs frames, but the batch has none.")
        features_RD = self.visual_encoder(batch.frames, batch.frame_lengths)
        return pad_clips(self.adapter(features_RD), batch.frame_lengths)


class Stage2Model(nn.Module):
    """LLM fine-tuning: LLM-Adapter and LLM, on the features of a frozen visual encoder.

    Args:
        adapter: The LLM-Adapter.
        llm: The pretrained translator, mBART in the paper.
        label_smoothing: Probability mass spread over the vocabulary; the paper uses 0.2.
        start_id: Id that every translation starts with.
    """

    def __init__(
        self, adapter: Adapter, llm: Translator, *, label_smoothing: float, start_id: int
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.llm = llm
        self.label_smoothing = label_smoothing
        self.start_id = start_id

    def forward(self, batch: Batch) -> LossSum:
        """Loss of a micro-batch with features."""
        embeds_BTE, mask_BT = self._embed(batch)
        logits = predict(self.llm, batch.labels, inputs_embeds=embeds_BTE, attention_mask=mask_BT)
        return translation_loss(logits, batch.targets, label_smoothing=self.label_smoothing)

    @torch.no_grad()
    def generate(
        self, batch: Batch, *, num_beams: int, length_penalty: float, max_new_tokens: int
    ) -> Tensor:
        """Translate a micro-batch with features, as `fla.models.translator.decode` says."""
        embeds_BTE, mask_BT = self._embed(batch)
        return decode(
            self.llm,
            embeds_BTE,
            mask_BT,
            num_beams=num_beams,
            length_penalty=length_penalty,
            max_new_tokens=max_new_tokens,
            start_id=self.start_id,
        )

    def _embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.features is None:
            raise ValueError("Stage 2 needs features, but the batch has none.")
        return pad_clips(self.adapter(batch.features), batch.frame_lengths)


class FrozenEncoder(nn.Module):
    """Turns a batch's frames into features and changes nothing of itself.

    It stays outside of the DeepSpeed engine, which would partition it, and call `train()` on it.

    Args:
        visual_encoder: Trained in stage 1; taken over and cast to bfloat16.
    """

    def __init__(self, visual_encoder: VisualEncoder) -> None:
        super().__init__()
        # Buffers too: batch normalization refuses statistics of another type than the weights'.
        self.visual_encoder = visual_encoder.to(torch.bfloat16).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stay in evaluation mode, whatever is asked: its statistics belong to stage 1."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, batch: Batch) -> Batch:
        """The same batch with features `(R, D)`, bfloat16, in the place of its frames."""
        if batch.frames is None:
            raise ValueError("The frozen encoder needs frames, but the batch has none.")
        encoder = self.visual_encoder
        # Only the backbone's activations are large, and it looks at each frame alone.
        features_RC = torch.cat(
            [
                encoder.backbone(frames.to(torch.bfloat16))
                for frames in torch.split(batch.frames, _FRAMES_PER_PASS)
            ]
        )
        features_RD = encoder.temporal(features_RC, batch.frame_lengths)
        return replace(batch, frames=None, features=features_RD)

    def digest(self) -> str:
        """SHA-256 over names, types and bytes of all parameters and buffers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.visual_encoder.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            # numpy has no bfloat16.
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(raw.numpy().tobytes())
        return digest.hexdigest()


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


def pad_clips(packed: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Lay packed clips side by side, as attention needs them.

    Args:
        packed: `(R, E)`, the clips one after the other.
        lengths: Frames of each clip, int64, `(B,)`; they sum to R.

    Returns:
        The clips `(B, T, E)`, zero behind each end, and the attention mask, int64, `(B, T)`,
        1 on frames.
    """
    num_frames = int(lengths.max())
    real_BT = torch.arange(num_frames, device=lengths.device) < lengths[:, None]
    padded_BTE = packed.new_zeros(len(lengths), num_frames, packed.shape[1])
    padded_BTE[real_BT] = packed
    return padded_BTE, real_BT.long()

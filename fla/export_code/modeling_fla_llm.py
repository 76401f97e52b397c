# mypy: disable-error-code="no-untyped-call"
"""FLa-LLM for gloss-free sign language translation, in plain PyTorch and transformers.

    model = AutoModelForSeq2SeqLM.from_pretrained(FOLDER, trust_remote_code=True)

ResNet-18 looks at each frame, a local temporal module lets neighboring frames talk, an adapter
hands the result to a translator, an encoder-decoder of transformers, in the place of words. In
stage 1 that is Light-T, in stage 2 a pretrained language model. The modules have the names under
which model.safetensors stores their weights.

Shape letters:
- B = clips
- T = frames, padded to the longest clip
- R = real frames of all clips together, packed one clip after the other
- H, W = height and width of a frame in pixels
- C = width of a frame-wise feature, 512
- D = width of what the adapter reads
- E = width of the translator's embeddings
- L = target tokens
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CONFIG_MAPPING,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import Seq2SeqLMOutput

IGNORE_INDEX = -100
FRAME_WIDTH = 512
# Bounds memory in evaluation: 0.5 GiB for frames of 224 pixels in bfloat16.
FRAMES_PER_PASS = 128


class FlaLlmConfig(PreTrainedConfig):
    """What config.json of an export says.

    Args:
        stage: 1 or 2.
        encoder: `sign_width`, `kernel_size` (frames that the local temporal module sees at once)
            and `input_features`, what the adapter reads: frame_wise, sign_wise or light_t.
        light_t: Configuration of Light-T, an MBart: the translator of stage 1, or the encoder that
            makes the `light_t` features of stage 2.
        translator: Configuration of stage 2's language model.
        decoder_start_id: Token that every translation starts with: mBART's language, T5's padding.
        kwargs: As of PreTrainedConfig, and what else an export says about itself.
    """

    model_type = "fla_llm"

    def __init__(
        self,
        stage: int = 1,
        encoder: dict[str, Any] | None = None,
        light_t: dict[str, Any] | None = None,
        translator: dict[str, Any] | None = None,
        decoder_start_id: int = 0,
        **kwargs: Any,
    ) -> None:
        self.stage = stage
        self.encoder = encoder or {}
        self.light_t = light_t
        self.translator = translator
        self.decoder_start_id = decoder_start_id
        super().__init__(**kwargs)


class ResidualBlock(nn.Module):
    """Two convolutions and a way around them; parameters have torchvision's names."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = (
            None
            if stride == 1 and in_width == width
            else nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """Frames `(R, 3, H, W)` to frame-wise features `(R, C)`; names are torchvision's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(ResidualBlock(64, 64, 1), ResidualBlock(64, 64, 1))
        self.layer2 = nn.Sequential(ResidualBlock(64, 128, 2), ResidualBlock(128, 128, 1))
        self.layer3 = nn.Sequential(ResidualBlock(128, 256, 2), ResidualBlock(256, 256, 1))
        self.layer4 = nn.Sequential(
            ResidualBlock(256, FRAME_WIDTH, 2), ResidualBlock(FRAME_WIDTH, FRAME_WIDTH, 1)
        )
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(frames))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.flatten(self.avgpool(x), 1)


class LocalTemporal(nn.Module):
    """One convolution over time, batch normalization and ReLU, on packed clips."""

    def __init__(self, in_width: int, out_width: int, kernel_size: int) -> None:
        super().__init__()
        self.gap = kernel_size // 2
        self.conv = nn.Conv1d(in_width, out_width, kernel_size)
        self.norm = nn.BatchNorm1d(out_width)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Frame-wise features `(R, C)` to sign-wise features `(R, D)`."""
        clip_R = torch.arange(len(lengths), device=frames.device).repeat_interleave(lengths)
        # One long sequence with zeros between the clips: as if each was convolved alone.
        place_R = torch.arange(len(frames), device=frames.device) + self.gap * clip_R
        num_places = len(frames) + self.gap * (len(lengths) + 1)
        x = frames.new_zeros(num_places, frames.shape[1])
        x = x.index_copy(0, place_R + self.gap, frames)
        x = self.conv(x.T[None])[0].T[place_R]
        return torch.relu(self.norm(x))


class Adapter(nn.Module):
    """MLP with one hidden layer, from features `(R, D)` to embeddings `(R, E)`."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_width, out_width)
        self.out = nn.Linear(out_width, out_width)

    def forward(self, features: Tensor) -> Tensor:
        embeddings: Tensor = self.out(torch.relu(self.hidden(features)))
        return embeddings


class LightT(MBartForConditionalGeneration):
    """MBart whose head has weights of its own."""

    _tied_weights_keys: dict[str, str] = {}  # noqa: RUF012


class LightTEncoder(nn.Module):
    """Adapter and encoder of Light-T, as stage 1 trained them."""

    def __init__(self, config: MBartConfig, in_width: int) -> None:
        super().__init__()
        self.adapter = Adapter(in_width, config.d_model)
        self.encoder = LightT(config).model.encoder
        # It reads no words.
        self.encoder.embed_tokens = nn.Identity()

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        embeds_BTE, mask_BT = pad_clips(self.adapter(features), lengths)
        hidden_BTE: Tensor = self.encoder(
            inputs_embeds=embeds_BTE, attention_mask=mask_BT
        ).last_hidden_state
        return hidden_BTE[mask_BT.bool()]


class VisualEncoder(nn.Module):
    """Frames `(R, 3, H, W)` to the features `(R, D)` that the adapter reads."""

    def __init__(self, config: FlaLlmConfig) -> None:
        super().__init__()
        reads = config.encoder.get("input_features", "sign_wise")
        self.backbone = ResNet18()
        self.temporal: LocalTemporal | None = None
        self.light_t: LightTEncoder | None = None
        self.width = FRAME_WIDTH
        if reads in ("sign_wise", "light_t"):
            self.width = config.encoder["sign_width"]
            kernel_size = config.encoder["kernel_size"]
            self.temporal = LocalTemporal(FRAME_WIDTH, self.width, kernel_size)
        if reads == "light_t":
            light_t = MBartConfig(**(config.light_t or {}))
            self.light_t = LightTEncoder(light_t, self.width)
            self.width = light_t.d_model

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        # In training, batch normalization sees all frames at once.
        frames_per_pass = len(frames) if torch.is_grad_enabled() else FRAMES_PER_PASS
        passes = torch.split(frames, frames_per_pass)
        features = torch.cat([self.backbone(part) for part in passes])
        if self.temporal is not None:
            features = self.temporal(features, lengths)
        if self.light_t is not None:
            features = self.light_t(features, lengths)
        return features


class FlaLlmForTranslation(PreTrainedModel):
    """Frames to the tokens of a sentence.

    Args:
        config: Of an export.
    """

    config_class = FlaLlmConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"

    def __init__(self, config: FlaLlmConfig) -> None:
        super().__init__(config)
        encoder, translator = VisualEncoder(config), _build_translator(config)
        self.adapter = Adapter(encoder.width, translator.config.d_model)
        if config.stage == 1:
            self.visual_encoder, self.light_t = encoder, translator
        else:
            self.encoder, self.llm = encoder, translator
        self._ties = _find_ties(self)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        frame_lengths: Tensor,
        labels: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
    ) -> Seq2SeqLMOutput:
        """Logits of every next token, with the tokens before it given.

        Args:
            pixel_values: Normalized frames, `(R, 3, H, W)`, the clips one after the other.
            frame_lengths: Frames of each clip, int64, `(B,)`; they sum to R.
            labels: Sentences as the tokenizer makes them of `text_target`, int64, `(B, L)`, -100
                behind each end.
            decoder_input_ids: What the decoder reads, `(B, L)`; by default the start token and
                all labels but the last.

        Returns:
            Logits `(B, L, V)` and, with labels, their mean cross-entropy in nats.
        """
        embeds_BTE, mask_BT = self._embed(pixel_values, frame_lengths)
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("Give labels or decoder_input_ids; generate() needs neither.")
            decoder_input_ids = self._shift_right(labels)
        output = self.translator(
            inputs_embeds=embeds_BTE,
            attention_mask=mask_BT,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        )
        loss = None
        if labels is not None:
            logits = output.logits.flatten(0, 1).float()
            loss = functional.cross_entropy(logits, labels.flatten(), ignore_index=IGNORE_INDEX)
        return Seq2SeqLMOutput(loss=loss, logits=output.logits)

    @torch.no_grad()
    def generate(
        self,
        pixel_values: Tensor,
        frame_lengths: Tensor,
        num_beams: int = 5,
        max_new_tokens: int = 150,
        **kwargs: Any,
    ) -> Any:
        """Translate by beam search.

        Args:
            pixel_values: As of `forward`.
            frame_lengths: As of `forward`.
            num_beams: Hypotheses kept while searching.
            max_new_tokens: Longest translation.
            kwargs: As of `generate` in transformers.

        Returns:
            Token ids, `(B, L)`, for the tokenizer's `batch_decode(ids, skip_special_tokens=True)`.
        """
        embeds_BTE, mask_BT = self._embed(pixel_values, frame_lengths)
        return self.translator.generate(
            inputs_embeds=embeds_BTE,
            attention_mask=mask_BT,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            decoder_start_token_id=self.config.decoder_start_id,
            **kwargs,
        )

    @property
    def translator(self) -> Any:
        """Light-T of stage 1, the language model of stage 2."""
        return self.light_t if self.config.stage == 1 else self.llm

    def get_input_embeddings(self) -> nn.Module:
        """The translator's words."""
        words: nn.Module = self.translator.get_input_embeddings()
        return words

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Names of shared weights: which one takes that of which other one."""
        return dict(self._ties)

    def _embed(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        encoder = self.visual_encoder if self.config.stage == 1 else self.encoder
        features_RD = _encode(encoder, frames.to(self.dtype), lengths)
        return pad_clips(self.adapter(features_RD), lengths)

    def _shift_right(self, labels: Tensor) -> Tensor:
        starts = torch.full_like(labels[:, :1], self.config.decoder_start_id)
        shifted = torch.cat([starts, labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == IGNORE_INDEX, self.translator.config.pad_token_id)


def _encode(encoder: nn.Module, frames: Tensor, lengths: Tensor) -> Tensor:
    """Features of frames: in float32 where a CPU would imitate bfloat16, 30 times slower."""
    is_imitated = frames.dtype is torch.bfloat16 and frames.device.type == "cpu"
    if not is_imitated or torch.is_grad_enabled() or _computes_bfloat16():
        features: Tensor = encoder(frames, lengths)
        return features
    weights = {name: tensor.detach() for name, tensor in encoder.named_parameters()}
    weights |= dict(encoder.named_buffers())
    precise = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }
    features = torch.func.functional_call(encoder, precise, (frames.float(), lengths))
    return features.bfloat16()


def _computes_bfloat16() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        # PyTorch without oneDNN, as for macOS.
        return False


def pad_clips(packed: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Packed clips `(R, E)` side by side, `(B, T, E)`, and the attention mask `(B, T)`."""
    real_BT = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    padded = packed.new_zeros(*real_BT.shape, packed.shape[1])
    padded[real_BT] = packed
    return padded, real_BT.long()


def _build_translator(config: FlaLlmConfig) -> Any:
    # In the type that from_pretrained asks for, whatever the translator's own config says.
    dtype = torch.get_default_dtype()
    if config.stage == 1:
        translator: Any = LightT._from_config(MBartConfig(**(config.light_t or {})), dtype=dtype)
    else:
        translator = _build_llm(dict(config.translator or {}), dtype)
    tokens = translator.config
    # Nothing but the tokens: a language model's own beams and lengths belong to other tasks.
    translator.generation_config = GenerationConfig(
        pad_token_id=tokens.pad_token_id,
        bos_token_id=getattr(tokens, "bos_token_id", None),
        eos_token_id=tokens.eos_token_id,
        # BART's family learned to end every sentence that reaches the longest length.
        forced_eos_token_id=(
            tokens.eos_token_id if hasattr(tokens, "forced_eos_token_id") else None
        ),
        decoder_start_token_id=config.decoder_start_id,
    )
    return translator


def _build_llm(fields: dict[str, Any], dtype: torch.dtype) -> Any:
    config = CONFIG_MAPPING[fields.get("model_type", "mbart")].from_dict(fields)
    # transformers says True for every T5, also where the head is not the word embedding.
    config.tie_word_embeddings = fields.get("tie_word_embeddings", True) is not False
    llm = AutoModelForSeq2SeqLM.from_config(config, dtype=dtype)
    if not config.tie_word_embeddings:
        # Only the head has weights of its own; transformers would part the words as well.
        words = llm.get_input_embeddings().weight
        for part in (llm.get_encoder(), llm.get_decoder()):
            part.get_input_embeddings().weight = words
    return llm


def _find_ties(model: nn.Module) -> dict[str, str]:
    """Every other name of a parameter, by its first one, under which it is stored."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return {other: first for first, *others in names.values() for other in others}

"""The export folder: what stage 2, decoding and other people load.

`config.json` says how to build the model and how its videos are to be prepared, `model.safetensors`
holds all weights, and the tokenizer's files lie beside them. No pickle, no shards, no world size.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file
from torch import Tensor, nn

from fla.batch import Batch
from fla.errors import CheckpointError
from fla.models.adapters import Adapter
from fla.models.light_t import build_light_t
from fla.models.llm import build_llm
from fla.models.stages import FrozenEncoder, Stage1Model, Stage2Model
from fla.models.translator import Translator
from fla.models.visual_encoder import VisualEncoder, build_visual_encoder
from fla.run_folder import write_json
from fla.text.codec import TextCodec, read_codec

FORMAT = "fla-llm-export"
FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
ENCODER_PREFIX = "visual_encoder."


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a video becomes the frames that this model was trained on."""

    frame_stride: int
    target_fps: float = 0.0
    max_frames: int
    resize_px: int
    crop_px: int


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What the model was trained on, as the run's config named it."""

    manifest_dir: str
    video_root: str


@dataclass(frozen=True, kw_only=True)
class Description:
    """Everything in an export but weights and tokenizer."""

    stage: Literal[1, 2]
    encoder: dict[str, int]
    """Flat arguments of `build_visual_encoder`: sign_width and kernel_size."""
    translator: dict[str, Any]
    """Light-T's size (stage 1) or mBART's configuration (stage 2)."""
    language: str
    max_tokens: int
    autocast: bool
    """Whether the model computes under bf16 autocast, as it did in training."""
    preprocessing: Preprocessing
    corpus: Corpus


@dataclass(frozen=True, kw_only=True)
class LoadedTranslator:
    """A model that turns batches of frames into sentences."""

    description: Description
    model: Stage1Model | Stage2Model
    prepare: Callable[[Batch], Batch]
    """Brings a batch to the device and, in stage 2, through the frozen encoder."""
    codec: TextCodec
    device: str

    @contextmanager
    def inference(self) -> Iterator[None]:
        """No gradients, and the precision of training."""
        kind = torch.device(self.device).type
        with (
            torch.no_grad(),
            torch.autocast(kind, torch.bfloat16, enabled=self.description.autocast),
        ):
            yield


def write_export(
    folder: Path, model: nn.Module, *, description: Description, codec: TextCodec
) -> None:
    """Write a whole model; one rank calls it.

    Args:
        folder: Made if missing; files of an earlier export are replaced, config.json last.
        model: All weights; tied ones are stored once.
        description: How to build it again.
        codec: Its tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    save_file(_untied_tensors(model), str(folder / WEIGHTS))
    codec.save(folder)
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(description)}
    write_json(folder / "config.json", content)


def read_description(folder: Path) -> Description:
    """Read an export's config.json.

    Raises:
        CheckpointError: The folder is no export, or one of another version.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no export: it has no config.json. Point to the export/ folder of a run "
            "that has ended."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise CheckpointError(
            f"{path} is not of an export of this toolkit. Point to the export/ folder of a run."
        )
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: export version {version} is not the version {FORMAT_VERSION} that this "
            "release reads. Export again with this release."
        )
    try:
        content["preprocessing"] = Preprocessing(**content["preprocessing"])
        content["corpus"] = Corpus(**content["corpus"])
        return Description(**content)
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: the description is not whole ({error}). Export the run again."
        ) from error


def load_visual_encoder(folder: Path) -> tuple[VisualEncoder, Description]:
    """Load the visual encoder of stage 1, and nothing else of it.

    Raises:
        CheckpointError: The folder is no export of stage 1.
    """
    description = read_description(folder)
    if description.stage != 1:
        raise CheckpointError(
            f"{folder} is an export of stage {description.stage}, not of stage 1. Point "
            "model.encoder_export to the export/ folder of a stage-1 run."
        )
    encoder = build_visual_encoder(**description.encoder, backbone_weights="")
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            tensors = {
                name.removeprefix(ENCODER_PREFIX): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 - safe_open is no mapping
                if name.startswith(ENCODER_PREFIX)
            }
        encoder.load_state_dict(tensors)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _other_weights(folder / WEIGHTS, error) from error
    return encoder, description


def load_translator(folder: Path, *, device: str) -> LoadedTranslator:
    """Load an export for decoding.

    Args:
        folder: Of stage 1 or of stage 2.
        device: Torch device to compute on.

    Raises:
        CheckpointError: The folder is no export.
    """
    description = read_description(folder)
    codec = read_codec(folder, language=description.language)
    if description.stage == 1:
        model = build_stage1(description, codec)
        _load_weights(model, folder)
        return LoadedTranslator(
            description=description,
            model=model.to(device).eval(),
            prepare=lambda batch: batch.to(device),
            codec=codec,
            device=device,
        )
    exported = _Exported(
        build_visual_encoder(**description.encoder, backbone_weights=""),
        build_stage2(description, codec, build_llm(description.translator)),
    ).to(torch.bfloat16)
    _load_weights(exported, folder)
    exported.to(device).eval()
    encoder = FrozenEncoder(exported.visual_encoder)
    return LoadedTranslator(
        description=description,
        model=exported.translator,
        prepare=lambda batch: encoder(batch.to(device)),
        codec=codec,
        device=device,
    )


def build_stage1(
    description: Description,
    codec: TextCodec,
    *,
    backbone_weights: str = "",
    dropout: float = 0.0,
    label_smoothing: float = 0.0,
) -> Stage1Model:
    """Build stage 1's model, with random weights where none are given.

    Args:
        description: Shapes.
        codec: Its vocabulary is the model's.
        backbone_weights: As of `build_visual_encoder`.
        dropout: Of Light-T, in training.
        label_smoothing: Of the loss, in training.
    """
    encoder = build_visual_encoder(**description.encoder, backbone_weights=backbone_weights)
    light_t = build_light_t(
        size=description.translator["size"],
        vocab_size=codec.vocab_size,
        dropout=dropout,
        pad_id=codec.pad_id,
        eos_id=codec.eos_id,
        start_id=codec.start_id,
    )
    adapter = Adapter(in_width=description.encoder["sign_width"], out_width=light_t.config.d_model)
    return Stage1Model(
        encoder,
        adapter,
        light_t,
        label_smoothing=label_smoothing,
        start_id=codec.start_id,
    )


def build_stage2(
    description: Description,
    codec: TextCodec,
    mbart: Translator,
    *,
    label_smoothing: float = 0.0,
) -> Stage2Model:
    """Put the LLM-Adapter before an mBART."""
    adapter = Adapter(in_width=description.encoder["sign_width"], out_width=mbart.config.d_model)
    return Stage2Model(adapter, mbart, label_smoothing=label_smoothing, start_id=codec.start_id)


class _Exported(nn.Module):
    """Stage 2 as it is stored: the frozen encoder beside what was tuned on it."""

    def __init__(self, visual_encoder: VisualEncoder, translator: Stage2Model) -> None:
        super().__init__()
        self.visual_encoder = visual_encoder
        self.translator = translator


def stage2_export_module(visual_encoder: VisualEncoder, translator: Stage2Model) -> nn.Module:
    """Put the frozen encoder and the tuned translator under the names that an export uses."""
    return _Exported(visual_encoder, translator)


def _untied_tensors(model: nn.Module) -> dict[str, Tensor]:
    # Under ZeRO a weight is a window on the engine's buffer; each tied one is stored once.
    tensors = {}
    seen = set()
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in seen:
            seen.add(place)
            tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return tensors


def _load_weights(model: nn.Module, folder: Path) -> None:
    path = folder / WEIGHTS
    try:
        load_model(model, str(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _other_weights(path, error) from error


def _other_weights(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} does not hold this model's weights ({str(error).splitlines()[0]}). Export "
        "the run again."
    )

"""What an export says about itself: how to build the model, how its videos are prepared."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from fla.data.typical import TypicalClips
from fla.errors import CheckpointError
from fla.models.features import InputFeatures
from fla.run_folder import write_json

FORMAT = "fla-llm-export"
FORMAT_VERSION = 2


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
    protocol: str = "text"
    """Named scoring protocol of its dev scores."""
    name: str = ""
    """Of the data set, as its importer has it; empty: unknown, as in the four below."""
    num_samples: int = 0
    """Training sentences."""
    hours: float = 0.0
    """Of their clips together."""
    num_signers: int = 0
    fingerprint: dict[str, Any] = field(default_factory=dict)
    """Of the training sentences: see `fla.data.manifest.fingerprint`."""
    typical: TypicalClips | None = None
    """What its training clips are like; None: an export from before this was noted."""


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """What turns frames into the input of an adapter."""

    sign_width: int
    kernel_size: int
    input_features: InputFeatures = "sign_wise"
    """What the adapter reads; always sign-wise features in stage 1."""
    light_t: str = ""
    """Size of the Light-T whose encoder gives those features; empty: none does."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """Everything in an export but weights and tokenizer."""

    stage: Literal[1, 2]
    encoder: EncoderShape
    translator: dict[str, Any]
    """Light-T's size (stage 1) or the LLM's configuration (stage 2)."""
    language: str
    max_tokens: int
    autocast: bool
    """Whether the model computes under bf16 autocast, as it did in training."""
    preprocessing: Preprocessing
    corpus: Corpus


def read_description(folder: Path) -> Description:
    """Read an export's config.json; keys that only transformers reads are left aside.

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
    names = {field_.name for field_ in fields(Description)}
    content = {name: value for name, value in content.items() if name in names}
    try:
        content["encoder"] = EncoderShape(**content["encoder"])
        content["preprocessing"] = Preprocessing(**content["preprocessing"])
        content["corpus"] = _read_corpus(**content["corpus"])
        return Description(**content)
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: the description is not whole ({error}). Export the run again."
        ) from error


def write_description(
    folder: Path, description: Description, for_transformers: Mapping[str, object]
) -> None:
    """Write an export's config.json.

    Args:
        folder: Of the export.
        description: What this toolkit reads.
        for_transformers: Further keys, by which transformers loads the same folder.
    """
    ours = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(description)}
    write_json(folder / "config.json", {**for_transformers, **ours})


def _read_corpus(*, typical: dict[str, float] | None = None, **fields: Any) -> Corpus:
    return Corpus(typical=TypicalClips(**typical) if typical else None, **fields)

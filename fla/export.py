"""The export folder: what stage 2, decoding and other people load.

`config.json` says how to build the model and how its videos are to be prepared, `model.safetensors`
holds all weights, and the tokenizer's files lie beside them. No pickle, no shards, no world size.
Code lies there too, by which transformers loads the folder without this toolkit; the toolkit itself
never runs code from an export.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fla.batch import Batch
from fla.build import build_encoder, build_stage1, build_stage2
from fla.description import Description, EncoderShape, read_description, write_description
from fla.errors import CheckpointError
from fla.for_transformers import describe_for_transformers, write_for_transformers
from fla.models.features import FeatureEncoder, InputFeatures
from fla.models.llm import build_llm
from fla.models.loading import fill_module, stored_buffers, tied_parameters
from fla.models.stages import Stage1Model, Stage2Model
from fla.search import Hypothesis, Search, read_hypotheses
from fla.text.codec import TextCodec, read_codec
from fla.weights import SAFETENSORS, Layout, open_tensors, write_tensors

# Where stage 1 has what stage 2 takes over, by its name there.
_OF_STAGE1 = {
    "backbone.": "visual_encoder.backbone.",
    "temporal.": "visual_encoder.temporal.",
    "light_t.adapter.": "adapter.",
    "light_t.encoder.": "light_t.model.encoder.",
}


@dataclass(frozen=True, kw_only=True)
class LoadedTranslator:
    """A model that turns batches of frames into sentences."""

    description: Description
    model: Stage1Model | Stage2Model
    prepare: Callable[[Batch], Batch]
    """Brings a batch to the device."""
    codec: TextCodec
    device: str

    dtype: torch.dtype
    """What it computes in."""

    @contextmanager
    def inference(self) -> Iterator[None]:
        """No gradients; in bfloat16 the precision of training, which may be autocast."""
        kind = torch.device(self.device).type
        is_mixed = self.description.autocast and self.dtype is torch.bfloat16
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=is_mixed):
            yield

    def translate(self, batch: Batch, *, search: Search) -> list[tuple[Hypothesis, ...]]:
        """The best hypotheses of each clip of a batch, best first."""
        with self.inference():
            found = self.model.generate(self.prepare(batch), search=search)
        return read_hypotheses(found, self.codec.decode)


def write_export(
    folder: Path,
    layouts: Mapping[str, Layout],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    description: Description,
    codec: TextCodec,
) -> None:
    """Write a whole model, a tensor at a time; one rank calls it.

    Args:
        folder: Made if missing; files of an earlier export are replaced, config.json last.
        layouts: Of the tensors that will come, by name.
        tensors: All weights and buffers, as `stored_tensors` names them.
        description: How to build it again.
        codec: Its tokenizer.

    Raises:
        DiskError: The disk is full, or not to be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    # transformers refused files without this word before version 5, and others may still.
    write_tensors(folder / SAFETENSORS, layouts, tensors, metadata={"format": "pt"})
    codec.save(folder)
    write_for_transformers(folder, description.preprocessing)
    fields = describe_for_transformers(description, codec, layouts)
    write_description(folder, description, fields)


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers as an export holds them; tied weights once, by their first name."""
    parameters = {names[0]: parameter.detach() for names, parameter in tied_parameters(model)}
    return parameters | dict(stored_buffers(model))


def load_encoder(
    folder: Path, *, input_features: InputFeatures
) -> tuple[FeatureEncoder, EncoderShape]:
    """Load of stage 1 what stage 2 takes over: the visual encoder, and Light-T's if asked for.

    Returns:
        The encoder, in float32, and its shape.

    Raises:
        CheckpointError: The folder is no export of stage 1.
    """
    description = read_description(folder)
    if description.stage != 1:
        raise CheckpointError(
            f"{folder} is an export of stage {description.stage}, not of stage 1. Point "
            "model.encoder_export to the export/ folder of a stage-1 run."
        )
    shape = replace(
        description.encoder,
        input_features=input_features,
        light_t=description.translator["size"] if input_features == "light_t" else "",
    )
    encoder = build_encoder(shape)
    weights = open_tensors(folder / SAFETENSORS)
    weights.check()
    fill_module(encoder, weights.renamed(_OF_STAGE1))
    return encoder, shape


def load_translator(
    folder: Path, *, device: str, dtype: torch.dtype = torch.float32
) -> LoadedTranslator:
    """Load an export for decoding.

    Args:
        folder: Of stage 1 or of stage 2.
        device: Torch device to compute on.
        dtype: float32: a clip's hypotheses do not depend on what it is batched with. bfloat16: as
            in training, where they may.

    Raises:
        CheckpointError: The folder is no export.
    """
    description = read_description(folder)
    codec = read_codec(folder, language=description.language)
    # No memory for values that are replaced at once.
    with torch.device("meta"):
        model = build_translator(description, codec)
    weights = open_tensors(folder / SAFETENSORS)
    # What stage 1 trained under autocast has float32 weights; the encoder of stage 2 is frozen in
    # bfloat16, statistics of batch normalization included.
    fill_module(model, weights, dtype=torch.float32 if description.stage == 1 else dtype)
    if dtype is torch.float32:
        # Convolutions would round to TF32 on a GPU.
        torch.backends.cudnn.allow_tf32 = False
    return LoadedTranslator(
        description=description,
        model=model.to(device).eval(),
        prepare=lambda batch: batch.to(device),
        codec=codec,
        device=device,
        dtype=dtype,
    )


def build_translator(description: Description, codec: TextCodec) -> Stage1Model | Stage2Model:
    """The model that an export holds, with new weights."""
    if description.stage == 1:
        return build_stage1(description, codec)
    return build_stage2(
        description, codec, build_encoder(description.encoder), build_llm(description.translator)
    )

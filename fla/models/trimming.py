"""mBART's weights with some of the vocabulary's rows, one tensor at a time.

Shape letters:
- V = tokens before
- K = tokens kept
- E = width of the embeddings
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fla.errors import CheckpointError
from fla.weights import Layout, Weights, layouts_of, write_tensors

EMBEDDING = "model.shared.weight"
"""The one name under which tied embeddings are stored, as transformers does it."""

# The same matrix in mBART; a file may have it under any of these names, or under several.
_EMBEDDINGS = (
    EMBEDDING,
    "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "lm_head.weight",
)
# A constant that is added to the logits, `(1, V)`, and no parameter.
_BIAS = "final_logits_bias"


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Of a model, tied weights once."""

    num_tokens: int
    num_parameters: int
    num_bytes: int


def check_embedding(weights: Weights, *, num_tokens: int) -> None:
    """See to it that the weights are those of an mBART with this vocabulary.

    Raises:
        CheckpointError: There is no word embedding, or a matrix has another number of rows.
    """
    names = [name for name in _EMBEDDINGS if name in weights]
    if not names:
        raise CheckpointError(
            f"{weights.path}: the weights have no {EMBEDDING}, so they are no "
            "MBartForConditionalGeneration. Give the folder of one."
        )
    widths = {name: weights.tensor(name).shape[0] for name in names}
    if _BIAS in weights:
        widths[_BIAS] = weights.tensor(_BIAS).shape[-1]
    for name, width in widths.items():
        if width != num_tokens:
            raise CheckpointError(
                f"{weights.path}: {name} has rows for {width} tokens, the tokenizer has "
                f"{num_tokens}. Use the tokenizer that belongs to the weights."
            )


def trim_weights(
    weights: Weights, path: Path, *, old_ids: Sequence[int]
) -> tuple[ModelSize, ModelSize]:
    """Copy weights that `check_embedding` has accepted, with the rows of some tokens alone.

    Everything else stays as it is, the types of numbers, too. Only one tensor is in memory.

    Args:
        weights: Of the whole model.
        path: safetensors file to write.
        old_ids: Ids to keep, K of them, in their new order.

    Returns:
        The model's size before and after.

    Raises:
        DiskError: The disk is full, or not to be written to.
    """
    sources = _sources(weights)
    layouts = layouts_of({name: weights.tensor(source) for name, source in sources.items()})
    trimmed = {name: _trim_layout(name, layout, len(old_ids)) for name, layout in layouts.items()}
    write_tensors(path, trimmed, _tensors(weights, sources, old_ids), metadata={"format": "pt"})
    return _size(layouts), _size(trimmed)


def _sources(weights: Weights) -> dict[str, str]:
    """Name in the weights by name in the new file; tied matrices once."""
    first, *others = (name for name in _EMBEDDINGS if name in weights)
    matrix = weights.tensor(first)
    tied = {name for name in others if torch.equal(weights.tensor(name), matrix)}
    sources = {name: name for name in weights.names if name != first and name not in tied}
    return {EMBEDDING: first, **sources}


def _tensors(
    weights: Weights, sources: dict[str, str], old_ids: Sequence[int]
) -> Iterator[tuple[str, Tensor]]:
    ids = torch.tensor(old_ids)
    for name, source in sources.items():
        tensor = weights.tensor(source)
        dim = _vocabulary_dim(name)
        yield name, tensor if dim is None else tensor.index_select(dim, ids)


def _trim_layout(name: str, layout: Layout, num_tokens: int) -> Layout:
    shape = list(layout.shape)
    dim = _vocabulary_dim(name)
    if dim is not None:
        shape[dim] = num_tokens
    return Layout(tuple(shape), layout.dtype)


def _vocabulary_dim(name: str) -> int | None:
    if name == _BIAS:
        return 1
    return 0 if name in _EMBEDDINGS else None


def _size(layouts: dict[str, Layout]) -> ModelSize:
    parameters = [layout for name, layout in layouts.items() if name != _BIAS]
    return ModelSize(
        num_tokens=layouts[EMBEDDING].shape[0],
        num_parameters=sum(torch.Size(layout.shape).numel() for layout in parameters),
        num_bytes=sum(layout.num_bytes for layout in layouts.values()),
    )

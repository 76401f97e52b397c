"""Ensembles: exports that translate together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fla.batch import Batch
from fla.errors import ConfigError
from fla.export import LoadedTranslator, load_translator
from fla.models.stages import Stage1Model, Stage2Model, translate
from fla.search import Found, Search


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Stage models that predict each token together; with one, what that one predicts."""

    models: Sequence[Stage1Model | Stage2Model]

    def generate(self, batch: Batch, *, search: Search) -> Found:
        """Translate a micro-batch with frames."""
        return translate(self.models, batch, search=search)


def load_ensemble(
    folders: Sequence[Path], *, device: str, dtype: torch.dtype
) -> tuple[LoadedTranslator, Ensemble]:
    """Load exports that translate together, of either stage and of any size.

    Args:
        folders: Of the exports, at least one.
        device: Torch device to compute on.
        dtype: As of `load_translator`.

    Returns:
        The first translator, whose codec and preprocessing are those of all, and the ensemble.

    Raises:
        CheckpointError: A folder is no export.
        ConfigError: Two differ in what they must have in common.
    """
    first, *others = (load_translator(path, device=device, dtype=dtype) for path in folders)
    for path, other in zip(folders[1:], others, strict=True):
        for what, is_alike in _compare(first, other):
            if not is_alike:
                raise ConfigError(
                    f"ensemble ({path}): its {what} differs from that of {folders[0]}, and models "
                    "that translate together need the same. Leave one of them out."
                )
    return first, Ensemble(models=[first.model, *(other.model for other in others)])


def _compare(first: LoadedTranslator, other: LoadedTranslator) -> list[tuple[str, bool]]:
    rows = [it.model.translator.config.vocab_size for it in (first, other)]
    return [
        ("tokenizer", first.codec.has_same_tokens(other.codec) and rows[0] == rows[1]),
        ("language", first.codec.start_id == other.codec.start_id),
        (
            "preprocessing of videos",
            first.description.preprocessing == other.description.preprocessing,
        ),
        (
            "precision of training, by dtype=bfloat16,",
            first.dtype is not torch.bfloat16
            or first.description.autocast == other.description.autocast,
        ),
    ]

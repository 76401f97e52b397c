"""Exports of checkpoints: of any one, before the run has ended or after, or of the mean of several.

Averaging the last checkpoints of a run is standard in translation (Popel and Bojar, 2018): it
costs nothing at decoding, and often gains a little.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from fla.checkpoint_files import check_files
from fla.checkpoint_weights import CheckpointWeights, open_checkpoint
from fla.description import Description, read_description, write_description
from fla.errors import CheckpointError
from fla.export import build_translator, write_export
from fla.models.loading import stored_buffers, tied_parameters
from fla.run_folder import RunFolder, list_complete_checkpoints
from fla.text.codec import TextCodec, read_codec
from fla.weights import Layout, layouts_of, open_tensors, write_tensors

_FROZEN = "frozen.safetensors"


def write_model(
    folder: RunFolder,
    *,
    description: Description,
    codec: TextCodec,
    frozen: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> None:
    """Write once a run what its checkpoints lack; one rank calls it.

    Args:
        folder: Of the run.
        description: How to build the model again.
        codec: Its tokenizer.
        frozen: Parameters and buffers of the frozen encoder, as an export names them.
        dtype: Of the other parameters in an export.

    Raises:
        DiskError: The disk is full, or not to be written to.
    """
    folder.model.mkdir(parents=True, exist_ok=True)
    write_tensors(folder.model / _FROZEN, layouts_of(frozen), frozen.items())
    codec.save(folder.model)
    # By the name of PyTorch, as transformers has it.
    name = str(dtype).removeprefix("torch.")
    write_description(folder.model, description, {"dtype": name})


def choose_checkpoints(path: Path, *, num_checkpoints: int, key: str = "checkpoint") -> list[Path]:
    """The checkpoints that a user means, oldest first.

    Args:
        path: A checkpoint's folder, or that of a run: its newest one.
        num_checkpoints: This one and those before it.
        key: By which the user named it, for messages.

    Raises:
        CheckpointError: There is no such checkpoint, or not as many.
    """
    is_run = (path / "checkpoints").is_dir()
    folder = RunFolder(path.absolute() if is_run else path.absolute().parent.parent)
    complete = list_complete_checkpoints(folder)
    names = [checkpoint.name for checkpoint in complete]
    if not complete or not (is_run or path.absolute() in complete):
        raise CheckpointError(
            f"{key}={path}: this is no complete checkpoint, nor a run that has one. "
            f"Complete ones of {folder.path}: {', '.join(names) or 'none'}."
        )
    last = len(complete) if is_run else complete.index(path.absolute()) + 1
    if last < num_checkpoints:
        raise CheckpointError(
            f"average_last={num_checkpoints}: up to {complete[last - 1].name} {folder.path} has "
            f"{last} complete checkpoints: {', '.join(names[:last])}. Average fewer of them, or "
            "let the next run keep more with train.keep_checkpoints."
        )
    return complete[last - num_checkpoints : last]


def export_checkpoints(checkpoints: Sequence[Path]) -> Path:
    """Write the export of a checkpoint, or of the mean of several; one rank calls it.

    Args:
        checkpoints: Of one run, oldest first, as `choose_checkpoints` gives them.

    Returns:
        The export, in the run's exports/NAME/, which is a run folder of its own for its decodes
        and scores. An earlier export of the same checkpoints is replaced.

    Raises:
        CheckpointError: A checkpoint cannot be read, or the export not be written.
    """
    run = RunFolder(checkpoints[0].parent.parent)
    if not (run.model / "config.json").is_file():
        raise CheckpointError(
            f"{run.path} has no model/config.json, which runs have from their start on since "
            "checkpoints can be decoded. Decode its export/ instead, or resume the run once."
        )
    description = read_description(run.model)
    codec = read_codec(run.model, language=description.language)
    frozen = open_tensors(run.model / _FROZEN)
    rest = {name: frozen.tensor(name) for name in frozen.names}
    for checkpoint in checkpoints:
        check_files(checkpoint, advice="Take another checkpoint.")
    opened = [open_checkpoint(checkpoint) for checkpoint in checkpoints]
    with torch.device("meta"):
        model = build_translator(description, codec)
    stored = {name for name, _ in stored_buffers(model)}
    rest |= {name: mean for name, mean in _mean_buffers(opened).items() if name in stored}
    shapes = {
        names[0]: tuple(parameter.shape)
        for names, parameter in tied_parameters(model)
        if names[0] not in rest
    }
    dtype = _read_dtype(run)
    layouts = {name: Layout(shape, dtype) for name, shape in shapes.items()}
    target = RunFolder(run.exports / _name(checkpoints))
    write_export(
        target.export,
        layouts | layouts_of(rest),
        chain(rest.items(), _means(opened, shapes, dtype)),
        description=description,
        codec=codec,
    )
    shutil.copyfile(run.config_yaml, target.config_yaml)
    return target.export


def _name(checkpoints: Sequence[Path]) -> str:
    newest = checkpoints[-1].name
    return newest if len(checkpoints) == 1 else f"{newest}_mean_of_{len(checkpoints)}"


def _read_dtype(run: RunFolder) -> torch.dtype:
    content = json.loads((run.model / "config.json").read_text(encoding="utf-8"))
    dtype: torch.dtype = getattr(torch, content["dtype"])
    return dtype


def _means(
    opened: Sequence[CheckpointWeights], shapes: Mapping[str, Sequence[int]], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The parameters, taken in float32 and rounded once, one at a time in memory."""
    for name, shape in shapes.items():
        mean = _mean(partial(weights.parameter, name, shape) for weights in opened)
        yield name, mean.to(dtype)


def _mean_buffers(opened: Sequence[CheckpointWeights]) -> dict[str, Tensor]:
    """Means of statistics, and counters of the newest checkpoint."""
    newest = opened[-1].buffers
    return {
        name: _mean(partial(weights.buffers.__getitem__, name) for weights in opened)
        if buffer.is_floating_point()
        else buffer
        for name, buffer in newest.items()
    }


def _mean(reads: Iterable[Callable[[], Tensor]]) -> Tensor:
    first, *others = reads
    if not others:
        return first()
    total = first().clone()
    for read in others:
        total += read()
    return total / (1 + len(others))

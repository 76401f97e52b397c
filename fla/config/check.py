"""Rules that a type cannot hold: ranges, keys that must agree, files that must be there.

Every check finds all broken rules at once, before torch is imported and before any rank waits for
another.
"""

import json
import os
import shutil
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fla.config.batches import broken_batches
from fla.config.deepspeed import read_deepspeed_config
from fla.config.modes import bf16_parameters, broken_modes
from fla.config.ranges import out_of_range
from fla.config.schema import (
    BeamConfig,
    DataConfig,
    DecodeConfig,
    EncoderConfig,
    PretrainConfig,
    Stage1Config,
    Stage2Config,
    TrainConfig,
    TranslatorConfig,
)
from fla.errors import ConfigError

SPLITS = ("train", "dev", "test")

EXPORT_FORMAT = "fla-llm-export"
"""What an export's config.json says it is; `fla/export.py` writes it."""

# By a word of the folder's name.
_IMPORTERS = {
    "phoenix": "import_phoenix14t.py",
    "csl": "import_csl_daily.py",
    "how2sign": "import_how2sign.py",
}


def check_stage1(config: Stage1Config, world_size: int | None = None) -> None:
    """Check a run of stage 1.

    Args:
        config: As loaded.
        world_size: Ranks; None: as the launcher's environment says.

    Raises:
        ConfigError: Every broken rule, one sentence each.
    """
    _raise_all(
        *out_of_range(config),
        *_broken_beam(config.beam),
        *_broken_data(config.data),
        *_broken_manifests(config.data.manifest_dir, SPLITS),
        *_missing_tokenizer(config.text.tokenizer_dir),
        *_broken_encoder(config.model),
        *broken_batches(config.train, _world_size(world_size)),
        *_broken_deepspeed(config, _world_size(world_size)),
        *bf16_parameters(config.deepspeed, "stage 1 cannot run with it", "zero1_autocast.json"),
        *_broken_compile(config),
    )


def check_stage2(config: Stage2Config, world_size: int | None = None) -> None:
    """Check a run of stage 2; arguments and error as of `check_stage1`."""
    _raise_all(
        *out_of_range(config),
        *_broken_beam(config.beam),
        *_broken_data(config.data),
        *_broken_manifests(config.data.manifest_dir, SPLITS),
        *_missing_tokenizer(config.text.tokenizer_dir),
        *_missing_llm(config.model.llm_dir),
        *_broken_source(config.model),
        *broken_modes(config),
        *_broken_use_of_frozen(config.model),
        *broken_batches(config.train, _world_size(world_size)),
        *_broken_deepspeed(config, _world_size(world_size)),
    )


def check_batches(train: TrainConfig, world_size: int) -> None:
    """Check that so many ranks can share out a step; error as of `check_stage1`."""
    _raise_all(*broken_batches(train, world_size))


def check_decode(config: DecodeConfig) -> None:
    """Check a decoding run; error as of `check_stage1`."""
    _raise_all(
        *out_of_range(config),
        *_broken_beam(config.beam),
        *_broken_model(config),
        *(
            _broken_manifests(config.manifest_dir, [config.split], key="manifest_dir")
            if config.manifest_dir
            else ()
        ),
        *_missing_folder("video_root", config.video_root),
    )


def ensemble_members(config: DecodeConfig) -> list[str]:
    """The paths that `ensemble` names."""
    return [path for word in config.ensemble.split(",") if (path := word.strip())]


def _broken_model(config: DecodeConfig) -> Iterator[str]:
    for path in ensemble_members(config):
        yield from _missing_folder("ensemble", path)
    if config.ensemble and not config.output_dir:
        yield (
            f"ensemble ({config.ensemble}): what several models say belongs to none of their run "
            "folders. Name a folder of its own as output_dir."
        )
    if config.checkpoint:
        yield from _missing_folder("checkpoint", config.checkpoint)
        return
    if config.average_last > 1:
        yield (
            f"average_last ({config.average_last}) is for checkpoints, and none is "
            "named. Name one, or a run, as checkpoint."
        )
    if config.export_dir:
        yield from _broken_export("export_dir", config.export_dir, command="launchers/stage2.py")
    else:
        yield "export_dir and checkpoint are empty. Name the export/ folder of a run, or a run."


def check_pretrain(config: PretrainConfig, world_size: int | None = None) -> None:
    """Check a denoising run; arguments and error as of `check_stage1`."""
    ranks = _world_size(world_size)
    problems = [*out_of_range(config)]
    if config.global_batch_size % ranks:
        problems.append(
            f"global_batch_size ({config.global_batch_size}) must be a multiple of the "
            f"world size ({ranks})."
        )
    if config.model.num_heads > 0 and config.model.d_model % config.model.num_heads:
        problems.append(
            f"model.d_model ({config.model.d_model}) must be a multiple of model.num_heads "
            f"({config.model.num_heads})."
        )
    text = Path(config.data.train_text)
    if not text.is_file():
        command = "make demo" if "demo" in str(text) else "python tools/make_demo_corpus.py OUT_DIR"
        problems.append(
            f"data.train_text ({text}): there is no such file. It holds one sentence a line; "
            f"`{command}` makes one."
        )
    problems += _broken_json(
        config.deepspeed,
        micro_batch_size=max(1, config.global_batch_size // ranks),
        world_size=ranks,
        max_grad_norm=config.optim.max_grad_norm,
    )
    _raise_all(*problems)


def _raise_all(*problems: str) -> None:
    if problems:
        raise ConfigError("\n".join(problems))


def _world_size(world_size: int | None) -> int:
    return int(os.environ.get("WORLD_SIZE", "1")) if world_size is None else world_size


def _broken_data(data: DataConfig) -> Iterator[str]:
    if data.crop_px > data.resize_px:
        yield (
            f"data.crop_px ({data.crop_px}) must be at most data.resize_px ({data.resize_px}): "
            "the crop is cut from the resized frame."
        )
    if data.frames_per_batch < data.max_frames:
        yield (
            f"data.frames_per_batch ({data.frames_per_batch}) must be at least data.max_frames "
            f"({data.max_frames}), or the longest clip fits into no micro-batch."
        )
    yield from _missing_folder("data.video_root", data.video_root)


def _broken_encoder(model: EncoderConfig) -> Iterator[str]:
    if model.kernel_size % 2 == 0:
        yield f"model.kernel_size ({model.kernel_size}) must be odd, to keep a clip's length."
    yield from _broken_backbone(model.backbone_weights)


def _broken_backbone(weights: str) -> Iterator[str]:
    if weights and not Path(weights).is_file():
        yield (
            f"model.backbone_weights ({weights}): there is no such file. Give a "
            "torchvision ResNet-18 (.pth or .safetensors), or leave it empty for random weights."
        )


def _broken_compile(config: Stage1Config) -> Iterator[str]:
    if not config.model.compile:
        return
    yield from _missing_compiler()
    if config.model.checkpointed_stages:
        yield (
            f"model.compile and model.checkpointed_stages ({config.model.checkpointed_stages}): "
            "PyTorch compiles no stages that are computed twice. Leave one of them out."
        )
    try:
        content = json.loads(Path(config.deepspeed).read_text(encoding="utf-8"))
        stage = content["zero_optimization"]["stage"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if stage == 3:
        yield (
            f"model.compile with {config.deepspeed}: ZeRO-3 fetches weights inside of what would "
            "be compiled. Use ds_configs/zero1_autocast.json or zero2_autocast.json."
        )


def _broken_use_of_frozen(model: TranslatorConfig) -> Iterator[str]:
    """What is asked of a frozen ResNet, or of a trained one, that is for the other alone."""
    if model.checkpointed_stages and model.freeze != "nothing":
        yield (
            f"model.checkpointed_stages ({model.checkpointed_stages}) with "
            f"model.freeze={model.freeze}: no activations of a frozen backbone are kept. Set "
            "model.checkpointed_stages=0, or model.freeze=nothing."
        )
    if not model.compile:
        return
    yield from _missing_compiler()
    if model.freeze == "nothing":
        yield (
            "model.compile with model.freeze=nothing: stage 2 compiles a frozen backbone alone, as "
            "DeepSpeed's work inside of a trained one cannot be. Set model.compile=false."
        )


def _missing_compiler() -> Iterator[str]:
    # As torch.compile looks for it, on a GPU too, where it is for what calls the kernels.
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        yield (
            f"model.compile needs a C++ compiler, and there is no {compiler}. Install g++, name "
            "another one in the environment variable CXX, or set model.compile=false."
        )
    elif not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        yield (
            "model.compile needs Python's headers, and there is no "
            f"{sysconfig.get_path('include')}/Python.h. Install them (python3-dev), or set "
            "model.compile=false."
        )


def _broken_source(model: TranslatorConfig) -> Iterator[str]:
    """Where the visual encoder of stage 2 comes from: stage 1, or ImageNet."""
    if not model.encoder_export:
        yield from _broken_backbone(model.backbone_weights)
        if model.kernel_size % 2 == 0:
            yield f"model.kernel_size ({model.kernel_size}) must be odd, to keep a clip's length."
        return
    if model.backbone_weights:
        yield (
            "model.backbone_weights and model.encoder_export are both given. Leave the first empty "
            "to go on from stage 1, or set model.encoder_export= to train end to end."
        )
    yield from _broken_export(
        "model.encoder_export", model.encoder_export, command="launchers/stage1.py"
    )
    yield from _wrong_stage(model.encoder_export)


def _broken_beam(beam: BeamConfig) -> Iterator[str]:
    if beam.temperature > 0:
        if beam.num_beams != 1:
            yield (
                f"beam.temperature ({beam.temperature:g}) is for sampling, which has no beams, and "
                f"beam.num_beams is {beam.num_beams}. Set beam.num_beams=1, or beam.temperature=0."
            )
        return
    if beam.num_hypotheses > beam.num_beams:
        yield (
            f"beam.num_hypotheses ({beam.num_hypotheses}) must be at most beam.num_beams "
            f"({beam.num_beams})."
        )
    if beam.top_k or beam.top_p < 1:
        yield (
            f"beam.top_k ({beam.top_k}) and beam.top_p ({beam.top_p:g}) are for sampling. Set "
            "beam.temperature above 0, too."
        )


def _broken_manifests(
    folder: str, splits: Iterable[str], key: str = "data.manifest_dir"
) -> Iterator[str]:
    missing = [f"{split}.tsv" for split in splits if not (Path(folder) / f"{split}.tsv").is_file()]
    if missing:
        yield (
            f"{key} ({folder}): there is no {', '.join(missing)}. "
            f"Make the manifests with {_importers(folder)}."
        )


def _importers(folder: str) -> str:
    """The command that makes manifests, as far as a folder's name tells the data set."""
    if any("demo" in part for part in Path(folder).parts):
        return "`make demo`"
    named = [tool for word, tool in _IMPORTERS.items() if word in folder.lower()]
    tools = named[:1] or [*_IMPORTERS.values()]
    return " or ".join(f"`python tools/{tool} SOURCE_DIR {folder}`" for tool in tools)


def _missing_folder(key: str, folder: str) -> Iterator[str]:
    if folder and not Path(folder).is_dir():
        yield f"{key} ({folder}): there is no such folder."


def _missing_tokenizer(folder: str) -> Iterator[str]:
    if not Path(folder).is_dir():
        yield (
            f"text.tokenizer_dir ({folder}): there is no such folder. Give one with a tokenizer "
            "of mBART or T5: `python tools/trim_mbart.py` makes it of a downloaded LLM, `python "
            "tools/pretrain_mbart.py` a small one."
        )


def _missing_llm(folder: str) -> Iterator[str]:
    if not (Path(folder) / "config.json").is_file():
        yield (
            f"model.llm_dir ({folder}): there is no LLM, which has a config.json. Give a "
            "folder in Hugging Face format: `python tools/trim_mbart.py` makes it of a downloaded "
            "LLM, `python tools/pretrain_mbart.py` a small one."
        )


def _broken_export(key: str, folder: str, *, command: str) -> Iterator[str]:
    if not (Path(folder) / "config.json").is_file():
        inside = Path(folder) / "export"
        advice = (
            f"Did you mean {inside}?"
            if (inside / "config.json").is_file()
            else f"`deepspeed {command}` makes one when its training has ended."
        )
        yield f"{key} ({folder}): there is no export, which has a config.json. {advice}"
    elif _read_export(folder).get("format") != EXPORT_FORMAT:
        yield (
            f"{key} ({folder}): config.json is not that of an export of this toolkit. Give the "
            "export/ folder of a run."
        )


def _wrong_stage(folder: str) -> Iterator[str]:
    stage = _read_export(folder).get("stage", 1)
    if stage != 1:
        yield (
            f"model.encoder_export ({folder}) is an export of stage {stage}, not of stage 1. Give "
            "the export/ folder of a stage-1 run."
        )


def _read_export(folder: str) -> dict[str, Any]:
    try:
        content = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _broken_deepspeed(config: Stage1Config | Stage2Config, world_size: int) -> Iterator[str]:
    return _broken_json(
        config.deepspeed,
        micro_batch_size=max(1, config.train.micro_batch_size),
        world_size=world_size,
        max_grad_norm=config.optim.max_grad_norm,
        global_batch_size=config.train.global_batch_size,
    )


def _broken_json(path: str, **numbers: Any) -> Iterator[str]:
    try:
        # Whether there is a GPU is known only after torch; the run asks again then.
        read_deepspeed_config(Path(path), **numbers, has_gpu=True)
    except ConfigError as error:
        yield from str(error).splitlines()

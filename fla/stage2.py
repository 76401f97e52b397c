"""Stage 2, LLM fine-tuning: assembles the parts and hands them to the training loop.

The visual encoder of stage 1 stays frozen, in bfloat16 and outside of the engine; an adapter puts
its sign-wise features in the place of the LLM's word embeddings, and the LLM learns to speak from
them (FLa-LLM, section 3.2). The ablations of tables 8 and 9 read other features and train more.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fla.assembly import (
    Parts,
    corpus_name,
    describe_export,
    manifest_hashes,
    open_parts,
    train_stage,
)
from fla.build import build_stage2
from fla.checkpoint_export import write_model
from fla.config.schema import Stage2Config, Stage2OptimConfig
from fla.continuation import begin_once, is_finished
from fla.description import Description
from fla.encoder import read_encoder
from fla.engine import Engine, open_engine
from fla.export import stored_tensors, write_export
from fla.model_card import update_card
from fla.models.features import FeatureEncoder, FrozenEncoder
from fla.models.llm import build_llm
from fla.models.loading import fill_buffers, find_tensor
from fla.models.stages import Stage2Model
from fla.models.translator import Translator, enable_gradient_checkpointing
from fla.optim import build_adamw, cosine_schedule, decay_groups
from fla.run import Run, open_run
from fla.runtime import Runtime, ask_main, start_runtime, stop_runtime
from fla.shards import Source, place_weights
from fla.translator import read_translator
from fla.weights import layouts_of, open_weights


def run_stage2(config: Stage2Config) -> None:
    """Train, evaluate and export as `config` says; every rank calls it.

    Raises:
        FlaError: Something that the user can fix.
    """
    runtime = start_runtime(patience_minutes=config.train.patience_minutes)
    config = begin_once(config)
    if not is_finished(config):
        _train_and_export(config, runtime)
    stop_runtime()


def _train_and_export(config: Stage2Config, runtime: Runtime) -> None:
    frozen, trained, shape = read_encoder(config, runtime)
    with (
        open_parts(config, runtime, encoder=frozen) as parts,
        open_run(
            config,
            stage="stage2",
            experiment=corpus_name(config),
            runtime=runtime,
            deepspeed_config=parts.deepspeed_config,
            manifests=manifest_hashes(parts),
        ) as run,
    ):
        description = describe_export(
            config,
            train_split=parts.train_split,
            stage=2,
            encoder=shape,
            translator=read_translator(config, parts.codec),
            autocast=parts.deepspeed_config.get("torch_autocast", {}).get("enabled", False),
        )
        if runtime.is_main:
            write_model(
                run.folder,
                description=description,
                codec=parts.codec,
                frozen={} if frozen is None else stored_tensors(frozen),
                dtype=getattr(torch, config.model.export_dtype),
            )
        model = _build_model(config, description, parts, trained)
        engine = open_engine(
            model,
            optimizer=_build_optimizer(model, config.optim),
            schedule=cosine_schedule(
                num_steps=parts.schedule.num_steps, warmup_fraction=config.optim.warmup_fraction
            ),
            config=parts.deepspeed_config,
            runtime=runtime,
            ema_decay=config.train.ema_decay,
        )
        digest = None if frozen is None else frozen.digest()
        train_stage(
            engine,
            parts,
            run,
            last_layers=model.last_layers(),
            config=config,
        )
        if frozen is not None and frozen.digest() != digest:
            raise RuntimeError("The frozen visual encoder changed while the LLM was trained.")
        _export(config, description, parts, run, engine, frozen)


def _build_model(
    config: Stage2Config, description: Description, parts: Parts, trained: FeatureEncoder | None
) -> Stage2Model:
    """The model with its weights, sharded where the engine shards them."""
    torch.manual_seed(config.seed)
    source: Source
    if config.model.random_llm:
        llm, source = build_llm(description.translator), _no_tensor
    else:
        llm, source = _open_llm(Path(config.model.llm_dir), description.translator, parts.runtime)
    if config.model.gradient_checkpointing:
        enable_gradient_checkpointing(llm)
    model = build_stage2(
        description, parts.codec, trained, llm, label_smoothing=config.train.label_smoothing
    )
    place_weights(model, source, config=parts.deepspeed_config, runtime=parts.runtime)
    return model


def _open_llm(
    folder: Path, description: dict[str, Any], runtime: Runtime
) -> tuple[Translator, Source]:
    """The LLM without weights, and where a stage-2 model finds them."""
    weights = open_weights(folder)
    # Once for all ranks: it reads the whole file.
    ask_main(runtime, weights.check)
    with torch.device("meta"):
        llm = build_llm(description)
    fill_buffers(llm, weights, dtype=torch.float32)

    def read(names: Sequence[str], shape: Sequence[int]) -> Tensor:
        return find_tensor(weights, [name.removeprefix("llm.") for name in names], shape=shape)

    return llm, read


def _no_tensor(names: Sequence[str], shape: Sequence[int]) -> Tensor:
    raise AssertionError(f"{names[0]} has no weights and no file to read them from.")


def _build_optimizer(model: Stage2Model, optim: Stage2OptimConfig) -> Optimizer:
    parts = [
        ("adapter", model.adapter, optim.adapter_learning_rate),
        ("llm", model.llm, optim.llm_learning_rate),
    ]
    if model.encoder is not None:
        parts.append(("encoder", model.encoder, optim.encoder_learning_rate))
    groups = [
        group
        for name, module, learning_rate in parts
        for group in decay_groups(
            [module], learning_rate=learning_rate, weight_decay=optim.weight_decay, name=name
        )
    ]
    return build_adamw(groups, betas=(optim.beta1, optim.beta2))


def _export(
    config: Stage2Config,
    description: Description,
    parts: Parts,
    run: Run,
    engine: Engine,
    frozen: FrozenEncoder | None,
) -> None:
    """Write adapter, LLM and encoder, a tensor at a time; every rank gathers along."""
    dtype = getattr(torch, config.model.export_dtype)
    weights = (
        (name, tensor.to(dtype)) for name, tensor in engine.weights(masters=dtype is torch.float32)
    )
    rest = engine.buffers()
    if frozen is not None:
        # Bit by bit what it was in training.
        rest |= stored_tensors(frozen)
    if parts.runtime.is_main:
        write_export(
            run.folder.export,
            engine.layouts(dtype) | layouts_of(rest),
            chain(rest.items(), weights),
            description=description,
            codec=parts.codec,
        )
        update_card(run.folder)
    else:
        for _ in weights:
            pass
    run.tracker.log_export(run.folder.export)

"""Stage 1, visual initialing: assembles the parts and hands them to the training loop.

The visual encoder learns from the sentences through a small Transformer that is thrown away
afterwards, so that no large language model drowns its gradient (FLa-LLM, section 3.1).
"""

import logging

import torch
from torch import nn
from torch.optim import Optimizer

from fla.assembly import (
    Parts,
    corpus_name,
    describe_export,
    manifest_hashes,
    open_parts,
    train_stage,
)
from fla.build import build_stage1
from fla.checkpoint_export import write_model
from fla.config.schema import Stage1Config, Stage1OptimConfig
from fla.continuation import begin_once, is_finished
from fla.description import Description, EncoderShape
from fla.engine import open_engine
from fla.export import stored_tensors, write_export
from fla.model_card import update_card
from fla.models.light_t import start_from_frequencies
from fla.optim import build_adamw, build_sgd, cosine_schedule, decay_groups
from fla.run import open_run
from fla.runtime import Runtime, start_runtime, stop_runtime
from fla.weights import layouts_of

log = logging.getLogger(__name__)


def run_stage1(config: Stage1Config) -> None:
    """Train, evaluate and export as `config` says; every rank calls it.

    Raises:
        FlaError: Something that the user can fix.
    """
    runtime = start_runtime(patience_minutes=config.train.patience_minutes)
    config = begin_once(config)
    if not is_finished(config):
        _train_and_export(config, runtime)
    stop_runtime()


def _train_and_export(config: Stage1Config, runtime: Runtime) -> None:
    with (
        open_parts(config, runtime) as parts,
        open_run(
            config,
            stage="stage1",
            experiment=corpus_name(config),
            runtime=runtime,
            deepspeed_config=parts.deepspeed_config,
            manifests=manifest_hashes(parts),
        ) as run,
    ):
        description = _describe(config, parts)
        if runtime.is_main:
            write_model(
                run.folder,
                description=description,
                codec=parts.codec,
                frozen={},
                dtype=torch.float32,
            )
        if not config.model.backbone_weights:
            log.info("The backbone starts from random weights: model.backbone_weights is empty.")
        torch.manual_seed(config.seed)
        model = build_stage1(
            description,
            parts.codec,
            backbone_weights=config.model.backbone_weights,
            dropout=config.model.dropout,
            label_smoothing=config.train.label_smoothing,
        )
        model.visual_encoder.backbone.num_checkpointed = config.model.checkpointed_stages
        start_from_frequencies(model.light_t, parts.train_split.token_ids)
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
        if config.model.compile:
            # Behind the engine, whose copy of the model for evaluation stays as it is.
            model.visual_encoder.backbone.compile_in_place()
        train_stage(
            engine,
            parts,
            run,
            last_layers=model.last_layers(),
            config=config,
        )
        with engine.whole_model() as whole:
            if runtime.is_main:
                tensors = stored_tensors(whole)
                write_export(
                    run.folder.export,
                    layouts_of(tensors),
                    tensors.items(),
                    description=description,
                    codec=parts.codec,
                )
                update_card(run.folder)
        run.tracker.log_export(run.folder.export)


def _describe(config: Stage1Config, parts: Parts) -> Description:
    return describe_export(
        config,
        train_split=parts.train_split,
        stage=1,
        encoder=EncoderShape(
            sign_width=config.model.sign_width, kernel_size=config.model.kernel_size
        ),
        translator={"size": config.model.light_t},
        autocast=parts.deepspeed_config.get("torch_autocast", {}).get("enabled", False),
    )


def _build_optimizer(model: nn.Module, optim: Stage1OptimConfig) -> Optimizer:
    groups = decay_groups(
        [model], learning_rate=optim.learning_rate, weight_decay=optim.weight_decay, name="all"
    )
    if optim.name == "sgd":
        return build_sgd(groups, momentum=optim.momentum)
    return build_adamw(groups, betas=(0.9, 0.98))

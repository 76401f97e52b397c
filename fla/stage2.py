"""Stage 2, LLM fine-tuning: assembles the parts and hands them to the training loop.

The visual encoder of stage 1 stays frozen, in bfloat16 and outside of the engine; an adapter puts
its sign-wise features in the place of mBART's word embeddings, and mBART learns to speak from them
(FLa-LLM, section 3.2).
"""

from pathlib import Path

import torch
from torch.optim import Optimizer

from fla.assembly import corpus_name, describe_export, manifest_hashes, open_parts, train_stage
from fla.config.schema import Stage2Config, Stage2OptimConfig
from fla.engine import open_engine
from fla.export import build_stage2, load_visual_encoder, stage2_export_module, write_export
from fla.models.llm import load_llm, read_llm
from fla.models.stages import FrozenEncoder, Stage2Model
from fla.optim import build_adamw, cosine_schedule, decay_groups
from fla.run import is_finished, open_run
from fla.runtime import Runtime, start_runtime, stop_runtime


def run_stage2(config: Stage2Config) -> None:
    """Train, evaluate and export as `config` says; every rank calls it.

    Raises:
        FlaError: Something that the user can fix.
    """
    runtime = start_runtime()
    if not is_finished(config):
        _train_and_export(config, runtime)
    stop_runtime()


def _train_and_export(config: Stage2Config, runtime: Runtime) -> None:
    with (
        open_parts(config, runtime) as parts,
        open_run(
            config,
            stage="stage2",
            experiment=corpus_name(config),
            runtime=runtime,
            deepspeed_config=parts.deepspeed_config,
            manifests=manifest_hashes(parts),
        ) as run,
    ):
        visual_encoder, encoder_description = load_visual_encoder(Path(config.model.encoder_export))
        encoder = FrozenEncoder(visual_encoder).to(runtime.device)
        digest = encoder.digest()
        torch.manual_seed(config.seed)
        llm_dir = Path(config.model.llm_dir)
        llm = read_llm(
            llm_dir,
            dropout=config.model.dropout,
            attention_dropout=config.model.attention_dropout,
            pad_id=parts.codec.pad_id,
            eos_id=parts.codec.eos_id,
            start_id=parts.codec.start_id,
            vocab_size=parts.codec.vocab_size,
        )
        mbart = load_llm(llm_dir, llm)
        description = describe_export(
            config,
            stage=2,
            encoder=encoder_description.encoder,
            translator=llm,
            autocast=parts.deepspeed_config.get("torch_autocast", {}).get("enabled", False),
        )
        model = build_stage2(
            description, parts.codec, mbart, label_smoothing=config.train.label_smoothing
        )
        engine = open_engine(
            model,
            optimizer=_build_optimizer(model, config.optim),
            schedule=cosine_schedule(
                num_steps=parts.schedule.num_steps, warmup_fraction=config.optim.warmup_fraction
            ),
            config=parts.deepspeed_config,
            runtime=runtime,
        )
        train_stage(
            engine,
            parts,
            run,
            prepare=lambda batch: encoder(batch.to(runtime.device)),
            config=config,
        )
        if encoder.digest() != digest:
            raise RuntimeError("The frozen visual encoder changed while mBART was trained.")
        with engine.whole_model() as whole:
            if runtime.is_main:
                exported = stage2_export_module(visual_encoder, whole)
                write_export(
                    run.folder.export, exported, description=description, codec=parts.codec
                )
        run.tracker.log_artifact(run.folder.export, "export")


def _build_optimizer(model: Stage2Model, optim: Stage2OptimConfig) -> Optimizer:
    groups = [
        *decay_groups(
            [model.adapter],
            learning_rate=optim.adapter_learning_rate,
            weight_decay=optim.weight_decay,
            name="adapter",
        ),
        *decay_groups(
            [model.llm],
            learning_rate=optim.llm_learning_rate,
            weight_decay=optim.weight_decay,
            name="llm",
        ),
    ]
    return build_adamw(groups, betas=(optim.beta1, optim.beta2))

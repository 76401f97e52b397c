"""Denoising pretraining of a small mBART: assembles the parts.

Stage 2 adapts a *pretrained* language model. Where facebook/mbart-large-cc25 cannot be had or is
too large, this makes one of the same layout, from text alone, with the same engine.
"""

import logging
from pathlib import Path

import torch

from fla.config.deepspeed import read_deepspeed_config
from fla.config.schema import PretrainConfig
from fla.continuation import begin_once, is_finished
from fla.engine import open_engine
from fla.errors import DataError
from fla.models.light_t import build_small_mbart
from fla.models.llm import save_llm
from fla.models.stages import DenoisingModel
from fla.models.translator import Translator
from fla.optim import build_adamw, cosine_schedule, decay_groups
from fla.run import open_run
from fla.runtime import Runtime, start_runtime, stop_runtime
from fla.text.codec import TextCodec, train_codec
from fla.text.denoising import DenoisingLoader
from fla.train import plan_schedule, train

log = logging.getLogger(__name__)

# Positions that a small mBART has.
MAX_TOKENS = 1024


def run_pretraining(config: PretrainConfig) -> None:
    """Learn a vocabulary and weights from text as `config` says; every rank calls it.

    Raises:
        FlaError: Something that the user can fix.
    """
    runtime = start_runtime()
    config = begin_once(config)
    if not is_finished(config):
        _train_and_export(config, runtime)
    stop_runtime()


def _train_and_export(config: PretrainConfig, runtime: Runtime) -> None:
    text = Path(config.data.train_text)
    sentences = read_sentences(text, at_least=config.global_batch_size)
    # Deterministic, so every rank makes the same one.
    codec = train_codec(sentences, max_pieces=config.data.max_pieces, language=config.data.language)
    log.info("Vocabulary of %d tokens from %d sentences.", codec.vocab_size, len(sentences))
    loader = _open_loader(config, sentences, codec, runtime)
    deepspeed_config = read_deepspeed_config(
        Path(config.deepspeed),
        micro_batch_size=config.global_batch_size // runtime.world_size,
        world_size=runtime.world_size,
        max_grad_norm=config.optim.max_grad_norm,
        has_gpu=runtime.device != "cpu",
    )
    schedule = plan_schedule(
        steps_per_epoch=loader.num_steps,
        num_epochs=config.num_epochs,
        max_steps=0,
        log_every_steps=config.log_every_steps,
        evaluate_every_steps=0,
        keep_checkpoints=1,
    )
    with open_run(
        config,
        stage="pretrain",
        experiment=config.tracking.experiment or text.absolute().parent.name,
        runtime=runtime,
        deepspeed_config=deepspeed_config,
        manifests={},
    ) as run:
        torch.manual_seed(config.seed)
        mbart = _build_mbart(config, codec)
        engine = open_engine(
            DenoisingModel(mbart),
            optimizer=build_adamw(
                decay_groups(
                    [mbart],
                    learning_rate=config.optim.learning_rate,
                    weight_decay=config.optim.weight_decay,
                    name="mbart",
                ),
                betas=(0.9, 0.98),
            ),
            schedule=cosine_schedule(
                num_steps=schedule.num_steps, warmup_fraction=config.optim.warmup_fraction
            ),
            config=deepspeed_config,
            runtime=runtime,
        )
        train(
            engine,
            loader,
            prepare=lambda batch: batch.to(runtime.device),
            evaluate=None,
            tracker=run.tracker,
            run_folder=run.folder,
            runtime=runtime,
            schedule=schedule,
            state=run.state,
            seed=config.seed,
            signals=run.signals,
        )
        with engine.whole_model() as whole:
            if runtime.is_main:
                save_llm(whole.mbart, run.folder.export)
                codec.save(run.folder.export)
        run.tracker.log_export(run.folder.export)


def read_sentences(path: Path, *, at_least: int) -> list[str]:
    """Read a text file with one sentence a line; empty lines are left out.

    Raises:
        DataError: The file is not UTF-8, or too short for one step.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8. Convert the file to UTF-8."
        ) from error
    sentences = [line.strip() for line in lines if line.strip()]
    if len(sentences) < at_least:
        raise DataError(
            f"{path}: {len(sentences)} sentences do not fill a step of {at_least}. Give more "
            "text, or lower global_batch_size."
        )
    return sentences


def _open_loader(
    config: PretrainConfig, sentences: list[str], codec: TextCodec, runtime: Runtime
) -> DenoisingLoader:
    return DenoisingLoader(
        codec.encode(sentences, max_tokens=MAX_TOKENS),
        rank=runtime.rank,
        world_size=runtime.world_size,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        mask_id=codec.mask_id,
        pad_id=codec.pad_id,
        mask_fraction=config.data.mask_fraction,
        mean_span_tokens=config.data.mean_span_tokens,
    )


def _build_mbart(config: PretrainConfig, codec: TextCodec) -> Translator:
    return build_small_mbart(
        vocab_size=codec.vocab_size,
        d_model=config.model.d_model,
        num_layers=config.model.num_layers,
        num_heads=config.model.num_heads,
        ffn_width=config.model.ffn_width,
        dropout=config.model.dropout,
        pad_id=codec.pad_id,
        eos_id=codec.eos_id,
        start_id=codec.start_id,
    )

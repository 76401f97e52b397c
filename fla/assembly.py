"""What both stages assemble alike: splits, loaders, schedule, and the way through training."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fla.checkpoint import load_checkpoint
from fla.config.deepspeed import read_deepspeed_config
from fla.config.schema import Stage1Config, Stage2Config
from fla.data.datasets import read_data_set_name
from fla.data.manifest import fingerprint
from fla.description import Corpus, Description, EncoderShape, Preprocessing
from fla.engine import Engine
from fla.errors import ConfigError
from fla.evaluate import Evaluator, search_of
from fla.loaders import Loaders, open_loaders
from fla.metrics.protocols import find_protocol
from fla.run import Run, check_continuation
from fla.run_folder import checkpoint_tag
from fla.runtime import Runtime, computes_bfloat16
from fla.shard_encoder import Encoder
from fla.split import Split, read_split
from fla.text.codec import TextCodec, read_codec
from fla.train import Schedule, plan_schedule, train

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a stage trains on and for how long."""

    runtime: Runtime
    codec: TextCodec
    train_split: Split
    dev_split: Split
    loaders: Loaders
    schedule: Schedule
    deepspeed_config: dict[str, Any]


@contextmanager
def open_parts(
    config: Stage1Config | Stage2Config, runtime: Runtime, *, encoder: Encoder | None = None
) -> Iterator[Parts]:
    """Read the splits and start the loaders; both end with the block.

    Args:
        config: Of the stage.
        runtime: Of this rank.
        encoder: A frozen one, whose features the model reads; None: it reads frames.

    Raises:
        FlaError: Something that the user can fix.
    """
    deepspeed_config = read_deepspeed_config(
        Path(config.deepspeed),
        micro_batch_size=config.train.micro_batch_size,
        world_size=runtime.world_size,
        max_grad_norm=config.optim.max_grad_norm,
        has_gpu=runtime.device != "cpu",
    )
    skips = config.train.on_nonfinite == "skip"
    if skips and not deepspeed_config.get("zero_optimization", {}).get("stage", 0):
        raise ConfigError(
            f"train.on_nonfinite (skip) needs ZeRO, which {config.deepspeed} does not use. Name "
            "another file, such as ds_configs/zero1_autocast.json."
        )
    _warn_of_precision(config, deepspeed_config, runtime)
    codec = read_codec(Path(config.text.tokenizer_dir), language=config.text.language)
    train_split, dev_split = (
        read_stage_split(name, config, codec, runtime) for name in ("train", "dev")
    )
    # Features may take hours to cache.
    check_continuation(config)
    with open_loaders(
        config, runtime, train=train_split, dev=dev_split, encoder=encoder
    ) as loaders:
        yield Parts(
            runtime=runtime,
            codec=codec,
            train_split=train_split,
            dev_split=dev_split,
            loaders=loaders,
            schedule=plan_schedule(
                steps_per_epoch=loaders.train.num_steps,
                num_epochs=config.train.num_epochs,
                max_steps=config.train.max_steps,
                log_every_steps=config.train.log_every_steps,
                evaluate_every_steps=config.train.evaluate_every_steps,
                keep_checkpoints=config.train.keep_checkpoints,
                keep_best_checkpoints=config.train.keep_best_checkpoints,
                keep_every_steps=config.train.keep_every_steps,
                save_every_minutes=config.train.save_every_minutes,
                max_nonfinite_steps=config.train.max_nonfinite_steps if skips else 0,
                profile_steps=config.train.profile_steps,
            ),
            deepspeed_config=deepspeed_config,
        )


def _warn_of_precision(
    config: Stage1Config | Stage2Config, deepspeed_config: Mapping[str, Any], runtime: Runtime
) -> None:
    has_bf16 = any(
        deepspeed_config.get(name, {}).get("enabled") for name in ("bf16", "torch_autocast")
    )
    if has_bf16 and runtime.is_main and not computes_bfloat16(runtime.device):
        log.warning(
            "This CPU has no instructions for bfloat16, and %s wants it: steps take many times as "
            "long as with ds_configs/zero1_fp32.json or ds_configs/zero3_fp32.json.",
            config.deepspeed,
        )


def read_stage_split(
    name: str, config: Stage1Config | Stage2Config, codec: TextCodec, runtime: Runtime
) -> Split:
    """Read train, dev or test as a stage sees it; errors as of `read_split`."""
    return read_split(
        name,
        manifest_dir=config.data.manifest_dir,
        video_root=config.data.video_root,
        codec=codec,
        max_tokens=config.text.max_tokens,
        shuffle_videos=config.data.shuffle_videos,
        seed=config.seed,
        skips_damaged=name == "train" and config.data.on_decode_error == "skip",
        runtime=runtime,
    )


def train_stage(
    engine: Engine,
    parts: Parts,
    run: Run,
    *,
    last_layers: Mapping[str, Sequence[nn.Parameter]],
    config: Stage1Config | Stage2Config,
) -> None:
    """Train from where the run stands to its end, and leave the best weights in the engine.

    Args:
        engine: Holds a stage model.
        parts: Data and schedule.
        run: Folder, tracker and state.
        last_layers: Parameters by part, whose norms are recorded (FLa-LLM, figure 2).
        config: Of the stage.
    """
    evaluator = Evaluator(
        loader=parts.loaders.dev,
        split="dev",
        split_ids=parts.dev_split.ids,
        prepare=parts.loaders.prepare,
        ids_to_text=parts.codec.decode,
        search=search_of(config.beam, seed=config.seed),
        protocol=find_protocol(config.metrics.protocol),
        runtime=parts.runtime,
        folder=run.folder,
    )

    def evaluate_dev(step: int) -> float:
        with engine.whole_model() as model:
            scores, path = evaluator.evaluate(model, tag=checkpoint_tag(step))
        run.tracker.log(scores.as_metrics("dev"), step=step)
        run.tracker.log_artifact(path, "decodes")
        return scores.bleu4

    def log_best(step: int) -> None:
        path = run.folder.decodes_tsv(checkpoint_tag(step), "dev")
        run.tracker.log_translations(path, split="dev")

    if run.checkpoint is not None:
        load_checkpoint(engine, run.checkpoint, run_folder=run.folder, runtime=parts.runtime)
    if parts.loaders.skipped is not None:
        parts.loaders.skipped.merge(run.state.skipped)
    state = train(
        engine,
        parts.loaders.train,
        prepare=parts.loaders.prepare,
        evaluate=evaluate_dev,
        on_best=log_best,
        tracker=run.tracker,
        run_folder=run.folder,
        runtime=parts.runtime,
        schedule=parts.schedule,
        state=run.state,
        seed=config.seed,
        signals=run.signals,
        skipped=parts.loaders.skipped,
        watched=last_layers,
    )
    if state.best_step is not None and state.best_step != state.step:
        best = run.folder.checkpoint(state.best_step)
        load_checkpoint(engine, best, run_folder=run.folder, runtime=parts.runtime)


def describe_export(
    config: Stage1Config | Stage2Config,
    *,
    train_split: Split,
    stage: Literal[1, 2],
    encoder: EncoderShape,
    translator: dict[str, Any],
    autocast: bool,
) -> Description:
    """What an export of this run says about itself."""
    return Description(
        stage=stage,
        encoder=encoder,
        translator=translator,
        language=config.text.language,
        max_tokens=config.text.max_tokens,
        autocast=autocast,
        preprocessing=Preprocessing(
            frame_stride=config.data.frame_stride,
            target_fps=config.data.target_fps,
            max_frames=config.data.max_frames,
            resize_px=config.data.resize_px,
            crop_px=config.data.crop_px,
        ),
        corpus=_describe_corpus(config, train_split),
    )


def _describe_corpus(config: Stage1Config | Stage2Config, train_split: Split) -> Corpus:
    samples = train_split.samples
    return Corpus(
        manifest_dir=str(Path(config.data.manifest_dir).absolute()),
        video_root=config.data.video_root,
        protocol=config.metrics.protocol,
        name=read_data_set_name(Path(config.data.manifest_dir)),
        num_samples=len(samples),
        hours=round(sum(sample.end_s - sample.start_s for sample in samples) / 3600, 2),
        num_signers=len({sample.signer for sample in samples if sample.signer}),
        fingerprint=fingerprint(samples),
        typical=train_split.typical,
    )


def manifest_hashes(parts: Parts) -> dict[str, str]:
    """SHA-256 of the manifests that a run reads, by path."""
    return {
        str(split.manifest): split.manifest_sha256 for split in (parts.train_split, parts.dev_split)
    }


def corpus_name(config: Stage1Config | Stage2Config) -> str:
    """The MLflow experiment: one a corpus, named by its manifest folder unless the config does."""
    return config.tracking.experiment or Path(config.data.manifest_dir).absolute().name

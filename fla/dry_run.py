"""The dry run behind `--check`: what of a run can be known without its ranks, and no step of it.

It calls what the run itself calls, in one process on the CPU. No process group is joined, no frame
is decoded, and nothing is written.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from fla.config.check import SPLITS, ensemble_members
from fla.config.schema import DecodeConfig, Stage1Config, Stage2Config
from fla.continuation import is_finished
from fla.data.manifest import check_manifest, read_manifest
from fla.description import Description, read_description
from fla.encoder import read_encoder
from fla.ensemble import load_ensemble
from fla.errors import ConfigError, FlaError
from fla.metrics.protocols import find_protocol
from fla.models.backbone import build_backbone
from fla.models.llm import build_llm
from fla.models.loading import fill_buffers, find_tensor, tied_parameters
from fla.plan.length import RunLength, measure_run
from fla.run_folder import RunFolder
from fla.runtime import Runtime, find_device
from fla.split import Split, read_split
from fla.text.codec import TextCodec, read_codec
from fla.translator import read_translator
from fla.weights import open_weights

Answer = TypeVar("Answer")

# References of test are only scored, so a long one does no harm.
_NO_LIMIT = 1_000_000
_NEXT = "Ready. Frames are decoded by tools/check_data.py, memory is planned by tools/plan_run.py."


def dry_run_stage(config: Stage1Config | Stage2Config) -> None:
    """Look at data, text, weights and run folder of a stage, and print what a run would do.

    Args:
        config: One that `check_stage1` or `check_stage2` has accepted.

    Raises:
        FlaError: Every problem, a sentence each; a ConfigError where one of them is.
    """
    if not _is_first_rank():
        return
    findings = _Findings()
    codec = findings.ask(
        lambda: read_codec(Path(config.text.tokenizer_dir), language=config.text.language)
    )
    splits = [findings.ask(partial(_look_at_split, name, config, codec)) for name in SPLITS]
    visual = findings.ask(lambda: _look_at_visual(config))
    if isinstance(config, Stage2Config) and codec is not None:
        visual = f"{visual}\nLLM: {findings.ask(partial(_look_at_llm, config, codec))}"
    train, dev, _ = splits
    length = findings.ask(lambda: _measure(config)) if train and dev else None
    read = [split for split in (train, dev) if split is not None]
    start = findings.ask(lambda: _look_at_run_folder(config, read))
    findings.raise_all()
    assert codec is not None and length is not None
    print(
        *(_describe_split(split) for split in splits if split is not None),
        f"tokenizer: {config.text.tokenizer_dir}, {codec.vocab_size} tokens, "
        f"{config.text.language}; longest sentence: {_longest(read)} of {config.text.max_tokens}",
        visual,
        _describe_length(config, length),
        f"{config.run_dir}: {start}",
        _NEXT,
        sep="\n",
        flush=True,
    )


def dry_run_decoding(config: DecodeConfig) -> None:
    """Look at models, data and output folder of a decoding, and print what it would do.

    Args:
        config: One that `check_decode` has accepted.

    Raises:
        FlaError: As of `dry_run_stage`.
    """
    if not _is_first_rank():
        return
    description, codec, home = _open_models(config)
    corpus = description.corpus
    findings = _Findings()
    split = findings.ask(
        lambda: read_split(
            config.split,
            manifest_dir=config.manifest_dir or corpus.manifest_dir,
            video_root=config.video_root or corpus.video_root,
            codec=codec,
            max_tokens=_NO_LIMIT,
            shuffle_videos=config.shuffle_videos,
            seed=config.seed,
            skips_damaged=False,
            runtime=_one_process(),
        )
    )
    output = Path(config.output_dir) if config.output_dir else home
    findings.ask(lambda: _check_writable("output_dir", output))
    protocol = findings.ask(lambda: find_protocol(config.protocol or corpus.protocol))
    findings.raise_all()
    assert split is not None and protocol is not None
    print(
        _describe_split(split),
        f"model: stage {description.stage}, of {corpus.num_samples} sentences of "
        f"{corpus.name or 'an unknown corpus'}, {_describe_frames(description)}",
        f"search: {config.beam.num_beams} beams, {config.beam.max_new_tokens} tokens at most; "
        f"protocol {protocol.name}",
        f"decodes and scores go to {output}.",
        "Ready.",
        sep="\n",
        flush=True,
    )


@dataclass(frozen=True)
class _Findings:
    """Collects what is wrong, so that it is all told at once."""

    problems: list[FlaError] = field(default_factory=list)

    def ask(self, question: Callable[[], Answer]) -> Answer | None:
        """The answer; None where a problem is found instead."""
        try:
            return question()
        except FlaError as error:
            self.problems.append(error)
            return None

    def raise_all(self) -> None:
        """End with all problems, if there are any."""
        if not self.problems:
            return
        # Train and dev may have a fault in common, such as a sentence.
        sentences = "\n".join(dict.fromkeys(map(str, self.problems)))
        if any(isinstance(problem, ConfigError) for problem in self.problems):
            raise ConfigError(sentences)
        raise FlaError(sentences)


def _is_first_rank() -> bool:
    # Under a launcher, which says for how many ranks to check, one of them is enough.
    return os.environ.get("RANK", "0") == "0"


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _one_process() -> Runtime:
    """This process alone, which leaves a GPU to others but says what it would decode."""
    return Runtime(
        device="cpu",
        rank=0,
        local_rank=0,
        world_size=1,
        dali_device_id=None,
        decode_device=find_device().decode_device,
    )


def _look_at_split(
    name: str, config: Stage1Config | Stage2Config, codec: TextCodec | None
) -> Split | None:
    data = config.data
    if codec is None:
        # Its sentences have to wait, its videos need not.
        path = Path(data.manifest_dir) / f"{name}.tsv"
        check_manifest(read_manifest(path, video_root=data.video_root))
        return None
    return read_split(
        name,
        manifest_dir=data.manifest_dir,
        video_root=data.video_root,
        codec=codec,
        max_tokens=_NO_LIMIT if name == "test" else config.text.max_tokens,
        shuffle_videos=data.shuffle_videos,
        seed=config.seed,
        skips_damaged=name == "train" and data.on_decode_error == "skip",
        runtime=_one_process(),
    )


def _look_at_visual(config: Stage1Config | Stage2Config) -> str:
    """What the visual encoder starts from; its weights, some 50 MB, are loaded."""
    model = config.model
    if isinstance(config, Stage2Config):
        _, _, shape = read_encoder(config, _one_process())
        if config.model.encoder_export:
            description = read_description(Path(config.model.encoder_export))
            return (
                f"encoder: {config.model.encoder_export}, {shape.sign_width} wide, trained on "
                f"{description.corpus.num_samples} sentences, {_describe_frames(description)}"
            )
    else:
        build_backbone(model.backbone_weights)
    return f"backbone: {model.backbone_weights or 'random weights'}"


def _look_at_llm(config: Stage2Config, codec: TextCodec) -> str:
    """Whether the LLM fits the tokenizer, and its weights their config.json; by headers alone."""
    folder = Path(config.model.llm_dir)
    fields = read_translator(config, codec)
    with torch.device("meta"):
        llm = build_llm(fields)
    parameters = tied_parameters(llm)
    if not config.model.random_llm:
        weights = open_weights(folder)
        for names, parameter in parameters:
            find_tensor(weights, names, shape=parameter.shape)
        fill_buffers(llm, weights, dtype=torch.float32)
    millions = sum(parameter.numel() for _, parameter in parameters) / 1e6
    start = "random weights in the shape of " if config.model.random_llm else ""
    return f"{start}{folder}, {fields['model_type']}, {millions:.1f} million parameters"


def _measure(config: Stage1Config | Stage2Config) -> RunLength:
    if isinstance(config, Stage1Config):
        # Steps are those of data, text and batches, whatever is trained on them.
        config = Stage2Config(
            run_dir=config.run_dir,
            seed=config.seed,
            data=config.data,
            text=config.text,
            train=config.train,
        )
    # The width matters for cached features alone.
    return measure_run(config, world_size=_world_size(), feature_width=1)


def _look_at_run_folder(config: Stage1Config | Stage2Config, splits: Sequence[Split]) -> str:
    """Where a run would start."""
    folder = RunFolder(Path(config.run_dir).absolute())
    _check_writable("run_dir", folder.path)
    is_used = folder.config_yaml.is_file()
    if config.resume == "none":
        return f"a fresh start{', which moves the former run aside' if is_used else ''}"
    if config.resume == "auto" and not is_used:
        return "a fresh start"
    # Here, not at the top: these bring DeepSpeed, which takes seconds.
    from fla.checkpoint import choose_checkpoint, read_train_state
    from fla.run import check_continuation

    if is_finished(config):
        return f"finished; its model is {folder.export}"
    check_continuation(config)
    checkpoint = choose_checkpoint(folder, config.resume, runtime=_one_process())
    if checkpoint is None:
        return "a fresh start, as no checkpoint is complete"
    manifests = {split.manifest.name: split.manifest_sha256 for split in splits}
    return f"goes on from step {read_train_state(checkpoint, manifests=manifests).step}"


def _check_writable(key: str, folder: Path) -> None:
    folder = folder.absolute()
    existing = next(it for it in (folder, *folder.parents) if it.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{key} ({folder}): nothing can be written to {existing}. Choose another folder."
        )


def _open_models(config: DecodeConfig) -> tuple[Description, TextCodec, Path]:
    """Description and codec of what decodes, and the folder that decodes and scores go to."""
    members = [Path(path) for path in ensemble_members(config)]
    exports = [path for path in members if (path / "config.json").is_file()]
    checkpoints = [(path, "ensemble", 1) for path in members if path not in exports]
    if config.checkpoint:
        checkpoints.insert(0, (Path(config.checkpoint), "checkpoint", config.average_last))
    else:
        exports.insert(0, Path(config.export_dir))
    runs = [_look_at_checkpoints(*words) for words in checkpoints]
    if exports:
        # Loaded as decoding loads them: what is compared are checksums and members.
        first, _ = load_ensemble(
            exports,
            device="cpu",
            dtype=torch.float32 if config.dtype == "float32" else torch.bfloat16,
        )
    if not config.checkpoint:
        return first.description, first.codec, exports[0].parent
    description = read_description(runs[0].model)
    return description, read_codec(runs[0].model, language=description.language), runs[0].path


def _look_at_checkpoints(path: Path, key: str, num_checkpoints: int) -> RunFolder:
    """The run whose checkpoints are meant; their files are whole."""
    # Here, not at the top: an export is looked at without DeepSpeed, which takes seconds.
    from fla.checkpoint_export import choose_checkpoints
    from fla.checkpoint_files import check_files

    chosen = choose_checkpoints(path, num_checkpoints=num_checkpoints, key=key)
    for checkpoint in chosen:
        check_files(checkpoint, advice="Take another checkpoint.")
    return RunFolder(chosen[0].parent.parent)


def _describe_split(split: Split) -> str:
    return f"{split.name}: {len(split.samples)} samples, videos in {split.root}"


def _longest(splits: Sequence[Split]) -> int:
    return max(len(ids) for split in splits for ids in split.token_ids)


def _describe_length(config: Stage1Config | Stage2Config, length: RunLength) -> str:
    ranks = _world_size()
    return (
        f"steps: {length.steps_per_epoch} an epoch, {length.num_steps} in all, of "
        f"{config.train.global_batch_size} sentences on {ranks} rank{'s' if ranks > 1 else ''} "
        f"with {config.deepspeed}"
    )


def _describe_frames(description: Description) -> str:
    seen = description.preprocessing
    rate = (
        f"{seen.target_fps:g} frames a second"
        if seen.target_fps
        else f"one frame in {seen.frame_stride}"
    )
    return f"{rate}, at most {seen.max_frames}, of {seen.crop_px} pixels"

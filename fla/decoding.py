"""Decode a split with an exported model, and score it: assembles the parts."""

import json
import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import distributed

from fla.arrival import see_what_main_sees
from fla.config.check import ensemble_members
from fla.config.schema import DecodeConfig
from fla.data.clips import DecodedClips
from fla.data.loader import EvalLoader
from fla.data.manifest import fingerprint
from fla.data.views import PlainView
from fla.ensemble import load_ensemble
from fla.evaluate import Evaluator, search_of
from fla.export import LoadedTranslator
from fla.metrics.protocols import find_protocol
from fla.metrics.scores import Scores
from fla.model_card import update_card
from fla.run_folder import RunFolder, open_run_folder, write_json
from fla.runtime import Runtime, ask_main, start_runtime, stop_runtime
from fla.split import Split, read_split
from fla.tracking import log_decoding

log = logging.getLogger(__name__)


def run_decoding(config: DecodeConfig) -> None:
    """Translate and score as `config` says; every rank calls it.

    Raises:
        FlaError: Something that the user can fix.
    """
    runtime = start_runtime()
    exports = _find_exports(config, runtime)
    export_dir = exports[0]
    dtype = torch.float32 if config.dtype == "float32" else torch.bfloat16
    translator, ensemble = load_ensemble(exports, device=runtime.device, dtype=dtype)
    corpus = translator.description.corpus
    split = read_split(
        config.split,
        manifest_dir=config.manifest_dir or corpus.manifest_dir,
        video_root=config.video_root or corpus.video_root,
        codec=translator.codec,
        # References are only scored here, so a long one does no harm.
        max_tokens=1_000_000,
        shuffle_videos=config.shuffle_videos,
        seed=config.seed,
        skips_damaged=False,
        runtime=runtime,
    )
    folder = open_run_folder(Path(config.output_dir) if config.output_dir else export_dir.parent)
    with closing(_open_loader(config, translator, split, runtime)) as loader:
        evaluator = Evaluator(
            loader=loader,
            split=split.name,
            split_ids=split.ids,
            prepare=translator.prepare,
            ids_to_text=translator.codec.decode,
            search=search_of(config.beam, seed=config.seed),
            protocol=find_protocol(config.protocol or corpus.protocol),
            runtime=runtime,
            folder=folder,
        )
        with translator.inference():
            scores, path = evaluator.evaluate(ensemble, tag="export")
    if runtime.is_main:
        _write_scores(folder, config, exports, split, scores)
        update_card(folder)
        _print_scores(config.split, scores, path, folder)
        # Last: it waits for the tracker.
        log_decoding(folder, decodes=path, split=split.name, scores=scores)
    distributed.barrier()
    stop_runtime()


def _find_exports(config: DecodeConfig, runtime: Runtime) -> list[Path]:
    """The exports that are meant, made of checkpoints if need be; every rank calls it."""

    def export(path: Path, *, key: str, num_checkpoints: int) -> Path:
        # Here, not at the top: an export is decoded without DeepSpeed, which takes seconds.
        from fla.checkpoint_export import choose_checkpoints, export_checkpoints

        chosen = choose_checkpoints(path, num_checkpoints=num_checkpoints, key=key)
        log.info("Decoding with %s.", " and ".join(folder.name for folder in chosen))
        return export_checkpoints(chosen)

    def find() -> list[Path]:
        first = (
            export(Path(config.checkpoint), key="checkpoint", num_checkpoints=config.average_last)
            if config.checkpoint
            else Path(config.export_dir)
        )
        others = map(Path, ensemble_members(config))
        return [
            first,
            *(
                path
                if (path / "config.json").is_file()
                else export(path, key="ensemble", num_checkpoints=1)
                for path in others
            ),
        ]

    exports = ask_main(runtime, find)
    for path in exports:
        see_what_main_sees(path, runtime)
    return exports


def _open_loader(
    config: DecodeConfig, translator: LoadedTranslator, split: Split, runtime: Runtime
) -> EvalLoader:
    preprocessing = translator.description.preprocessing
    frames_per_batch = max(config.frames_per_batch, preprocessing.max_frames)
    views = PlainView(
        frame_stride=preprocessing.frame_stride,
        target_fps=preprocessing.target_fps,
        max_frames=preprocessing.max_frames,
        resize_px=preprocessing.resize_px,
        crop_px=preprocessing.crop_px,
    )
    return EvalLoader(
        split.samples,
        source=DecodedClips(
            root=split.root,
            views=views,
            runtime=runtime,
            max_clips=config.beam.batch_size,
            frames_per_batch=frames_per_batch,
            num_threads=config.num_threads,
            host_memory_gib=config.host_memory_gib,
            full_frame_px=split.full_frame_px,
        ),
        lengths=views.lengths(split.samples),
        token_ids=split.token_ids,
        runtime=runtime,
        batch_size=config.beam.batch_size,
        frames_per_batch=frames_per_batch,
        prefetch_batches=4,
    )


def _write_scores(
    folder: RunFolder,
    config: DecodeConfig,
    exports: Sequence[Path],
    split: Split,
    scores: Scores,
) -> None:
    """Add this split's scores to scores.json, beside those of other splits."""
    path = folder.scores_json
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content[config.split] = {
        **scores.as_dict(),
        "export": str(exports[0].absolute()),
        # Also where the folder has been moved.
        "is_own": exports[0].resolve() == folder.export.resolve(),
        **({"ensemble": [str(path.absolute()) for path in exports[1:]]} if exports[1:] else {}),
        "dtype": config.dtype,
        "fingerprint": fingerprint(split.samples),
        "beam": {
            "num_beams": config.beam.num_beams,
            "length_penalty": config.beam.length_penalty,
            "max_new_tokens": config.beam.max_new_tokens,
            **_describe_sampling(config),
        },
        "shuffle_videos": config.shuffle_videos,
    }
    write_json(path, content)


def _describe_sampling(config: DecodeConfig) -> dict[str, float]:
    beam = config.beam
    if not beam.temperature:
        return {}
    return {
        "temperature": beam.temperature,
        "top_k": beam.top_k,
        "top_p": beam.top_p,
        "num_hypotheses": beam.num_hypotheses,
        "seed": config.seed,
    }


def _print_scores(split: str, scores: Scores, decodes: Path, folder: RunFolder) -> None:
    print(
        f"{split}: {scores.num_sentences} sentences  "
        f"BLEU-1 {scores.bleu1:.2f}  BLEU-2 {scores.bleu2:.2f}  BLEU-3 {scores.bleu3:.2f}  "
        f"BLEU-4 {scores.bleu4:.2f}  ROUGE-L {scores.rouge_l:.2f}  chrF {scores.chrf2:.2f}\n"
        f"signature: {scores.signature}\n"
        f"hypotheses: {decodes}\nscores: {folder.scores_json}",
        flush=True,
    )

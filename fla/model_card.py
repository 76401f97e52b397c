"""The model card of an export, README.md: what the records of its run say about it.

Written when the export is, and again whenever decoding has changed the run's scores.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from fla.data.datasets import DataSet, find_data_set, read_data_set_name
from fla.description import Description, read_description
from fla.journal import read_points
from fla.model_card_template import TEMPLATE
from fla.run_folder import RunFolder, read_best, read_decodes, step_of, write_atomically
from fla.saved_config import read_nested_config

CARD = "README.md"
_METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "chrf2")
# Those that the card's header has, by the hub's identifier.
_IN_HEADER = {
    "bleu4": ("bleu", "BLEU-4"),
    "rouge_l": ("rouge", "ROUGE-L"),
    "chrf2": ("chrf", "chrF2"),
}


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """Scores of the export on a split."""

    split: str
    values: tuple[float, ...]
    """In the order of bleu1 to bleu4, rouge_l, chrf2."""
    num_sentences: int
    note: str
    """How they came about, a sentence."""
    signature: str
    references_sha256: str = ""

    @property
    def numbers(self) -> tuple[str, ...]:
        """The values as they are printed."""
        return tuple(f"{value:.2f}" for value in self.values)


def update_card(folder: RunFolder) -> None:
    """Write the card of a run's export; nothing where the folder holds none.

    Raises:
        CheckpointError: The export is damaged.
    """
    if not (folder.export / "preprocessor_config.json").is_file():
        # None at all, or one of a former release, which transformers could not load.
        return
    description = read_description(folder.export)
    data_set = find_data_set(
        description.corpus.name or read_data_set_name(Path(description.corpus.manifest_dir))
    )
    config = read_nested_config(folder)
    title = f"FLa-LLM, stage {description.stage}, {data_set.name}"
    scores = read_scores(folder)
    card = ModelCard.from_template(
        _header(title, description, data_set, scores),
        template_str=TEMPLATE,
        title=title,
        description=description,
        corpus=description.corpus,
        data_set=data_set,
        model=_tell_model(description, config),
        signers=_tell_signers(description.corpus.num_signers),
        dtype=json.loads((folder.export / "config.json").read_text(encoding="utf-8"))["dtype"],
        resize_px=description.preprocessing.resize_px,
        scores=scores,
        training=[*_tell_training(folder, config)],
    )
    write_atomically(folder.export / CARD, f"{card}\n")


def read_scores(folder: RunFolder) -> list[ScoreRow]:
    """What is known of the export: dev scores of training, and what decoding added.

    Scores of other exports, and of videos that were dealt to other sentences, are left out.
    """
    rows = {row.split: row for row in _scores_of_training(folder)}
    if folder.scores_json.is_file():
        content = json.loads(folder.scores_json.read_text(encoding="utf-8"))
        rows |= {row.split: row for row in _scores_of_decoding(content, folder.export)}
    return [rows[split] for split in sorted(rows)]


def _scores_of_training(folder: RunFolder) -> Iterator[ScoreRow]:
    best = read_best(folder)
    if best is None:
        return
    points, _ = read_points(folder.metrics_jsonl)
    found = {point.key: point.value for point in points if point.step == step_of(best)}
    path = folder.decodes_tsv(best, "dev")
    if "dev/bleu4" not in found or not path.is_file():
        return
    decodes, signature = read_decodes(path)
    yield ScoreRow(
        split="dev",
        values=tuple(found[f"dev/{name}"] for name in _METRICS),
        num_sentences=len(decodes),
        note="the best of training's evaluations, by which these weights were chosen.",
        signature=signature,
    )


def _scores_of_decoding(content: Mapping[str, Any], export: Path) -> Iterator[ScoreRow]:
    for split, entry in content.items():
        # What was written before has the place alone.
        is_own = entry.get("is_own", Path(entry["export"]).resolve() == export.resolve())
        if not is_own or "ensemble" in entry or entry["shuffle_videos"]:
            continue
        yield ScoreRow(
            split=split,
            values=tuple(entry[name] for name in _METRICS),
            num_sentences=entry["num_sentences"],
            note=_tell_search(entry["beam"]),
            signature=entry["signature"],
            references_sha256=entry["fingerprint"]["references_sha256"],
        )


def _tell_search(beam: Mapping[str, Any]) -> str:
    if "temperature" in beam:
        return f"sampled at temperature {beam['temperature']}, seed {beam['seed']}."
    return f"{beam['num_beams']} beams, length penalty {beam['length_penalty']}."


def _header(
    title: str, description: Description, data_set: DataSet, scores: list[ScoreRow]
) -> ModelCardData:
    """The card's front matter."""
    # Those of T5 may be any word.
    spoken = description.language.partition("_")[0].lower()
    languages = [spoken if len(spoken) in (2, 3) else "", data_set.sign_language_code]
    results = [
        EvalResult(
            task_type="translation",
            task_name="Sign language translation",
            dataset_type=data_set.name,
            dataset_name=data_set.name,
            dataset_split=row.split,
            metric_type=kind,
            metric_name=name,
            metric_value=round(row.values[_METRICS.index(metric)], 2),
        )
        for row in scores
        for metric, (kind, name) in _IN_HEADER.items()
    ]
    return ModelCardData(
        language=[*filter(None, languages)],
        license=data_set.license,
        license_name=data_set.license_name or None,
        library_name="transformers",
        tags=["sign-language-translation", "gloss-free", "fla-llm", "video"],
        model_name=title,
        eval_results=results or None,
    )


def _tell_model(description: Description, config: Mapping[str, Any]) -> str:
    """What is inside, in two sentences."""
    if description.stage == 1:
        return (
            "This is stage 1, visual initialing: ResNet-18, a local temporal module and the small "
            f"Transformer Light-T ({description.translator['size']}), trained together. Stage 2 "
            "starts from its visual encoder; that one is meant for translating."
        )
    model = config.get("model", {})
    kind = description.translator.get("model_type", "mbart")
    # The end of the path tells which one it is; the rest is of somebody's machine.
    folder = "/".join(Path(model.get("llm_dir", "unknown")).parts[-2:])
    start = "random weights" if model.get("random_llm") else f"`{folder}`"
    source = "of stage 1" if model.get("encoder_export") else "without a stage 1"
    frozen = {
        "all": "frozen",
        "backbone": "its backbone frozen",
        "nothing": "trained along",
    }.get(model.get("freeze", "all"), "frozen")
    return (
        f"This is stage 2, LLM fine-tuning: a visual encoder {source}, {frozen}, an adapter that "
        f"reads its {description.encoder.input_features.replace('_', '-')} features, and a "
        f"language model of the kind {kind}, which started from {start}."
    )


def _tell_signers(num_signers: int) -> str:
    if num_signers == 0:
        return "the signers of its corpus only"
    return "one signer" if num_signers == 1 else f"{num_signers} signers"


def _tell_training(folder: RunFolder, config: Mapping[str, Any]) -> Iterator[str]:
    """How it was trained, a line each."""
    train, optim, data = (config.get(name, {}) for name in ("train", "optim", "data"))
    rates = {key: value for key, value in optim.items() if key.endswith("learning_rate")}
    if config.get("model", {}).get("freeze") == "all":
        del rates["encoder_learning_rate"]
    best = read_best(folder)
    if best is not None:
        yield f"weights after step {step_of(best):,}, the best on dev by BLEU-4"
    length = f"{train.get('num_epochs')} epochs"
    if train.get("max_steps"):
        length += f", at most {train['max_steps']} steps"
    yield (
        f"{length}, {train.get('global_batch_size')} sentences a step, seed {config.get('seed')}"
    )
    yield ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in rates.items())
    if train.get("ema_decay"):
        yield f"the moving average of the weights, decay {train['ema_decay']}"
    if data.get("shuffle_videos"):
        yield "a control: the videos were dealt to other sentences, so that nothing was to be seen"
    preprocessing = f"frames of {data.get('crop_px')} pixels, at most {data.get('max_frames')}"
    if data.get("target_fps"):
        yield f"{preprocessing}, {data['target_fps']} a second"
    else:
        yield f"{preprocessing}, one in {data.get('frame_stride')}"
    if folder.provenance_json.is_file():
        yield from _tell_provenance(json.loads(folder.provenance_json.read_text(encoding="utf-8")))


def _tell_provenance(provenance: Mapping[str, Any]) -> Iterator[str]:
    # The launcher puts its own word there.
    words = [word for word in provenance["command"] if not word.startswith("--local_rank")]
    devices = provenance["devices"]
    yield f"command: `{' '.join(words)}`, on {len(devices)} x {devices[0]}"
    git = provenance["git"]
    if git is not None:
        changed = ", with files changed" if git["dirty"] else ""
        yield f"commit of the toolkit: `{git['commit']}`{changed}"
    versions = provenance["versions"]
    names = ("torch", "transformers", "deepspeed")
    yield ", ".join(f"{name} {versions[name]}" for name in names if name in versions)

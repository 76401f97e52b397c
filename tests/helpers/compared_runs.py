"""Run folders with the records of a run, written without running one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fla.data.manifest import Sample, write_manifest
from fla.journal import append_row
from fla.metrics.protocols import find_protocol
from fla.metrics.scores import score
from fla.run_folder import (
    DecodedRow,
    RunFolder,
    open_run_folder,
    write_best,
    write_decodes,
    write_json,
)
from tests.helpers.videos import write_video

FPS = 15
FRAMES = 15

REFERENCES = {
    "a": "The cat is red.",
    "b": "The dog runs to the house.",
    "c": "We eat an apple today.",
    "d": "Where is the small bird of my friend?",
}


def write_run(
    path: Path,
    hypotheses: Mapping[str, str],
    *,
    references: Mapping[str, str] = REFERENCES,
    settings: str = "seed: 1\n",
    split: str = "test",
    protocol: str = "text",
) -> RunFolder:
    """A finished run that translated a split.

    Args:
        hypotheses: By id; only these samples were translated.
        references: By id.
        settings: Its config.yaml.
    """
    folder = open_run_folder(path)
    folder.config_yaml.write_text(settings)
    for step in (10, 20):
        metrics = {"train/loss_nats_per_token": 30 / step, "dev/bleu4": float(step)}
        append_row(folder.metrics_jsonl, metrics, step=step)
    write_best(folder, "step_0000020")
    rows = [DecodedRow(i, hypothesis, references[i]) for i, hypothesis in hypotheses.items()]
    scores = score(
        [row.hypothesis for row in rows],
        [row.reference for row in rows],
        protocol=find_protocol(protocol),
    )
    write_decodes(folder.decodes_tsv("export", split), rows, signature=scores.signature)
    entry = {
        **scores.as_dict(),
        "export": str(folder.export),
        "fingerprint": {"num_samples": len(rows)},
        "beam": {"num_beams": 5},
        "shuffle_videos": False,
    }
    write_json(folder.scores_json, {split: entry})
    return folder


def write_corpus(
    path: Path, *, references: Mapping[str, str] = REFERENCES, signers: Sequence[str] = ("1", "2")
) -> Path:
    """Manifests whose clips lie in one real H.264 recording, a second each; gives their folder.

    Args:
        signers: They take turns.
    """
    path.mkdir(parents=True)
    write_video(path / "signing.mp4", num_frames=FRAMES * len(references))
    samples = [
        Sample(
            id=sample_id,
            video="signing.mp4",
            start_s=float(number),
            end_s=float(number + 1),
            fps=float(FPS),
            num_frames=FRAMES,
            signer=signers[number % len(signers)],
            sentence=sentence,
        )
        for number, (sample_id, sentence) in enumerate(references.items())
    ]
    write_manifest(path / "manifests" / "test.tsv", samples, root=path)
    return path / "manifests"


def read_run_id(folder: RunFolder) -> str:
    """The id that MLflow gave a run."""
    return str(json.loads(folder.mlflow_run_json.read_text())["run_id"])

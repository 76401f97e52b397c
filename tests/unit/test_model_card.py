import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from fla.build import build_stage1
from fla.data.datasets import CSL_DAILY, GENERATED, HOW2SIGN, PHOENIX14T, read_data_set_name
from fla.description import Corpus, Description, EncoderShape, Preprocessing, write_description
from fla.export import stored_tensors, write_export
from fla.journal import append_row
from fla.model_card import read_scores, update_card
from fla.provenance import write_provenance
from fla.run_folder import (
    DecodedRow,
    RunFolder,
    open_run_folder,
    write_best,
    write_decodes,
    write_json,
)
from fla.text.codec import train_codec
from fla.weights import layouts_of

NUMBERS = {"bleu1": 50.0, "bleu2": 40.0, "bleu3": 30.0, "bleu4": 21.444, "rouge_l": 55.5}
NUMBERS |= {"chrf2": 60.0}
CONFIG = {
    "seed": 7,
    "train": {"num_epochs": 80, "global_batch_size": 32, "ema_decay": 0.0, "max_steps": 0},
    "optim": {"learning_rate": 0.01},
    "data": {"crop_px": 224, "max_frames": 75, "frame_stride": 4, "target_fps": 0.0},
    "model": {},
}
DESCRIPTION = Description(
    stage=1,
    encoder=EncoderShape(sign_width=24, kernel_size=3),
    translator={"size": "tiny"},
    language="de_DE",
    max_tokens=50,
    autocast=True,
    preprocessing=Preprocessing(frame_stride=4, max_frames=75, resize_px=256, crop_px=224),
    corpus=Corpus(
        manifest_dir="/home/me/p14t",
        video_root="",
        name=PHOENIX14T,
        num_samples=7096,
        hours=9.2,
        num_signers=9,
        fingerprint={"num_samples": 7096, "ids_sha256": "1d5", "references_sha256": "5e7"},
    ),
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of stage 1 that has ended, and has not been decoded."""
    folder = open_run_folder(tmp_path / "stage1")
    codec = train_codec(["das wetter morgen"], max_pieces=110, language="de_DE")
    torch.manual_seed(0)
    tensors = stored_tensors(build_stage1(DESCRIPTION, codec))
    write_export(
        folder.export, layouts_of(tensors), tensors.items(), description=DESCRIPTION, codec=codec
    )
    folder.config_yaml.write_text(yaml.safe_dump(CONFIG))
    command = ["launchers/stage1.py", "--local_rank=0", "p14t.yaml"]
    write_provenance(folder, command=command, devices=["cpu", "cpu"], manifests={})
    for step, change in ((100, 0.0), (200, 1.0), (300, 0.5)):
        append_row(folder.metrics_jsonl, {"train/loss_nats_per_token": 2.0}, step=step)
        scores = {f"dev/{name}": value + change for name, value in NUMBERS.items()}
        append_row(folder.metrics_jsonl, scores, step=step)
        rows = [DecodedRow("a", "es regnet", "es schneit")] * 519
        write_decodes(folder.decodes_tsv(f"step_{step:07d}", "dev"), rows, signature="text.v1|x")
    write_best(folder, "step_0000200")
    return folder


def decode(run: RunFolder, split: str, **changes: Any) -> None:
    """What decoding leaves in a run folder."""
    entry = {
        **NUMBERS,
        "num_sentences": 642,
        "signature": "phoenix14t.v1|y",
        "export": str(run.export),
        "is_own": True,
        "fingerprint": {"num_samples": 642, "references_sha256": "ab12"},
        "beam": {"num_beams": 5, "length_penalty": 1.0},
        "shuffle_videos": False,
    }
    content = json.loads(run.scores_json.read_text()) if run.scores_json.exists() else {}
    write_json(run.scores_json, {**content, split: {**entry, **changes}})


def card_of(run: RunFolder) -> ModelCard:
    update_card(run)
    return ModelCard.load(run.export / "README.md")


def metrics_in_header(card: ModelCard) -> dict[tuple[str, str], float]:
    return {
        (result.dataset_split, result.metric_name): result.metric_value
        for result in card.data.eval_results or []
    }


def change(run: RunFolder, **changes: Any) -> None:
    content = json.loads((run.export / "config.json").read_text())
    ours = {"format", "format_version", *DESCRIPTION.__dataclass_fields__}
    others = {key: value for key, value in content.items() if key not in ours}
    write_description(run.export, replace(DESCRIPTION, **changes), others)


def test_the_header_says_languages_license_and_what_kind_of_thing_it_is(run):
    data = card_of(run).data

    assert data.language == ["de", "gsg"]
    assert (data.license, data.license_name) == ("other", "cc-by-nc-sa")
    assert data.library_name == "transformers"
    assert {"sign-language-translation", "gloss-free"} <= set(data.tags)
    assert data.model_name == "FLa-LLM, stage 1, PHOENIX14T"


def test_scores_of_the_best_evaluation_are_those_of_dev(run):
    card = card_of(run)

    assert metrics_in_header(card) == {
        ("dev", "BLEU-4"): 22.44,
        ("dev", "ROUGE-L"): 56.5,
        ("dev", "chrF2"): 61.0,
    }
    assert "| dev | 519 | 51.00 | 41.00 | 31.00 | 22.44 | 56.50 | 61.00 |" in card.text
    assert "`text.v1|x`" in card.text


def test_decoding_adds_its_splits_with_signature_and_fingerprint(run):
    update_card(run)
    decode(run, "test")

    card = card_of(run)

    assert metrics_in_header(card)["test", "BLEU-4"] == 21.44
    assert "| test | 642 | 50.00 | 40.00 | 30.00 | 21.44 | 55.50 | 60.00 |" in card.text
    assert "5 beams, length penalty 1.0" in card.text
    assert "`phoenix14t.v1|y`" in card.text
    assert "`ab12`" in card.text
    assert [row.split for row in read_scores(run)] == ["dev", "test"]


def test_a_split_that_is_decoded_again_has_the_new_scores_alone(run):
    decode(run, "dev", bleu4=33.0)

    card = card_of(run)

    assert metrics_in_header(card)["dev", "BLEU-4"] == 33.0
    assert "22.44" not in card.content


@pytest.mark.parametrize("changes", [{"is_own": False}, {"shuffle_videos": True}])
def test_scores_of_other_exports_and_of_controls_stay_out(run, changes):
    decode(run, "test", **changes)

    assert [row.split for row in read_scores(run)] == ["dev"]


def test_scores_stay_where_the_folder_is_moved(run):
    decode(run, "test", export="/before/it/was/moved/export")

    assert [row.split for row in read_scores(run)] == ["dev", "test"]


def test_without_scores_the_card_says_so(run):
    run.best_txt.unlink()

    card = card_of(run)

    assert card.data.eval_results is None
    assert "None yet." in card.text


def test_the_card_tells_how_the_model_was_trained(run):
    text = card_of(run).text

    for words in (
        "weights after step 200",
        "80 epochs, 32 sentences a step, seed 7",
        "learning rate 0.01",
        "frames of 224 pixels, at most 75, one in 4",
        "`launchers/stage1.py p14t.yaml`, on 2 x cpu",
        "torch 2",
        "| training sentences | 7,096 |",
        "| signers | 9 |",
        "| SHA-256 of the sentences | `5e7` |",
        "Light-T (tiny)",
        "width=256, height=256",
        "stored in float32",
        "weather forecasts",
        "PHOENIX14T is licensed CC BY-NC-SA",
    ):
        assert words in text, words
    assert "--local_rank" not in text
    assert "moving average" not in text


def test_what_is_not_usual_is_told(run):
    config = {**CONFIG, "train": {**CONFIG["train"], "ema_decay": 0.999, "max_steps": 50}}
    config["data"] = {**CONFIG["data"], "target_fps": 6.0, "shuffle_videos": True}
    run.config_yaml.write_text(yaml.safe_dump(config))

    text = card_of(run).text

    for words in ("moving average of the weights, decay 0.999", "at most 50 steps"):
        assert words in text, words
    for words in ("6.0 a second", "a control: the videos were dealt to other sentences"):
        assert words in text, words


def test_stage_2_tells_what_it_was_made_of(run):
    change(run, stage=2, translator={"model_type": "mt5"})
    model = {"encoder_export": "x", "freeze": "backbone", "llm_dir": "/home/me/models/mt5-base"}
    optim = {"adapter_learning_rate": 1e-3, "llm_learning_rate": 1e-5}
    config = {**CONFIG, "model": {**model, "random_llm": False}, "optim": optim}
    run.config_yaml.write_text(yaml.safe_dump(config))

    text = card_of(run).text

    assert "a visual encoder of stage 1, its backbone frozen" in text
    assert "a language model of the kind mt5, which started from `models/mt5-base`" in text
    assert "/home/me" not in text
    assert "adapter learning rate 0.001, llm learning rate 1e-05" in text
    assert "language model that training started from has a license of its own" in text


@pytest.mark.parametrize(
    ("name", "license", "words"),
    [
        (HOW2SIGN, "cc-by-nc-4.0", "CC BY-NC 4.0"),
        (CSL_DAILY, "other", "those who signed its agreement"),
        (GENERATED, "other", "nobody was filmed"),
        ("my corpus", "unknown", "does not know the license of this data set"),
    ],
)
def test_the_license_is_that_of_the_data_set(run, name, license, words):
    change(run, corpus=replace(DESCRIPTION.corpus, name=name))

    card = card_of(run)

    assert card.data.license == license
    assert words in card.text


def test_what_a_former_release_did_not_record_is_called_unknown(run):
    change(run, corpus=Corpus(manifest_dir="/home/me/p14t", video_root=""))

    text = card_of(run).text

    assert "| data set | p14t |" in text
    assert "| training sentences |" not in text
    assert "It has seen the signers of its corpus only" in text


def test_an_export_that_transformers_cannot_load_gets_no_card(run):
    (run.export / "preprocessor_config.json").unlink()

    update_card(run)

    assert not (run.export / "README.md").exists()


def test_a_folder_without_an_export_is_left_as_it_is(tmp_path):
    folder = open_run_folder(tmp_path / "decoded")

    update_card(folder)

    assert not folder.export.exists()


def test_a_data_set_is_known_by_the_report_beside_its_manifests(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"corpus": HOW2SIGN, "splits": {}}))

    assert read_data_set_name(tmp_path) == HOW2SIGN


@pytest.mark.parametrize("report", [None, "{", "[]", '{"corpus": 3}'])
def test_without_a_report_a_data_set_has_its_folders_name(tmp_path, report):
    folder = tmp_path / "mine"
    folder.mkdir()
    if report is not None:
        (folder / "report.json").write_text(report)

    assert read_data_set_name(folder) == "mine"

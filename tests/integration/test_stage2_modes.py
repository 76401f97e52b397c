"""Stage 2 in its other modes: the ablations of the paper, by the commands that a user types."""

import json
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from fla.run_folder import RunFolder, read_decodes
from tests.helpers.commands import deepspeed, python, run, run_well

ZERO3_AUTOCAST = "deepspeed=ds_configs/zero3_autocast.json"
ZERO2_AUTOCAST = "deepspeed=ds_configs/zero2_autocast.json"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("modes")


@pytest.fixture(scope="module")
def stage1(corpus, runs) -> Path:
    run_well(python(*corpus.stage1(runs / "stage1"), "train.max_steps=1", "model.light_t=tiny"))
    return runs / "stage1" / "export"


@pytest.fixture(scope="module")
def imagenet(runs) -> Path:
    """As torchvision saves a ResNet-18; the numbers do not matter here."""
    torch.save(resnet18(weights=None).state_dict(), runs / "resnet18.pth")
    return runs / "resnet18.pth"


def train(words: list[str], run_dir: Path, *, num_ranks: int) -> RunFolder:
    """One step on a tiny corpus."""
    launch = python if num_ranks == 1 else deepspeed
    run_well(launch(*words, "train.max_steps=1"), timeout_s=250)
    return RunFolder(run_dir)


def translate(folder: RunFolder) -> None:
    """What was trained can be used."""
    run_well(python("launchers/decode.py", f"export_dir={folder.export}", "beam.max_new_tokens=8"))
    rows, _ = read_decodes(folder.decodes_tsv("export", "test"))
    assert len(rows) == 4
    card = (folder.export / "README.md").read_text()
    assert "| test | 4 |" in card
    assert "generated demo corpus" in card


def metrics_of(folder: RunFolder) -> dict[str, float]:
    rows = map(json.loads, folder.metrics_jsonl.read_text().splitlines())
    return next(row for row in rows if "train/loss_nats_per_token" in row)


def export_types(folder: RunFolder) -> dict[str, str]:
    from fla.weights import open_tensors

    weights = open_tensors(folder.export / "model.safetensors")
    return {name: str(weights.tensor(name).dtype) for name in weights.names}


@pytest.mark.slow
def test_hidden_states_of_light_t_and_a_moving_average_in_float32(corpus, runs, stage1):
    words = corpus.stage2(runs / "light_t", stage1)
    words += ["model.input_features=light_t", "train.ema_decay=0.9", "model.export_dtype=float32"]

    folder = train(words, runs / "light_t", num_ranks=2)
    translate(folder)

    types = export_types(folder)
    assert types["adapter.hidden.weight"] == "torch.float32"
    assert types["encoder.light_t.encoder.layers.0.fc1.weight"] == "torch.bfloat16"
    metrics = metrics_of(folder)
    assert {name for name in metrics if "_norm/" in name} == {
        f"train/{kind}_norm/{part}"
        for kind in ("grad", "param")
        for part in ("adapter", "translator")
    }


@pytest.mark.slow
def test_a_frozen_backbone_of_imagenet_below_what_is_trained(corpus, runs, imagenet):
    words = corpus.stage2(runs / "imagenet", Path())
    words += ["model.encoder_export=", f"model.backbone_weights={imagenet}", "model.sign_width=32"]
    words += ["model.freeze=backbone", ZERO3_AUTOCAST]

    folder = train(words, runs / "imagenet", num_ranks=2)

    types = export_types(folder)
    assert types["encoder.backbone.conv1.weight"] == "torch.bfloat16"
    assert "encoder.temporal.norm.running_mean" in types
    assert metrics_of(folder)["train/grad_norm/visual"] > 0
    assert "train/learning_rate/encoder" in metrics_of(folder)


@pytest.mark.slow
def test_nothing_frozen_random_weights_and_layers_that_are_computed_again(corpus, runs, stage1):
    words = corpus.stage2(runs / "free", stage1)
    words += ["model.freeze=nothing", "model.input_features=frame_wise", "model.random_llm=true"]
    words += ["model.gradient_checkpointing=true", "model.checkpointed_stages=2", ZERO2_AUTOCAST]

    folder = train(words, runs / "free", num_ranks=1)

    names = export_types(folder)
    assert "encoder.backbone.conv1.weight" in names
    assert not any("temporal" in name for name in names)


def test_modes_that_contradict_each_other_are_refused_before_anything_is_loaded(corpus, runs):
    words = corpus.stage2(runs / "refused", Path())
    words += ["model.encoder_export=", "model.input_features=light_t", "model.freeze=nothing"]

    done = run(python(*words, ZERO2_AUTOCAST))

    assert done.returncode == 2
    assert "error: model.input_features=light_t: Light-T is trained in stage 1." in done.stderr
    assert not (runs / "refused").exists()

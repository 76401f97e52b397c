"""Weights and annotations that others publish are pickles: what they name is not run."""

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fla.data.importers.csl_daily_rows import read_rows
from fla.data.importers.labels import read_labels
from fla.errors import CheckpointError, DataError
from fla.metrics.bleurt import score_pairs
from fla.models.backbone import build_backbone
from fla.weights import open_weights
from tests.helpers.bleurt import write_bleurt
from tests.security.traps import PICKLES, Trap, write_torch_file

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


@pytest.fixture(params=PICKLES.values(), ids=PICKLES.keys())
def trap(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    """A pickle that makes the folder `mark`."""
    pickled: bytes = request.param(tmp_path / "mark")
    return pickled


def test_the_traps_do_leave_their_mark_where_they_are_loaded_without_care(trap, tmp_path):
    write_torch_file(tmp_path / "weights.bin", trap)

    torch.load(tmp_path / "weights.bin", weights_only=False)

    assert (tmp_path / "mark").is_dir()
    with pytest.raises(FileExistsError, match="mark"):
        pickle.loads(trap)


def test_weights_of_a_language_model_are_not_run(trap, tmp_path):
    write_torch_file(tmp_path / "pytorch_model.bin", trap)

    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: the file holds more than ten"):
        open_weights(tmp_path)

    assert not (tmp_path / "mark").exists()


def test_weights_from_before_pytorch_1_6_are_not_run(tmp_path):
    torch.save(
        {"weight": Trap(tmp_path / "mark")},
        tmp_path / "pytorch_model.bin",
        _use_new_zipfile_serialization=False,
    )

    with pytest.raises(CheckpointError, match="more than tensors, and what it holds is not run"):
        open_weights(tmp_path)

    assert not (tmp_path / "mark").exists()
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "mark").is_dir()


def test_an_index_of_weights_leads_to_no_other_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save({"weight": torch.zeros(2)}, tmp_path / "outside.bin")
    index = {"weight_map": {"weight": "../outside.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    with pytest.raises(CheckpointError, match=r"model/outside\.bin"):
        open_weights(folder)


def test_imagenet_weights_are_not_run(trap, tmp_path):
    write_torch_file(tmp_path / "resnet18.pth", trap)

    with pytest.raises(CheckpointError, match=r"resnet18\.pth: this is no file of tensors"):
        build_backbone(str(tmp_path / "resnet18.pth"))

    assert not (tmp_path / "mark").exists()


def test_weights_of_bleurt_are_not_run(tmp_path):
    write_bleurt(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"classifier.bias": Trap(tmp_path / "mark")}, tmp_path / "pytorch_model.bin")

    with pytest.raises(CheckpointError, match="more than tensors, and what it holds is not run"):
        score_pairs([("rain", "snow")], tmp_path)

    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_label_files_give_no_more_than_an_error(
    trap: bytes, pack: Callable[[bytes], bytes], tmp_path
):
    path = tmp_path / "phoenix14t.pami0.train"
    path.write_bytes(pack(trap))

    with pytest.raises(DataError, match=r"phoenix14t\.pami0\.train.* Use|is no pickle of plain"):
        read_labels(path)

    assert not (tmp_path / "mark").exists()


def test_sentences_are_read_beside_an_object_that_is_not_run(tmp_path):
    path = tmp_path / "labels.train"
    sample = {"name": "train/a", "text": "guten abend", "sign": Trap(tmp_path / "mark")}
    path.write_bytes(gzip.compress(pickle.dumps([sample])))

    (label,) = read_labels(path)

    assert (label.name, label.sentence) == ("a", "guten abend")
    assert not (tmp_path / "mark").exists()


def test_the_annotation_of_csl_daily_is_not_run(trap, tmp_path):
    folder = tmp_path / "sentence_label"
    folder.mkdir()
    (folder / "split_1.txt").write_text("name|split\na|train\n")
    (folder / "csl2020ct_v2.pkl").write_bytes(trap)

    with pytest.raises(DataError, match=r"csl2020ct_v2\.pkl (holds no list 'info'|is no pickle)"):
        read_rows(tmp_path, {})

    assert not (tmp_path / "mark").exists()

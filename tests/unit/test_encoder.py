"""What the keys ask of the visual encoder reaches it."""

from pathlib import Path

import pytest
import torch

from fla.batch import Batch, pad_labels
from fla.config.load import load_config
from fla.config.schema import Stage2Config
from fla.encoder import read_encoder
from fla.models.backbone import Backbone
from tests.helpers.training import RUNTIME


def config(folder: Path, *words: str) -> Stage2Config:
    """End to end from random weights, so that nothing is read."""
    missing = ("run_dir", "data.manifest_dir", "text.tokenizer_dir", "model.llm_dir")
    own = ["model.encoder_export=", "model.sign_width=8"]
    return load_config(Stage2Config, [*(f"{key}={folder}" for key in missing), *own, *words])


def test_stages_of_a_trained_backbone_are_computed_again(tmp_path):
    words = ["model.freeze=nothing", "model.checkpointed_stages=3"]

    frozen, trained, _ = read_encoder(config(tmp_path, *words), RUNTIME)

    assert frozen is None
    assert trained.backbone.num_checkpointed == 3


@pytest.mark.parametrize(("word", "is_compiled"), [("true", True), ("false", False)])
def test_a_frozen_backbone_is_compiled_where_the_key_says_so(
    tmp_path, monkeypatch, word, is_compiled
):
    compiled: list[Backbone] = []
    monkeypatch.setattr(Backbone, "compile", lambda backbone: compiled.append(backbone))
    batch = Batch(
        sample_ids=("a",), references=("a",), frame_lengths=torch.tensor([2]),
        labels=pad_labels([[5, 2, 38]]), frames=torch.randn(2, 3, 32, 32),
    )  # fmt: skip

    frozen, _, _ = read_encoder(config(tmp_path, f"model.compile={word}"), RUNTIME)
    frozen(batch)

    assert bool(compiled) == is_compiled

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from fla.batch import Batch, pad_labels
from fla.errors import CheckpointError
from fla.export import (
    WEIGHTS,
    Corpus,
    Description,
    Preprocessing,
    build_stage1,
    build_stage2,
    load_translator,
    load_visual_encoder,
    read_description,
    stage2_export_module,
    write_export,
)
from fla.models.light_t import build_small_mbart
from fla.models.llm import describe_llm
from fla.models.stages import FrozenEncoder, Stage1Model, Stage2Model
from fla.models.visual_encoder import VisualEncoder, build_visual_encoder
from fla.text.codec import TextCodec, train_codec

ENCODER = {"sign_width": 24, "kernel_size": 3}
STAGE1 = Description(
    stage=1,
    encoder=ENCODER,
    translator={"size": "tiny"},
    language="en_XX",
    max_tokens=50,
    autocast=False,
    preprocessing=Preprocessing(frame_stride=4, max_frames=75, resize_px=36, crop_px=32),
    corpus=Corpus(manifest_dir="data/manifests", video_root=""),
)
BEAM = {"num_beams": 2, "length_penalty": 1.0, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    return train_codec(["the cat is here", "where is a dog"], max_pieces=110, language="en_XX")


@pytest.fixture(scope="module")
def batch(codec: TextCodec) -> Batch:
    torch.manual_seed(3)
    sentences = ("the cat", "where is a dog")
    return Batch(
        sample_ids=("a", "b"),
        references=sentences,
        frame_lengths=torch.tensor([2, 5]),
        labels=pad_labels(codec.encode(sentences, max_tokens=50)),
        frames=torch.randn(7, 3, 32, 32),
    )


@pytest.fixture(scope="module")
def stage1(codec: TextCodec, batch: Batch) -> Stage1Model:
    torch.manual_seed(0)
    model = build_stage1(STAGE1, codec)
    # Running statistics that a new encoder would not have.
    model(batch)
    return model.eval()


@pytest.fixture
def stage1_folder(stage1: Stage1Model, codec: TextCodec, tmp_path: Path) -> Path:
    write_export(tmp_path / "export", stage1, description=STAGE1, codec=codec)
    return tmp_path / "export"


def build_tuned(codec: TextCodec) -> tuple[VisualEncoder, Stage2Model, Description]:
    torch.manual_seed(1)
    mbart = build_small_mbart(
        vocab_size=codec.vocab_size,
        d_model=16,
        num_layers=1,
        num_heads=2,
        ffn_width=32,
        dropout=0.1,
        pad_id=codec.pad_id,
        eos_id=codec.eos_id,
        start_id=codec.start_id,
    )
    description = replace(STAGE1, stage=2, translator=describe_llm(mbart.config))
    encoder = build_visual_encoder(**ENCODER, backbone_weights="").to(torch.bfloat16)
    model = build_stage2(description, codec, mbart).to(torch.bfloat16)
    return encoder, model.eval(), description


def stored_names(folder: Path) -> set[str]:
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        return set(file.keys())


def expect_same_translations(model: nn.Module, batch: Batch, folder: Path, prepared: Batch) -> None:
    loaded = load_translator(folder, device="cpu")
    with loaded.inference():
        ours = loaded.prepare(batch)
        torch.testing.assert_close(loaded.model(ours).nats, model(prepared).nats, rtol=0, atol=0)
        ids = loaded.model.generate(ours, **BEAM)
    assert ids.tolist() == model.generate(prepared, **BEAM).tolist()
    assert loaded.codec.decode(ids) == loaded.codec.decode(model.generate(prepared, **BEAM))


def test_stage_1_translates_the_same_after_its_export(stage1, stage1_folder, batch):
    expect_same_translations(stage1, batch, stage1_folder, batch)


def test_stage_2_translates_the_same_after_its_export(codec, batch, tmp_path):
    encoder, model, description = build_tuned(codec)
    exported = stage2_export_module(encoder, model)
    write_export(tmp_path / "export", exported, description=description, codec=codec)

    expect_same_translations(model, batch, tmp_path / "export", FrozenEncoder(encoder)(batch))


def test_a_description_comes_back_as_it_was(stage1_folder):
    assert read_description(stage1_folder) == STAGE1


def test_the_encoder_of_stage_1_comes_out_alone_and_whole(stage1, stage1_folder):
    encoder, description = load_visual_encoder(stage1_folder)

    assert description == STAGE1
    torch.testing.assert_close(
        encoder.state_dict(), stage1.visual_encoder.state_dict(), rtol=0, atol=0
    )


def test_tied_weights_are_stored_once(codec, tmp_path):
    encoder, model, description = build_tuned(codec)
    exported = stage2_export_module(encoder, model)
    write_export(tmp_path / "export", exported, description=description, codec=codec)

    tied = [
        name
        for name in stored_names(tmp_path / "export")
        if name.endswith(("shared.weight", "embed_tokens.weight", "lm_head.weight"))
    ]
    assert len(tied) == 1


def test_windows_on_one_large_buffer_are_stored_as_small_as_they_are(codec, tmp_path):
    encoder, model, description = build_tuned(codec)
    parameters = list(model.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    buffer = torch.cat([*(p.detach().flatten() for p in parameters), torch.zeros(1_000_000)])
    windows = buffer.bfloat16().split([*sizes, 1_000_000])
    for parameter, window in zip(parameters, windows, strict=False):
        parameter.data = window.view_as(parameter)
    exported = stage2_export_module(encoder, model)
    write_export(tmp_path / "export", exported, description=description, codec=codec)

    num_bytes = 2 * sum(tensor.numel() for tensor in exported.state_dict().values())
    assert (tmp_path / "export" / WEIGHTS).stat().st_size < 1.1 * num_bytes


def test_an_export_that_was_cut_short_is_no_export(stage1, stage1_folder, codec):
    class Full(nn.Module):
        def state_dict(self, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_export(stage1_folder, Full(), description=STAGE1, codec=codec)

    with pytest.raises(CheckpointError, match="is no export"):
        read_description(stage1_folder)


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"is no export: it has no config\.json\. Point to"):
        load_translator(tmp_path, device="cpu")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "mbart"}'])
def test_a_config_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)

    with pytest.raises(CheckpointError, match=r"config\.json is not of an export of this toolkit"):
        read_description(tmp_path)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))


def test_an_export_of_another_version_is_refused_with_both(stage1_folder):
    change_config(stage1_folder, format_version=2)

    with pytest.raises(CheckpointError, match="export version 2 is not the version 1"):
        read_description(stage1_folder)


@pytest.mark.parametrize("changes", [{"preprocessing": {"crop_px": 3}}, {"surprise": 1}])
def test_a_description_with_other_fields_is_refused(stage1_folder, changes):
    change_config(stage1_folder, **changes)

    with pytest.raises(CheckpointError, match=r"the description is not whole .*Export the run"):
        read_description(stage1_folder)


def test_only_stage_1_gives_an_encoder_to_stage_2(stage1_folder):
    change_config(stage1_folder, stage=2)

    with pytest.raises(CheckpointError, match="is an export of stage 2, not of stage 1"):
        load_visual_encoder(stage1_folder)


def cut_off(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:1000])


def remove(weights: Path) -> None:
    weights.unlink()


@pytest.mark.parametrize("damage", [cut_off, remove])
@pytest.mark.parametrize("load", [load_visual_encoder, lambda f: load_translator(f, device="cpu")])
def test_damaged_weights_are_refused(stage1_folder, damage, load):
    damage(stage1_folder / WEIGHTS)

    with pytest.raises(CheckpointError, match=rf"{WEIGHTS} does not hold this model's weights"):
        load(stage1_folder)


@pytest.mark.parametrize("load", [load_visual_encoder, lambda f: load_translator(f, device="cpu")])
def test_weights_of_another_shape_are_refused(stage1_folder, load):
    change_config(stage1_folder, encoder={"sign_width": 32, "kernel_size": 3})

    with pytest.raises(CheckpointError, match="does not hold this model's weights"):
        load(stage1_folder)

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from fla.batch import Batch, pad_labels
from fla.build import build_encoder, build_stage1, build_stage2
from fla.description import Corpus, Description, EncoderShape, Preprocessing, read_description
from fla.ensemble import load_ensemble
from fla.errors import CheckpointError, ConfigError, DiskError
from fla.export import load_encoder, load_translator, stored_tensors, write_export
from fla.models.features import FrozenEncoder
from fla.models.light_t import build_small_mbart
from fla.models.stages import Stage1Model, Stage2Model, translate
from fla.search import Search
from fla.text.codec import TextCodec, train_codec
from fla.weights import SAFETENSORS, layouts_of

ENCODER = EncoderShape(sign_width=24, kernel_size=3)
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
SEARCH = Search(num_beams=2, max_new_tokens=6)


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


def write(folder: Path, model: nn.Module, description: Description, codec: TextCodec) -> None:
    tensors = stored_tensors(model)
    write_export(folder, layouts_of(tensors), tensors.items(), description=description, codec=codec)


@pytest.fixture
def stage1_folder(stage1: Stage1Model, codec: TextCodec, tmp_path: Path) -> Path:
    write(tmp_path / "export", stage1, STAGE1, codec)
    return tmp_path / "export"


def build_tuned(codec: TextCodec) -> tuple[Stage2Model, Description]:
    """A stage 2 whole, as its export holds it: the encoder inside."""
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
    description = replace(STAGE1, stage=2, translator=mbart.config.to_diff_dict())
    model = build_stage2(description, codec, build_encoder(ENCODER), mbart).to(torch.bfloat16)
    return model.eval(), description


def stored_names(folder: Path) -> set[str]:
    with safe_open(folder / SAFETENSORS, framework="pt") as file:
        return set(file.keys())


def expect_same_translations(
    model: nn.Module, batch: Batch, folder: Path, prepared: Batch, dtype: torch.dtype
) -> None:
    loaded = load_translator(folder, device="cpu", dtype=dtype)
    with loaded.inference():
        ours = loaded.prepare(batch)
        torch.testing.assert_close(loaded.model(ours).nats, model(prepared).nats, rtol=0, atol=0)
    ids = model.generate(prepared, search=SEARCH).ids[:, 0]
    translated = loaded.translate(batch, search=SEARCH)
    assert [best.text for (best,) in translated] == loaded.codec.decode(ids)


def test_stage_1_translates_the_same_after_its_export(stage1, stage1_folder, batch):
    expect_same_translations(stage1, batch, stage1_folder, batch, torch.float32)


def test_stage_2_translates_the_same_after_its_export(codec, batch, tmp_path):
    model, description = build_tuned(codec)
    write(tmp_path / "export", model, description, codec)
    frozen = FrozenEncoder(model.encoder)
    model.encoder = None

    expect_same_translations(model, batch, tmp_path / "export", frozen(batch), torch.bfloat16)


def random_clips(codec: TextCodec, num_clips: int) -> list[Batch]:
    """Clips of 2 to 40 frames, each a batch of its own."""
    rng = torch.Generator().manual_seed(4)
    lengths = torch.randint(2, 41, (num_clips,), generator=rng).tolist()
    labels = pad_labels(codec.encode(["the cat"], max_tokens=50))
    return [
        Batch(
            sample_ids=(str(number),),
            references=("the cat",),
            frame_lengths=torch.tensor([length]),
            labels=labels,
            frames=torch.randn(length, 3, 32, 32, generator=rng),
        )
        for number, length in enumerate(lengths)
    ]


def join(clips: list[Batch]) -> Batch:
    return Batch(
        sample_ids=tuple(clip.sample_ids[0] for clip in clips),
        references=tuple(clip.references[0] for clip in clips),
        frame_lengths=torch.cat([clip.frame_lengths for clip in clips]),
        labels=torch.cat([clip.labels for clip in clips]),
        frames=torch.cat([clip.frames for clip in clips if clip.frames is not None]),
    )


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("num_beams", [1, 5])
def test_clips_are_translated_alike_in_a_batch_and_one_by_one(
    stage, num_beams, codec, stage1_folder, tmp_path
):
    folder = stage1_folder
    if stage == 2:
        folder = tmp_path / "tuned"
        write(folder, *build_tuned(codec), codec)
    translator = load_translator(folder, device="cpu")
    search = Search(num_beams=num_beams, max_new_tokens=12, num_hypotheses=min(num_beams, 3))
    clips = random_clips(codec, 12)

    together = translator.translate(join(clips), search=search)
    alone = [found for clip in clips for found in translator.translate(clip, search=search)]

    for found, expected in zip(together, alone, strict=True):
        assert [it.text for it in found] == [it.text for it in expected]
        assert [it.log_prob for it in found] == pytest.approx(
            [it.log_prob for it in expected], abs=1e-5
        )


def test_a_description_comes_back_as_it_was(stage1_folder):
    assert read_description(stage1_folder) == STAGE1


def test_the_encoder_of_stage_1_comes_out_alone_and_whole(stage1, stage1_folder):
    encoder, shape = load_encoder(stage1_folder, input_features="sign_wise")

    assert shape == ENCODER
    torch.testing.assert_close(
        encoder.state_dict(), stage1.visual_encoder.state_dict(), rtol=0, atol=0
    )


def test_light_t_gives_its_encoder_and_adapter_to_stage_2(stage1, stage1_folder, batch):
    encoder, shape = load_encoder(stage1_folder, input_features="light_t")
    embeds, mask = stage1.embed(batch)
    expected = stage1.light_t.model.encoder(inputs_embeds=embeds, attention_mask=mask)

    hidden = encoder.eval()(batch)

    assert shape == replace(ENCODER, input_features="light_t", light_t="tiny")
    torch.testing.assert_close(hidden, expected.last_hidden_state[mask.bool()])


def test_tied_weights_are_stored_once(codec, tmp_path):
    model, description = build_tuned(codec)
    write(tmp_path / "export", model, description, codec)

    tied = [
        name
        for name in stored_names(tmp_path / "export")
        if name.endswith(("shared.weight", "embed_tokens.weight", "lm_head.weight"))
    ]
    assert len(tied) == 1


def test_windows_on_one_large_buffer_are_stored_as_small_as_they_are(codec, tmp_path):
    model, description = build_tuned(codec)
    parameters = list(model.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    buffer = torch.cat([*(p.detach().flatten() for p in parameters), torch.zeros(1_000_000)])
    windows = buffer.bfloat16().split([*sizes, 1_000_000])
    for parameter, window in zip(parameters, windows, strict=False):
        parameter.data = window.view_as(parameter)
    write(tmp_path / "export", model, description, codec)

    num_bytes = sum(layout.num_bytes for layout in layouts_of(stored_tensors(model)).values())
    assert (tmp_path / "export" / SAFETENSORS).stat().st_size < 1.1 * num_bytes


def test_an_export_that_was_cut_short_is_no_export(stage1, stage1_folder, codec):
    layouts = layouts_of(stored_tensors(stage1))

    def ends() -> Iterator[tuple[str, Tensor]]:
        raise OSError(28, "No space left on device")
        yield

    with pytest.raises(DiskError, match=r"could not be written \(No space"):
        write_export(stage1_folder, layouts, ends(), description=STAGE1, codec=codec)

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
    change_config(stage1_folder, format_version=1)

    with pytest.raises(CheckpointError, match="export version 1 is not the version 2"):
        read_description(stage1_folder)


def test_an_export_that_only_the_toolkit_can_load_is_read_as_well(stage1, stage1_folder, batch):
    # As releases before this one wrote it.
    path = stage1_folder / "config.json"
    content = json.loads(path.read_text())
    for name in ("model_type", "architectures", "auto_map", "dtype", "light_t"):
        del content[name]
    path.write_text(json.dumps(content))

    assert read_description(stage1_folder) == STAGE1
    expect_same_translations(stage1, batch, stage1_folder, batch, torch.float32)


def test_keys_of_others_are_left_aside(stage1_folder):
    change_config(stage1_folder, id2label={"0": "LABEL_0"})

    assert read_description(stage1_folder) == STAGE1


@pytest.mark.parametrize(
    "changes", [{"preprocessing": {"crop_px": 3}}, {"encoder": {"surprise": 1}}]
)
def test_a_description_with_other_fields_is_refused(stage1_folder, changes):
    change_config(stage1_folder, **changes)

    with pytest.raises(CheckpointError, match=r"the description is not whole .*Export the run"):
        read_description(stage1_folder)


def test_only_stage_1_gives_an_encoder_to_stage_2(stage1_folder):
    change_config(stage1_folder, stage=2)

    with pytest.raises(CheckpointError, match="is an export of stage 2, not of stage 1"):
        load_encoder(stage1_folder, input_features="sign_wise")


def test_loading_a_translator_needs_none_of_what_training_needs():
    giants = ("av", "deepspeed", "mlflow", "nvidia", "omegaconf", "rouge_score", "sacrebleu")
    script = f"import sys, fla.export; print([name for name in {giants} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert done.stdout == "[]\n", done.stderr


LOADERS = (
    lambda folder: load_encoder(folder, input_features="sign_wise"),
    lambda folder: load_translator(folder, device="cpu"),
)


def cut_off(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:1000])


def remove(weights: Path) -> None:
    weights.unlink()


@pytest.mark.parametrize("damage", [cut_off, remove])
@pytest.mark.parametrize("load", LOADERS)
def test_damaged_weights_are_refused(stage1_folder, damage, load):
    damage(stage1_folder / SAFETENSORS)

    with pytest.raises(CheckpointError, match=rf"{SAFETENSORS}: this is no whole safetensors file"):
        load(stage1_folder)


@pytest.mark.parametrize("load", LOADERS)
def test_weights_of_another_shape_are_refused(stage1_folder, load):
    change_config(stage1_folder, encoder={"sign_width": 32, "kernel_size": 3})

    with pytest.raises(CheckpointError, match="has the shape 24x512x3, the model's has 32x512x3"):
        load(stage1_folder)


def test_exports_of_both_stages_translate_together(codec, batch, stage1_folder, tmp_path):
    write(tmp_path / "tuned", *build_tuned(codec), codec)
    folders = [stage1_folder, tmp_path / "tuned"]

    first, ensemble = load_ensemble(folders, device="cpu", dtype=torch.float32)

    assert first.description.stage == 1
    models = [load_translator(folder, device="cpu").model for folder in folders]
    assert (
        ensemble.generate(batch, search=SEARCH).ids.tolist()
        == translate(models, batch, search=SEARCH).ids.tolist()
    )


def with_other_preprocessing(codec: TextCodec) -> tuple[Description, TextCodec]:
    preprocessing = replace(STAGE1.preprocessing, frame_stride=2)
    return replace(STAGE1, preprocessing=preprocessing), codec


def with_other_tokenizer(codec: TextCodec) -> tuple[Description, TextCodec]:
    return STAGE1, train_codec(["another cat was there"], max_pieces=110, language="en_XX")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (with_other_preprocessing, "preprocessing of videos"),
        (with_other_tokenizer, "tokenizer"),
    ],
)
def test_exports_that_cannot_translate_together_are_refused(
    change, what, codec, stage1_folder, tmp_path
):
    description, its_codec = change(codec)
    write(tmp_path / "other", build_stage1(description, its_codec), description, its_codec)

    with pytest.raises(ConfigError) as error:
        load_ensemble([stage1_folder, tmp_path / "other"], device="cpu", dtype=torch.float32)

    assert str(error.value) == (
        f"ensemble ({tmp_path / 'other'}): its {what} differs from that of {stage1_folder}, and "
        "models that translate together need the same. Leave one of them out."
    )

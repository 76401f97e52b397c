"""The code that travels with an export, beside the toolkit's own models."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer

from fla.batch import Batch, pad_labels
from fla.build import build_encoder, build_stage1, build_stage2
from fla.data.pipeline import IMAGENET_MEAN, IMAGENET_STD, scale_rgb
from fla.data.sampling import choose_frames, choose_stride
from fla.description import Corpus, Description, EncoderShape, Preprocessing, read_description
from fla.export import load_translator, stored_tensors, write_export
from fla.export_code.modeling_fla_llm import FlaLlmForTranslation
from fla.export_code.processing_fla_llm import FlaLlmProcessor
from fla.for_transformers import CODE, IMAGE_MEAN, IMAGE_STD
from fla.models.llm import build_llm
from fla.models.stages import Stage1Model, Stage2Model
from fla.models.translator import predict
from fla.search import Search
from fla.text.codec import TextCodec, read_codec, train_codec
from fla.weights import SAFETENSORS, layouts_of, read_metadata

SENTENCES = ("the cat", "where is a dog")
STAGE1 = Description(
    stage=1,
    encoder=EncoderShape(sign_width=24, kernel_size=3),
    translator={"size": "tiny"},
    language="en_XX",
    max_tokens=50,
    autocast=False,
    preprocessing=Preprocessing(frame_stride=4, max_frames=75, resize_px=36, crop_px=32),
    corpus=Corpus(manifest_dir="data/manifests", video_root=""),
)
SEARCH = Search(num_beams=3, max_new_tokens=8)


@pytest.fixture(scope="module")
def mbart_codec() -> TextCodec:
    return train_codec(["the cat is here", "where is a dog"], max_pieces=110, language="en_XX")


@pytest.fixture(scope="module")
def t5_codec(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    folder = tmp_path_factory.mktemp("t5")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat is here", "where is a dog"] * 20),
        model_prefix=str(folder / "spiece"),
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    return read_codec(folder, language="en")


def batch_of(codec: TextCodec) -> Batch:
    torch.manual_seed(3)
    return Batch(
        sample_ids=("a", "b"),
        references=SENTENCES,
        frame_lengths=torch.tensor([2, 5]),
        labels=pad_labels(codec.encode(SENTENCES, max_tokens=50)),
        frames=torch.randn(7, 3, 32, 32),
    )


def opinionated(model: Any, batch: Batch) -> Any:
    """Running statistics of its own, and logits that differ: every weight matters."""
    model(batch)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and "bn" not in name:
                parameter.mul_(1.5)
        for name, buffer in model.named_buffers():
            if name.endswith("final_logits_bias"):
                buffer.copy_(torch.randn(buffer.shape))
    return model.eval()


def write(folder: Path, model: Any, description: Description, codec: TextCodec) -> Path:
    tensors = stored_tensors(model)
    write_export(folder, layouts_of(tensors), tensors.items(), description=description, codec=codec)
    return folder


@pytest.fixture(scope="module")
def stage1(mbart_codec: TextCodec) -> Stage1Model:
    torch.manual_seed(0)
    return opinionated(build_stage1(STAGE1, mbart_codec), batch_of(mbart_codec))


@pytest.fixture
def stage1_folder(stage1: Stage1Model, mbart_codec: TextCodec, tmp_path: Path) -> Path:
    return write(tmp_path / "export", stage1, STAGE1, mbart_codec)


def build_tuned(
    codec: TextCodec, llm: dict[str, Any], shape: EncoderShape
) -> tuple[Stage2Model, Description]:
    fields = {
        "vocab_size": codec.vocab_size,
        "d_model": 16,
        "pad_token_id": codec.pad_id,
        "eos_token_id": codec.eos_id,
        "decoder_start_token_id": codec.start_id,
        **llm,
    }
    description = replace(STAGE1, stage=2, translator=fields, encoder=shape)
    torch.manual_seed(1)
    model = build_stage2(description, codec, build_encoder(shape), build_llm(fields))
    return opinionated(model, batch_of(codec)), description


BART = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {"layers": 2, "ffn_dim": 24, "attention_heads": 2}.items()
} | {"forced_eos_token_id": 2}
T5 = {"d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
LLMS = {
    "mbart": {"model_type": "mbart", "scale_embedding": True, **BART},
    "mbart with a head of its own": {"model_type": "mbart", "tie_word_embeddings": False, **BART},
    "bart": {"model_type": "bart", **BART},
    "t5": {"model_type": "t5", **T5},
    "mt5 with a head of its own": {"model_type": "mt5", "tie_word_embeddings": False, **T5},
}
SHAPES = {
    "sign_wise": EncoderShape(sign_width=24, kernel_size=5),
    "frame_wise": EncoderShape(sign_width=24, kernel_size=3, input_features="frame_wise"),
    "light_t": EncoderShape(sign_width=24, kernel_size=3, input_features="light_t", light_t="tiny"),
}


def load_whole(folder: Path, **options: Any) -> FlaLlmForTranslation:
    """Load, and see to it that every tensor of the file has its place and the other way round."""
    model, found = FlaLlmForTranslation.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, **options
    )
    assert {key: list(names) for key, names in found.items() if names} == {}
    return model


def read_tokenizer(folder: Path) -> Any:
    # With the class of the config given, no code is copied into the user's cache.
    config = FlaLlmForTranslation.config_class.from_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, config=config)


def logits_of(model: Stage1Model | Stage2Model, batch: Batch) -> Tensor:
    embeds, mask = model.embed(batch)
    return predict(model.translator, batch.labels, inputs_embeds=embeds, attention_mask=mask)


@torch.no_grad()
def expect_equal(plain: FlaLlmForTranslation, ours: Stage1Model | Stage2Model, batch: Batch):
    inputs = {"pixel_values": batch.frames, "frame_lengths": batch.frame_lengths}
    expected = logits_of(ours, batch)

    output = plain(**inputs, labels=batch.labels)
    ids = plain.generate(**inputs, num_beams=3, max_new_tokens=8)

    torch.testing.assert_close(output.logits, expected, rtol=0, atol=0)
    assert torch.equal(ids, ours.generate(batch, search=SEARCH).ids[:, 0])
    num_tokens = int((batch.labels >= 0).sum())
    if expected.dtype is torch.float32:
        torch.testing.assert_close(output.loss, ours(batch).nats / num_tokens)


def test_stage_1_is_bit_for_bit_the_toolkits_own(stage1, stage1_folder, mbart_codec):
    stage1.label_smoothing = 0.0

    expect_equal(load_whole(stage1_folder), stage1, batch_of(mbart_codec))


def test_stage_1_under_autocast_is_bit_for_bit_what_trained(stage1, stage1_folder, mbart_codec):
    plain = load_whole(stage1_folder)

    with torch.autocast("cpu", torch.bfloat16):
        expect_equal(plain, stage1, batch_of(mbart_codec))


@pytest.mark.parametrize("is_imitated", [False, True])
def test_both_encode_in_the_same_way_where_bfloat16_is_imitated(
    is_imitated, mbart_codec, tmp_path, monkeypatch
):
    module = sys.modules[FlaLlmForTranslation.__module__]
    monkeypatch.setattr("fla.models.features.computes_bfloat16", lambda device: not is_imitated)
    monkeypatch.setattr(module, "_computes_bfloat16", lambda: not is_imitated)
    model, description = build_tuned(mbart_codec, LLMS["mbart"], SHAPES["sign_wise"])
    model.to(torch.bfloat16)
    folder = write(tmp_path / "export", model, description, mbart_codec)

    expect_equal(load_whole(folder), model, batch_of(mbart_codec))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("llm", [LLMS["mbart"], LLMS["mt5 with a head of its own"]])
def test_stage_2_is_bit_for_bit_the_toolkits_own(llm, shape, mbart_codec, t5_codec, tmp_path):
    codec = t5_codec if "num_layers" in llm else mbart_codec
    model, description = build_tuned(codec, llm, shape)
    folder = write(tmp_path / "export", model, description, codec)

    expect_equal(load_whole(folder), model, batch_of(codec))


@pytest.mark.parametrize("llm", LLMS.values(), ids=LLMS)
def test_every_kind_of_language_model_is_loaded_whole_in_bfloat16(
    llm, mbart_codec, t5_codec, tmp_path
):
    codec = t5_codec if "num_layers" in llm else mbart_codec
    model, description = build_tuned(codec, llm, SHAPES["sign_wise"])
    model.to(torch.bfloat16)
    folder = write(tmp_path / "export", model, description, codec)
    batch = batch_of(codec)

    plain = load_whole(folder)

    assert plain.dtype is torch.bfloat16
    expect_equal(plain, model, batch)


def test_bfloat16_weights_compute_in_float32_where_that_is_asked_for(mbart_codec, tmp_path):
    model, description = build_tuned(mbart_codec, LLMS["mbart"], SHAPES["sign_wise"])
    model.to(torch.bfloat16)
    folder = write(tmp_path / "export", model, description, mbart_codec)

    plain = load_whole(folder, dtype=torch.float32)

    assert {buffer.dtype for buffer in plain.buffers()} == {torch.float32, torch.int64}
    expect_equal(plain, model.float(), batch_of(mbart_codec))


def test_words_stay_one_matrix_and_the_head_another_after_loading(t5_codec, tmp_path):
    model, description = build_tuned(
        t5_codec, LLMS["mt5 with a head of its own"], SHAPES["sign_wise"]
    )
    llm = load_whole(write(tmp_path / "export", model, description, t5_codec)).llm

    words = llm.get_input_embeddings().weight
    assert llm.encoder.embed_tokens.weight is words
    assert llm.decoder.embed_tokens.weight is words
    assert llm.lm_head.weight is not words


def test_a_light_t_that_is_built_anew_has_a_head_of_its_own(stage1_folder):
    config = FlaLlmForTranslation.config_class.from_pretrained(stage1_folder)

    light_t = FlaLlmForTranslation(config).light_t

    assert light_t.lm_head.weight is not light_t.model.shared.weight
    assert light_t.model.encoder.embed_tokens.weight is light_t.model.shared.weight


def test_the_weights_say_that_they_are_pytorchs(stage1_folder):
    assert read_metadata(stage1_folder / SAFETENSORS) == {"format": "pt"}


def test_what_transformers_saves_is_loaded_by_both(stage1, stage1_folder, mbart_codec, tmp_path):
    # As after fine-tuning with somebody's own trainer.
    load_whole(stage1_folder).save_pretrained(tmp_path / "saved")
    read_tokenizer(stage1_folder).save_pretrained(tmp_path / "saved")

    expect_equal(load_whole(tmp_path / "saved"), stage1, batch_of(mbart_codec))
    ours = load_translator(tmp_path / "saved", device="cpu")
    assert ours.description == read_description(stage1_folder)


def test_a_plain_model_learns(stage1_folder, mbart_codec):
    batch = batch_of(mbart_codec)
    model = load_whole(stage1_folder).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    losses = []
    for _ in range(3):
        loss = model(batch.frames, batch.frame_lengths, labels=batch.labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[2] < losses[0]
    assert model.visual_encoder.backbone.conv1.weight.grad.abs().sum() > 0


def test_a_model_that_is_asked_for_nothing_says_what_it_needs(stage1_folder, mbart_codec):
    batch = batch_of(mbart_codec)

    with pytest.raises(ValueError, match="Give labels or decoder_input_ids"):
        load_whole(stage1_folder)(batch.frames, batch.frame_lengths)


@pytest.mark.parametrize("kind", ["mbart", "t5"])
def test_the_tokenizer_is_found_and_makes_the_labels_of_training(
    kind, mbart_codec, t5_codec, tmp_path
):
    codec = mbart_codec if kind == "mbart" else t5_codec
    llm = LLMS["mbart"] if kind == "mbart" else LLMS["t5"]
    model, description = build_tuned(codec, llm, SHAPES["sign_wise"])
    folder = write(tmp_path / "export", model, description, codec)

    tokenizer = read_tokenizer(folder)

    assert type(tokenizer).__name__ == {"mbart": "MBartTokenizer", "t5": "T5Tokenizer"}[kind]
    labels = tokenizer(text_target=list(SENTENCES)).input_ids
    assert labels == codec.encode(SENTENCES, max_tokens=50)
    padded = pad_labels(labels).clamp(min=codec.pad_id)
    assert tokenizer.batch_decode(padded, skip_special_tokens=True) == list(SENTENCES)
    if kind == "mbart":
        assert (tokenizer.src_lang, tokenizer.tgt_lang) == ("en_XX", "en_XX")


def test_the_config_is_read_by_both(stage1_folder):
    content = json.loads((stage1_folder / "config.json").read_text())

    assert (content["format"], content["model_type"]) == ("fla-llm-export", "fla_llm")
    assert read_description(stage1_folder) == STAGE1
    config = FlaLlmForTranslation.config_class.from_pretrained(stage1_folder)
    # What only the toolkit reads stays in a config that transformers saves.
    assert config.preprocessing == content["preprocessing"]
    assert config.to_dict()["encoder"] == content["encoder"]


def processor_of(**changes: Any) -> FlaLlmProcessor:
    numbers = {
        "size": {"height": 36, "width": 36},
        "crop_size": {"height": 32, "width": 32},
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
        "frame_stride": 4,
        "target_fps": 0.0,
        "max_frames": 20,
    }
    return FlaLlmProcessor(**{**numbers, **changes})


@pytest.mark.parametrize(("target_fps", "fps"), [(0.0, 25.0), (6.0, 25.0), (9.99, 29.97), (30, 24)])
def test_the_frames_are_those_of_evaluation(target_fps, fps):
    processor = processor_of(target_fps=target_fps)
    stride = choose_stride(fps, frame_stride=4, target_fps=target_fps)

    for num_frames in range(1, 400):
        expected = choose_frames(num_frames, stride=stride, max_frames=20)
        assert processor.choose_frames(num_frames, fps) == expected.tolist(), num_frames


def a_video(num_frames: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(num_frames)
    return rng.integers(0, 256, (num_frames, 50, 70, 3), dtype=np.uint8)


def test_pixels_are_those_that_training_makes_of_images():
    video = a_video(9)
    cropped = scale_rgb(video[::4], 36, 36)[:, 2:34, 2:34].astype(np.float32)
    mean, std = np.float32(IMAGENET_MEAN), np.float32(IMAGENET_STD)

    batch = processor_of()(video)

    # Rounded once more or less, as a fused multiplication does.
    expected = torch.from_numpy((cropped - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(batch["pixel_values"], expected, rtol=0, atol=2e-6)
    assert batch["frame_lengths"].tolist() == [3]


def test_frames_that_have_their_size_are_only_cropped():
    video = np.random.default_rng(0).integers(0, 256, (5, 36, 36, 3), dtype=np.uint8)

    pixels = processor_of(frame_stride=1)(video)["pixel_values"]

    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    levels = (pixels * std + mean).round().to(torch.uint8)
    assert torch.equal(levels, torch.from_numpy(video[:, 2:34, 2:34]).permute(0, 3, 1, 2))


def test_videos_may_be_arrays_tensors_or_images_one_or_many():
    first, second = a_video(9), a_video(6)
    images = [Image.fromarray(frame) for frame in first]
    processor = processor_of()

    together = processor([images, torch.from_numpy(second)], fps=25.0)

    alone = [processor(video)["pixel_values"] for video in (first, second)]
    assert torch.equal(together["pixel_values"], torch.cat(alone))
    assert torch.equal(processor(images)["pixel_values"], alone[0])
    assert together["frame_lengths"].tolist() == [3, 2]


def test_the_rate_is_asked_for_where_frames_are_taken_by_the_second():
    with pytest.raises(ValueError, match="Give fps"):
        processor_of(target_fps=6.0)(a_video(9))


@pytest.mark.parametrize(
    ("video", "found"),
    [
        (a_video(4).astype(np.float32), r"float32, \(1, 50, 70, 3\)"),
        (a_video(4)[..., 0], r"uint8, \(1, 50, 70\)"),
        (a_video(4).transpose(0, 3, 1, 2), r"uint8, \(1, 3, 50, 70\)"),
    ],
)
def test_what_is_no_video_is_refused_with_what_it_is(video, found):
    with pytest.raises(ValueError, match=rf"A video is RGB, uint8, .*; this one is {found}"):
        processor_of()(video)


def test_the_processor_of_an_export_has_its_numbers(stage1_folder):
    processor = FlaLlmProcessor.from_pretrained(stage1_folder)

    assert processor.size == {"height": 36, "width": 36}
    assert processor.crop_size == {"height": 32, "width": 32}
    assert (processor.frame_stride, processor.target_fps, processor.max_frames) == (4, 0.0, 75)
    assert np.float32(processor.image_mean) * 255 == pytest.approx(IMAGENET_MEAN)
    assert np.float32(processor.image_std) * 255 == pytest.approx(IMAGENET_STD)


def test_the_code_is_copied_as_it_is_and_nothing_is_pickled(stage1_folder):
    names = {path.name for path in stage1_folder.iterdir()}

    assert names == {
        "config.json",
        "model.safetensors",
        "modeling_fla_llm.py",
        "preprocessor_config.json",
        "processing_fla_llm.py",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name in ("modeling_fla_llm.py", "processing_fla_llm.py"):
        assert (stage1_folder / name).read_bytes() == (CODE / name).read_bytes()


def test_the_toolkit_runs_no_code_from_an_export(stage1_folder):
    for path in stage1_folder.glob("*.py"):
        path.write_text("raise SystemExit('run')")

    load_translator(stage1_folder, device="cpu")

"""What training ends with, and what a process without this toolkit makes of the export.

Two ranks train both stages for two steps in the precisions of the recipes: stage 1 with float32
weights under bf16 autocast, stage 2 in bf16 behind a frozen encoder, under ZeRO-2 and ZeRO-3. The
model that they would evaluate gives its logits and beams to a file, the export is written as a run
writes it, and another process loads it by the documented call.
"""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.commands import ROOT, python, run_well
from tests.helpers.ranks import run_ranks

SENTENCES = ("the cat is here", "where is a dog", "is the dog here", "the cat")
# Largest difference of a logit.
TOLERANCES = {
    "stage1": 0.0,
    "stage2_zero2": 0.0,
    # Under ZeRO-3, DeepSpeed puts its own function in the place of torch's linear: it rounds a
    # product to bf16 before it adds the bias, and once more after that.
    "stage2_zero3": 2**-6,
}


def make_batch(codec: Any, *clips: int) -> Any:
    from fla.batch import Batch, pad_labels

    sentences = [SENTENCES[clip] for clip in clips]
    rng = torch.Generator().manual_seed(clips[0])
    lengths = torch.tensor([3 + 2 * clip for clip in clips])
    return Batch(
        sample_ids=tuple(sentences),
        references=tuple(sentences),
        frame_lengths=lengths,
        labels=pad_labels(codec.encode(sentences, max_tokens=50)),
        frames=torch.randn(int(lengths.sum()), 3, 32, 32, generator=rng),
    )


def describe(stage: int, translator: dict[str, Any], *, autocast: bool) -> Any:
    from fla.description import Corpus, Description, EncoderShape, Preprocessing

    return Description(
        stage=1 if stage == 1 else 2,
        encoder=EncoderShape(sign_width=24, kernel_size=3),
        translator=translator,
        language="en_XX",
        max_tokens=50,
        autocast=autocast,
        preprocessing=Preprocessing(frame_stride=4, max_frames=75, resize_px=36, crop_px=32),
        corpus=Corpus(manifest_dir="data/manifests", video_root=""),
    )


def train(model: Any, deepspeed_json: str, batches: list[Any], runtime: Any) -> Any:
    """An engine after two steps."""
    from fla.config.deepspeed import read_deepspeed_config
    from fla.engine import open_engine
    from fla.optim import build_adamw, cosine_schedule, decay_groups

    config = read_deepspeed_config(
        Path("ds_configs") / deepspeed_json,
        micro_batch_size=2,
        world_size=runtime.world_size,
        max_grad_norm=1.0,
        has_gpu=False,
    )
    groups = decay_groups([model], learning_rate=0.01, weight_decay=1e-3, name="all")
    engine = open_engine(
        model,
        optimizer=build_adamw(groups, betas=(0.9, 0.98)),
        schedule=cosine_schedule(num_steps=3, warmup_fraction=0.0),
        config=config,
        runtime=runtime,
    )
    num_tokens = sum(int((batch.labels >= 0).sum()) for batch in batches)
    for _ in range(2):
        loss = engine(batches[runtime.rank])
        engine.backward(loss.nats, num_tokens=num_tokens, is_last=True)
        engine.step()
    return engine


def keep_outputs(folder: Path, model: Any, translator: Any, batch: Any, frames: Any) -> None:
    """What the model says to a batch, and what it was given."""
    from fla.models.translator import predict
    from fla.search import Search

    embeds, mask = model.embed(batch)
    logits = predict(translator, batch.labels, inputs_embeds=embeds, attention_mask=mask)
    found = model.generate(batch, search=Search(num_beams=3, max_new_tokens=8))
    tensors = {
        "pixel_values": frames,
        "frame_lengths": batch.frame_lengths,
        "labels": batch.labels,
        "logits": logits,
        "ids": found.ids[:, 0],
    }
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "inputs.safetensors")


def train_stage1(folder: Path, codec: Any, runtime: Any) -> None:
    from fla.build import build_stage1
    from fla.export import stored_tensors, write_export
    from fla.weights import layouts_of

    description = describe(1, {"size": "tiny"}, autocast=True)
    torch.manual_seed(1)
    batches = [make_batch(codec, 0, 1), make_batch(codec, 2, 3)]
    engine = train(build_stage1(description, codec), "zero1_autocast.json", batches, runtime)
    with engine.whole_model() as model:
        if runtime.is_main:
            keep_outputs(folder, model, model.light_t, batches[0], batches[0].frames)
            tensors = stored_tensors(model)
            write_export(
                folder / "export",
                layouts_of(tensors),
                tensors.items(),
                description=description,
                codec=codec,
            )


def train_stage2(folder: Path, codec: Any, runtime: Any, deepspeed_json: str) -> None:
    from fla.build import build_encoder, build_stage2
    from fla.export import stored_tensors, write_export
    from fla.models.features import FrozenEncoder
    from fla.models.light_t import build_small_mbart
    from fla.weights import layouts_of

    torch.manual_seed(2)
    mbart = build_small_mbart(
        vocab_size=codec.vocab_size,
        d_model=64,
        num_layers=2,
        num_heads=2,
        ffn_width=128,
        dropout=0.1,
        pad_id=codec.pad_id,
        eos_id=codec.eos_id,
        start_id=codec.start_id,
    )
    description = describe(2, mbart.config.to_diff_dict(), autocast=False)
    frozen = FrozenEncoder(build_encoder(description.encoder))
    frames = [make_batch(codec, 0, 1), make_batch(codec, 2, 3)]
    batches = [frozen(batch) for batch in frames]
    model = build_stage2(description, codec, None, mbart)
    engine = train(model, deepspeed_json, batches, runtime)
    with engine.whole_model() as model:
        if runtime.is_main:
            keep_outputs(folder, model, model.llm, batches[0], frames[0].frames)
    weights = engine.weights(masters=False)
    rest = engine.buffers() | stored_tensors(frozen)
    if runtime.is_main:
        layouts = engine.layouts(torch.bfloat16) | layouts_of(rest)
        write_export(
            folder / "export",
            layouts,
            chain(rest.items(), weights),
            description=description,
            codec=codec,
        )
    else:
        for _ in weights:
            pass


def train_all(folders: dict[str, Path]) -> None:
    """In one start of the ranks, which takes seconds."""
    from fla.runtime import start_runtime
    from fla.text.codec import train_codec

    runtime = start_runtime()
    codec = train_codec(SENTENCES, max_pieces=110, language="en_XX")
    train_stage1(folders["stage1"], codec, runtime)
    train_stage2(folders["stage2_zero2"], codec, runtime, "zero2_bf16.json")
    train_stage2(folders["stage2_zero3"], codec, runtime, "zero3_bf16.json")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each stage: the export, and both processes' answers to the same batch."""
    made = {stage: tmp_path_factory.mktemp(stage) for stage in TOLERANCES}
    run_ranks(train_all, made)
    with pytest.MonkeyPatch.context() as patch:
        # transformers copies an export's code there before it runs it.
        patch.setenv("HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        # Without this repository on the path, whose package is forbidden anyway.
        patch.delenv("PYTHONPATH", raising=False)
        run_well(python(ROOT / "tests" / "helpers" / "plain_translation.py", *made.values()))
    return made


@pytest.mark.parametrize("stage", TOLERANCES)
def test_logits_are_those_of_the_training_process(folders, stage):
    # Training adds mBART's bias, a buffer of zeros in stage 2, in float32.
    trained = load_file(folders[stage] / "inputs.safetensors")["logits"].float()
    plain = load_file(folders[stage] / "outputs.safetensors")["logits"].float()

    torch.testing.assert_close(plain, trained, rtol=0, atol=TOLERANCES[stage])
    assert trained.std() > 0.1


@pytest.mark.parametrize("stage", TOLERANCES)
def test_hypotheses_are_those_of_the_training_process(folders, stage):
    from fla.text.codec import read_codec

    trained = load_file(folders[stage] / "inputs.safetensors")["ids"]
    plain = load_file(folders[stage] / "outputs.safetensors")["ids"]
    answer = json.loads((folders[stage] / "outputs.json").read_text())

    assert torch.equal(plain, trained)
    codec = read_codec(folders[stage] / "export", language="en_XX")
    # The codec leaves one space between words.
    assert [" ".join(text.split()) for text in answer["sentences"]] == codec.decode(trained)


@pytest.mark.parametrize("stage", TOLERANCES)
def test_every_tensor_has_its_place_and_a_video_is_translated(folders, stage):
    answer = json.loads((folders[stage] / "outputs.json").read_text())

    assert answer["not loaded"] == []
    assert len(answer["of a video"]) == 1

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForSeq2SeqLM, MT5ForConditionalGeneration

from fla.errors import CheckpointError
from fla.losses import translation_loss
from fla.models.llm import (
    MODEL_TYPES,
    T5_TYPES,
    build_llm,
    check_positions,
    load_llm,
    read_llm,
    save_llm,
)
from fla.models.loading import tied_parameters
from fla.models.translator import (
    Translator,
    enable_gradient_checkpointing,
    predict,
)
from fla.search import Search
from fla.weights import layouts_of, write_tensors
from tests.helpers.decoding import decode_alone

VOCAB_SIZE, LANGUAGE_ID = 40, 38
BART_TOKENS = {"pad_id": 1, "eos_id": 2, "start_id": LANGUAGE_ID}
T5_TOKENS = {"pad_id": 0, "eos_id": 1, "start_id": 0}


def tokens_of(model_type: str) -> dict[str, int]:
    return T5_TOKENS if model_type in T5_TYPES else BART_TOKENS


def tiny(model_type: str, **changes: object) -> dict[str, Any]:
    """A config.json whose every number differs from the defaults of transformers."""
    tokens = tokens_of(model_type)
    fields: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": VOCAB_SIZE,
        "d_model": 16,
        "pad_token_id": tokens["pad_id"],
        "eos_token_id": tokens["eos_id"],
        "decoder_start_token_id": tokens["start_id"],
    }
    if model_type in T5_TYPES:
        fields |= {"d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    else:
        fields |= {
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in {"layers": 2, "ffn_dim": 24, "attention_heads": 2}.items()
        }
        fields |= {"max_position_embeddings": 64, "forced_eos_token_id": tokens["eos_id"]}
    return {**fields, **changes}


def build(model_type: str, **changes: object) -> Translator:
    torch.manual_seed(0)
    model = build_llm(tiny(model_type, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than at the start of training: the model gets opinions, beams differ.
            parameter.mul_(2.0)
    return model.eval()


def read(folder: Path, **changes: Any) -> dict[str, Any]:
    fields = json.loads((folder / "config.json").read_text())
    given = {
        "dropout": 0.3,
        "attention_dropout": 0.2,
        "vocab_size": VOCAB_SIZE,
        **tokens_of(fields["model_type"]),
    }
    return read_llm(folder, **{**given, **changes})


def load(folder: Path, **changes: Any) -> Translator:
    return load_llm(folder, read(folder, **changes))


def write_config(folder: Path, fields: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def change_config(folder: Path, **changes: object) -> None:
    write_config(folder, json.loads((folder / "config.json").read_text()) | changes)


def clips(*lengths: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    inputs = torch.randn(len(lengths), max(lengths), 16)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    # Whatever lies behind a clip's end must not matter.
    inputs[mask == 0] = 100.0
    return inputs, mask


def labels_of(model_type: str) -> Tensor:
    tokens = tokens_of(model_type)
    if model_type in T5_TYPES:
        return torch.tensor([[5, 6, 7, tokens["eos_id"]], [8, tokens["eos_id"], -100, -100]])
    end = [tokens["eos_id"], LANGUAGE_ID]
    return torch.tensor([[5, 6, *end], [7, *end, -100]])


def beam_search(model: Translator, inputs: Tensor, mask: Tensor, *, start_id: int) -> Tensor:
    search = Search(num_beams=3, max_new_tokens=8)
    return decode_alone(model, inputs, mask, search=search, start_id=start_id).ids[:, 0]


def expect_equal(model: Translator, expected: Translator) -> None:
    inputs, mask = clips(5, 3)
    labels = labels_of(model.config.model_type)
    start_id = tokens_of(model.config.model_type)["start_id"]
    with torch.no_grad():
        ours = predict(model, labels, inputs_embeds=inputs, attention_mask=mask)
        theirs = predict(expected, labels, inputs_embeds=inputs, attention_mask=mask)
    assert torch.equal(ours, theirs)
    ids = beam_search(model, inputs, mask, start_id=start_id)
    assert ids.tolist() == beam_search(expected, inputs, mask, start_id=start_id).tolist()


@pytest.fixture(scope="module")
def mbart() -> Translator:
    return build("mbart")


@pytest.fixture
def folder(mbart: Translator, tmp_path: Path) -> Path:
    save_llm(mbart, tmp_path / "mbart")
    return tmp_path / "mbart"


# Every kind of model.


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_padding_changes_no_prediction(model_type: str):
    model, labels = build(model_type), labels_of(model_type)
    inputs, mask = clips(6, 2)

    with torch.no_grad():
        together = predict(model, labels, inputs_embeds=inputs, attention_mask=mask)
        alone = predict(
            model, labels[1:], inputs_embeds=inputs[1:, :2], attention_mask=mask[1:, :2]
        )

    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model_type", T5_TYPES)
def test_clips_may_be_longer_than_any_number_of_positions(model_type: str):
    model, labels = build(model_type), labels_of(model_type)
    inputs, mask = clips(1500, 1100)

    with torch.no_grad():
        together = predict(model, labels, inputs_embeds=inputs, attention_mask=mask)
        alone = predict(
            model, labels[1:], inputs_embeds=inputs[1:, :1100], attention_mask=mask[1:, :1100]
        )

    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_beam_search_starts_with_the_start_and_is_the_same_in_a_batch(model_type: str):
    model, tokens = build(model_type), tokens_of(model_type)
    lengths = (6, 2, 4)
    inputs, mask = clips(*lengths)

    together = beam_search(model, inputs, mask, start_id=tokens["start_id"])

    assert together[:, 0].tolist() == [tokens["start_id"]] * 3
    for i, length in enumerate(lengths):
        alone = beam_search(
            model, inputs[i : i + 1, :length], mask[i : i + 1, :length], start_id=tokens["start_id"]
        )[0]
        assert together[i, : len(alone)].tolist() == alone.tolist()
        assert (together[i, len(alone) :] == tokens["pad_id"]).all()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_no_prediction_sees_its_own_or_a_later_token(model_type: str):
    model, labels = build(model_type), labels_of(model_type)[:1]
    changed = labels.clone()
    changed[0, 1] = 20
    inputs, mask = clips(5)

    with torch.no_grad():
        logits = predict(model, labels, inputs_embeds=inputs, attention_mask=mask)
        other = predict(model, changed, inputs_embeds=inputs, attention_mask=mask)

    torch.testing.assert_close(logits[:, :2], other[:, :2])
    assert not torch.allclose(logits[:, 2], other[:, 2])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_gradient_checkpoints_change_neither_loss_nor_gradients(model_type: str):
    inputs, mask = clips(5, 3)

    def gradients(model: Translator) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(5)
        logits = predict(
            model.train(), labels_of(model_type), inputs_embeds=inputs, attention_mask=mask
        )
        loss = logits.logsumexp(-1).sum()
        loss.backward()
        return loss, {name: weight.grad for name, weight in model.named_parameters()}

    plain = gradients(build(model_type))
    model = build(model_type)
    enable_gradient_checkpointing(model)
    checkpointed = gradients(model)

    assert all(gradient is not None for gradient in plain[1].values())
    torch.testing.assert_close(checkpointed, plain, rtol=0, atol=0)


def test_gradient_checkpoints_run_layers_a_second_time():
    model = build("mt5").train()
    enable_gradient_checkpointing(model)
    passes = []
    model.encoder.block[0].layer[0].register_forward_hook(lambda *_: passes.append(1))
    inputs, mask = clips(5, 3)

    predict(model, labels_of("mt5"), inputs_embeds=inputs, attention_mask=mask).sum().backward()

    assert len(passes) == 2


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_saved_model_loads_with_equal_translations(model_type: str, tmp_path: Path):
    model = build(model_type)
    save_llm(model, tmp_path)

    loaded = load(tmp_path)

    expect_equal(loaded, model)
    assert not loaded.training


@pytest.mark.parametrize("head_is_tied", [True, False])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_model_without_memory_is_the_same_once_it_is_filled(
    model_type: str, head_is_tied: bool, tmp_path: Path
):
    model = build(model_type, tie_word_embeddings=head_is_tied)
    tensors = {names[0]: weight.detach() for names, weight in tied_parameters(model)}
    save_file({**tensors, **dict(model.named_buffers())}, tmp_path / "model.safetensors")

    loaded = load_llm(tmp_path, tiny(model_type, tie_word_embeddings=head_is_tied))

    def names(model: Translator) -> list[tuple[str, ...]]:
        return [names for names, _ in tied_parameters(model)]

    assert names(loaded) == names(model)
    everything = dict(loaded.named_parameters()) | dict(loaded.named_buffers())
    expected = dict(model.named_parameters()) | dict(model.named_buffers())
    torch.testing.assert_close(everything, expected, rtol=0, atol=0)
    expect_equal(loaded, model)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_words_in_and_out_are_one_parameter_also_without_memory(model_type: str):
    with torch.device("meta"):
        tied = build_llm(tiny(model_type))
        untied = build_llm(tiny(model_type, tie_word_embeddings=False))

    def sharing(model: Translator) -> list[int]:
        words = model.get_input_embeddings().weight
        return [len(names) for names, weight in tied_parameters(model) if weight is words]

    assert sharing(tied) == [4]
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    # The embeddings of the model, its encoder and its decoder.
    assert sharing(untied) == [3]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_everything_a_model_computes_with_is_in_its_file(model_type: str):
    with torch.device("meta"):
        model = build_llm(tiny(model_type))

    assert {name for name, _ in model.named_buffers()} <= model.state_dict().keys()
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_random_weights_depend_on_the_seed_alone(model_type: str):
    def build_from(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return build_llm(tiny(model_type)).state_dict()

    first = build_from(1)

    torch.testing.assert_close(build_from(1), first, rtol=0, atol=0)
    words = next(name for name in first if name.endswith("shared.weight"))
    assert not torch.equal(build_from(2)[words], first[words])


@pytest.mark.parametrize("model_type", ["mbart", "mt5"])
def test_a_model_learns_to_say_what_it_is_shown(model_type: str):
    torch.manual_seed(0)
    model, tokens = build_llm(tiny(model_type)).train(), tokens_of(model_type)
    labels = labels_of(model_type)
    inputs, mask = clips(5, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    for _ in range(150):
        optimizer.zero_grad()
        logits = predict(model, labels, inputs_embeds=inputs, attention_mask=mask)
        translation_loss(logits, labels, label_smoothing=0.0).nats.backward()
        optimizer.step()
    ids = beam_search(model.eval(), inputs, mask, start_id=tokens["start_id"])

    for row, sentence in zip(ids.tolist(), labels.tolist(), strict=True):
        expected = [tokens["start_id"], *sentence[: sentence.index(tokens["eos_id"]) + 1]]
        assert row[: len(expected)] == expected


# Describing.


def test_a_description_is_read_without_weights_and_is_plain(tmp_path: Path):
    description = read(write_config(tmp_path, tiny("mt5")))

    assert json.loads(json.dumps(description)) == description
    assert description["model_type"] == "mt5"


@pytest.mark.parametrize("head_is_tied", [True, False])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_description_says_all_of_a_model(model_type: str, head_is_tied: bool, tmp_path: Path):
    fields = tiny(model_type, tie_word_embeddings=head_is_tied)
    model = build_llm(fields).eval()
    description = json.loads(json.dumps(read(write_config(tmp_path, fields))))

    built = build_llm(description).eval()
    built.load_state_dict(model.state_dict())

    assert len(list(built.parameters())) == len(list(model.parameters()))
    expect_equal(built, model)


def test_descriptions_of_former_exports_are_of_an_mbart():
    description = tiny("mbart")
    del description["model_type"]

    assert build_llm(description).config.model_type == "mbart"


def test_dropout_is_the_callers_and_not_the_folders(tmp_path: Path):
    folder = write_config(tmp_path, tiny("mbart", dropout=0.7, attention_dropout=0.6))

    layers = build_llm(read(folder)).model

    assert layers.decoder.layers[0].dropout == 0.3
    assert layers.encoder.layers[1].self_attn.dropout == 0.2


def test_t5_has_one_number_for_all_of_its_dropout(tmp_path: Path):
    folder = write_config(tmp_path, tiny("mt5", dropout_rate=0.7))

    model = build_llm(read(folder))

    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.3}
    assert model.encoder.block[0].layer[0].SelfAttention.dropout == 0.3


def test_the_start_is_the_tokenizers(tmp_path: Path):
    folder = write_config(tmp_path, tiny("mbart"))

    settings = build_llm(read(folder, start_id=37)).generation_config

    assert settings.decoder_start_token_id == 37


@pytest.mark.parametrize("where", ["config.json", "generation_config.json"])
def test_a_folders_own_generation_settings_are_left_behind(folder: Path, where: str):
    content = json.loads((folder / where).read_text())
    own = {"num_beams": 2, "max_length": 3, "no_repeat_ngram_size": 1, "forced_bos_token_id": 4}
    (folder / where).write_text(json.dumps(content | own))

    settings = load(folder).generation_config

    assert settings.num_beams is None
    assert settings.no_repeat_ngram_size is None
    assert settings.forced_bos_token_id is None
    assert settings.decoder_start_token_id == LANGUAGE_ID


@pytest.mark.parametrize(
    ("model_type", "forced"), [("mbart", BART_TOKENS["eos_id"]), ("mt5", None)]
)
def test_only_models_that_learned_it_are_made_to_end_the_longest_sentences(model_type, forced):
    assert build(model_type).generation_config.forced_eos_token_id == forced


def test_more_rows_than_tokens_are_for_t5_only(tmp_path: Path):
    # mT5's numbers are 250,112 and 250,100.
    assert read(write_config(tmp_path, tiny("mt5")), vocab_size=36)["vocab_size"] == VOCAB_SIZE

    words = r"the weights have a vocabulary of 40 tokens, the tokenizer one of "
    with pytest.raises(CheckpointError, match=words + "41"):
        read(write_config(tmp_path, tiny("mt5")), vocab_size=41)
    for vocab_size in (39, 41):
        with pytest.raises(CheckpointError, match=words + str(vocab_size)):
            read(write_config(tmp_path, tiny("mbart")), vocab_size=vocab_size)


def test_the_tokenizer_of_another_kind_is_refused_with_both_ids(tmp_path: Path):
    with pytest.raises(CheckpointError, match="eos_token_id is 1, the tokenizer's is 2"):
        read(write_config(tmp_path, tiny("mt5")), eos_id=2)
    with pytest.raises(CheckpointError, match="pad_token_id is 1, the tokenizer's is 0"):
        read(write_config(tmp_path, tiny("mbart")), pad_id=0)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("bert", "that is no encoder-decoder that this release knows"),
        (None, "that is no encoder-decoder"),
        ("m2m_100", "its positions are computed"),
        ("encoder-decoder", "it is two models"),
        ("led", "it has weights for global attention"),
    ],
)
def test_models_that_cannot_work_are_refused_with_the_reason(tmp_path, model_type, reason):
    folder = write_config(tmp_path, {"model_type": model_type, "vocab_size": VOCAB_SIZE})

    with pytest.raises(CheckpointError, match=rf"{model_type!r}, and {reason}.* bart, .*umt5"):
        read_llm(folder, dropout=0.1, attention_dropout=0.1, vocab_size=40, **BART_TOKENS)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_model_that_is_too_short_for_the_clips_is_refused(tmp_path: Path, model_type: str):
    has_limit = model_type not in T5_TYPES
    fields = tiny(model_type, **({"max_position_embeddings": 64} if has_limit else {}))

    check_positions(tmp_path, fields, num_positions=64)
    if not has_limit:
        check_positions(tmp_path, fields, num_positions=1024)
        return
    with pytest.raises(CheckpointError, match=r"has 64 positions, and data\.max_frames, .* is 65"):
        check_positions(tmp_path, fields, num_positions=65)


@pytest.mark.parametrize("model_type", ["m2m_100", "marian", "pegasus"])
def test_positions_that_are_computed_are_still_a_reason_to_refuse(model_type: str):
    fields = tiny("bart")
    del fields["model_type"]
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(model_type, **fields))

    computed = {name for name, _ in model.named_buffers()} - model.state_dict().keys()
    computed |= {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert {name.split(".")[2] for name in computed} == {"embed_positions"}


def test_a_folder_without_config_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"nowhere: there is no config\.json"):
        read_llm(
            tmp_path / "nowhere", dropout=0.1, attention_dropout=0.1, vocab_size=40, **BART_TOKENS
        )


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"model_type": "mbart", "d_model": "wide"}',
        json.dumps(tiny("mbart", encoder_attention_heads=3)),
        json.dumps(tiny("mbart", activation_function="unheard")),
        json.dumps(tiny("mt5", feed_forward_proj="gated-gelu-gated")),
    ],
)
def test_a_broken_config_is_refused_in_a_sentence(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)

    with pytest.raises(CheckpointError, match=r"config\.json: .*\.$") as caught:
        read_llm(tmp_path, dropout=0.1, attention_dropout=0.1, vocab_size=40, **BART_TOKENS)

    assert "\n" not in str(caught.value)


# Weights.


def test_the_head_and_the_embeddings_of_a_loaded_mbart_are_one_parameter(folder: Path):
    model = load(folder)

    shared = model.model.shared.weight
    assert model.lm_head.weight is shared
    assert model.model.encoder.embed_tokens.weight is shared
    assert model.model.decoder.embed_tokens.weight is shared


def test_mt5_as_google_ships_it_has_a_head_of_its_own(tmp_path: Path):
    # google/mt5-base: pytorch_model.bin, with the words under three names, and a head that is none
    # of them. transformers calls them tied and then loads them apart.
    model = build("mt5", tie_word_embeddings=False)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    write_config(tmp_path, tiny("mt5", tie_word_embeddings=False))

    loaded = load(tmp_path)

    expect_equal(loaded, model)
    assert not torch.equal(loaded.lm_head.weight, loaded.shared.weight)
    theirs = MT5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    inputs, mask = clips(5, 3)
    words = torch.tensor([[0, 5], [0, 6]])
    batch = {"inputs_embeds": inputs, "attention_mask": mask, "decoder_input_ids": words}
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, theirs(**batch).logits, rtol=0, atol=0)


def test_a_head_that_differs_from_the_words_is_not_lost_in_silence(tmp_path: Path):
    torch.save(build("mt5", tie_word_embeddings=False).state_dict(), tmp_path / "pytorch_model.bin")
    write_config(tmp_path, tiny("mt5"))

    with pytest.raises(CheckpointError, match=r"shared\.weight and lm_head\.weight differ, .*tie_"):
        load(tmp_path)


def test_the_scale_of_t5s_head_is_kept(tmp_path: Path):
    # T5 1.0 has it, T5 1.1 does not, and only whether the head is tied tells.
    tied = read(write_config(tmp_path, tiny("t5")))
    untied = read(write_config(tmp_path, tiny("t5", tie_word_embeddings=False)))

    assert build_llm(tied).config.scale_decoder_outputs
    assert not build_llm(untied).config.scale_decoder_outputs


def test_weights_as_facebook_ships_them_load_too(mbart: Translator, folder: Path):
    (folder / "model.safetensors").unlink()
    # Old releases have no bias of the head in their files.
    tensors = mbart.state_dict()
    del tensors["final_logits_bias"]
    torch.save(tensors, folder / "pytorch_model.bin")

    expect_equal(load(folder), mbart)


def test_weights_in_several_files_load_too(mbart: Translator, folder: Path):
    (folder / "model.safetensors").unlink()
    mbart.save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 2

    expect_equal(load(folder), mbart)


class Trap:
    """What an unpickler that runs code would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_not_run(folder: Path, tmp_path: Path):
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Trap(tmp_path / "trapped")}, folder / "pytorch_model.bin")

    with pytest.raises(CheckpointError, match="holds more than tensors, and what it holds is not"):
        load(folder)

    assert not (tmp_path / "trapped").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "trapped").exists()


def test_half_precision_weights_load_in_float32_unless_told_otherwise(folder: Path):
    path = folder / "model.safetensors"
    halves = {name: value.bfloat16() for name, value in load_file(path).items()}
    save_file(halves, path, metadata={"format": "pt"})
    change_config(folder, dtype="bfloat16")

    whole = load(folder)
    half = load_llm(folder, read(folder), dtype=torch.bfloat16)

    assert {value.dtype for value in whole.state_dict().values()} == {torch.float32}
    assert {value.dtype for value in half.state_dict().values()} == {torch.bfloat16}
    assert torch.equal(half.model.shared.weight.float(), whole.model.shared.weight)


def test_a_folder_without_weights_is_refused(folder: Path):
    (folder / "model.safetensors").unlink()

    with pytest.raises(CheckpointError, match="there are no weights"):
        load(folder)


def test_a_cut_off_file_of_weights_is_refused(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])

    with pytest.raises(CheckpointError, match="this is no whole safetensors file") as caught:
        load(folder)

    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_refused(folder: Path):
    change_config(folder, encoder_ffn_dim=64)

    with pytest.raises(
        CheckpointError, match=r"layers\.0\.fc1\.weight has the shape 24x16, .*64x16"
    ):
        load(folder)


def test_weights_with_a_tensor_missing_are_refused(folder: Path):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.decoder.layers.1.fc1.weight"]
    save_file(tensors, path, metadata={"format": "pt"})

    with pytest.raises(CheckpointError, match=r"lack the tensor model\.decoder\.layers\.1\.fc1\.w"):
        load(folder)


def test_a_flipped_bit_is_noticed_with_its_tensors_name(folder: Path):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    write_tensors(path, layouts_of(tensors), tensors.items())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))

    with pytest.raises(CheckpointError, match=r"the bytes of model\.shared\.weight are not those"):
        load(folder)

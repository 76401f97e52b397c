"""DeepSpeed's JSON: what it ignores, contradicts or trains wrongly is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from fla.config.deepspeed import SECTION_KEYS, read_deepspeed_config
from fla.errors import ConfigError

DS_CONFIGS = Path(__file__).parents[2] / "ds_configs"


def read(folder: Path, content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    path = folder / "ds.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    numbers = {"micro_batch_size": 4, "world_size": 2, "max_grad_norm": 1.0, "has_gpu": False}
    return read_deepspeed_config(path, **(numbers | changes))


@pytest.mark.parametrize("path", sorted(DS_CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_shipped_files_are_complete_for_deepspeed_itself(path):
    from deepspeed.runtime.config import DeepSpeedConfig

    config = read_deepspeed_config(
        path, micro_batch_size=4, world_size=1, max_grad_norm=1.0, has_gpu="offload" in path.stem
    )

    parsed = DeepSpeedConfig(config)
    stage, *offloaded, precision = path.stem.removeprefix("zero").split("_")
    zero = parsed.zero_config
    assert (zero.offload_optimizer is not None) == ("offload" in offloaded)
    assert (zero.offload_param is not None) == (offloaded == ["offload"])
    assert parsed.zero_optimization_stage == int(stage)
    assert parsed.bfloat16_config.enabled == (precision == "bf16")
    assert parsed.torch_autocast_enabled == (precision == "autocast")
    assert parsed.train_batch_size == parsed.train_micro_batch_size_per_gpu == 4
    assert parsed.gradient_clipping == 1.0


def test_autocast_without_a_type_is_that_of_bfloat16_on_every_device(tmp_path):
    config = read(tmp_path, {"torch_autocast": {"enabled": True}})

    assert config["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}


def test_bucket_sizes_are_whole_layers_of_mbart():
    width, ffn_width = 1024, 4096
    attention = 4 * (width * width + width)
    feed_forward = 2 * width * ffn_width + ffn_width + width
    encoder_layer = attention + feed_forward + 2 * 2 * width
    decoder_layer = 2 * attention + feed_forward + 3 * 2 * width
    content = json.loads((DS_CONFIGS / "zero3_bf16.json").read_text(encoding="utf-8"))

    zero = content["zero_optimization"]
    assert zero["reduce_bucket_size"] // decoder_layer == 3
    assert zero["reduce_bucket_size"] // encoder_layer == 4
    assert zero["stage3_prefetch_bucket_size"] // decoder_layer == 1
    assert zero["stage3_max_live_parameters"] // decoder_layer == 6
    # Vectors stay whole on every rank, matrices do not.
    assert ffn_width <= zero["stage3_param_persistence_threshold"] < width * width


def test_known_zero_keys_are_known_to_deepspeed():
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = DeepSpeedZeroConfig.model_fields
    known = set(fields) | {field.alias for field in fields.values()}

    assert SECTION_KEYS["zero_optimization"] <= known


def test_numbers_of_the_recipe_are_filled_in(tmp_path):
    content = {"zero_optimization": {"stage": 1}, "train_batch_size": "auto"}

    config = read(tmp_path, content, global_batch_size=32)

    # One micro-batch a step: the engine is told how many there are.
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 1
    assert config["train_batch_size"] == 8
    assert config["gradient_clipping"] == 1.0


def test_equal_numbers_in_both_places_are_no_contradiction(tmp_path):
    read(
        tmp_path,
        {
            "train_batch_size": 32,
            "train_micro_batch_size_per_gpu": 4,
            "gradient_accumulation_steps": 4,
            "gradient_clipping": 1,
        },
        global_batch_size=32,
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"train_batch_size": 16}, r"train_batch_size \(16\) .*train\.global_batch_size \(32\)"),
        ({"train_micro_batch_size_per_gpu": 8}, r"gpu \(8\) .*train\.micro_batch_size \(4\)"),
        ({"gradient_accumulation_steps": 2}, r"steps \(2\) .*world size\) \(4\)"),
        ({"gradient_clipping": 0.5}, r"clipping \(0\.5\) .*optim\.max_grad_norm \(1\)"),
    ],
)
def test_contradiction_is_told_with_both_numbers(tmp_path, content, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read(tmp_path, content, global_batch_size=32)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"zero_optimisation": {"stage": 3}}, r"zero_optimisation: .*mean: 'zero_optimization'"),
        ({"xyz": 1}, r"xyz: not a key .*Known are: activation_checkpointing, bf16, "),
        ({"zero_optimization": {"stge": 3}}, r"zero_optimization\.stge: .*Did you mean: 'stage'"),
        ({"torch_autocast": {"dtpye": "x"}}, r"torch_autocast\.dtpye: .*Did you mean: 'dtype'"),
        ({"zero_optimization": 3}, r"zero_optimization: a section, got 3\."),
        ({"optimizer": {"type": "AdamW"}}, r"optimizer: The recipe's optim section"),
        ({"fp16": {"enabled": True}}, r"fp16: mBART overflows"),
    ],
)
def test_key_that_deepspeed_would_ignore_is_refused(tmp_path, content, sentence):
    with pytest.raises(ConfigError, match=rf"ds\.json: {sentence}"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"bf16": {"enabled": True}}, r"bf16 with zero_optimization\.stage 0 trains wrongly"),
        (
            {
                "bf16": {"enabled": True},
                "torch_autocast": {"enabled": True},
                "zero_optimization": {"stage": 1},
            },
            r"bf16 and torch_autocast are both enabled",
        ),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, r"torch_autocast\.dtype must"),
        ({"zero_optimization": {"stage": 4}}, r"zero_optimization\.stage \(4\) must be 0, 1, 2"),
    ],
)
def test_precision_and_stage_that_train_wrongly_are_refused(tmp_path, content, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read(tmp_path, content)


def test_offloading_needs_a_gpu(tmp_path):
    content = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}

    read(tmp_path, content, has_gpu=True)
    with pytest.raises(ConfigError, match=r"offload_optimizer: there is no GPU"):
        read(tmp_path, content, has_gpu=False)


def test_missing_file_names_those_that_are_there(monkeypatch):
    monkeypatch.chdir(DS_CONFIGS.parent)

    with pytest.raises(ConfigError, match=r"nope\.json: .*ds_configs has .*zero3_bf16\.json"):
        read_deepspeed_config(
            Path("nope.json"), micro_batch_size=1, world_size=1, max_grad_norm=0, has_gpu=False
        )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"bf16": ', r"not readable as JSON: .*line 1"),
        ('{"bf16": {}, "bf16": {}}', r"not readable as JSON: bf16 is given twice\."),
        ("[]", r"DeepSpeed's JSON is an object"),
    ],
)
def test_file_that_is_no_json_object_is_refused(tmp_path, text, sentence):
    (tmp_path / "ds.json").write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError, match=sentence):
        read_deepspeed_config(
            tmp_path / "ds.json", micro_batch_size=1, world_size=1, max_grad_norm=0, has_gpu=False
        )

"""The plan's arithmetic: activations against autograd, and what follows for a run."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, MT5Config

from fla.batch import Batch, pad_labels
from fla.config.load import load_config
from fla.config.schema import Stage2Config
from fla.config.sharding import Sharding, read_sharding
from fla.errors import CheckpointError
from fla.losses import translation_loss
from fla.models.adapters import Adapter
from fla.models.light_t import build_small_mbart
from fla.models.stages import Stage2Model, pad_clips
from fla.plan.activations import CPU, GPU, BatchShape, LlmShape, plan_activations
from fla.plan.memory import MemoryPlan, Surroundings, TrainedModel, plan_memory
from fla.plan.run import plan_run
from fla.plan.text import check_fit, describe

ROOT = Path(__file__).parents[2]
GIB = 2**30
SHAPE = LlmShape(
    width=64, ffn_width=256, num_heads=2, num_encoder_layers=2, num_decoder_layers=3, vocab_size=500
)
BATCH = BatchShape(num_clips=3, max_frames=20, num_real_frames=59, max_tokens=9, feature_width=96)


def count_saved(model: torch.nn.Module, work: Any) -> int:
    """Bytes that autograd keeps, each storage once, parameters and buffers left out."""
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def build_model(*, dropout: float, checkpoints: bool) -> Stage2Model:
    mbart = build_small_mbart(
        d_model=64, num_layers=3, num_heads=2, ffn_width=256, dropout=dropout,
        vocab_size=500, pad_id=1, eos_id=2, start_id=38,
    )  # fmt: skip
    del mbart.model.encoder.layers[2]
    if checkpoints:
        mbart.gradient_checkpointing_enable({"use_reentrant": False})
    adapter = Adapter(in_width=96, out_width=64)
    return Stage2Model(None, adapter, mbart, label_smoothing=0.2, start_id=38).train()


def micro_batch(dtype: torch.dtype) -> Batch:
    return Batch(
        sample_ids=("a", "b", "c"),
        references=("a", "b", "c"),
        frame_lengths=torch.tensor([20, 20, 19]),
        labels=pad_labels([[*range(3, 10), 2, 38]] * 3),
        features=torch.randn(59, 96).to(dtype),
    )


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "autocast"])
def test_activations_are_what_autograd_keeps(precision, checkpoints, dropout):
    model = build_model(dropout=dropout, checkpoints=checkpoints)
    if precision == "bf16":
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()

    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        kept = count_saved(model, lambda: model(micro_batch(torch.bfloat16)))

    planned = plan_activations(
        SHAPE, BATCH, precision=precision, has_dropout=dropout > 0, checkpoints=checkpoints,
        kernels=CPU,
    )  # fmt: skip
    assert planned.saved == pytest.approx(kept, rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_of_mt5_are_what_autograd_keeps_on_a_cpu(dtype):
    llm = AutoModelForSeq2SeqLM.from_config(
        MT5Config(
            d_model=64, d_ff=128, d_kv=32, num_heads=2, num_layers=2, num_decoder_layers=3,
            vocab_size=500, dropout_rate=0.1, decoder_start_token_id=0,
        )
    )  # fmt: skip
    adapter = Adapter(in_width=96, out_width=64)
    model = Stage2Model(None, adapter, llm, label_smoothing=0.2, start_id=38).to(dtype).train()
    clips, _ = pad_clips(torch.zeros(59, 64), torch.tensor([20, 20, 19]))

    def work() -> None:
        logits = llm(
            inputs_embeds=clips.to(dtype),
            attention_mask=torch.ones(3, 20, dtype=torch.int64),
            decoder_input_ids=torch.ones(3, 9, dtype=torch.int64),
            use_cache=False,
        ).logits
        translation_loss(logits, micro_batch(dtype).labels, label_smoothing=0.2)

    kept = count_saved(model, work)

    shape = replace(SHAPE, ffn_width=128, hidden_tensors=8, is_t5=True)
    planned = plan_activations(
        shape, replace(BATCH, num_real_frames=0),
        precision="bf16" if dtype is torch.bfloat16 else "fp32",
        has_dropout=True, checkpoints=False, kernels=CPU,
    )  # fmt: skip
    assert planned.saved == pytest.approx(kept, rel=0.1)


def test_dropout_on_a_gpu_keeps_a_byte_an_element():
    words: dict[str, Any] = {"precision": "fp32", "has_dropout": True, "checkpoints": False}

    on_cpu = plan_activations(SHAPE, BATCH, **words, kernels=CPU).saved
    on_gpu = plan_activations(SHAPE, BATCH, **words, kernels=GPU).saved

    masks = (2 * 2 + 1) * 60 * 64 + (3 * 3 + 1) * 27 * 64
    assert on_cpu - on_gpu == 3 * masks


def plan_state_memory(sharding: Sharding, world_size: int) -> MemoryPlan:
    return plan_memory(
        TrainedModel(groups=((1000, 24), (6, 6))),
        sharding,
        world_size=world_size,
        activations=plan_activations(
            SHAPE, BATCH, precision=sharding.precision, has_dropout=True, checkpoints=False
        ),
        num_micro_batches=1,
        surroundings=Surroundings(has_average=True),
    )


def plan_state(sharding: Sharding, world_size: int) -> dict[str, tuple[int, int]]:
    memory = plan_state_memory(sharding, world_size)
    return {part.name: (part.gpu, part.host) for part in memory.always}


def test_zero3_shares_out_every_parameter_and_pads_it():
    sharding = Sharding(
        stage=3,
        precision="bf16",
        sums_in_fp32=True,
        persistence_threshold=10,
        reduce_bucket_size=50,
    )

    parts = plan_state(sharding, 4)

    # 250 + 6 + 2 + 2 of a rank, and the two of 6 elements whole.
    assert parts == {
        "weights": (2 * 260 + 2 * 12, 0),
        "optimizer: float32 weights, Adam's moments": (12 * 260, 0),
        "gradients": (4 * 260, 0),
        "reduce bucket": (2 * 50, 0),
        "moving average": (4 * 260, 0),
    }


def test_zero1_shares_out_the_optimizer_alone():
    parts = plan_state(Sharding(stage=1, precision="bf16", sums_in_fp32=False), 4)

    # Groups of 1024 and 12 elements, padded to multiples of 8.
    assert parts["weights"] == (2 * (1024 + 16), 0)
    assert parts["optimizer: float32 weights, Adam's moments"] == (12 * (256 + 4), 0)
    assert parts["moving average"] == (4 * 1036, 0)


def test_offloading_moves_bytes_to_the_host():
    path = ROOT / "ds_configs" / "zero3_offload_bf16.json"
    sharding = read_sharding(json.loads(path.read_text(encoding="utf-8")))

    parts = plan_state(sharding, 1)

    assert parts["weights"] == (0, 2 * 1036)
    assert parts["optimizer: float32 weights, Adam's moments"] == (0, 12 * 1036)
    # Their sums, and the update's own.
    assert parts["gradients"] == (0, 8 * 1036)
    # DeepSpeed hands the weights out on the GPU.
    assert parts["moving average"] == (4 * 1036, 0)


@pytest.mark.parametrize(
    ("name", "copies"),
    [
        ("zero3_bf16", 0),
        ("zero3_offload_optimizer_bf16", 4 * 1036),
        ("zero2_bf16", 4 * 1036),
        ("zero2_fp32", 0),
    ],
)
def test_an_average_copies_weights_that_are_no_float32_on_the_gpu(name: str, copies: int):
    path = ROOT / "ds_configs" / f"{name}.json"
    sharding = read_sharding(json.loads(path.read_text(encoding="utf-8")))

    memory = plan_state_memory(sharding, 1)

    (update,) = [moment for moment in memory.training if moment.name == "update"]
    assert update.parts[-1].gpu == copies


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A run of mbart-large-cc25, of which only the config is there."""
    content = {
        "model_type": "mbart", "d_model": 1024, "vocab_size": 250027, "encoder_layers": 12,
        "decoder_layers": 12, "encoder_attention_heads": 16, "decoder_attention_heads": 16,
        "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096, "max_position_embeddings": 1024,
        "activation_function": "gelu", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return [
        "run_dir=run", "data.manifest_dir=nowhere", "text.tokenizer_dir=nowhere",
        "model.encoder_export=nowhere", f"model.llm_dir={tmp_path}",
        f"deepspeed={ROOT / 'ds_configs' / 'zero3_bf16.json'}",
    ]  # fmt: skip


def test_plan_of_mbart_large(words):
    config = load_config(Stage2Config, [*words, "features=cached"])

    plan = plan_run(config, world_size=1)

    # mbart-large-cc25 has 610.9 million, the adapter 2.1.
    assert plan.num_parameters == 610_851_840 + 2 * (1024 * 1024 + 1024)
    # 2 bytes of weights, 12 of the optimizer, 4 of gradients.
    always = sum(part.gpu for part in plan.memory.always)
    assert always == pytest.approx(18 * plan.num_parameters, rel=0.02)
    assert check_fit(plan, 24).spare_bytes > 0


def test_an_encoder_one_step_ahead_and_its_frames_are_there_at_every_moment(words):
    more = ["data.prefetch_batches=3", "data.frames_per_batch=400", "features.encoder_memory_gib=2"]

    online, cached = (
        plan_run(load_config(Stage2Config, [*words, *more, f"features={mode}"]), world_size=1)
        for mode in ("online", "cached")
    )

    frames = 400 * 3 * 224 * 224
    # Three micro-batches that wait, one that is encoded, and its copy in bfloat16.
    expected = 4 * 4 * frames + 2 * frames + 2 * 2**30
    assert online.memory.gpu_peak - cached.memory.gpu_peak == expected
    assert online.memory.gpu_bytes(online.memory.evaluation) == (
        cached.memory.gpu_bytes(cached.memory.evaluation) + expected
    )


def test_plan_that_does_not_fit_says_what_to_change(words):
    config = load_config(Stage2Config, words)
    plan = plan_run(config, world_size=1)

    text = describe(plan, config, world_size=1, gpus_gb=[16])

    assert "16 GB: does not fit" in text
    assert "model.gradient_checkpointing=true" in text
    assert text.splitlines()[-1].endswith("GiB to spare")


@pytest.mark.parametrize("freeze", ["nothing", "backbone"])
def test_what_a_run_with_a_trained_encoder_would_refuse_is_not_advised(words, freeze):
    autocast = f"deepspeed={ROOT / 'ds_configs' / 'zero1_autocast.json'}"
    config = load_config(Stage2Config, [*words, f"model.freeze={freeze}", autocast])
    plan = plan_run(config, world_size=1)

    text = describe(plan, config, world_size=1, gpus_gb=[16])

    assert "zero3_autocast.json" in text
    assert "bf16" not in text.partition("To fit into")[2]


def test_frames_of_an_encoder_that_is_trained_are_planned(words):
    waiting = []
    for more in (("model.freeze=all",), ("model.freeze=nothing",), ("train.micro_batch_size=2",)):
        plan = plan_run(load_config(Stage2Config, [*words, *more]), world_size=1)
        waiting += [part.gpu for part in plan.memory.always if part.name == "frames that wait"]

    # Four that wait and the one that is trained on; twice the eight of a step, of 2 x 75 frames.
    assert waiting[:2] == [5 * 4 * 600 * 3 * 224 * 224] * 2
    assert waiting[2] == 2 * 8 * 4 * 2 * 75 * 3 * 224 * 224


def test_each_change_saves_memory(words):
    def peak(*more: str, ranks: int = 1) -> int:
        config = load_config(Stage2Config, [*words, *more])
        return plan_run(config, world_size=ranks).memory.gpu_peak

    now = peak("train.micro_batch_size=2")

    folder = ROOT / "ds_configs"
    offloaded = f"deepspeed={folder / 'zero3_offload_optimizer_bf16.json'}"
    assert peak("train.micro_batch_size=2", offloaded) < now - 6 * GIB
    assert peak("train.micro_batch_size=2", ranks=8) < now - 8 * GIB
    assert peak() > now
    assert peak("model.gradient_checkpointing=true") < peak()
    assert peak("train.ema_decay=0.99", "train.micro_batch_size=2") > now + 2 * GIB


def test_llm_without_config_is_told(words, tmp_path):
    (tmp_path / "config.json").unlink()

    with pytest.raises(CheckpointError, match=r"model\.llm_dir \(.*\): there is no config\.json"):
        plan_run(load_config(Stage2Config, words), world_size=1)


@pytest.mark.slow
def test_tool_ends_with_1_where_the_run_fits_nowhere(words):
    def call(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "tools/plan_run.py", *words, *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    small, enough = call("--gpu-gb", "8"), call("--ranks", "2", "train.micro_batch_size=8")

    assert small.returncode == 1, small.stderr
    assert "8 GB: does not fit" in small.stdout
    assert enough.returncode == 0, enough.stderr
    assert "24 GB: fits" in enough.stdout

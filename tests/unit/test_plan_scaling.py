"""Predictions: operations and messages against real modules and ranks, times against arithmetic."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fla.batch import Batch, pad_labels
from fla.config.load import load_config
from fla.config.schema import Stage2Config, TrainConfig
from fla.config.sharding import Sharding
from fla.data.manifest import Sample, write_manifest
from fla.errors import ConfigError, DataError
from fla.models.adapters import Adapter
from fla.models.backbone import build_backbone
from fla.models.features import FeatureEncoder
from fla.models.light_t import build_small_mbart
from fla.models.stages import Stage2Model
from fla.models.temporal import LocalTemporal
from fla.plan.activations import BatchShape, LlmShape
from fla.plan.failure import Saving, best_interval, checkpoint_bytes, failure_cost, plan_saving
from fla.plan.flops import EncoderWork, count_encoder, count_work
from fla.plan.hardware import A100, H100, Assumptions, Gpu, Machine
from fla.plan.length import Clips
from fla.plan.measured import MeasuredStep, calibrate, measure_run_folder, read_step
from fla.plan.run import plan_run
from fla.plan.scaling import Calibration, Layout, Prediction, Workload, grow, predict, share_out
from fla.plan.scaling_text import describe_scaling
from fla.plan.traffic import Trained, Transfer, exposed_seconds, list_transfers, transfer_seconds
from fla.run_folder import RunFolder
from tests.helpers.engines import write_checkpoint
from tests.helpers.ranks import run_ranks

ROOT = Path(__file__).parents[2]
TOKENIZER = Path(__file__).parent / "tokenizer"
DEMO = ROOT / "launchers" / "recipes" / "demo_stage2.yaml"
SHAPE = LlmShape(
    width=64, ffn_width=256, num_heads=2, num_encoder_layers=2, num_decoder_layers=3, vocab_size=500
)
BATCH = BatchShape(num_clips=3, max_frames=20, num_real_frames=59, max_tokens=9, feature_width=96)

# Numbers to calculate with by head.
SIMPLE = Gpu(
    name="simple",
    bf16_flops=1e12,
    fp32_flops=1e12,
    memory_bytes=1e30,
    link_bytes=100.0,
    network_bytes=10.0,
    num_decoders=1,
)
EXACT = Assumptions(
    llm_utilization=1.0,
    encoder_utilization=1.0,
    operation_s=0.0,
    zero3_matrix_s=0.0,
    zero_parameter_s=0.0,
    update_parameter_s=0.0,
    link_fraction=1.0,
    link_hop_s=0.0,
    network_hop_s=0.0,
    tree_hop_s=0.0,
)
CALM = Machine(gpu=SIMPLE, assumptions=EXACT)


def build_model(*, num_encoder_layers: int = 2, checkpoints: bool = False) -> Stage2Model:
    mbart = build_small_mbart(
        d_model=64, num_layers=3, num_heads=2, ffn_width=256, dropout=0.1,
        vocab_size=500, pad_id=1, eos_id=2, start_id=38,
    )  # fmt: skip
    del mbart.model.encoder.layers[num_encoder_layers:]
    if checkpoints:
        mbart.gradient_checkpointing_enable({"use_reentrant": False})
    adapter = Adapter(in_width=96, out_width=64)
    return Stage2Model(None, adapter, mbart, label_smoothing=0.2, start_id=38).train().bfloat16()


def take(model: Stage2Model) -> None:
    batch = Batch(
        sample_ids=("a", "b", "c"),
        references=("a", "b", "c"),
        frame_lengths=torch.tensor([20, 20, 19]),
        labels=pad_labels([[*range(3, 10), 2, 38]] * 3),
        features=torch.randn(59, 96).bfloat16(),
    )
    model(batch).nats.backward()


@pytest.mark.parametrize("checkpoints", [False, True])
def test_flops_are_those_that_pytorch_counts(checkpoints):
    model = build_model(checkpoints=checkpoints)

    # The counter passes over the fused attention of CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        take(model)

    counted = count_work(SHAPE, BATCH, encoder=EncoderWork(), checkpoints=checkpoints)
    assert counted.llm == pytest.approx(counter.get_total_flops(), rel=0.02)


class CountOperations(TorchDispatchMode):
    """Counts what PyTorch is asked for, but for views, which start no kernel."""

    VIEWS = frozenset(
        "_reshape_alias _unsafe_view alias as_strided detach empty empty_like expand is_same_size "
        "lift_fresh permute reshape select slice split squeeze t transpose unbind unsqueeze "
        "view".split()
    )

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.number += function._schema.name.removeprefix("aten::") not in self.VIEWS
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("checkpoints", [False, True])
def test_operations_are_those_that_pytorch_issues(checkpoints):
    model = build_model(checkpoints=checkpoints)

    with CountOperations() as counter:
        take(model)

    counted = count_work(SHAPE, BATCH, encoder=EncoderWork(), checkpoints=checkpoints)
    assert counted.operations == pytest.approx(counter.number, rel=0.05)


def test_flops_of_the_visual_encoder_are_resnet18s():
    with torch.device("meta"):
        temporal = LocalTemporal(in_width=512, out_width=1024)
        encoder = FeatureEncoder(backbone=build_backbone(), temporal=temporal, light_t=None)

    flops = count_encoder(encoder, 224)

    # 1.8 billion multiplications and additions, and a convolution over three frames.
    assert flops == pytest.approx(2 * 1.814e9 + 2 * 3 * 512 * 1024, rel=0.001)
    assert count_encoder(None, 224) == 0
    assert count_encoder(encoder, 112) < flops / 3.5


def test_an_encoder_that_is_trained_works_three_times():
    counted = [
        count_work(SHAPE, BATCH, encoder=encoder, checkpoints=False)
        for encoder in (EncoderWork(), EncoderWork(frozen=1.0), EncoderWork(trained=1.0))
    ]

    assert [work.encoder for work in counted] == [0, 59, 3 * 59]
    # Its features need a gradient.
    assert counted[2].llm - counted[0].llm == 2 * 59 * 96 * 64


def count_messages(folder: Path) -> list[tuple[int, int, Counter[str], Counter[str], int, int]]:
    """Stage, micro-batches, bytes and calls by kind, elements, and bytes of a checkpoint."""
    import deepspeed.comm.comm as comm

    from tests.distributed import test_memory_plan as plain

    found = []
    for stage in (1, 2, 3):
        model = plain.build_model()
        engine = plain.open_case(f"zero{stage}_bf16", model)
        elements = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
        num_bytes: Counter[str] = Counter()
        calls: Counter[str] = Counter()
        watch(comm.cdb, num_bytes, calls)
        for num in (1, 2):
            # ZeRO-3 fetches in order from its second step on.
            for _ in range(3):
                num_bytes.clear()
                calls.clear()
                for index in range(num):
                    plain.take(engine, plain.SMALL, is_last=index == num - 1)
                engine.step()
            found.append((stage, num, num_bytes.copy(), calls.copy(), elements, 0))
        unwatch(comm.cdb)
        (folder / f"zero{stage}").mkdir(exist_ok=True)
        write_checkpoint(engine, folder / f"zero{stage}")
        torch.distributed.barrier()
        size = sum(path.stat().st_size for path in (folder / f"zero{stage}").iterdir())
        found[-1] = (*found[-1][:5], size)
    return found


KINDS = {"all_reduce": 0, "all_gather_into_tensor": 0, "reduce_scatter_tensor": 1}
"""Collectives, and which argument is the whole tensor."""


def watch(backend: Any, num_bytes: Counter[str], calls: Counter[str]) -> None:
    for name, place in KINDS.items():
        original, kind = getattr(backend, name), name.removesuffix("_into_tensor")

        def count(
            *args: Any, _do: Any = original, _kind: str = kind, _place: int = place, **words: Any
        ) -> Any:
            whole = [*args, *words.values()][_place]
            num_bytes[_kind.removesuffix("_tensor")] += whole.numel() * whole.element_size()
            calls[_kind.removesuffix("_tensor")] += 1
            return _do(*args, **words)

        setattr(backend, name, count)


def unwatch(backend: Any) -> None:
    for name in KINDS:
        delattr(backend, name)


@pytest.mark.slow
def test_messages_and_checkpoints_are_those_of_real_ranks(tmp_path):
    from tests.distributed.test_memory_plan import BUCKET, THRESHOLD, build_model

    sizes = [parameter.numel() for parameter in build_model().parameters()]
    num_matrices = sum(size > THRESHOLD for size in sizes)

    found, _ = run_ranks(count_messages, tmp_path)

    for stage, num_micro_batches, num_bytes, calls, elements, saved in found:
        assert elements == sum(sizes)
        sharding = Sharding(
            stage=stage, precision="bf16", sums_in_fp32=stage > 1, reduce_bucket_size=BUCKET
        )
        transfers = list_transfers(
            Trained(
                num_elements=elements,
                num_matrices=num_matrices,
                num_vectors=len(sizes) - num_matrices,
            ),
            sharding,
            num_micro_batches=num_micro_batches,
        )
        predicted_bytes, predicted_calls = add_up(transfers)
        # Norms are a few bytes.
        large = {kind: size for kind, size in num_bytes.items() if size > elements / 100}
        assert large == pytest.approx(predicted_bytes, rel=0.05), (stage, num_micro_batches)
        if stage == 3:
            # What is fetched ahead comes in pieces of its own.
            gathers = predicted_calls["all_gather"]
            assert calls["all_gather"] == pytest.approx(gathers, rel=0.2)
        if saved:
            planned = checkpoint_bytes(elements, sharding, has_average=False)
            assert saved == pytest.approx(planned, rel=0.02), stage


def add_up(transfers: Iterable[Transfer]) -> tuple[dict[str, float], dict[str, int]]:
    num_bytes: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for it in transfers:
        num_bytes[it.kind] += it.num_bytes  # type: ignore[assignment]
        calls[it.kind] += it.num_calls
    return dict(num_bytes), dict(calls)


def test_ring_inside_a_node():
    assumptions = replace(EXACT, link_hop_s=1.0)
    machine = Machine(gpu=SIMPLE, assumptions=assumptions)
    gather = Transfer(kind="all_gather", num_bytes=800.0, num_calls=2)

    # 7/8 of 800 bytes at 100 a second, and twice seven steps.
    assert transfer_seconds(gather, num_gpus=8, machine=machine) == 7 + 14
    # An all-reduce is a reduce-scatter and a gather.
    both = replace(gather, kind="all_reduce")
    assert transfer_seconds(both, num_gpus=8, machine=machine) == 2 * (7 + 14)
    assert transfer_seconds(gather, num_gpus=1, machine=machine) == 0


def test_ring_over_two_nodes_waits_for_the_network():
    assumptions = replace(EXACT, link_hop_s=1.0, network_hop_s=3.0, link_fraction=0.5)
    machine = Machine(gpu=SIMPLE, assumptions=assumptions)
    gather = Transfer(kind="all_gather", num_bytes=800.0, num_calls=1)

    # Half of the bytes enter a node, whose eight GPUs take in half of 80 a second: 10 s; NVLink
    # would be done in 15/16 of 16 s. Seven steps in each node, and one from each.
    assert transfer_seconds(gather, num_gpus=16, machine=machine) == 15 + 14 + 6
    slow = replace(machine, gpu=replace(SIMPLE, network_bytes=1.0))
    assert transfer_seconds(gather, num_gpus=16, machine=slow) == 100 + 14 + 6


def test_a_small_all_reduce_takes_a_tree_over_many_nodes():
    assumptions = replace(EXACT, network_hop_s=1.0, tree_hop_s=2.0)
    machine = Machine(gpu=SIMPLE, assumptions=assumptions)
    reduce = Transfer(kind="all_reduce", num_bytes=0.0, num_calls=1)

    # Up and down: five levels of a tree in place of 32 steps of a ring.
    assert transfer_seconds(reduce, num_gpus=256, machine=machine) == 2 * 5 * 2


def test_communication_hides_behind_computing_as_far_as_there_is_some():
    beside = Transfer(kind="all_gather", num_bytes=800.0, num_calls=0, hidden_by=0.5)
    after = replace(beside, hidden_by=0.0)

    def exposed(computing_s: float) -> float:
        return exposed_seconds((beside, after), computing_s=computing_s, num_gpus=8, machine=CALM)

    # 7 s each.
    assert [exposed(0.0), exposed(4.0), exposed(100.0)] == [14, 12, 7]


def test_zero3_sends_what_zero2_does_with_one_micro_batch_and_more_with_two():
    trained = Trained(num_elements=1000, num_matrices=1, num_vectors=0)

    def sent(stage: int, num: int) -> float:
        sharding = Sharding(stage=stage, precision="bf16", sums_in_fp32=False)
        transfers = list_transfers(trained, sharding, num_micro_batches=num)
        return sum((1 + (it.kind == "all_reduce")) * it.num_bytes for it in transfers)

    # In bytes that cross a link, in the limit of many ranks: 2 an element.
    assert [sent(stage, 1) for stage in (0, 1, 2, 3)] == [4000, 6000, 6000, 6000]
    assert [sent(stage, 2) for stage in (0, 1, 2, 3)] == [4000, 6000, 10000, 12000]


def a_workload(**changes: Any) -> Workload:
    """64 clips alike; the encoder takes a second for each on the simple GPU, all else nothing."""
    plain: dict[str, Any] = {
        "llm": replace(SHAPE, num_encoder_layers=0, num_decoder_layers=0, vocab_size=0),
        "trained": Trained(num_elements=100, num_matrices=1, num_vectors=0),
        "sharding": Sharding(stage=1, precision="bf16", sums_in_fp32=False),
        "encoder": EncoderWork(frozen=1e11),
        "checkpoints": False,
        "feature_width": 0,
        "clips": Clips(frames=(10,) * 64, tokens=(5,) * 64),
        "frames_per_batch": 1000,
        "seed": 1,
        "decoded_per_frame": 0.0,
        "read_per_frame": 0.0,
    }
    return Workload(**(plain | changes))


def predict_weak(work: Workload, num_gpus: int, machine: Machine = CALM) -> Prediction:
    layout = Layout(num_gpus=num_gpus, global_batch_size=num_gpus, micro_batch_size=1)
    return predict(work, layout, machine=machine)


def test_step_of_one_gpu_is_its_arithmetic():
    step = predict_weak(a_workload(), 1)

    assert step.step_s == pytest.approx(1.0, rel=1e-5)
    assert step.samples_per_s == pytest.approx(1.0, rel=1e-5)
    assert (step.network_s, step.data_s, step.bottleneck) == (0, 0, "compute")


def test_communication_is_added_where_nothing_overlaps():
    step = predict_weak(a_workload(), 8)

    # All-reduce and gather of 200 bytes: three times 7/8 of them at 100 a second.
    assert step.network_s == pytest.approx(3 * 200 * 7 / 8 / 100)
    assert step.step_s == pytest.approx(1 + 5.25, rel=1e-5)
    assert step.efficiency(predict_weak(a_workload(), 1)) == pytest.approx(1 / 6.25, rel=1e-5)
    assert step.bottleneck == "network"


def test_slow_decoding_is_the_bottleneck():
    machine = replace(CALM, assumptions=replace(EXACT, decoder_frames=10.0))

    step = predict_weak(a_workload(decoded_per_frame=4.0), 1, machine)

    # 40 frames at 10 a second, of which one second is spent computing.
    assert step.supply_s == 4
    assert step.data_s == pytest.approx(3, rel=1e-5)
    assert step.bottleneck == "data"


def test_all_ranks_read_features_from_one_file_system():
    machine = replace(CALM, assumptions=replace(EXACT, read_bytes=100.0))
    work = a_workload(read_per_frame=2.0)

    supply = [predict_weak(work, num, machine).supply_s for num in (1, 8)]

    assert supply == pytest.approx([0.2, 1.6])


def test_a_slow_host_is_the_bottleneck():
    machine = replace(CALM, assumptions=replace(EXACT, zero_parameter_s=5.0))

    step = predict_weak(a_workload(), 1, machine)

    assert (step.compute_s, step.host_s) == pytest.approx((1, 4), rel=1e-5)
    assert step.bottleneck == "host"


def test_ranks_wait_for_the_one_with_the_longest_clip():
    clips = Clips(frames=(10, 90), tokens=(5, 5))

    step = predict_weak(a_workload(clips=clips), 2)

    # One second and nine: five in the mean, and four of waiting.
    assert (step.compute_s, step.slowest_s) == pytest.approx((5, 4), rel=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("gpu", [H100, A100])
def test_more_gpus_never_make_a_sentence_faster_for_each_of_them(stage, gpu):
    sharding = Sharding(stage=stage, precision="bf16", sums_in_fp32=False, overlaps=True)
    trained = Trained(num_elements=10**9, num_matrices=200, num_vectors=300)
    clips = Clips(frames=(10,) * 512, tokens=(5,) * 512)
    work = a_workload(sharding=sharding, trained=trained, clips=clips, read_per_frame=1e6)
    counts = (1, 2, 8, 16, 64, 512)

    steps = [predict_weak(work, num, Machine(gpu=gpu)) for num in counts]

    speeds = [step.samples_per_s for step in steps]
    assert speeds == sorted(speeds)
    # The update gets shorter where it is shared out, and it alone.
    update_s = 30 * 10**9 / gpu.memory_bytes
    assert all(step.efficiency(steps[0]) <= 1 + update_s / step.step_s for step in steps)


def test_a_batch_is_shared_out_as_far_as_it_goes():
    train = TrainConfig(global_batch_size=16, micro_batch_size=6)

    layouts = [share_out(train, num) for num in (1, 3, 8, 64)]

    assert [(it.num_gpus, it.micro_batch_size) for it in layouts] == [
        (1, 4),
        (2, 4),
        (8, 2),
        (16, 1),
    ]
    assert grow(train, 64) == Layout(num_gpus=64, global_batch_size=384, micro_batch_size=6)


def test_checkpoint_by_head():
    sharding = Sharding(stage=3, precision="bf16", sums_in_fp32=True)
    assumptions = Assumptions(copy_bytes=9.0, write_bytes=6.0, rank_write_bytes=2.0, hash_bytes=1.0)

    # Weights and two moments in float32; without ZeRO-3 the weights that compute, too.
    assert checkpoint_bytes(3, sharding, has_average=False) == 3 * 12
    assert checkpoint_bytes(3, replace(sharding, stage=1), has_average=True) == 3 * (12 + 2 + 4)
    # Two ranks write 36 bytes at 4 a second and hash 18 each; six are held up by the disk.
    two, six = (plan_saving(36, num_gpus=num, assumptions=assumptions) for num in (2, 6))
    assert two == Saving(copying_s=2, writing_s=9 + 18)
    assert six.writing_s == 6 + 6


def test_failure_by_head():
    assumptions = Assumptions(restart_s=10.0, node_failure_s=800.0)
    saving = Saving(copying_s=4.0, writing_s=20.0)

    cost = failure_cost(saving, interval_s=100.0, notice_s=30.0, assumptions=assumptions)

    assert (cost.expected_s, cost.most_s) == (50 + 20 + 10, 100 + 20 + 10 + 30)
    # sqrt(2 x 4 x 800), and on 64 nodes an eighth of it, but for the writing.
    assert best_interval(saving, num_nodes=1, assumptions=assumptions) == 80
    assert best_interval(saving, num_nodes=4, assumptions=assumptions) == 40
    assert best_interval(saving, num_nodes=64, assumptions=assumptions) == 20


def test_measured_time_takes_the_place_of_assumptions():
    alone = predict_weak(a_workload(), 1)
    step = MeasuredStep(step_s=3.0, wait_fraction=0.0, num_rows=9)

    calibration = calibrate(step, alone)

    assert calibration.working == pytest.approx(3, rel=1e-5)
    assert calibration.data == 1
    layout = Layout(num_gpus=8, global_batch_size=8, micro_batch_size=1)
    eight = predict(a_workload(), layout, machine=CALM, calibration=calibration)
    assert eight.step_s == pytest.approx(3 + 5.25, rel=1e-5)


def test_measured_waiting_tells_how_fast_data_comes():
    alone = predict_weak(a_workload(decoded_per_frame=36.0), 1)
    step = MeasuredStep(step_s=4.0, wait_fraction=0.5, num_rows=9)

    assert alone.supply_s == 1
    assert calibrate(step, alone).data == 4
    assert calibrate(step, alone).working == pytest.approx(2, rel=1e-5)


def write_metrics(folder: Path, speeds: Iterable[float]) -> None:
    rows = [
        {"step": step, "time_s": 0.0, "train/tokens_per_s": speed, "train/data_wait_fraction": 0.5}
        for step, speed in enumerate(speeds)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


def test_measured_step_is_the_median_without_the_start(tmp_path):
    write_metrics(tmp_path, [1.0, 100.0, 50.0, 60.0])

    step = read_step(RunFolder(tmp_path), tokens_per_step=120.0)

    assert step == MeasuredStep(step_s=2.0, wait_fraction=0.5, num_rows=3)


def test_run_without_rows_is_told(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.jsonl: there is no row of training metrics"):
        read_step(RunFolder(tmp_path), tokens_per_step=1.0)
    with pytest.raises(DataError, match=r"provenance\.json: it does not tell the ranks"):
        measure_run_folder(tmp_path, machine=Machine())


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The demo's stage 2, with the config of a small mBART in place of a trained one."""
    content = {
        "model_type": "mbart", "d_model": 64, "vocab_size": 50, "encoder_layers": 1,
        "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 128,
        "activation_function": "gelu", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return [
        str(DEMO), f"model.llm_dir={tmp_path}", "model.encoder_export=nowhere",
        f"deepspeed={ROOT / 'ds_configs' / 'zero3_bf16.json'}", "text.tokenizer_dir=nowhere",
    ]  # fmt: skip


def describe(words: list[str], *num_gpus: int, measured: Path | None = None) -> list[str]:
    config, machine = load_config(Stage2Config, words), Machine()
    run = measure_run_folder(measured, machine=machine) if measured else None
    text = describe_scaling(
        plan_run(config, world_size=2), config,
        world_size=2, num_gpus=num_gpus, machine=machine, measured=run,
    )  # fmt: skip
    return text.splitlines()


def test_demo_prints_its_tables(words):
    lines = describe(words, 8, 64, 512)

    # One table for the recipe's batch of 32, one for 16 sentences a GPU.
    rows = [line.split()[:2] for line in lines if line.split()[-1:] and "%" in line.split()[-2:][0]]
    assert rows == [
        ["1", "32"], ["8", "32"], ["32", "32"],
        ["1", "16"], ["8", "128"], ["64", "1024"], ["512", "8192"],
    ]  # fmt: skip
    assert "64 GPUs: train.global_batch_size 32 gives work to at most 32" in "\n".join(lines)
    assert "8 GPUs: with train.micro_batch_size=4." in lines
    assert any("set train.save_every_minutes" in line for line in lines)
    assert lines[-1].startswith("- A node fails every 264 days")


def test_failures_are_reckoned_with_the_sooner_of_both_intervals(words):
    def lost(*more: str) -> str:
        lines = describe([*words, *more], 8)
        return next(line for line in lines if line.startswith("A failure"))

    assert "Checkpoints are 30.0 min apart" in lost("train.save_every_minutes=30")
    often = lost("train.save_every_minutes=30", "train.evaluate_every_steps=1")
    assert "Checkpoints are 0.0 min apart" in often
    assert "only manifests tell" in lost()


def write_run(folder: Path, words: list[str]) -> list[str]:
    """A run folder, of which only what is read is there, and its corpus."""
    samples = [
        Sample(
            id=f"{number}", video=f"{number}.mp4", start_s=0.0, end_s=2.0, sentence="a b",
            signer="", fps=25.0, num_frames=30 + number,
        )
        for number in range(64)
    ]  # fmt: skip
    manifests, run = folder / "manifests", folder / "run"
    manifests.mkdir()
    run.mkdir()
    for split in ("train", "dev"):
        write_manifest(manifests / f"{split}.tsv", samples, root=folder)
    words = [*words, f"data.manifest_dir={manifests}", f"text.tokenizer_dir={TOKENIZER}"]
    config = load_config(Stage2Config, words)
    (run / "config.yaml").write_text(as_yaml(config), encoding="utf-8")
    (run / "provenance.json").write_text(json.dumps({"devices": ["cpu", "cpu"]}), encoding="utf-8")
    write_metrics(run, [10.0, 10.0])
    return words


def as_yaml(config: Stage2Config) -> str:
    from omegaconf import OmegaConf

    return str(OmegaConf.to_yaml(OmegaConf.structured(config)))


def test_prediction_from_a_measured_run(words, tmp_path):
    words = write_run(tmp_path, words)

    lines = describe(words, 2, 8, 512, measured=tmp_path / "run")

    measured = next(line for line in lines if line.startswith("- Measured on 2 x cpu"))
    milliseconds = float(measured.split(": ")[1].split()[0])
    row = next(line.split() for line in lines if line.split()[:2] == ["2", "32"])
    assert float(row[8]) == pytest.approx(milliseconds, rel=0.05)
    assert "512 GPUs: a step of 8192 is more than the 64 training clips." in lines
    assert any("does it in its first epoch" in line for line in lines)


def test_more_clips_than_there_are_is_an_error():
    layout = Layout(num_gpus=1, global_batch_size=65, micro_batch_size=1)

    with pytest.raises(ConfigError, match=r"more than the 64 samples"):
        predict(a_workload(), layout, machine=CALM, calibration=Calibration())

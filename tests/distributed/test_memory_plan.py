"""The memory plan against what ranks hold: ZeRO 1, 2 and 3 on 1, 2 and 4 real gloo ranks.

Bytes are those of storages, each once, whoever refers to them: by the ZeRO optimizers' own names
for them, and all together by Python's garbage collector, so that nothing is overlooked. Peaks are
those of PyTorch's profiler, of one rank: it does not see what gloo's threads free.
"""

import gc
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import accumulate
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, distributed

from fla.config.sharding import read_sharding
from fla.plan.activations import CPU, BatchShape, LlmShape, plan_activations
from fla.plan.memory import MemoryPlan, Surroundings, TrainedModel, plan_memory
from tests.helpers.ranks import run_ranks

WIDTH, SIGN_WIDTH, VOCAB_SIZE, LANGUAGE_ID = 256, 512, 2000, 38
LLM = LlmShape(
    width=WIDTH, ffn_width=1024, num_heads=4, num_encoder_layers=3, num_decoder_layers=3,
    vocab_size=VOCAB_SIZE,
)  # fmt: skip
SMALL, LARGE = (
    BatchShape(
        num_clips=clips, max_frames=frames, num_real_frames=clips * frames, max_tokens=tokens,
        feature_width=SIGN_WIDTH,
    )
    for clips, frames, tokens in ((2, 8, 6), (8, 64, 32))
)  # fmt: skip
BUCKET = 500_000
# Matrices have 65,536 elements or more, vectors at most 1,024.
THRESHOLD = 10_000

CASES = tuple(f"zero{stage}_{precision}" for stage in (1, 2, 3) for precision in ("bf16", "fp32"))
# Autocast comes last: DeepSpeed remembers in the process that it was switched on.
CASES_OF_TWO_RANKS = (*CASES, "zero3_offload_bf16", "zero2_autocast", "zero3_autocast")
PEAK_CASES = ("zero1_bf16", "zero2_bf16", "zero3_bf16", "zero2_fp32")
ALL = [
    *((2, case) for case in CASES_OF_TWO_RANKS),
    *((n, case) for n in (1, 4) for case in CASES),
]


# Each number of ranks is a start of its own, and many engines.
pytestmark = pytest.mark.slow


class Held(NamedTuple):
    """Bytes that a rank holds."""

    parts: dict[str, int]
    """Between two steps, by the plan's names."""
    everything: int
    """Between two steps, all that has come with the engine."""
    waiting: int
    """More after the first micro-batch of a step."""
    before_update: int
    """More after the last one."""
    gathered: int
    """Most elements of weights that were whole at one time, apart from those that always are."""


def deepspeed_config(case: str) -> dict[str, Any]:
    name, precision = case.split("_", 1)
    zero: dict[str, Any] = {
        "stage": int(name[-1]),
        "overlap_comm": case.startswith("zero3"),
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
        "stage3_prefetch_bucket_size": BUCKET,
        "stage3_param_persistence_threshold": THRESHOLD,
        "stage3_max_live_parameters": 2 * BUCKET,
        "stage3_max_reuse_distance": BUCKET,
    }
    config: dict[str, Any] = {"zero_optimization": zero}
    if precision.endswith("bf16"):
        config["bf16"] = {"enabled": True}
        if zero["stage"] > 1:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    if precision == "autocast":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    if "offload" in precision:
        zero["offload_optimizer"] = zero["offload_param"] = {"device": "cpu"}
    return config


def build_model() -> Any:
    from fla.models.adapters import Adapter
    from fla.models.light_t import build_small_mbart
    from fla.models.stages import Stage2Model

    torch.manual_seed(1)
    mbart = build_small_mbart(
        d_model=WIDTH, num_layers=3, num_heads=4, ffn_width=1024, dropout=0.1,
        vocab_size=VOCAB_SIZE, pad_id=1, eos_id=2, start_id=LANGUAGE_ID,
    )  # fmt: skip
    adapter = Adapter(in_width=SIGN_WIDTH, out_width=WIDTH)
    return Stage2Model(None, adapter, mbart, label_smoothing=0.2, start_id=LANGUAGE_ID)


def build_groups(model: Any) -> list[dict[str, Any]]:
    from fla.optim import decay_groups

    words = {"learning_rate": 1e-3, "weight_decay": 0.01}
    return [
        *decay_groups([model.adapter], name="adapter", **words),
        *decay_groups([model.llm], name="llm", **words),
    ]


def micro_batch(batch: Any) -> Any:
    from fla.batch import Batch, pad_labels

    ids = [[*range(3, 1 + batch.max_tokens), 2, LANGUAGE_ID]] * batch.num_clips
    return Batch(
        sample_ids=("clip",) * batch.num_clips,
        references=("words",) * batch.num_clips,
        frame_lengths=torch.tensor([batch.max_frames] * batch.num_clips),
        labels=pad_labels(ids),
        features=torch.randn(batch.num_real_frames, SIGN_WIDTH),
    )


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors_in(inner)


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    found = (tensor.untyped_storage() for tensor in tensors if tensor.device.type != "meta")
    return {storage.data_ptr(): storage.nbytes() for storage in found if storage.nbytes()}


def count(*values: Any) -> int:
    return sum(storages(tensors_in(values)).values())


def count_everything(model: Any = None) -> int:
    """Bytes of all tensors that Python knows, and of a model's gradients, each storage once."""
    gc.collect()
    # A gradient that nobody has asked for is no Python object yet.
    tensors = [p.grad for p in model.parameters() if p.grad is not None] if model else []
    for thing in gc.get_objects():
        # Some lazy modules answer isinstance by importing.
        if issubclass(type(thing), Tensor):
            tensors.append(thing)
    return sum(storages(tensors).values())


def measure_parts(model: Any, optimizer: Any) -> dict[str, int]:
    """What the ZeRO optimizers keep between two steps, by their own names for it."""
    held = vars(optimizer)
    masters = held.get("single_partition_of_fp32_groups") or held["fp32_partitioned_groups_flat"]
    parameters = list(model.parameters())
    return {
        "weights": count(
            [parameter.data for parameter in parameters],
            [parameter.ds_tensor for parameter in parameters if hasattr(parameter, "ds_tensor")],
            list(model.buffers()),
        ),
        "optimizer: float32 weights, Adam's moments": count(
            masters, dict(optimizer.optimizer.state)
        ),
        "gradients": count(
            held.get("grad_partitions_flat_buffer"), [master.grad for master in masters]
        ),
        "reduce bucket": count([bucket.buffer for bucket in optimizer.ipg_buckets.values()]),
    }


def watch_gathered(model: Any) -> list[int]:
    """Elements of weights that are whole, at every module that comes and goes."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    counts: list[int] = [0]

    def look(*_: Any) -> None:
        counts.append(
            sum(
                parameter.ds_numel
                for parameter in model.parameters()
                if not parameter.ds_persist and parameter.ds_status != ZeroParamStatus.NOT_AVAILABLE
            )
        )

    for module in model.modules():
        if next(module.children(), None) is not None:
            continue
        module.register_forward_hook(look)
        module.register_full_backward_hook(look)
    return counts


def open_case(case: str, model: Any) -> Any:
    from fla.engine import open_engine
    from fla.optim import build_adamw, cosine_schedule
    from fla.runtime import start_runtime

    runtime = start_runtime()
    config = deepspeed_config(case) | {
        "train_batch_size": 2 * runtime.world_size,
        "train_micro_batch_size_per_gpu": 2,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "gradient_clipping": 1.0,
    }
    return open_engine(
        model,
        optimizer=build_adamw(build_groups(model), betas=(0.9, 0.99)),
        schedule=cosine_schedule(num_steps=9, warmup_fraction=0.0),
        config=config,
        runtime=runtime,
    )


def hold(case: str) -> Held:
    # What is there already is not looked at again, which takes seconds each time.
    gc.freeze()
    model = build_model()
    engine = open_case(case, model)
    gathered = watch_gathered(model) if case.startswith("zero3") else [0]
    # Adam has no moments before the first step, and DeepSpeed fetches ahead from the second on.
    for _ in range(2):
        start = count_everything(model)
        take(engine, SMALL, is_last=False)
        waiting = count_everything(model) - start
        take(engine, SMALL, is_last=True)
        before_update = count_everything(model) - start
        engine.step()
    return Held(
        parts=measure_parts(model, engine._engine.optimizer),
        everything=count_everything(model),
        waiting=waiting,
        before_update=before_update,
        gathered=max(gathered),
    )


def take(engine: Any, batch: BatchShape, *, is_last: bool) -> None:
    loss = engine(micro_batch(batch))
    engine.backward(loss.nats, num_tokens=100, is_last=is_last)


def hold_each() -> dict[str, Held]:
    cases = CASES_OF_TWO_RANKS if distributed.get_world_size() == 2 else CASES
    return {case: hold(case) for case in cases}


def profile(work: Callable[[], Any]) -> tuple[int, int]:
    """Bytes that work leaves behind, and the most that it had at one time."""
    with torch.autograd.profiler.profile(profile_memory=True) as profiler:
        work()
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    levels = list(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))
    return (levels[-1], max(0, *levels)) if levels else (0, 0)


def find_peak(case: str, batch: BatchShape) -> int:
    gc.freeze()
    model = build_model()
    engine = open_case(case, model)
    for _ in range(2):
        level = count_everything(model)
        peak = level
        for work in (
            partial(take, engine, batch, is_last=False),
            partial(take, engine, batch, is_last=True),
            engine.step,
        ):
            left, most = profile(work)
            peak = max(peak, level + most)
            level += left
    return peak


def find_peaks() -> dict[tuple[str, BatchShape], int]:
    return {
        (case, batch): find_peak(case, batch) for case in PEAK_CASES for batch in (SMALL, LARGE)
    }


@pytest.fixture(scope="module")
def held() -> Callable[[int, str], list[Held]]:
    """What each rank held, by number of ranks and case; one start of the ranks for all cases."""

    @cache
    def start(world_size: int) -> list[dict[str, Held]]:
        return run_ranks(hold_each, world_size=world_size, timeout_s=300)

    return lambda world_size, case: [rank[case] for rank in start(world_size)]


@pytest.fixture(scope="module")
def peaks() -> dict[tuple[str, BatchShape], int]:
    found: dict[tuple[str, BatchShape], int] = run_ranks(find_peaks, world_size=1)[0]
    return found


def plan(
    case: str, *, world_size: int, batch: BatchShape = SMALL, num_micro_batches: int = 1
) -> MemoryPlan:
    sharding = read_sharding(deepspeed_config(case))
    model = build_model()
    groups = [group["params"] for group in build_groups(model)]
    return plan_memory(
        TrainedModel(
            groups=tuple(tuple(p.numel() for p in group) for group in groups),
            buffer_bytes=sum(buffer.nbytes for buffer in model.buffers()),
            tied_elements=VOCAB_SIZE * WIDTH,
        ),
        sharding,
        world_size=world_size,
        activations=plan_activations(
            LLM, batch, precision=sharding.precision, has_dropout=True, checkpoints=False,
            kernels=CPU,
        ),
        num_micro_batches=num_micro_batches,
        surroundings=Surroundings(),
    )  # fmt: skip


def bytes_of(moment: str, name: str, memory: MemoryPlan) -> int:
    return sum(
        part.gpu
        for each in memory.training
        if each.name == moment
        for part in each.parts
        if part.name == name
    )


@pytest.mark.parametrize(("world_size", "case"), ALL)
def test_each_part_is_what_the_fullest_rank_holds(world_size, case, held):
    ranks = held(world_size, case)

    for name, gpu, host in plan(case, world_size=world_size).always:
        most = max(rank.parts[name] for rank in ranks)
        assert gpu + host == pytest.approx(most, rel=0.01), name


@pytest.mark.parametrize(("world_size", "case"), ALL)
def test_ranks_hold_nothing_that_the_plan_does_not_name(world_size, case, held):
    ranks = held(world_size, case)

    planned = sum(gpu + host for _, gpu, host in plan(case, world_size=world_size).always)
    assert planned == pytest.approx(max(rank.everything for rank in ranks), rel=0.01)


@pytest.mark.parametrize(("world_size", "case"), ALL)
def test_gradients_of_a_step_take_what_the_plan_says(world_size, case, held):
    ranks = held(world_size, case)
    memory = plan(case, world_size=world_size)
    sums = bytes_of("reduction of gradients", "gradients", memory)
    own_part = sums
    bucket_bytes = read_sharding(deepspeed_config(case)).weight_bytes * BUCKET
    if case.startswith("zero1"):
        own_part = bytes_of("reduction of gradients", "copies of them", memory)
        # The bucket is there from a step's first gradient on.
        sums += bucket_bytes

    for planned, most in (
        (sums, max(rank.waiting for rank in ranks)),
        (own_part, max(rank.before_update for rank in ranks)),
    ):
        # What the last bucket held may still be referred to.
        assert 0.99 * planned <= most <= 1.01 * planned + bucket_bytes


# A single rank's part is the whole, and nothing is gathered.
@pytest.mark.parametrize(
    ("world_size", "case"), [(2, case) for case in CASES_OF_TWO_RANKS if case.startswith("zero3")]
)
def test_gathered_weights_stay_within_the_plan(world_size, case, held):
    ranks = held(world_size, case)
    weight_bytes = read_sharding(deepspeed_config(case)).weight_bytes
    memory = plan(case, world_size=world_size)
    planned = bytes_of("backward pass", "gathered weights", memory)

    # Apart from the buffer that they arrive in, which comes and goes.
    live = planned - weight_bytes * BUCKET
    most = max(rank.gathered for rank in ranks) * weight_bytes
    assert most <= live <= 1.1 * most


@pytest.mark.parametrize("case", PEAK_CASES)
@pytest.mark.parametrize("batch", ["SMALL", "LARGE"])
def test_the_fullest_moment_is_as_full_as_planned(case, batch, peaks):
    shape = {"SMALL": SMALL, "LARGE": LARGE}[batch]
    memory = plan(case, world_size=1, batch=shape, num_micro_batches=2)

    assert memory.gpu_bytes(memory.fullest) == pytest.approx(peaks[case, shape], rel=0.1)

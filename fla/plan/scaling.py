"""Step time and efficiency on more GPUs, predicted: arithmetic, no GPU.

A step is as long as its slowest rank computes, or as its host takes to issue that, then what of the
communication is not hidden, then the update. Where the data takes longer than all that, the step
waits for it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fla.config.schema import TrainConfig
from fla.config.sharding import Sharding
from fla.data.sampling import StepPlan, plan_epoch
from fla.plan.activations import BatchShape, LlmShape
from fla.plan.flops import EncoderWork, count_work
from fla.plan.hardware import Machine
from fla.plan.length import Clips
from fla.plan.traffic import Trained, exposed_seconds, list_transfers

Bottleneck = Literal["compute", "host", "slowest rank", "network", "data"]

# Read and write float32 weights and two moments, read a gradient, write the weights.
_UPDATE_BYTES = 30


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a step is shared out."""

    num_gpus: int
    global_batch_size: int
    micro_batch_size: int


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A run, as what its steps ask of a machine."""

    llm: LlmShape
    trained: Trained
    sharding: Sharding
    encoder: EncoderWork
    checkpoints: bool
    feature_width: int
    clips: Clips
    frames_per_batch: int
    seed: int
    decoded_per_frame: float
    """Frames of a recording that are decoded for one that the encoder sees; 0: none."""
    read_per_frame: float
    """Bytes of cached features that are read for a frame; 0: none."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Measured time by predicted time, of a run that was there."""

    working: float = 1.0
    data: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Mean seconds of a step; the parts add up to it."""

    layout: Layout
    num_micro_batches: int
    """Of a rank, the most."""
    compute_s: float
    """Arithmetic, and memory traffic of the update; mean over ranks."""
    host_s: float
    """On top, where the host issues operations more slowly than the GPU does them."""
    slowest_s: float
    """Waiting for the rank with most to do."""
    network_s: float
    """Communication that computing does not hide."""
    data_s: float
    """Waiting for decoding, or for cached features."""
    supply_s: float
    """How long these take, beside all else."""

    @property
    def step_s(self) -> float:
        """Of a whole step."""
        return self.working_s + self.data_s

    @property
    def working_s(self) -> float:
        """Without the waiting for data."""
        return self.compute_s + self.host_s + self.slowest_s + self.network_s

    @property
    def samples_per_s(self) -> float:
        """Sentences a second, all GPUs together."""
        return self.layout.global_batch_size / self.step_s

    @property
    def bottleneck(self) -> Bottleneck:
        """What takes most of the step."""
        # The host and the GPU work at the same time: the slower one counts.
        busy: Bottleneck = "host" if self.host_s > self.compute_s else "compute"
        parts: dict[Bottleneck, float] = {
            busy: self.compute_s + self.host_s,
            "slowest rank": self.slowest_s,
            "network": self.network_s,
            "data": self.data_s,
        }
        return max(parts, key=parts.__getitem__)

    def efficiency(self, base: "Prediction") -> float:
        """Sentences a second and GPU, by those of another layout."""
        own = self.samples_per_s / self.layout.num_gpus
        return own / (base.samples_per_s / base.layout.num_gpus)


class _Cost(NamedTuple):
    """Of a micro-batch: seconds of arithmetic, and of the host."""

    compute: float
    host: float


class _Load(NamedTuple):
    """Of a step."""

    costs: NDArray[np.float64]
    """`(ranks, micro-batches, 2)`: `_Cost` of each."""
    most_frames: int
    """Of a rank."""
    all_frames: int


def share_out(train: TrainConfig, num_gpus: int) -> Layout:
    """The recipe's step on as many GPUs as it gives work to, at most so many.

    Args:
        train: With `global_batch_size` sentences, in micro-batches of at most `micro_batch_size`.
        num_gpus: That there are.
    """
    size = train.global_batch_size
    used = max(n for n in range(1, min(num_gpus, size) + 1) if size % n == 0)
    share = size // used
    largest = max(n for n in range(1, min(train.micro_batch_size, share) + 1) if share % n == 0)
    return Layout(num_gpus=used, global_batch_size=size, micro_batch_size=largest)


def grow(train: TrainConfig, num_gpus: int) -> Layout:
    """One full micro-batch on every GPU: the global batch grows with them."""
    size = train.micro_batch_size
    return Layout(num_gpus=num_gpus, global_batch_size=size * num_gpus, micro_batch_size=size)


def predict(
    work: Workload,
    layout: Layout,
    *,
    machine: Machine,
    calibration: Calibration | None = None,
) -> Prediction:
    """Predict the mean step of an epoch.

    Args:
        work: The run.
        layout: How its steps are shared out.
        machine: Where.
        calibration: Of a measured run; None: by the assumptions alone.

    Raises:
        ConfigError: There are fewer clips than the layout's global batch.
    """
    steps, loads = _plan_loads(work, layout, machine)
    compute, host, slowest, network, supply = np.mean(
        [
            _predict_step(
                work,
                load,
                num_gpus=layout.num_gpus,
                machine=machine,
                factors=calibration or Calibration(),
            )
            for load in loads
        ],
        axis=0,
    ).tolist()
    return Prediction(
        layout=layout,
        num_micro_batches=max(len(step.ranks[0]) for step in steps),
        compute_s=compute,
        host_s=host,
        slowest_s=slowest,
        network_s=network,
        # Of means: what is fetched ahead makes up for a step with much to fetch.
        data_s=max(0.0, supply - (compute + host + slowest + network)),
        supply_s=supply,
    )


def _plan_loads(
    work: Workload, layout: Layout, machine: Machine
) -> tuple[list[StepPlan], Iterator[_Load]]:
    """The steps of an epoch, as a run plans them, and what they cost."""
    frames, tokens = np.array(work.clips.frames), np.array(work.clips.tokens)
    steps = plan_epoch(
        frames,
        global_batch_size=layout.global_batch_size,
        micro_batch_size=layout.micro_batch_size,
        frames_per_batch=work.frames_per_batch,
        world_size=layout.num_gpus,
        seed=work.seed,
        epoch=0,
        num_tokens=None if work.encoder.trained else tokens,
    )
    return steps, _loads_of(work, steps, frames, tokens, machine)


def _loads_of(
    work: Workload,
    steps: Sequence[StepPlan],
    frames: NDArray[np.int64],
    tokens: NDArray[np.int64],
    machine: Machine,
) -> Iterator[_Load]:
    # Many micro-batches are of the same shape.
    @cache
    def cost(num_clips: int, longest: int, real: int, sentence: int) -> _Cost:
        batch = BatchShape(
            num_clips=num_clips,
            max_frames=longest,
            num_real_frames=real,
            max_tokens=sentence,
            feature_width=work.feature_width,
        )
        return _cost(work, batch, machine)

    for step in steps:
        indices = [[list(batch) for batch in rank] for rank in step.ranks]
        costs = [
            [
                cost(len(i), int(frames[i].max()), int(frames[i].sum()), int(tokens[i].max()))
                for i in rank
            ]
            for rank in indices
        ]
        of_ranks = [sum(int(frames[i].sum()) for i in rank) for rank in indices]
        yield _Load(np.array(costs), max(of_ranks), sum(of_ranks))


def _cost(work: Workload, batch: BatchShape, machine: Machine) -> _Cost:
    gpu, assumptions = machine.gpu, machine.assumptions
    counted = count_work(work.llm, batch, encoder=work.encoder, checkpoints=work.checkpoints)
    peak = gpu.fp32_flops if work.sharding.precision == "fp32" else gpu.bf16_flops
    compute = counted.llm / (peak * assumptions.llm_utilization)
    # A frozen encoder computes in bfloat16, whatever the LLM is trained in.
    encoder_peak = peak if work.encoder.trained else gpu.bf16_flops
    compute += counted.encoder / (encoder_peak * assumptions.encoder_utilization)
    host = counted.operations * assumptions.operation_s
    if work.sharding.stage == 3:
        host += work.trained.num_matrices * assumptions.zero3_matrix_s
    elif work.sharding.stage:
        host += work.trained.num_parameters * assumptions.zero_parameter_s
    return _Cost(compute, host)


def _predict_step(
    work: Workload, load: _Load, *, num_gpus: int, machine: Machine, factors: Calibration
) -> tuple[float, ...]:
    costs = load.costs
    busy = costs.max(axis=2)
    # From ZeRO-2 on, ranks wait for each other in every micro-batch.
    slowest = busy.max(axis=0).sum() if work.sharding.stage > 1 else busy.sum(axis=1).max()
    mean = busy.sum(axis=1).mean()
    update = _update(work, num_gpus, machine)
    compute = factors.working * (costs[..., 0].sum(axis=1).mean() + update.compute)
    # Not from the sums: which one is slower may differ from micro-batch to micro-batch.
    host = factors.working * (mean + max(update)) - compute
    uneven = factors.working * max(0.0, slowest - mean)
    network = exposed_seconds(
        list_transfers(work.trained, work.sharding, num_micro_batches=costs.shape[1]),
        computing_s=factors.working * slowest,
        num_gpus=num_gpus,
        machine=machine,
    )
    supply = factors.data * _supply_seconds(work, load, machine)
    return compute, host, uneven, network, supply


def _update(work: Workload, num_gpus: int, machine: Machine) -> _Cost:
    share = num_gpus if work.sharding.stage else 1
    elements = math.ceil(work.trained.num_elements / share)
    return _Cost(
        elements * _UPDATE_BYTES / machine.gpu.memory_bytes,
        work.trained.num_parameters * machine.assumptions.update_parameter_s,
    )


def _supply_seconds(work: Workload, load: _Load, machine: Machine) -> float:
    """Each GPU decodes for itself; all read from one file system."""
    decoders = machine.gpu.num_decoders * machine.assumptions.decoder_frames
    decoding = load.most_frames * work.decoded_per_frame / decoders
    return decoding + load.all_frames * work.read_per_frame / machine.assumptions.read_bytes

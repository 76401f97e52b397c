"""How many bytes a rank of a stage-2 run holds, part by part: arithmetic, no GPU and no model.

The counts follow what DeepSpeed 0.19.8 allocates (its ZeRO optimizers' source, and what ranks were
seen to hold; tests/distributed/test_memory_plan.py compares). Bytes that the CUDA context, NCCL,
cuBLAS and the allocator's gaps take are not in it.

Letters:
- P = elements of all trained parameters, N = ranks
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from fla.config.sharding import Sharding
from fla.plan.activations import Activations

_FP32 = 4
_FP64 = 8
_ADAM_BYTES = 2 * _FP32
# ZeRO 1 and 2 pad a group to a multiple of so many elements a rank.
_ALIGNMENT = 2
_WAITING_FRAMES = "frames that wait"


class Part(NamedTuple):
    """What something takes on one rank, in bytes."""

    name: str
    gpu: int
    host: int = 0


class Moment(NamedTuple):
    """A moment of a run, and what is there then beside what always is."""

    name: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What the engine trains, as plain numbers."""

    groups: tuple[tuple[int, ...], ...]
    """Elements of each parameter, by group of the optimizer, in the optimizer's order."""
    buffer_bytes: int = 0
    tied_elements: int = 0
    """Of the word embedding where it is the head, too: two gradients of it meet; 0: it is not."""

    @property
    def num_elements(self) -> int:
        """P."""
        return sum(map(sum, self.groups))

    @property
    def largest(self) -> int:
        """Elements of the largest parameter."""
        return max(map(max, self.groups))


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a rank holds beside the engine, in bytes."""

    encoder: int = 0
    """Weights of a frozen visual encoder."""
    frames: int = 0
    """Frames that wait for that encoder, which works while the model trains or decodes."""
    encoder_pass: int = 0
    """What a pass of it takes beside them."""
    has_average: bool = False
    """A moving average of the weights is kept."""
    beams: int = 0
    """What decoding takes beside the weights."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes of one rank, the one with most."""

    always: tuple[Part, ...]
    """What is there at every moment of training, in evaluation, too."""
    training: tuple[Moment, ...]
    evaluation: Moment

    def gpu_bytes(self, moment: Moment) -> int:
        """On the GPU at a moment."""
        return sum(part.gpu for part in (*self.always, *moment.parts))

    @property
    def fullest(self) -> Moment:
        """The moment of training with most on the GPU."""
        return max(self.training, key=self.gpu_bytes)

    @property
    def gpu_peak(self) -> int:
        """The most that is ever on the GPU."""
        return max(self.gpu_bytes(self.fullest), self.gpu_bytes(self.evaluation))

    @property
    def waiting_bytes(self) -> int:
        """Frames on the GPU that wait for the encoder, where decoding keeps up with it."""
        return sum(part.gpu for part in self.always if part.name == _WAITING_FRAMES)

    @property
    def host_bytes(self) -> int:
        """Of parameters and optimizer that are offloaded."""
        return sum(part.host for part in self.always)


def plan_memory(
    model: TrainedModel,
    sharding: Sharding,
    *,
    world_size: int,
    activations: Activations,
    num_micro_batches: int,
    surroundings: Surroundings,
) -> MemoryPlan:
    """Add up what a rank holds.

    Args:
        model: What is trained.
        sharding: What the DeepSpeed configuration says.
        world_size: N.
        activations: Of the largest micro-batch.
        num_micro_batches: Of a step on one rank; from 2 on gradients wait while others arise.
        surroundings: What is there beside the engine.
    """
    state = _State(model, sharding, world_size)
    beside = (
        Part("moving average", state.average if surroundings.has_average else 0),
        Part("frozen encoder", surroundings.encoder),
        Part(_WAITING_FRAMES, surroundings.frames),
        Part("a pass of it, one step ahead", surroundings.encoder_pass),
    )
    held = Part("gradients", state.held_gradients(num_micro_batches))
    gathered = Part("gathered weights", state.gathered)
    start = max(activations.recomputed, activations.loss, state.gradients_in_flight)
    training = [
        Moment(
            "backward pass",
            (
                held,
                gathered,
                Part("activations", activations.saved),
                Part("loss, or gradients on their way", start),
            ),
        ),
        Moment(
            "reduction of gradients",
            (
                gathered,
                Part("gradients", state.complete_gradients(num_micro_batches)),
                Part("copies of them", state.reduction),
            ),
        ),
        Moment(
            "update",
            (
                Part("gradients, copies of them", state.update),
                Part(
                    "copy of the weights for the average",
                    state.average_copy if surroundings.has_average else 0,
                ),
            ),
        ),
    ]
    replica = state.replica if sharding.stage == 3 or surroundings.has_average else 0
    return MemoryPlan(
        always=(*state.always, *(part for part in beside if part.gpu)),
        training=tuple(training),
        evaluation=Moment(
            "evaluation",
            (Part("whole model", replica), Part("beams", surroundings.beams)),
        ),
    )


class _State:
    """Bytes of parameters, optimizer and gradients."""

    def __init__(self, model: TrainedModel, sharding: Sharding, world_size: int) -> None:
        self._model = model
        self._sharding = sharding
        self._world_size = world_size
        if sharding.stage == 3:
            parts = [_sharded_by_parameter(group, world_size) for group in model.groups]
        elif sharding.stage == 0:
            parts = [sum(group) for group in model.groups]
        else:
            parts = [_sharded_flat(group, world_size) for group in model.groups]
        self._shards = parts
        """Elements of each group's part on one rank, with padding."""

    @property
    def shard(self) -> int:
        """Elements of a rank's part of all that is sharded."""
        return sum(self._shards)

    @property
    def always(self) -> tuple[Part, ...]:
        """From the first step to the last."""
        zero = self._sharding
        # Without ZeRO the optimizer updates the model's own weights.
        masters = (_ADAM_BYTES + (_FP32 if zero.stage else 0)) * self.shard
        # ZeRO 1 and 2 need float32 gradients on the host only when they are offloaded.
        gradients, bucket = 0, 0
        if zero.stage == 3:
            gradients = zero.gradient_bytes * self.shard
            bucket = zero.bucket_bytes * zero.reduce_bucket_size
        elif self._sums_whole:
            gradients = _FP32 * self._world_size * self.shard
        optimizer = Part("optimizer: float32 weights, Adam's moments", masters)
        sums = Part("gradients", gradients)
        if zero.offloads_optimizer:
            # The updates' float32 gradients are another buffer. ZeRO 1 and 2 have the updated
            # weights in a third, and one each for a gradient on its way.
            buffers = _FP32 * self.shard
            if zero.stage < 3:
                buffers += zero.weight_bytes * (self.shard + self._model.largest)
                bucket += zero.weight_bytes * self._model.largest
            optimizer = Part(optimizer.name, 0, masters)
            sums = Part(sums.name, 0, gradients + buffers)
        return (self._weights, optimizer, sums, Part("reduce bucket", bucket))

    @property
    def average(self) -> int:
        """The moving average, on the GPU even of an offloaded optimizer; sharded by ZeRO-3."""
        return _FP32 * (self.shard if self._sharding.stage == 3 else self._model.num_elements)

    @property
    def average_copy(self) -> int:
        """Weights as the average takes them in, where those at hand are no float32 on the GPU."""
        zero = self._sharding
        copies = zero.offloads_optimizer if zero.stage == 3 else zero.weight_bytes != _FP32
        return self.average if copies else 0

    @property
    def replica(self) -> int:
        """A whole model in the type that it computes with."""
        return self._sharding.weight_bytes * self._model.num_elements + self._model.buffer_bytes

    @property
    def gathered(self) -> int:
        """What ZeRO-3 holds whole while it computes; a bound where it lets weights go.

        It fetches ahead until it holds as many as it may; the last one comes on top, and the
        buffer that several arrive in.
        """
        zero, model = self._sharding, self._model
        if zero.stage < 3 or self._world_size == 1:
            return 0
        total = sum(n for group in model.groups for n in group if n > zero.persistence_threshold)
        most = max(zero.max_live_parameters, zero.max_reuse_distance)
        live = min(total, most + model.largest)
        return zero.weight_bytes * (live + min(total, zero.prefetch_bucket_size))

    def held_gradients(self, num_micro_batches: int) -> int:
        """Sums of a step's gradients in its last backward pass, beside what is always there."""
        zero = self._sharding
        if zero.stage == 3 or (zero.stage == 2 and zero.offloads_optimizer):
            return 0
        if self._sums_in_place:
            return self._partition_gradients
        if zero.stage == 2:
            # The last micro-batch's are tensors of their own.
            return min(2, num_micro_batches) * self._partition_gradients
        # The first ones come where activations go.
        return self._whole_gradients if num_micro_batches > 1 else 0

    def complete_gradients(self, num_micro_batches: int) -> int:
        """The same at the end of that backward pass."""
        if self._sharding.stage < 2:
            return self._whole_gradients
        return self.held_gradients(num_micro_batches)

    @property
    def gradients_in_flight(self) -> int:
        """Gradients between autograd and the sums, in the backward pass."""
        zero, tied = self._sharding, self._model.tied_elements
        own = zero.weight_bytes * (tied or self._model.largest)
        if zero.stage < 2:
            # ZeRO-1's bucket is there from a step's first gradient on, though the last fills it.
            return own + (zero.bucket_bytes * zero.reduce_bucket_size if zero.stage else 0)
        size = min(zero.reduce_bucket_size, self._model.num_elements)
        # Reduced in a copy; ZeRO-3 turns the rank's part into the type of the sums.
        copies = zero.weight_bytes * size
        if zero.stage == 3:
            convert = _FP32 if zero.gradient_bytes != zero.weight_bytes else 0
            copies += convert * size // self._world_size
            second = (zero.weight_bytes if tied else 0) + convert / self._world_size
            copies = max(copies, int(second * (tied or self._model.largest)))
        else:
            copies += zero.bucket_bytes * zero.reduce_bucket_size
        return own + copies

    @property
    def reduction(self) -> int:
        """Copies of gradients when the last one of a step is reduced."""
        zero = self._sharding
        if self._sums_whole:
            # The flat float32 copies that are reduced.
            return (_FP32 + zero.weight_bytes) * self._model.num_elements
        return self._partition_gradients if zero.stage == 1 else self.gradients_in_flight

    @property
    def update(self) -> int:
        """Gradients at the step, and the float32 copies that the optimizer gets."""
        zero, group = self._sharding, max(self._shards)
        if zero.offloads_optimizer:
            return 0
        if zero.stage == 0:
            return self._whole_gradients
        if zero.stage == 3:
            group = min(group, zero.sub_group_size)
            return (_FP32 + (0 if zero.gradient_bytes == _FP32 else zero.gradient_bytes)) * group
        if self._sums_whole:
            # Gradients of the weights' type stay until the next step.
            gathered = 0 if self._world_size == 1 else self._world_size * max(self._shards)
            return zero.weight_bytes * (self._model.num_elements + gathered)
        if self._sums_in_place:
            # The norm is summed up in float64, parameter by parameter.
            return self._partition_gradients + _FP64 * min(self._model.largest, group)
        copies = _FP32 if zero.weight_bytes == _FP32 else _FP32 + zero.weight_bytes
        return self._partition_gradients + copies * group

    @property
    def _weights(self) -> Part:
        zero, model = self._sharding, self._model
        if zero.stage < 3:
            whole = sum(self._shards) * (1 if zero.stage == 0 else self._world_size)
            return Part("weights", zero.weight_bytes * whole + model.buffer_bytes)
        sharded = zero.weight_bytes * self.shard
        kept = [n for group in model.groups for n in group if n <= zero.persistence_threshold]
        # A single rank's part is the whole: DeepSpeed points to it.
        gathered = zero.weight_bytes * sum(kept) if self._world_size > 1 else 0
        if zero.offloads_parameters:
            return Part("weights", gathered + model.buffer_bytes, sharded)
        return Part("weights", sharded + gathered + model.buffer_bytes)

    @property
    def _whole_gradients(self) -> int:
        return self._sharding.weight_bytes * self._model.num_elements

    @property
    def _sums_whole(self) -> bool:
        """DeepSpeed's BF16_Optimizer, which ZeRO-1 gets with float32 sums, shards none of them."""
        zero = self._sharding
        return (
            zero.stage == 1
            and zero.precision == "bf16"
            and zero.sums_in_fp32
            and not zero.offloads_optimizer
        )

    @property
    def _sums_in_place(self) -> bool:
        """ZeRO-2 with float32 sums of bfloat16 gradients: one flat buffer a group."""
        zero = self._sharding
        return zero.stage == 2 and zero.precision == "bf16" and zero.sums_in_fp32

    @property
    def _partition_gradients(self) -> int:
        """Gradients that a rank keeps for its part, under ZeRO 1 and 2."""
        zero = self._sharding
        if self._sums_in_place:
            return _FP32 * self.shard
        # A parameter that a border cuts is kept whole on both sides of it.
        touched = zip(self._model.groups, self._shards, strict=True)
        return zero.weight_bytes * _most_touched(touched, self._world_size)


def _sharded_by_parameter(group: Sequence[int], world_size: int) -> int:
    return sum(-(-elements // world_size) for elements in group)


def _sharded_flat(group: Sequence[int], world_size: int) -> int:
    return -(-sum(group) // (_ALIGNMENT * world_size)) * _ALIGNMENT


def _most_touched(groups: Iterable[tuple[Sequence[int], int]], world_size: int) -> int:
    """Most elements of the parameters that lie in one rank's part, with all of their elements."""
    totals = [0] * world_size
    for group, shard in groups:
        ends = list(accumulate(group))
        for rank in range(world_size):
            first, last = rank * shard, (rank + 1) * shard
            totals[rank] += sum(
                elements
                for elements, end in zip(group, ends, strict=True)
                if end > first and end - elements < last
            )
    return max(totals)

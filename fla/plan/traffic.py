"""What ranks send each other in a step, and how long that takes.

Which collectives DeepSpeed 0.19.8 uses was counted on real ranks: ZeRO 1 and 2 all-reduce
gradients, which sends twice what reduce-scatters would, and gather the updated weights; ZeRO-3
gathers weights in both directions of every micro-batch and reduce-scatters gradients.

Letters:
- P = elements of all trained parameters, N = ranks
"""

import math
from dataclasses import dataclass
from typing import Literal

from fla.config.sharding import Sharding
from fla.plan.hardware import Assumptions, Machine


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What is trained, as collectives see it."""

    num_elements: int
    """P."""
    num_matrices: int
    """Parameters above ZeRO-3's threshold: each is fetched by itself."""
    num_vectors: int
    """The others, which ZeRO-3 gathers one by one after an update."""

    @property
    def num_parameters(self) -> int:
        """Tensors."""
        return self.num_matrices + self.num_vectors


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Collectives of one kind, in one step."""

    kind: Literal["all_reduce", "all_gather", "reduce_scatter"]
    num_bytes: float
    """Of whole tensors, all calls together."""
    num_calls: int
    hidden_by: float = 0.0
    """Part of the step's computing that it can run beside."""


def list_transfers(
    trained: Trained, sharding: Sharding, *, num_micro_batches: int
) -> tuple[Transfer, ...]:
    """What DeepSpeed sends in a step.

    Args:
        trained: What is.
        sharding: What the DeepSpeed configuration says.
        num_micro_batches: Of the step on one rank.
    """
    if sharding.stage == 3:
        return _of_zero3(trained, sharding, num_micro_batches)
    num_bytes = float(_sent_bytes(sharding) * trained.num_elements)
    num_calls = _count_buckets(trained, sharding)
    # ZeRO-2 reduces every micro-batch's gradients, the others their sum, in the last backward pass,
    # which is two thirds of a micro-batch's computing.
    num = num_micro_batches if sharding.stage == 2 else 1
    backward = 2 / 3 * num / num_micro_batches if sharding.overlaps and sharding.stage else 0.0
    reduction = Transfer(
        kind="all_reduce", num_bytes=num * num_bytes, num_calls=num * num_calls, hidden_by=backward
    )
    if sharding.stage == 0:
        return (reduction,)
    weights = float(sharding.weight_bytes * trained.num_elements)
    return (reduction, Transfer(kind="all_gather", num_bytes=weights, num_calls=num_calls))


def _of_zero3(trained: Trained, sharding: Sharding, num: int) -> tuple[Transfer, ...]:
    beside = 1.0 if sharding.overlaps else 0.0
    num_bytes = float(num * _sent_bytes(sharding) * trained.num_elements)
    return (
        Transfer(
            kind="all_gather",
            num_bytes=2 * num_bytes,
            num_calls=num * trained.num_matrices,
            hidden_by=beside,
        ),
        Transfer(
            kind="reduce_scatter",
            num_bytes=num_bytes,
            num_calls=num * _count_buckets(trained, sharding),
            hidden_by=beside,
        ),
        # Few bytes, but a call each.
        Transfer(kind="all_gather", num_bytes=0.0, num_calls=trained.num_vectors),
    )


def _sent_bytes(sharding: Sharding) -> int:
    # Autocast sends what it casts in bfloat16.
    return 4 if sharding.precision == "fp32" else 2


def _count_buckets(trained: Trained, sharding: Sharding) -> int:
    return math.ceil(trained.num_elements / sharding.reduce_bucket_size)


def transfer_seconds(transfer: Transfer, *, num_gpus: int, machine: Machine) -> float:
    """How long collectives take: the slower one of NVLink and network, and a delay every call.

    A ring passes (N - 1) / N of the bytes over each GPU's link, and twice so in an all-reduce. The
    rings of a node share its network, through which passes what other nodes hold.

    Args:
        transfer: What is sent.
        num_gpus: N.
        machine: Its links, what of them is reached, and delays.
    """
    if num_gpus == 1:
        return 0.0
    gpu, assumptions = machine.gpu, machine.assumptions
    local = min(num_gpus, assumptions.gpus_per_node)
    nodes = math.ceil(num_gpus / local)
    passes = 2 if transfer.kind == "all_reduce" else 1
    sent = passes * transfer.num_bytes / assumptions.link_fraction
    within = sent * (num_gpus - 1) / num_gpus / gpu.link_bytes
    between = sent * (nodes - 1) / nodes / (local * gpu.network_bytes)
    return max(within, between) + transfer.num_calls * _delay(transfer, local, nodes, assumptions)


def _delay(transfer: Transfer, local: int, nodes: int, assumptions: Assumptions) -> float:
    """Of a call: its steps one after the other."""
    if nodes == 1:
        ring = (local - 1) * assumptions.link_hop_s
    else:
        ring = nodes * ((local - 1) * assumptions.link_hop_s + assumptions.network_hop_s)
    if transfer.kind != "all_reduce":
        return ring
    tree = (local - 1) * assumptions.link_hop_s + math.log2(nodes) * assumptions.tree_hop_s
    return 2 * min(ring, tree)


def exposed_seconds(
    transfers: tuple[Transfer, ...],
    *,
    computing_s: float,
    num_gpus: int,
    machine: Machine,
) -> float:
    """What of a step's communication computing does not hide.

    Args:
        transfers: Of the step.
        computing_s: Of the step.
        num_gpus: N.
        machine: Its links, what of them is reached, and delays.
    """
    exposed, hidden, room = 0.0, 0.0, 0.0
    for transfer in transfers:
        seconds = transfer_seconds(transfer, num_gpus=num_gpus, machine=machine)
        if transfer.hidden_by:
            hidden += seconds
            room = max(room, transfer.hidden_by * computing_s)
        else:
            exposed += seconds
    return exposed + max(0.0, hidden - room)

"""What a DeepSpeed configuration says about memory: who holds what, and in which type."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How DeepSpeed shards a model; sizes are elements. Defaults are DeepSpeed's own (0.19.8)."""

    stage: int
    precision: Literal["fp32", "bf16", "autocast"]
    sums_in_fp32: bool
    """Gradients of several micro-batches are added up in float32, whatever their type."""
    reduce_bucket_size: int = 500_000_000
    prefetch_bucket_size: int = 50_000_000
    persistence_threshold: int = 100_000
    """ZeRO-3 keeps parameters of at most so many elements whole on every rank."""
    max_live_parameters: int = 1_000_000_000
    """ZeRO-3 fetches no more ahead when it holds so many elements whole."""
    max_reuse_distance: int = 1_000_000_000
    """ZeRO-3 keeps what is used again within so many elements."""
    sub_group_size: int = 1_000_000_000
    """ZeRO-3 updates at most so many elements at once."""
    overlaps: bool = False
    is_contiguous: bool = True
    """Gradients are copied into one bucket before they are reduced."""
    offloads_optimizer: bool = False
    offloads_parameters: bool = False

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight that the model computes with; autocast casts float32 ones."""
        return 2 if self.precision == "bf16" else 4

    @property
    def gradient_bytes(self) -> int:
        """Bytes of an element of the sum over micro-batches."""
        return 4 if self.sums_in_fp32 else self.weight_bytes

    @property
    def bucket_bytes(self) -> int:
        """Bytes that an element of the reduce buckets takes, all buckets together."""
        if not self.is_contiguous:
            return 0
        # With autocast DeepSpeed has a bucket for each type that gradients are sent in. ZeRO-3
        # fills them in that type, ZeRO 1 and 2 in the weights'.
        if self.precision == "autocast":
            types = 2 + 4 if self.stage == 3 else 4 + 4
        else:
            types = self.weight_bytes
        return types * 2 if self.overlaps and self.stage < 3 else types


def read_sharding(config: dict[str, Any]) -> Sharding:
    """Take what memory depends on from a DeepSpeed configuration.

    Args:
        config: As `read_deepspeed_config` gives it.
    """
    zero = config.get("zero_optimization", {})
    has_bf16 = config.get("bf16", {}).get("enabled", False)
    has_autocast = config.get("torch_autocast", {}).get("enabled", False)
    stage = zero.get("stage", 0)
    sizes = {
        "reduce_bucket_size": zero.get("reduce_bucket_size"),
        "prefetch_bucket_size": zero.get("stage3_prefetch_bucket_size"),
        "persistence_threshold": zero.get("stage3_param_persistence_threshold"),
        "max_live_parameters": zero.get("stage3_max_live_parameters"),
        "max_reuse_distance": zero.get("stage3_max_reuse_distance"),
        "sub_group_size": zero.get("sub_group_size"),
    }
    return Sharding(
        stage=stage,
        precision="bf16" if has_bf16 else "autocast" if has_autocast else "fp32",
        sums_in_fp32=config.get("data_types", {}).get("grad_accum_dtype") == "fp32",
        overlaps=bool(zero.get("overlap_comm", stage == 3)),
        is_contiguous=bool(zero.get("contiguous_gradients", True)),
        offloads_optimizer=_leaves_gpu(zero.get("offload_optimizer")),
        offloads_parameters=_leaves_gpu(zero.get("offload_param")),
        **{name: int(size) for name, size in sizes.items() if size is not None},
    )


def _leaves_gpu(offload: dict[str, Any] | None) -> bool:
    return offload is not None and offload.get("device", "none") != "none"

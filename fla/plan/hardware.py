"""What predictions start from: published figures of GPUs, and assumptions about all the rest.

Nothing here has been measured on a GPU by this project. Host times were measured on one core of an
Intel Xeon, beside other work: a model of mbart-large's structure at a sixteenth of its width, so
that its arithmetic took no time.
"""

from dataclasses import dataclass, replace

_DAY_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU in a node of eight; bytes and operations a second, as published."""

    name: str
    bf16_flops: float
    """Of dense matrix products in bfloat16."""
    fp32_flops: float
    """In float32, without TF32."""
    memory_bytes: float
    """Of its memory."""
    link_bytes: float
    """Of NVLink, in each direction."""
    network_bytes: float
    """Of its share of the node's network, in each direction."""
    num_decoders: int
    """NVDEC engines."""


H100 = Gpu(
    name="H100 SXM",
    bf16_flops=989e12,
    fp32_flops=67e12,
    memory_bytes=3.35e12,
    link_bytes=450e9,
    network_bytes=50e9,
    num_decoders=7,
)
"""NVIDIA's data sheets of H100 and DGX H100: 1,979 TFLOP/s with sparsity, half without; NVLink 900
GB/s both ways; eight ConnectX-7 of 400 Gb/s."""

H200 = replace(H100, name="H200 SXM", memory_bytes=4.8e12)
"""NVIDIA's data sheets of H200 and DGX H200: an H100 with other memory."""

A100 = Gpu(
    name="A100 SXM 80 GB",
    bf16_flops=312e12,
    fp32_flops=19.5e12,
    memory_bytes=2.039e12,
    link_bytes=300e9,
    network_bytes=25e9,
    num_decoders=5,
)
"""NVIDIA's data sheets of A100 and DGX A100: NVLink 600 GB/s both ways; eight ConnectX-6 of 200
Gb/s."""

GPUS = {"h100": H100, "h200": H200, "a100": A100}


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What no data sheet says; seconds, and bytes a second."""

    gpus_per_node: int = 8
    llm_utilization: float = 0.3
    """Part of the published operations a second that the LLM's products reach. Published for models
    of 280 to 540 billion parameters: 0.30 to 0.46 (Chowdhery et al. 2022, table 3)."""
    encoder_utilization: float = 0.2
    """The same of ResNet-18's convolutions."""
    operation_s: float = 12e-6
    """Host time of one operation of PyTorch: 20 to 26 ms for 1,624 of them."""
    zero3_matrix_s: float = 0.8e-3
    """Host time that ZeRO-3 adds a matrix and micro-batch, to fetch it and let it go, forward and
    backward: 160 to 200 ms for 197."""
    zero_parameter_s: float = 70e-6
    """Host time that ZeRO 1 and 2 add a parameter and micro-batch: 32 to 44 ms for 519."""
    update_parameter_s: float = 45e-6
    """Host time of the update, a parameter: 23 to 27 ms for 519."""
    link_fraction: float = 0.8
    """Part of the published bandwidths that collectives reach."""
    link_hop_s: float = 0.6e-6
    """A step of a ring over NVLink: what NCCL reckons with for small messages (tuning.cc, LL)."""
    network_hop_s: float = 2.7e-6
    """The same between nodes."""
    tree_hop_s: float = 5.0e-6
    """A step of a tree between nodes, which all-reduces may take."""
    decoder_frames: float = 360.0
    """Frames a second of one NVDEC engine at 1080p H.264. A third party's figure for an H100, 2,500
    over all seven; NVIDIA's own table was not to be had."""
    read_bytes: float = 5e9
    """Of the shared file system, all nodes together."""
    copy_bytes: float = 5e9
    """From a GPU to host memory that is not pinned: training waits for it at a checkpoint."""
    write_bytes: float = 2e9
    """The same, writing."""
    rank_write_bytes: float = 1e9
    """One rank serializes and writes no faster."""
    hash_bytes: float = 0.5e9
    """A rank's SHA-256 of what it has written: 0.5 GB/s measured."""
    restart_s: float = 300.0
    """From a failure to the first step again: the scheduler, imports, loading."""
    node_failure_s: float = 54 * 2048 / 419 * _DAY_S
    """Mean time between failures of a node of eight: 419 unexpected interruptions in 54 days on
    16,384 H100 (Llama Team 2024, section 3.3.4)."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a prediction is for."""

    gpu: Gpu = H100
    assumptions: Assumptions = Assumptions()

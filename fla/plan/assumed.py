"""What predictions assume, a line each, with its source."""

from collections.abc import Iterator

from fla.config.schema import Stage2Config
from fla.plan.hardware import Assumptions, Machine
from fla.plan.measured import MeasuredRun
from fla.plan.run import RunPlan

_DAY_S = 86400


def list_assumptions(
    plan: RunPlan, config: Stage2Config, machine: Machine, measured: MeasuredRun | None
) -> Iterator[str]:
    """Sentences.

    Args:
        plan: Of the run.
        config: Of the run.
        machine: That is predicted for.
        measured: What predictions start from; None: nothing was measured.
    """
    yield from _of_speed(machine, measured)
    yield from _of_clips(plan, config)
    yield from _of_host(plan, machine.assumptions)
    yield from _of_network(plan, machine)
    yield from _of_data(config, machine)
    yield from _of_failures(machine.assumptions)


def _of_speed(machine: Machine, measured: MeasuredRun | None) -> Iterator[str]:
    gpu, it = machine.gpu, machine.assumptions
    yield (
        f"{gpu.name}: {gpu.bf16_flops / 1e12:.0f} TFLOP/s in bfloat16, {gpu.fp32_flops / 1e12:g} "
        f"in float32, memory {gpu.memory_bytes / 1e12:.2f} TB/s (NVIDIA's data sheet)."
    )
    yield (
        f"Of these the LLM reaches {it.llm_utilization:.0%} (published for models of 280 to 540 "
        "billion parameters: 30 to 46 %, Chowdhery et al. 2022; small ones may reach less), the "
        f"visual encoder {it.encoder_utilization:.0%} (a guess). Neither was measured."
    )
    if measured is None:
        return
    step, devices = measured.step, measured.devices
    yield (
        f"Measured on {len(devices)} x {devices[0]}: {1000 * step.step_s:.1f} ms a step, of which "
        f"{step.wait_fraction:.0%} waiting for data, medians of {step.num_rows} rows. Compute, "
        f"host and slowest rank are {measured.calibration.working:.3g} times what the assumptions "
        f"give: predicted are more of the same devices, with the links of {gpu.name}."
    )
    if measured.shows_data:
        yield f"Its data took {measured.calibration.data:.3g} times as long as assumed, and does."
    else:
        yield "It did not wait for its data, so how fast that could come is as assumed."


def _of_clips(plan: RunPlan, config: Stage2Config) -> Iterator[str]:
    if plan.length is not None:
        yield (
            f"Clips are the {plan.length.num_samples} of the training split, dealt out as a run "
            "does it in its first epoch."
        )
        return
    yield (
        f"No manifests: every clip has data.max_frames ({config.data.max_frames}) frames and "
        f"text.max_tokens ({config.text.max_tokens}) tokens, so no rank waits for another. Real "
        "clips are shorter: set these keys to what is usual. PHOENIX14T's have 29 frames."
    )


def _of_host(plan: RunPlan, it: Assumptions) -> Iterator[str]:
    added = {
        0: "",
        3: f", {1e3 * it.zero3_matrix_s:g} ms that ZeRO-3 adds a matrix and micro-batch",
    }.get(
        plan.sharding.stage,
        f", {1e6 * it.zero_parameter_s:g} us that ZeRO adds a parameter and micro-batch",
    )
    yield (
        f"The host needs {1e6 * it.operation_s:g} us an operation of PyTorch{added}, and "
        f"{1e6 * it.update_parameter_s:g} us a parameter in the update: measured on one core of an "
        "Intel Xeon beside other work, without a GPU, so read them as upper bounds."
    )


def _of_network(plan: RunPlan, machine: Machine) -> Iterator[str]:
    gpu, it = machine.gpu, machine.assumptions
    yield (
        f"Nodes of {it.gpus_per_node}; a GPU has {gpu.link_bytes / 1e9:.0f} GB/s of NVLink and "
        f"{gpu.network_bytes / 1e9:.0f} GB/s of network in each direction (NVIDIA's data sheets); "
        f"collectives reach {it.link_fraction:.0%} of it (a guess)."
    )
    yield (
        f"Rings, with {1e6 * it.link_hop_s:g} us a step over NVLink and {1e6 * it.network_hop_s:g} "
        f"between nodes; all-reduces may take trees, {1e6 * it.tree_hop_s:g} us (what NCCL reckons "
        "with for small messages, tuning.cc)."
    )
    stage = plan.sharding.stage
    sends = {
        0: "all-reduces gradients once a step",
        1: "all-reduces gradients once a step, and gathers weights",
        2: "all-reduces gradients in every micro-batch, and gathers weights once a step",
        3: "gathers weights twice and reduce-scatters gradients in every micro-batch",
    }[stage]
    beside = "beside computing, without loss" if plan.sharding.overlaps and stage else "not hidden"
    yield f"ZeRO-{stage} {sends} (counted, DeepSpeed 0.19.8): {beside}."


def _of_data(config: Stage2Config, machine: Machine) -> Iterator[str]:
    it = machine.assumptions
    if config.features.mode == "cached":
        yield f"The file system gives {it.read_bytes / 1e9:g} GB/s to all nodes together (a guess)."
        return
    yield (
        f"{machine.gpu.num_decoders} NVDEC a GPU, {it.decoder_frames:g} frames/s each at 1080p (a "
        "third party's figure). Frames that the stride leaves out are decoded, too; all engines "
        "are busy; recordings are H.264, and reading them takes no time."
    )


def _of_failures(it: Assumptions) -> Iterator[str]:
    yield (
        f"Checkpoints are copied at {it.copy_bytes / 1e9:g} GB/s a GPU, written in the background "
        f"at {it.write_bytes / 1e9:g} GB/s, by a rank at "
        f"{it.rank_write_bytes / 1e9:g} (guesses), and read again for SHA-256 at "
        f"{it.hash_bytes / 1e9:g} GB/s a rank (measured on an Intel Xeon); a restart takes "
        f"{it.restart_s / 60:g} min (a guess)."
    )
    yield (
        f"A node fails every {it.node_failure_s / _DAY_S:.0f} days (419 interruptions of 2,048 "
        "nodes in 54 days, Llama Team 2024); failures are independent. Best interval: sqrt(2 C M), "
        "Young 1974, Daly 2006."
    )

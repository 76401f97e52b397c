"""What is there to check with: the GPU, its driver, NVDEC, the packages, a compiler.

What is missing is said in a sentence that tells what to do.
"""

import ctypes
import importlib
import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pynvml
import torch

from fla.provenance import read_git_state, read_versions
from tests.gpu.rows import Row
from tests.gpu.setting import Setting

GIB = 2**30
# Stage 2 at full size, by tools/plan_run.py, and what CUDA takes beside it.
NEEDED_GPU_GIB = 24.0
# Checkpoints, exports and weights of an mbart-large, one run at a time.
NEEDED_DISK_GIB = 30.0
NO_COMPILER = (
    "there is no C++ compiler, or no Python.h, so torch.compile is not checked; install g++ and "
    "python3-dev"
)


def find_missing() -> str:
    """Why there is no GPU to check with, a sentence; empty: there is one."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return "DS_ACCELERATOR is cpu, which keeps everything off the GPU. Unset it."
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible and not visible.split(",")[0].isdecimal():
        return (
            f"CUDA_VISIBLE_DEVICES ({visible}) names no GPU by its number, and DeepSpeed's "
            "launcher takes nothing else. Give a number as nvidia-smi lists them."
        )
    if torch.version.cuda is None:
        return "This PyTorch is built without CUDA. Install the one that PyPI has for Linux."
    try:
        driver = _read_driver()
    except pynvml.NVMLError as error:
        return (
            f"There is no NVIDIA GPU here, or no driver for it ({error}). Run this on a machine "
            "where nvidia-smi lists one."
        )
    if torch.cuda.is_available():
        return ""
    return (
        f"PyTorch sees no GPU: the driver is {driver}, PyTorch wants one for CUDA "
        f"{torch.version.cuda}, and CUDA_VISIBLE_DEVICES is "
        f"{'not set' if visible is None else repr(visible)}. Update the driver, or name a GPU."
    )


def describe_environment(setting: Setting) -> Iterator[Row]:
    """Rows about everything that the other checks need."""
    if setting.is_gpu:
        yield from _describe_gpu()
    else:
        yield Row(name="environment: GPU", note="this is a rehearsal on the CPU")
    yield _import("nvidia.dali", "pip install -e . installs it on Linux with x86_64.")
    yield _import("fla.deepspeed_setup", "pip install -e . installs DeepSpeed.")
    free = shutil.disk_usage(setting.folder).free / GIB
    yield Row(
        name="environment: free disk",
        value=free,
        unit="GiB",
        at_least=NEEDED_DISK_GIB if setting.is_gpu else None,
        note=str(setting.folder),
    )
    compiler = find_compiler()
    yield Row(
        name="environment: compiler",
        value=1.0 if compiler else None,
        note=compiler or NO_COMPILER,
    )


def describe_machine(setting: Setting) -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    return {
        "device": torch.cuda.get_device_name(0) if setting.is_gpu else "cpu",
        "driver": _read_driver() if setting.is_gpu else "",
        "cuda": torch.version.cuda,
        "cores": len(os.sched_getaffinity(0)),
        "versions": read_versions(),
        "git": read_git_state(),
    }


def find_compiler() -> str:
    """Path of what torch.compile compiles with; empty: it, or Python's headers, are missing."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    return compiler if compiler and headers.is_file() else ""


def check_nvdec(find: str = "libnvcuvid.so.1") -> str:
    """Why NVDEC cannot be used, a sentence; empty: its library is there."""
    try:
        ctypes.CDLL(find)
    except OSError:
        return (
            f"{find} is not there, which comes with the driver and which DALI decodes with. In a "
            "container, start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility,video."
        )
    return ""


def _describe_gpu() -> Iterator[Row]:
    properties = torch.cuda.get_device_properties(0)
    yield Row(
        name="environment: GPU memory",
        value=properties.total_memory / GIB,
        unit="GiB",
        note=f"{properties.name}, driver {_read_driver()}, CUDA {torch.version.cuda} of PyTorch",
    )
    free, total = torch.cuda.mem_get_info(0)
    yield Row(
        name="environment: free GPU memory",
        value=free / GIB,
        unit="GiB",
        at_least=NEEDED_GPU_GIB,
        note=_describe_others((total - free) / GIB),
    )
    missing = check_nvdec()
    yield Row(name="environment: NVDEC", value=None if missing else 1.0, fault=missing)
    yield Row(
        name="environment: bfloat16",
        value=float(torch.cuda.is_bf16_supported(including_emulation=False)),
        at_least=1.0,
        note="1: the GPU computes in it by itself",
    )


def _describe_others(used_gib: float) -> str:
    pids = [pid for pid in _read_pids() if pid != os.getpid()]
    if not pids:
        return f"{used_gib:.1f} GiB are in use"
    # In a container these are numbers of the host, this process' own may be among them.
    listed = ", ".join(map(str, pids))
    return f"{used_gib:.1f} GiB are in use, by processes {listed}; others make times longer"


def _read_pids() -> list[int]:
    pynvml.nvmlInit()
    # torch knows which of the machine's GPUs is its first.
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid.encode())
        return [it.pid for it in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    except pynvml.NVMLError:
        # A slice of a GPU has no list of its own.
        return []


def _read_driver() -> str:
    pynvml.nvmlInit()
    version = pynvml.nvmlSystemGetDriverVersion()
    return version.decode() if isinstance(version, bytes) else version


def _import(name: str, advice: str) -> Row:
    try:
        module: ModuleType = importlib.import_module(name)
    except ImportError as error:
        return Row(name=f"environment: {name}", fault=f"It cannot be imported ({error}). {advice}")
    return Row(name=f"environment: {name}", value=1.0, note=str(Path(str(module.__file__)).parent))

"""DeepSpeed, imported once and the same for all: on the right device, without a compiler, quiet."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    # What DeepSpeed would find out by itself, with a warning from every process.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
# Its autotuner, which is not used, would import mlflow for seconds; ImportError is fine with it.
if "mlflow" not in sys.modules:
    sys.modules["mlflow"] = None  # type: ignore[assignment]
import deepspeed
import deepspeed.ops

if sys.modules["mlflow"] is None:
    del sys.modules["mlflow"]
from deepspeed.utils import logger as deepspeed_logger
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

__all__ = ["deepspeed", "read_masters"]

# DeepSpeed's calls, not ours: one line a collective.
warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed.c10d_logger")
# Its only user is inference_all_reduce; left on, a CPU run wants a C++ compiler and 75 s. All of it
# is set: to read it is to try all operators, with a compiler and warnings on stdout.
deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
deepspeed_logger.setLevel(logging.WARNING)


def read_masters(folder: Path) -> dict[str, Any]:
    """The float32 weights of a checkpoint, by name; `contiguous()` puts each together.

    What is in the files is unpickled: look through them first.

    Args:
        folder: As DeepSpeed wrote it, under ZeRO 1, 2 or 3.
    """
    masters: dict[str, Any] = get_fp32_state_dict_from_zero_checkpoint(
        str(folder.parent), tag=folder.name, lazy_mode=True
    )
    return masters

"""DeepSpeed, imported once and the same for all: on the right device, without a compiler, quiet."""

import logging
import os
import warnings

import torch

if not torch.cuda.is_available():
    # What DeepSpeed would find out by itself, with a warning from every process.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
import deepspeed
import deepspeed.ops
from deepspeed.utils import logger as deepspeed_logger

__all__ = ["deepspeed"]

# DeepSpeed's calls, not ours: one line a collective.
warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed.c10d_logger")
# Its only user is inference_all_reduce; left on, a CPU run wants a C++ compiler and 75 s.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed_logger.setLevel(logging.WARNING)

"""A launcher of a stage, run as ever, that leaves its peak of GPU memory: OUT SCRIPT [word ...]

Only the process itself knows what its tensors took at most.
"""

import json
import runpy
import sys
from pathlib import Path

import torch


def main() -> None:
    out, script, *words = sys.argv[1:]
    sys.argv = [script, *words]
    # As if the script itself had been started.
    sys.path[0] = str(Path(script).resolve().parent)
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        Path(out).write_text(json.dumps(_read_peaks()), encoding="utf-8")


def _read_peaks() -> dict[str, int]:
    """Bytes of tensors, and with what the allocator keeps for more; none on a CPU."""
    if not torch.cuda.is_initialized():
        return {}
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
    }


if __name__ == "__main__":
    main()

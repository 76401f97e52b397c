"""Engines in tests."""

from pathlib import Path

from torch import distributed

from fla.engine import Engine


def write_checkpoint(engine: Engine, folder: Path) -> None:
    """Write the files of a checkpoint at once; every rank calls it."""
    for path, write in engine.copy_files(folder):
        write(path)
    # As training does, for what another rank wrote is read, too.
    distributed.barrier()

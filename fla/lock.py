"""A file that one process at a time holds, on every machine that shares the disk."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fla.errors import FlaError

log = logging.getLogger(__name__)


@contextmanager
def hold_lock(path: Path, *, otherwise: FlaError) -> Iterator[None]:
    """Hold a file until the block, or the process, ends.

    Args:
        path: Made where it is missing, and left there.
        otherwise: Raised where another process holds it.

    Raises:
        FlaError: `otherwise`.
        OSError: The file cannot be made.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise otherwise from None
        except OSError as error:
            # Some shared disks have no locks.
            log.warning("%s cannot be locked (%s): nobody else may work there.", path, error)
        yield

"""Start ranks without a launcher: python -m tests.helpers.start_ranks NUM_RANKS SCRIPT [word ...]

As srun does: every rank is told its place by the environment. Ends with the first code that is not
0, and ends the other ranks then.
"""

import os
import subprocess
import sys
import time

from tests.helpers.commands import free_port


def main() -> int:
    num_ranks, words = int(sys.argv[1]), sys.argv[2:]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(num_ranks),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, *words],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(num_ranks)
    ]
    code = 0
    while code == 0 and any(rank.poll() is None for rank in ranks):
        time.sleep(0.1)
        code = next((rank.returncode for rank in ranks if rank.returncode), 0)
    for rank in ranks:
        if rank.poll() is None:
            rank.terminate()
        rank.wait()
    return code


if __name__ == "__main__":
    sys.exit(main())

"""Ranks whose launcher is gone end, whenever it went."""

from pathlib import Path

import pytest

from tests.helpers.faults import Launched, launched

SCRIPT = """
import pathlib, sys, time
pathlib.Path({started!r}).touch()
# As imports take their time.
time.sleep({import_s})
from fla.orphans import end_with_launcher
end_with_launcher()
pathlib.Path({ready!r}).touch()
time.sleep(600)
"""


def start(folder: Path, *, import_s: float) -> list[str]:
    script = folder / "rank.py"
    script.write_text(
        SCRIPT.format(
            started=str(folder / "started"), ready=str(folder / "ready"), import_s=import_s
        )
    )
    return ["deepspeed", "--num_gpus", "1", str(script)]


def lose_launcher(run: Launched) -> None:
    ranks = run.ranks()
    assert ranks
    run.launcher_of_ranks().kill()
    for rank in ranks:
        rank.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "import_s"), [("started", 3.0), ("ready", 0.0)])
def test_a_rank_ends_when_its_launcher_does_also_while_it_imports(tmp_path, moment, import_s):
    with launched(start(tmp_path, import_s=import_s), tmp_path / "log") as run:
        run.wait_until((tmp_path / moment).exists, timeout_s=100)

        lose_launcher(run)

    # While it imported nothing had been set up.
    assert (tmp_path / "ready").exists() == (moment == "ready")

"""Ways in which a run is stopped; each returns when all of it has ended."""

import signal

from tests.helpers.faults import Launched

PATIENCE_S = 60


def lose_power(run: Launched) -> None:
    run.kill_all()


def lose_a_rank(run: Launched) -> None:
    run.ranks()[1].kill()
    assert run.end(timeout_s=PATIENCE_S) != 0


def lose_the_starter(run: Launched) -> None:
    """`deepspeed` dies, launch.py and the ranks are left alone."""
    orphans = run.tree()[1:]
    run.process.kill()
    for orphan in orphans:
        orphan.wait(PATIENCE_S)


def lose_the_launcher(run: Launched) -> None:
    orphans = run.ranks()
    run.launcher_of_ranks().kill()
    for orphan in orphans:
        orphan.wait(PATIENCE_S)


def ask_the_launcher_to_stop(run: Launched) -> None:
    run.launcher_of_ranks().send_signal(signal.SIGTERM)
    assert run.end(timeout_s=PATIENCE_S) != 0
    assert "which is saved. The same command goes on from there " in run.log.read_text()


def warn_a_rank(run: Launched) -> None:
    """As a scheduler does, long before it kills."""
    run.ranks()[1].send_signal(signal.SIGUSR1)
    assert run.end(timeout_s=PATIENCE_S) == 75


def hang_a_rank(run: Launched) -> None:
    """The others wait as long as train.patience_minutes; DeepSpeed's launcher kills 30 s later."""
    run.ranks()[1].send_signal(signal.SIGSTOP)
    assert run.end(timeout_s=3 * PATIENCE_S) != 0


STOPS = (
    lose_power,
    hang_a_rank,
    lose_a_rank,
    lose_the_starter,
    lose_the_launcher,
    ask_the_launcher_to_stop,
    warn_a_rank,
)

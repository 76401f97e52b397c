"""The batch script under a real Slurm, on one machine: it is warned, saves, and is queued again."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fla.run_folder import RunFolder
from tests.helpers.commands import ROOT, deepspeed, environment, free_port, run_well
from tests.helpers.faults import expect_same_runs, has_step

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
STEPS = ("train.num_epochs=4", "train.max_steps=10", "train.evaluate_every_steps=5")

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)),
        reason=f"needs root and {', '.join(PROGRAMS)}: apt install slurm-wlm munge",
    ),
]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A cluster of this machine; gives the environment of its commands."""
    for name in ("state", "spool"):
        (tmp_path / name).mkdir()
    config = tmp_path / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    config.write_text(
        CONFIG.format(
            folder=tmp_path, host=host, controller_port=free_port(), node_port=free_port()
        )
    )
    # The cores of the ranks of a job are not those of a test that sets OMP_NUM_THREADS.
    env = environment() | {"SLURM_CONF": str(config)}
    run_dir = Path("/run/munge")
    run_dir.mkdir(exist_ok=True)
    shutil.chown(run_dir, "munge", "munge")
    subprocess.run(["su", "-s", "/bin/sh", "munge", "-c", "munged"], check=False)
    daemons = [
        subprocess.Popen([program, "-D"], env=env, stdout=subprocess.DEVNULL)
        for program in ("slurmctld", "slurmd")
    ]
    try:
        wait_for_state("idle", ["sinfo", "-h", "-o", "%T"], env)
        yield env
    finally:
        subprocess.run(["scancel", "--user", "root"], env=env, check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def wait_for_state(state: str, command: list[str], env: dict[str, str]) -> None:
    deadline = time.monotonic() + 300
    said = ""
    while said != state:
        assert time.monotonic() < deadline, f"{command} says {said!r}, not {state!r}."
        time.sleep(0.5)
        said = subprocess.run(
            command, env=env, capture_output=True, text=True, check=False
        ).stdout.strip()


TASK = """
import os, signal, sys, time
number = os.environ["SLURM_ARRAY_TASK_ID"]
open(os.path.join({folder!r}, "started_" + number), "a").write(".")
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
time.sleep(0 if number == "0" else 120)
"""


def test_a_task_of_an_array_that_is_warned_is_queued_again_alone(slurm, tmp_path):
    task = tmp_path / "task.py"
    task.write_text(TASK.format(folder=str(tmp_path)))
    sbatch = ["sbatch", "--parsable", "--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=1"]
    sbatch += ["--gpus-per-node=0", "--time=30", f"--output={tmp_path}/%a.out", "--array=0-1"]
    job = subprocess.run(
        [*sbatch, "launchers/slurm/train.sbatch", str(task)],
        cwd=ROOT, env=slurm, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    states = [["squeue", "-h", "-t", "all", "-j", f"{job}_{i}", "-o", "%T"] for i in (0, 1)]
    wait_for_state("COMPLETED", states[0], slurm)
    deadline = time.monotonic() + 60
    while not (tmp_path / "started_1").exists():
        assert time.monotonic() < deadline, (tmp_path / "1.out").read_text()
        time.sleep(0.1)

    subprocess.run(["scancel", "--signal=USR1", "--batch", f"{job}_1"], env=slurm, check=True)

    wait_for_state("PENDING", states[1], slurm)
    wait_for_state("COMPLETED", states[0], slurm)
    assert (tmp_path / "started_0").read_text() == "."


def test_a_job_that_is_warned_saves_is_queued_again_and_ends_as_one_that_was_not(
    slurm, corpus, tmp_path
):
    whole, warned = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "warned")
    run_well(deepspeed(*corpus.stage1(whole.path), *STEPS), timeout_s=300)
    sbatch = ["sbatch", "--parsable", "--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1"]
    sbatch += ["--gpus-per-node=0", "--time=30", f"--output={tmp_path}/job.out"]
    words = [*corpus.stage1(warned.path), *STEPS]
    job = subprocess.run(
        [*sbatch, "launchers/slurm/train.sbatch", *map(str, words)],
        cwd=ROOT, env=slurm, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    squeue = ["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"]
    deadline = time.monotonic() + 150
    while not has_step(warned, 3)():
        assert time.monotonic() < deadline, (tmp_path / "job.out").read_text()
        time.sleep(0.05)

    # What Slurm does by itself before the time limit.
    subprocess.run(["scancel", "--signal=USR1", "--batch", job], env=slurm, check=True)
    wait_for_state("PENDING", squeue, slurm)
    assert "which is saved. The same command goes on" in (tmp_path / "job.out").read_text()
    # Slurm lets two minutes pass. At once the node would still refuse what it has just ended.
    later = ["scontrol", "update", f"JobId={job}", "StartTime=now+10"]
    subprocess.run(later, env=slurm, check=True)
    wait_for_state("COMPLETED", squeue, slurm)

    assert (warned.path / "DONE").exists(), (tmp_path / "job.out").read_text()
    expect_same_runs(whole, warned)

"""Two nodes on one machine: two network namespaces, a launcher in each, a cable between them."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fla.run_folder import RunFolder
from tests.helpers.commands import ROOT, environment, free_port, run_well
from tests.helpers.faults import has_step, metrics_of

STEPS = (
    "train.num_epochs=4",
    "train.max_steps=10",
    "train.evaluate_every_steps=4",
    # No packet says that a cable is cut.
    "train.patience_minutes=0.5",
)
ADDRESSES = ("10.77.0.1", "10.77.0.2")
# A dead connection is noticed by the kernel, or by the ranks' own patience.
BOUND_S = 120


def have_namespaces() -> bool:
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    probe = f"fla-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
    if made.returncode == 0:
        subprocess.run(["ip", "netns", "delete", probe], check=False)
    return made.returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not have_namespaces(), reason="needs root and `ip netns`: apt install iproute2"
    ),
]


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


@pytest.fixture
def nodes() -> Iterator[tuple[str, str]]:
    """Names of two namespaces that reach each other."""
    names = tuple(f"fla{number}-{os.getpid()}" for number in (0, 1))
    for name in names:
        ip(f"netns add {name}")
        ip(f"-n {name} link set lo up")
    ip(f"link add cable0 netns {names[0]} type veth peer name cable1 netns {names[1]}")
    for number, (name, address) in enumerate(zip(names, ADDRESSES, strict=True)):
        ip(f"-n {name} address add {address}/24 dev cable{number}")
        ip(f"-n {name} link set cable{number} up")
    try:
        yield names
    finally:
        for name in names:
            ip(f"netns delete {name}")


class Node:
    """DeepSpeed's launcher in a namespace, with one rank."""

    def __init__(self, name: str, number: int, words: list[str], port: int, folder: Path) -> None:
        hosts = folder / "hosts"
        hosts.write_text("".join(f"{address} slots=1\n" for address in ADDRESSES))
        self.log = folder / f"node{number}.log"
        command = ["ip", "netns", "exec", name, shutil.which("deepspeed") or "deepspeed"]
        command += ["--hostfile", str(hosts), "--no_ssh", "--node_rank", str(number)]
        command += ["--master_addr", ADDRESSES[0], "--master_port", str(port), *map(str, words)]
        env = environment() | {"GLOO_SOCKET_IFNAME": f"cable{number}", "DS_ACCELERATOR": "cpu"}
        with self.log.open("a") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill_all(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> tuple[int, float]:
        """Exit status, and how long it took."""
        start_s = time.monotonic()
        return self.process.wait(BOUND_S), time.monotonic() - start_s


@contextmanager
def both(nodes: tuple[str, str], words: list[str], folder: Path) -> Iterator[list[Node]]:
    """A launcher on each node, both ended in any case."""
    port = free_port()
    running = [Node(name, number, words, port, folder) for number, name in enumerate(nodes)]
    try:
        yield running
    finally:
        for node in running:
            if node.process.poll() is None:
                node.kill_all()


def wait_for_step(folder: RunFolder, step: int, running: list[Node]) -> None:
    deadline = time.monotonic() + 200
    while not has_step(folder, step)():
        assert all(node.process.poll() is None for node in running), running[0].log.read_text()
        assert time.monotonic() < deadline, running[0].log.read_text()
        time.sleep(0.05)


@pytest.fixture
def words(corpus, tmp_path) -> list[str]:
    run_well(["deepspeed", *map(str, corpus.stage1(tmp_path / "encoder"))], timeout_s=250)
    stage2 = corpus.stage2(tmp_path / "run", tmp_path / "encoder" / "export")
    return [*map(str, stage2), "deepspeed=ds_configs/zero3_fp32.json", *STEPS]


def test_two_nodes_train_together_and_one_goes_on_when_the_other_is_lost(nodes, words, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with both(nodes, words, tmp_path) as running:
        wait_for_step(folder, 5, running)
        running[1].kill_all()
        status, seconds = running[0].end()

    assert status != 0
    assert seconds < 60
    assert {path.name for path in folder.logs.iterdir()} == {"rank_000.log", "rank_001.log"}
    run_well(["deepspeed", *words], timeout_s=300)
    assert (folder.path / "DONE").exists()
    losses = {step for step, name in metrics_of(folder) if name == "train/loss_nats_per_token"}
    assert losses == set(range(1, 11))


def test_a_cable_that_is_cut_ends_both_nodes(nodes, words, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with both(nodes, words, tmp_path) as running:
        wait_for_step(folder, 5, running)
        ip(f"-n {nodes[1]} link set cable1 down")
        ended = [node.end() for node in running]

    assert all(status != 0 for status, _ in ended)
    run_well(["deepspeed", *words], timeout_s=300)
    assert (folder.path / "DONE").exists()

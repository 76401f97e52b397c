"""Servers with a page to look at, in processes of their own."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TextIO

from tests.helpers.commands import ROOT, environment, free_port, python

PATIENCE_S = 60


@dataclass(frozen=True)
class Server:
    """A server on this machine."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def kill(self) -> None:
        """SIGKILL to it and its own processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def serve_page(
    export: Path, *, temporary: Path, options: Sequence[str | Path] = ()
) -> Iterator[Server]:
    """The page that translates uploads.

    Args:
        export: Its model.
        temporary: Where the server puts temporary files.
        options: Words of tools/serve_page.py besides.
    """
    command = python("tools/serve_page.py", "--model", export, "--port", "0", *options)
    folders = {"TMPDIR": str(temporary), "DS_ACCELERATOR": "cpu"}
    with _start(command, folders, said=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        said = re.match(r"Open http://127\.0\.0\.1:(\d+) ", line)
        assert said, f"the page did not start: {line}"
        yield Server(process, int(said[1]))


@contextmanager
def serve_mlflow(store: Path, *, temporary: Path) -> Iterator[Server]:
    """MLflow's own server.

    Args:
        store: SQLite file, of which it is given a copy.
        temporary: Where the copy lies.
    """
    copy = temporary / "mlflow.db"
    with (
        closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    with serve_store(copy, port=free_port()) as server:
        yield server


@contextmanager
def serve_store(store: Path, *, port: int) -> Iterator[Server]:
    """MLflow's own server on a SQLite file; log and artifacts lie beside it."""
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{store}", "--port", str(port)]
    command += ["--artifacts-destination", (store.parent / "served_artifacts").as_uri()]
    # Jobs are for judges and traces, and seven more processes.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    said = store.with_suffix(".log")
    with said.open("a") as log, _start(command, quiet, said=log) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not _is_healthy(port):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, "MLflow did not start"
            time.sleep(0.1)
        yield Server(process, port)


@contextmanager
def _start(
    command: Sequence[str], extra: dict[str, str], *, said: int | TextIO
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment() | extra,
        stdout=said,
        stderr=subprocess.STDOUT,
        text=True,
        # A server's own processes end with it.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _is_healthy(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()

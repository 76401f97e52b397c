"""The page that translates videos, without a browser."""

import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast
from urllib.request import urlopen

import pytest
from starlette.testclient import TestClient

from fla.errors import ConfigError
from fla.page import Limits, build_app, name_in_url, serve_page
from fla.translate import VideoTranslator
from tests.helpers.commands import ROOT, environment

# None of these tests gets as far as a translation.
NOBODY = cast(VideoTranslator, None)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    return tmp_path


def upload(client: TestClient, num_bytes: int) -> int:
    """Status of an upload that the browser's own check did not see."""
    files = {"files": ("a.mp4", bytes(num_bytes))}
    return int(client.post("/gradio_api/upload", files=files).status_code)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_server_itself_refuses_a_file_that_is_too_large(temporary):
    app = build_app(NOBODY, uploads=temporary, limits=Limits(max_size_mb=0.1))

    with TestClient(app) as client:
        statuses = upload(client, 100_000), upload(client, 100_001)

    assert statuses == (200, 413)


def test_an_upload_that_nobody_translates_is_deleted_in_time(temporary):
    app = build_app(NOBODY, uploads=temporary, limits=Limits(max_age_s=1))

    with TestClient(app) as client:
        upload(client, 1000)
        assert len(files(temporary)) == 1
        time.sleep(2.5)

        assert files(temporary) == []


def test_the_page_answers_at_the_address_that_it_prints():
    assert name_in_url("127.0.0.1") == "127.0.0.1"
    # The middleware, too, leaves an address of version 6 in its brackets.
    assert name_in_url("::1") == "[::1]"


# uvicorn ends by the signal that it was told to end by.
SERVE = """
from fla.page import Limits, serve_page
try:
    serve_page(None, host="0.0.0.0", port=0, limits=Limits())
except KeyboardInterrupt:
    pass
"""


@pytest.mark.slow
def test_a_page_for_other_machines_says_that_it_has_no_password(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", SERVE],
        cwd=ROOT,
        env=environment() | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        said = [server.stdout.readline(), server.stdout.readline()]
        port = int(said[1].split()[1].rpartition(":")[2])
        # It answers once it has taken over the signals.
        with urlopen(f"http://127.0.0.1:{port}", timeout=60) as answer:
            assert answer.status == 200
        server.send_signal(signal.SIGINT)

    assert server.returncode == 0
    assert "0.0.0.0 is not this machine alone. The page has no password" in said[0]
    assert said[1].startswith("Open http://0.0.0.0:")
    assert files(tmp_path) == []


def test_a_port_that_is_taken_is_named(temporary):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}: nothing can listen there"):
            serve_page(NOBODY, host="127.0.0.1", port=port, limits=Limits())


def test_without_gradio_the_tool_says_how_to_install_it():
    script = (
        "import runpy, sys; sys.modules['gradio'] = None; "
        "sys.argv = ['tools/serve_page.py', '--model', 'nowhere']; "
        "runpy.run_path('tools/serve_page.py', run_name='__main__')"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr == (
        "error: The page needs gradio, which is not installed. Run `pip install 'fla-slt[demo]'`.\n"
    )

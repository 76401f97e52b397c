"""A tracking server that lies: names of artifacts lead nowhere, and what is no table is refused."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fla.compare.comparison import compare_runs
from fla.compare.from_mlflow import find_runs, log_report
from fla.compare.report import render_report
from fla.errors import ConfigError
from tests.helpers.compared_runs import REFERENCES
from tests.security.traps import files_below

RUN_ID = "0123456789abcdef0123456789abcdef"
ROWS = [[i, reference, "A cat."] for i, reference in REFERENCES.items()]
TABLE = {"columns": ["id", "reference", "hypothesis"], "data": ROWS}


class Liar(ThreadingHTTPServer):
    """Has one run, and says of its artifacts what a test wants."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: list[dict[str, object]] = [{"path": "test.json", "is_dir": False}]
        self.listings: dict[str, list[dict[str, object]]] = {}
        self.content = json.dumps(TABLE).encode()
        self.tags: dict[str, str] = {}
        self.name = "a run"
        self.asked: list[str] = []


class _Answers(BaseHTTPRequestHandler):
    server: Liar

    def log_message(self, *words: object) -> None: ...

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        self.server.asked.append(self.path)
        if path.endswith("/runs/get"):
            return self._answer(json.dumps(self._run()).encode())
        if path.endswith("/mlflow-artifacts/artifacts"):
            folder = query["path"][0].partition("artifacts/")[2] or query["path"][0]
            files = self.server.listings.get(folder, self.server.files)
            return self._answer(json.dumps({"files": files}).encode())
        if "/mlflow-artifacts/artifacts/" in path:
            return self._answer(self.server.content)
        return self._answer(b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(b"{}")

    def do_PUT(self) -> None:
        self.server.asked.append(f"PUT {self.path}")
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(b"{}")

    def _run(self) -> dict[str, Any]:
        tags = self.server.tags | {"protocol": "text"}
        return {
            "run": {
                "info": {
                    "run_id": RUN_ID,
                    "run_name": self.server.name,
                    "experiment_id": "1",
                    "status": "FINISHED",
                    "lifecycle_stage": "active",
                    "artifact_uri": f"mlflow-artifacts:/1/{RUN_ID}/artifacts",
                },
                "data": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
            }
        }

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Liar]:
    # Where temporary files go, so that everything new is below one folder.
    (tmp_path / "a" / "b" / "tmp").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a" / "b" / "tmp"))
    monkeypatch.chdir(tmp_path / "a" / "b")
    liar = Liar()
    thread = threading.Thread(target=liar.serve_forever, args=(0.02,))
    thread.start()
    yield liar
    liar.shutdown()
    thread.join()
    liar.server_close()


def test_an_honest_answer_is_read(server, tmp_path):
    (record,) = find_runs([RUN_ID], uri=server.url)

    assert [row.id for row in record.decodes["test"].rows] == [*REFERENCES]


@pytest.mark.parametrize(
    "name",
    [
        "../../../escaped.json",
        "TMP/escaped.json",
        "..%2f..%2fescaped.json",
        "file://TMP/escaped.json",
        "a/../../../../escaped.json",
    ],
)
def test_the_name_of_an_artifact_leads_to_no_other_folder(name, server, tmp_path):
    before = files_below(tmp_path)
    server.files = [{"path": name.replace("TMP", str(tmp_path)), "is_dir": False}]

    with pytest.raises(ConfigError, match=r"MLflow at .* does not answer as it should"):
        find_runs([RUN_ID], uri=server.url)

    assert files_below(tmp_path) == before


def test_an_artifact_that_is_a_folder_all_at_once_leads_to_no_other_one(server, tmp_path):
    before = files_below(tmp_path)
    server.listings = {
        "translations": [{"path": "test.json", "is_dir": True}],
        "translations/test.json": [
            {"path": "../../../../escaped.json", "is_dir": False},
            {"path": "../../../../escaped", "is_dir": True},
        ],
    }

    with pytest.raises(ConfigError, match=r"MLflow at .* does not answer as it should"):
        find_runs([RUN_ID], uri=server.url)

    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    "content",
    [
        b"<script>alert(1)</script>",
        b"\x80\x04\x95",
        json.dumps({**TABLE, "data": [["a"]]}).encode(),
        json.dumps({**TABLE, "data": 1}).encode(),
        json.dumps({"columns": TABLE["columns"]}).encode(),
    ],
    ids=["html", "pickle", "short rows", "no rows", "no data"],
)
def test_what_is_no_table_is_refused_in_a_sentence(content, server):
    server.content = content

    with pytest.raises(ConfigError, match=r"(does not answer as it should|is no table) \(.*\)\. "):
        find_runs([RUN_ID], uri=server.url)


def test_the_folder_that_a_server_names_is_not_taken_for_a_run(server, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "mlflow_run.json").write_text('{"run_id": "of another one"}')
    (tmp_path / "private" / "config.yaml").write_text("secret: 1\n")
    server.tags = {"run_folder": str(tmp_path / "private")}

    (record,) = find_runs([RUN_ID], uri=server.url)

    assert record.where == RUN_ID
    assert "secret" not in record.config


def test_the_names_and_sentences_of_a_server_stay_text_in_the_report(server):
    hostile = "<script>alert(1)</script>{{ 7 * 7 }}"
    server.name = hostile
    server.tags = {"dataset": hostile, "stage": hostile}
    server.content = json.dumps({**TABLE, "data": [[i, r, hostile] for i, r, _ in ROWS]}).encode()

    html = render_report(compare_runs(find_runs([RUN_ID, RUN_ID], uri=server.url), split=""))

    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}" in html


def test_a_report_goes_to_the_run_that_it_is_about_and_nowhere_else(server, tmp_path):
    report = tmp_path / "report.html"
    report.write_text("<!DOCTYPE html>")
    records = find_runs([RUN_ID], uri=server.url)

    assert log_report(report, records) == []

    assert [asked for asked in server.asked if asked.startswith("PUT")] == [
        f"PUT /api/2.0/mlflow-artifacts/artifacts/1/{RUN_ID}/artifacts/comparisons/report.html"
    ]

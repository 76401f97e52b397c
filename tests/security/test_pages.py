"""Pages: sentences and names are text on them, and a request gets at nothing but its own upload.

A real browser looks at them, too, where there is one.
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import cast

import pytest
import uvicorn
from fastapi import FastAPI
from gradio import processing_utils
from playwright.sync_api import Browser
from starlette.testclient import TestClient

from fla.compare.comparison import compare_runs
from fla.compare.from_folder import read_folder
from fla.compare.report import render_report
from fla.page import Limits, build_app
from fla.search import Hypothesis
from fla.translate import Segment, Translation, VideoTranslator
from fla.translating.subtitles import Subtitle, format_subtitles
from tests.helpers.browser import browser_of_a_module, watch
from tests.helpers.compared_runs import write_corpus, write_run
from tests.helpers.videos import write_video

# Whatever of it runs leaves window.marked behind; the last two are the words of templates.
HOSTILE = (
    "<script>window.marked = 1</script><img src=x onerror='window.marked = 2'>"
    "<svg onload='window.marked = 3'></svg></style></title><iframe srcdoc='x'></iframe>"
    "{{ 7 * 7 }} ${window.marked = 4}"
)
TAGS = re.compile(r"<(script|img|svg onload|iframe|b>)")


class _HostileModel:
    """Says what nobody signs."""

    def translate(self, recording: object, segments: object) -> list[Translation]:
        said = tuple(Hypothesis(HOSTILE, -0.1 * number) for number in (1, 2))
        segment = Segment(start_s=0.0, end_s=1.0)
        return [Translation(segment=segment, hypotheses=said, warnings=(HOSTILE,))]

    def describe_unlike(self, recording: object) -> list[str]:
        return [HOSTILE]


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """The page that translates, with a model that says anything."""
    (tmp_path / "uploads").mkdir()
    model = cast(VideoTranslator, _HostileModel())
    return build_app(model, uploads=tmp_path / "uploads", limits=Limits())


@pytest.fixture
def report(tmp_path: Path) -> str:
    """The report of two runs whose every text is hostile."""
    references = {HOSTILE: HOSTILE, "b": f"The dog {HOSTILE}"}
    manifests = write_corpus(tmp_path / "corpus", references=references, signers=[HOSTILE, "2"])
    names = ("<script>window.marked = 5<", "<img src=x onerror=window.marked=6>")
    for name, said in zip(names, (f"A cat. {HOSTILE}", HOSTILE), strict=True):
        settings = json.dumps({"seed": HOSTILE + name, "data": {"manifest_dir": str(manifests)}})
        hypotheses = dict.fromkeys(references, said)
        write_run(tmp_path / name, hypotheses, references=references, settings=settings)
    records = [read_folder(tmp_path / name, uri="") for name in names]
    return render_report(compare_runs(records, split=""))


def ask(client: TestClient, path: str | Path) -> str:
    """What the page says to a video that lies somewhere, as a browser would ask for it."""
    file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
    question = {"fn_index": 0, "data": [file, False], "session_hash": "a"}
    assert client.post("/gradio_api/queue/join", json=question).status_code == 200
    with client.stream("GET", "/gradio_api/queue/data?session_hash=a") as answer:
        lines = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    (completed,) = (line for line in lines if line["msg"] == "process_completed")
    return str(completed["output"]["data"][0]) if completed["success"] else "refused"


def upload(client: TestClient, name: str, content: bytes) -> Path:
    done = client.post("/gradio_api/upload", files={"files": (name, content)})
    return Path(done.json()[0])


def test_the_page_shows_what_a_model_says_as_text(app, tmp_path):
    video = write_video(tmp_path / "a.mp4", num_frames=15).read_bytes()

    with TestClient(app) as client:
        html = ask(client, upload(client, "a.mp4", video))

    assert html.count(escape(HOSTILE).replace("&#x27;", "&#39;")) == 4
    assert not TAGS.search(html)


def test_the_page_names_a_file_that_it_refuses_as_text(app, tmp_path):
    with TestClient(app) as client:
        lies = upload(client, "a.mp4", b"no video")
        named = lies.with_name("<b>a<b>.mp4")
        lies.rename(named)
        html = ask(client, named)

    assert "&lt;b&gt;a&lt;b&gt;.mp4" in html
    assert not TAGS.search(html)


@pytest.mark.parametrize("name", ["../../../escaped.mp4", "TMP/escaped.mp4", "..%2f..%2fescaped"])
def test_an_upload_lies_in_the_folder_of_uploads_whatever_its_name(name, app, tmp_path):
    with TestClient(app) as client:
        path = upload(client, name.replace("TMP", str(tmp_path)), b"no video")

    assert path.resolve().is_relative_to(tmp_path / "uploads")
    assert {file.name for file in tmp_path.iterdir()} == {"uploads"}


@pytest.mark.parametrize("path", ["private.mp4", "uploads/../private.mp4", "uploads/link.mp4"])
def test_a_file_that_was_not_uploaded_is_neither_translated_nor_deleted(path, app, tmp_path):
    private = write_video(tmp_path / "private.mp4", num_frames=15)
    (tmp_path / "uploads" / "link.mp4").symlink_to(private)

    with TestClient(app) as client:
        assert ask(client, tmp_path / path) == "refused"

    assert private.is_file()


def test_what_lies_at_an_address_is_not_fetched(app, monkeypatch):
    fetched: list[str] = []

    async def fetch(url: str, cache_dir: str) -> str:
        fetched.append(url)
        return url

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", fetch)

    with TestClient(app) as client:
        assert ask(client, "http://example.com/a.mp4") == "refused"

    assert fetched == []


def test_the_page_gives_no_file_of_this_machine(app, tmp_path):
    (tmp_path / "private.txt").write_text("secret")

    with TestClient(app) as client:
        for path in (tmp_path / "private.txt", tmp_path / "uploads" / ".." / "private.txt"):
            answer = client.get(f"/gradio_api/file={path}")

            assert answer.status_code in (403, 404)
            assert "secret" not in answer.text


def test_the_report_has_every_text_as_text(report):
    text = escape(HOSTILE).replace("&#x27;", "&#39;")

    for where in ("<code>{}</code>", "signer {},", "<dt>reference</dt><dd>{}</dd>"):
        assert where.format(text) in report
    assert not TAGS.search(report)


def test_subtitles_have_no_markup():
    text = format_subtitles([Subtitle(0, 1, HOSTILE)], kind="vtt")

    assert "<" not in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browser_of_a_module() as opened:
        yield opened


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of an application, while it is served."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        # It waits for those who still look at the page.
        server.force_exit = True
        thread.join()


def test_a_browser_runs_the_text_where_it_is_not_escaped(browser):
    page = browser.new_page()

    page.set_content(HOSTILE)

    page.wait_for_function("window.marked > 1")


def test_a_browser_runs_nothing_of_the_report(report, browser, tmp_path):
    (tmp_path / "report.html").write_text(report)
    seen = watch(browser.new_page())

    seen.page.goto((tmp_path / "report.html").as_uri())
    seen.page.wait_for_timeout(300)

    assert "window.marked = 1" in seen.page.inner_text("body")
    assert seen.page.evaluate("window.marked") is None


def test_a_browser_runs_nothing_that_the_page_shows(app, browser, tmp_path):
    video = write_video(tmp_path / "a.mp4", num_frames=15)
    with served(app) as url:
        page = browser.new_page()
        page.goto(url)
        page.set_input_files("#video input[type=file]", video)
        page.locator("#video video").wait_for()
        page.get_by_role("checkbox").uncheck()
        page.get_by_role("button", name="Translate").click()
        page.locator("#answer tbody td").first.wait_for()
        page.wait_for_timeout(300)

        assert "{{ 7 * 7 }} ${window.marked = 4}" in page.inner_text("#answer")
        assert page.evaluate("window.marked") is None
        page.close()

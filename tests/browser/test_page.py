"""The page that translates videos, as somebody at a browser sees it."""

import math
import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import av
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from fla.search import Search
from fla.translate import Segment, VideoTranslator
from tests.helpers.browser import Watched, overflow_px, play
from tests.helpers.exports import write_untrained_export
from tests.helpers.servers import Server, serve_page
from tests.helpers.videos import numbered_frame, write_video
from tests.screenshots import SIZE, picture_page

MAX_SIZE_MB, MAX_LENGTH_S = 0.5, 10


@dataclass(frozen=True)
class Served(Server):
    """The page, and where it keeps what it is sent."""

    temporary: Path
    export: Path

    def files(self) -> list[Path]:
        """What is left of uploads."""
        return [path for path in self.temporary.glob("fla_page_*/**/*") if path.is_file()]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    temporary = tmp_path_factory.mktemp("temporary")
    export = write_untrained_export(tmp_path_factory.mktemp("page"))
    options = ["--max-size-mb", str(MAX_SIZE_MB), "--max-length-s", str(MAX_LENGTH_S)]
    with serve_page(export, temporary=temporary, options=options) as server:
        yield Served(server.process, server.port, temporary, export)


@pytest.fixture
def page(watched: Watched, served: Served) -> Iterator[Page]:
    """The page, which asks this machine alone, whatever a test does."""
    watched.page.goto(served.url)
    yield watched.page
    assert len(watched.requests) > 10
    assert watched.outside() == []
    assert watched.errors == []


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds."""
    return write_video(tmp_path_factory.mktemp("video") / "signing.mp4", num_frames=45)


def write_two_sentences(path: Path) -> Path:
    """Rest, a second of motion, rest, a second of motion, rest."""
    still = numbered_frame(0, size=64)
    with av.open(path, "w") as output:
        stream = output.add_stream("libx264", rate=15)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(75):
            image = numbered_frame(37 * number % 256, size=64) if number // 15 % 2 else still
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        output.mux(stream.encode())
    return path


def upload(page: Page, path: Path) -> None:
    page.set_input_files("#video input[type=file]", path)
    page.locator("#video video").wait_for()


def translate(page: Page, *, as_one: bool = False) -> Locator:
    """Ask for the translation; the cells of its table."""
    if as_one:
        page.get_by_role("checkbox").uncheck()
    page.get_by_role("button", name="Translate").click()
    cells = page.locator("#answer tbody td")
    cells.first.or_(page.locator("#answer [role=alert]")).wait_for()
    return cells


def wait_until_shown(page: Page, *, seconds: float) -> None:
    """Wait until the camera's preview has gone on for that long."""
    now = page.locator("#video video").evaluate("it => it.currentTime")
    page.wait_for_function(
        "end => document.querySelector('#video video').currentTime > end", arg=now + seconds
    )


def test_an_upload_is_translated_on_the_video(page: Page, served: Served, video: Path):
    with VideoTranslator(served.export, search=Search(num_hypotheses=3)) as translator:
        ((best, *_),) = (found.hypotheses for found in translator.translate(video, [Segment()]))

    upload(page, video)
    start, end, sentence, confidence = translate(page, as_one=True).all()

    percent = f"{round(100 * math.exp(best.log_prob))} %"
    expect(start).to_have_text("0.00 s")
    expect(end).to_have_text("3.00 s")
    expect(sentence).to_contain_text(best.text)
    expect(sentence.locator("li")).to_have_count(2)
    expect(confidence).to_have_text(percent)
    # The server has forgotten the video, and the browser plays it.
    assert served.files() == []
    player = page.locator("#answer video")
    play(player)
    cues = player.evaluate("it => [...it.textTracks[0].cues].map(c => [c.startTime, c.endTime])")
    assert cues == [[0, 3]]
    assert player.evaluate("it => it.textTracks[0].cues[0].getCueAsHTML().textContent") == (
        f"{best.text} ({percent})"
    )


def test_sentences_are_found_by_motion(page: Page, tmp_path: Path):
    upload(page, write_two_sentences(tmp_path / "two.mp4"))

    cells = translate(page)

    expect(cells).to_have_count(8)
    page.set_viewport_size({"width": 400, "height": 800})
    assert overflow_px(page) == 0
    cells.nth(4).get_by_role("button").click()
    assert page.locator("#answer video").evaluate("it => it.currentTime") > 2


def test_the_readmes_picture_of_the_page_is_made(browser, served: Served, tmp_path: Path):
    video = write_two_sentences(tmp_path / "two.mp4")

    picture_page(browser, served.url, video, tmp_path)

    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (SIZE["width"], SIZE["height"])


def test_what_cannot_be_translated_is_refused_in_a_sentence(
    page: Page, served: Served, tmp_path: Path
):
    refusal = page.locator("#answer [role=alert]")
    (tmp_path / "notes.mp4").write_text("no video")

    translate(page)
    expect(refusal).to_have_text("There is no video yet. Upload or record one.")
    upload(page, tmp_path / "notes.mp4")
    translate(page)
    expect(refusal).to_have_text(re.compile(r"notes\.mp4 does not decode: .*"))
    upload(page, write_video(tmp_path / "long.mp4", num_frames=180))
    translate(page)
    expect(refusal).to_have_text(re.compile(r"long\.mp4 lasts 12\.0 s, .* at most 10 s\. .*"))

    assert served.files() == []


def test_a_file_that_is_too_large_is_not_uploaded(page: Page, served: Served, tmp_path: Path):
    (tmp_path / "large.mp4").write_bytes(bytes(int(MAX_SIZE_MB * 1e6) + 1))

    page.set_input_files("#video input[type=file]", tmp_path / "large.mp4")

    expect(page.get_by_text("exceed the maximum allowed size")).to_be_visible()
    assert served.files() == []


def test_a_recording_of_the_camera_is_translated(page: Page, served: Served):
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    # In the camera's own time: a busy machine records nothing of a first second.
    wait_until_shown(page, seconds=0.5)
    page.get_by_text("Record", exact=True).click()
    wait_until_shown(page, seconds=2.0)
    page.get_by_text("Stop", exact=True).click()
    page.locator("#video video[src]").wait_for()

    cells = translate(page, as_one=True)

    expect(page.locator("#answer [role=alert]")).to_have_count(0)
    expect(cells).to_have_count(4)
    assert served.files() == []


def test_the_page_listens_to_this_machine_alone(served: Served):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: it tells the address that other machines would see.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but the loopback's")
        address = probe.getsockname()[0]

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, served.port), timeout=5)


def test_a_name_that_another_page_gives_to_this_machine_is_refused(served: Served):
    connection = HTTPConnection("127.0.0.1", served.port)

    connection.request("GET", "/", headers={"Host": "elsewhere.example"})

    assert connection.getresponse().status == 400


# The last one: it ends the page.
def test_nothing_of_an_upload_is_left_when_the_page_ends(page: Page, served: Served, video: Path):
    upload(page, video)
    assert len(served.files()) == 1

    served.process.send_signal(signal.SIGTERM)

    assert served.process.wait(timeout=10) == 0
    assert list(served.temporary.glob("fla_page_*")) == []

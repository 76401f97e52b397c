"""A real headless browser, and what its pages did."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, Playwright, expect, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Containers give their root no sandbox. The camera shows a test picture, and nobody is asked.
ARGUMENTS = (
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
LOCAL_SCHEMES = ("file", "blob", "data", "about")


@dataclass
class Watched:
    """What a page asked for and complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    """Addresses, in the order of asking."""
    refused: list[str] = field(default_factory=list)
    """Requests that were answered with an error, or not at all."""
    errors: list[str] = field(default_factory=list)
    """What the page's console and its scripts report."""

    def outside(self) -> list[str]:
        """Requests to anything but this machine."""
        return [
            url
            for url in self.requests
            if (parts := urlsplit(url)).scheme not in LOCAL_SCHEMES
            and parts.hostname != "127.0.0.1"
        ]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """The Chromium or Chrome of this machine, else the one that playwright has downloaded.

    Raises:
        FileNotFoundError: There is none.
    """
    with sync_playwright() as playwright:
        program = find_browser(playwright)
        if program is None:
            raise FileNotFoundError(
                f"No browser: none of {', '.join(PROGRAMS)} is installed, and none is downloaded. "
                "Run `playwright install --with-deps chromium`."
            )
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def browser_of_a_module() -> Iterator[Browser]:
    """A browser for a fixture of a module; the tests are skipped where there is none.

    Not for the whole session: while playwright is open, an event loop runs in this thread.
    """
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(open_browser())
        except FileNotFoundError as error:
            pytest.skip(str(error))
        yield opened


def find_browser(playwright: Playwright) -> str | None:
    """Path of a browser's program."""
    downloaded = playwright.chromium.executable_path
    found = [shutil.which(name) for name in PROGRAMS]
    return next(filter(None, [*found, downloaded if Path(downloaded).exists() else None]), None)


def watch(page: Page) -> Watched:
    """Note what a page does from now on."""
    watched = Watched(page)
    page.on("request", lambda request: watched.requests.append(request.url))
    page.on("requestfailed", lambda request: watched.refused.append(request.url))
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on(
        "response",
        lambda answer: answer.status >= 400 and watched.refused.append(answer.url),
    )
    page.on(
        "console",
        lambda message: message.type == "error" and watched.errors.append(message.text),
    )
    return watched


def play(video: Locator) -> None:
    """Play a video for a moment; fails where the browser cannot."""
    video.evaluate("it => {it.muted = true; return it.play()}")
    expect(video).not_to_have_js_property("currentTime", 0)
    assert video.evaluate("it => it.readyState") >= 2, "nothing of the video is decoded"


def overflow_px(page: Page) -> int:
    """By how much a page is wider than its window."""
    return int(page.evaluate("(it => it.scrollWidth - it.clientWidth)(document.documentElement)"))

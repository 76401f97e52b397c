"""The report: whole in one file, nothing from outside, and text stays text."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fla.compare import clips as clips_module
from fla.compare.comparison import compare_runs
from fla.compare.from_folder import read_folder
from fla.compare.report import render_report
from tests.helpers.compared_runs import REFERENCES, write_corpus, write_run

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'
ALLOWED_ATTRIBUTES_WITH_ADDRESSES = re.compile(r"data:video/mp4;base64,[A-Za-z0-9+/=]+")


class Page(HTMLParser):
    """Tags, addresses and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        self.addresses += [
            value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")
        ]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


def report_of(folder: Path, manifests: Path, *hypotheses: dict[str, str]) -> str:
    """The report of runs that translated so."""
    names = [f"run{number}" for number in range(len(hypotheses))]
    for number, name in enumerate(names):
        settings = f"seed: {number}\ndata:\n  manifest_dir: {manifests}\n"
        write_run(folder / name, hypotheses[number], settings=settings)
    records = [read_folder(folder / name, uri="") for name in names]
    return render_report(compare_runs(records, split=""))


def test_hostile_text_stays_text(tmp_path, manifests):
    hostile = dict.fromkeys(REFERENCES, HOSTILE)

    html = report_of(tmp_path, manifests, hostile, dict(REFERENCES))

    page = Page(html)
    assert not {"script", "img", "iframe", "object", "link"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script" not in html
    assert "alert(1)" in page.text


def test_nothing_comes_from_outside_and_the_policy_says_so(tmp_path, manifests):
    html = report_of(tmp_path, manifests, dict.fromkeys(REFERENCES, "A cat."), dict(REFERENCES))

    page = Page(html)
    assert page.addresses
    assert all(ALLOWED_ATTRIBUTES_WITH_ADDRESSES.fullmatch(one) for one in page.addresses)
    assert "http" not in re.sub(r"http-equiv", "", html)
    assert "url(" not in html and "@import" not in html
    (policy,) = [value for name, value in page.attributes if name == "content" and "-src" in value]
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy


def test_it_shows_what_differs_who_wins_and_where(tmp_path, manifests):
    html = report_of(tmp_path, manifests, dict.fromkeys(REFERENCES, "A cat."), dict(REFERENCES))

    page = Page(html)
    text = " ".join(page.text.split())
    assert "run0 and run1, compared" in text
    assert "1 settings differ" not in text and "1 setting differs" in text
    assert re.search(r"run1 (is better than|and) run0", text)
    assert "4 better than run0, 0 worse, 0 equal" in text
    assert "signer 2" in text and "length of the reference" in text
    assert {"ins", "del", "video", "svg", "title", "desc"} <= set(page.tags)
    assert page.tags.count("video") == 4
    assert page.tags.count("svg") == len(
        [value for name, value in page.attributes if name == "role" and value == "img"]
    )


def test_with_three_runs_a_clip_is_there_once(tmp_path, manifests):
    bad, worse = (dict.fromkeys(REFERENCES, text) for text in ("A cat.", "No."))

    html = report_of(tmp_path, manifests, worse, bad, dict(REFERENCES))

    page = Page(html)
    assert page.tags.count("video") == len(set(page.addresses)) == 4
    assert "its clip is further up" in page.text
    assert "Each p-value is of one pair alone" in page.text


def test_clips_that_do_not_fit_are_left_out_and_named(tmp_path, manifests, monkeypatch):
    whole = report_of(tmp_path, manifests, dict.fromkeys(REFERENCES, "No."), dict(REFERENCES))
    sizes = [len(address) for address in Page(whole).addresses]

    monkeypatch.setattr(clips_module, "MAX_REPORT_MB", (sum(sizes) - min(sizes) // 2) / 1e6)
    bounded = report_of(tmp_path, manifests, dict.fromkeys(REFERENCES, "No."), dict(REFERENCES))

    page = Page(bounded)
    assert sum(map(len, page.addresses)) < sum(sizes)
    assert len(page.addresses) == 3
    assert "1 of 4 clips are left out, because all clips of a report take at most" in page.text


def test_clips_whose_recording_is_gone_are_missed_in_a_sentence(tmp_path):
    manifests = write_corpus(tmp_path / "corpus")
    (tmp_path / "corpus" / "signing.mp4").unlink()

    html = report_of(tmp_path, manifests, dict.fromkeys(REFERENCES, "No."), dict(REFERENCES))

    page = Page(html)
    assert page.addresses == []
    assert "There are no clips here: their recordings are not on this machine." in page.text
    assert "signer 2" in page.text

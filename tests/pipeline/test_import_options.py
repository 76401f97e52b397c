"""What every importer takes: rows to leave out, and how short a clip may be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fla.data.importers.options import read_exclusions
from fla.data.manifest import read_manifest
from fla.errors import DataError
from tests.helpers.commands import python, run
from tests.helpers.videos import write_image, write_video

LONG, SHORT = "S000000_P0000_T00", "S000001_P0001_T00"
CSL_CLIPS = {LONG: ("train", 4), SHORT: ("train", 2), "S2_P2_T0": ("dev", 4), "S3": ("test", 4)}
H2S_IDS = {"train": ("long_0-1-rgb_front", "short_0-1-rgb_front"), "val": ("dev_0-1-rgb_front",)}
H2S_IDS |= {"test": ("-test_0-1-rgb_front",)}


def make_csl_daily(source: Path, sentence: str) -> tuple[str, str]:
    """A long and a short clip in train; returns their names."""
    labels = source / "sentence_label"
    labels.mkdir(parents=True)
    rows = "".join(f"{name}|{split}\n" for name, (split, _) in CSL_CLIPS.items())
    (labels / "split_1.txt").write_text(f"name|split\n{rows}")
    rows = "".join(f"{name}|{n}|{sentence}\n" for name, (_, n) in CSL_CLIPS.items())
    (labels / "video_map.txt").write_text(f"name|length|char\n{rows}", encoding="utf-8")
    for name, (_, num_frames) in CSL_CLIPS.items():
        folder = source / "sentence_frames-512x512" / "frames_512x512" / name
        folder.mkdir(parents=True)
        for number in range(num_frames):
            write_image(folder / f"{number:06d}.jpg", number, size=16)
    return LONG, SHORT


def make_phoenix14t(source: Path, sentence: str) -> tuple[str, str]:
    names = {"train": (("long", 4), ("short", 2)), "dev": (("d", 4),), "test": (("t", 4),)}
    for split, clips in names.items():
        rows = "".join(f"{name}|{name}/1/*.png|-1|-1|S|G|{sentence}\n" for name, _ in clips)
        path = source / "annotations" / "manual" / f"PHOENIX-2014-T.{split}.corpus.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        header = "name|video|start|end|speaker|orth|translation\n"
        path.write_text(header + rows, encoding="utf-8")
        for name, num_frames in clips:
            folder = source / "features" / "fullFrame-210x260px" / split / name
            folder.mkdir(parents=True)
            for number in range(num_frames):
                write_image(folder / f"images{number + 1:04d}.png", number, size=16)
    return "long", "short"


def make_how2sign(source: Path, sentence: str) -> tuple[str, str]:
    header = "VIDEO_NAME\tSENTENCE_NAME\tSTART_REALIGNED\tEND_REALIGNED\tSENTENCE\n"
    for split, ids in H2S_IDS.items():
        rows = ""
        for id in ids:
            video = id.replace("_0", "")
            folder = source / "video_level" / split / "rgb_front"
            folder.mkdir(parents=True, exist_ok=True)
            num_frames = 2 if "short" in id else 4
            write_video(folder / f"{video}.mp4", num_frames=num_frames, fps=24)
            rows += f"{video}\t{id}\t0.0\t9.0\t{sentence}\n"
        path = source / "sentence_level" / split / "text/en/raw_text/re_aligned"
        path.mkdir(parents=True)
        (path / f"how2sign_realigned_{split}.csv").write_text(header + rows, encoding="utf-8")
    return H2S_IDS["train"]


CORPORA = {
    "csl_daily": make_csl_daily,
    "how2sign": make_how2sign,
    "phoenix14t": make_phoenix14t,
}


@pytest.fixture(params=CORPORA.items(), ids=CORPORA)
def corpus(request: pytest.FixtureRequest) -> tuple[str, Callable[[Path, str], tuple[str, str]]]:
    return request.param


def import_corpus(name: str, folder: Path, *words: str | Path):
    return run(python(f"tools/import_{name}.py", folder / "in", folder / "out", *words))


def read_report(folder: Path):
    return json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))


def test_rows_are_left_out_by_a_list_and_by_their_frames(corpus, tmp_path: Path):
    name, make = corpus
    long, short = make(tmp_path / "in", "ein satz .")
    excluded = tmp_path / "exclude.tsv"
    excluded.write_text(f"id\treason\n{short}\tshows two signers\nno such row\ta typo\n")

    by_list = import_corpus(name, tmp_path, "--exclude", excluded)
    report = read_report(tmp_path)
    by_frames = import_corpus(name, tmp_path, "--min-frames", "3")

    assert by_list.returncode == 0, by_list.stderr
    assert [
        (row["id"], row["rule"], row["reason"]) for row in report["splits"]["train"]["dropped"]
    ] == [(short, "excluded", "shows two signers")]
    assert report["unknown_exclusions"] == ["no such row"]
    assert "to be excluded, but no row: no such row" in by_list.stdout
    assert by_frames.returncode == 0, by_frames.stderr
    dropped = read_report(tmp_path)["splits"]["train"]["dropped"]
    assert [(row["id"], row["rule"]) for row in dropped] == [(short, "fewer than 3 frames")]
    assert dropped[0]["reason"].endswith("holds 2 frames")
    assert [s.id for s in read_manifest(tmp_path / "out" / "train.tsv").samples] == [long]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("id,reason\na,b\n", r":1: has no column id, reason\. Let its first line be id, a tab"),
        ("a\tb\n", r":1: has no column id, reason\."),
        ("id\treason\na\t \n", r":2: reason is empty\."),
        ("id\treason\n\tb\n", r":2: id is empty\."),
        ("id\treason\na\n", r":2: has 1 values for 2 columns\. Add or remove a tab\."),
        ("id\treason\na\tb\nc\td\na\te\n", r":4: the id a is that of line 2\."),
    ],
)
def test_a_list_that_cannot_be_understood_is_named_by_its_line(
    content: str, sentence: str, tmp_path: Path
):
    path = tmp_path / "exclude.tsv"
    path.write_text(content)

    with pytest.raises(DataError, match=r"exclude\.tsv" + sentence):
        read_exclusions(path)


def test_a_list_may_come_from_a_spreadsheet_and_hold_quotes(tmp_path: Path):
    path = tmp_path / "exclude.tsv"
    path.write_bytes(b'\xef\xbb\xbfid\treason\r\n-a\tsays "no"\r\n')

    assert read_exclusions(path) == {"-a": 'says "no"'}


def test_a_number_of_frames_below_one_is_refused(tmp_path: Path):
    done = import_corpus("how2sign", tmp_path, "--min-frames", "0")

    assert done.returncode == 2
    assert "argument --min-frames: 0 is no whole number above 0" in done.stderr

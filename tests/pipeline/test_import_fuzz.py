"""Whatever lies in a download: one sentence, or a line of the report; never a traceback."""

import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from fla.data.importers.csl_daily import import_csl_daily
from fla.data.importers.how2sign import import_how2sign
from fla.data.importers.options import Options
from fla.data.importers.phoenix14t import import_phoenix14t
from fla.data.importers.report import ImportReport
from fla.data.manifest import check_manifest, read_manifest
from fla.errors import DataError
from tests.helpers.commands import python, run
from tests.helpers.corpora import (
    CSL_CLIPS,
    H2S_VIDEOS,
    LONG_FRAMES,
    MAKERS,
    PHOENIX_CLIPS,
    how2sign_annotation,
    how2sign_id,
    how2sign_recording,
    make_csl_daily,
    make_how2sign,
    make_phoenix14t,
    phoenix_annotation,
    write_how2sign_annotation,
    write_labels,
)

IMPORTS: dict[str, Callable[..., ImportReport]] = {
    "csl_daily": import_csl_daily,
    "how2sign": import_how2sign,
    "phoenix14t": import_phoenix14t,
}
LONG, SHORT = H2S_VIDEOS["train"]
TEXTS = {
    "quotes": '"',
    "tab": "a\tb",
    "newline": "a\nb",
    "windows newline": "a\r\nb",
    "carriage return": "a\rb",
    "separators": "a\u2028b\u0085c\x0bd\x1ce",
    "mark": "\ufeffa",
    "spaces": "  a  ",
    "100 kB": "ab " * 33_333 + ".",
    "comment": "# fla-manifest 1 root=x",
    "outside the plane": "\U0001f44b",
}


def train_annotation(name: str, source: Path) -> Path:
    return {
        "csl_daily": source / "sentence_label" / "video_map.txt",
        "how2sign": how2sign_annotation(source, "train"),
        "phoenix14t": phoenix_annotation(source, "train"),
    }[name]


def do_import(name: str, folder: Path, **options: object) -> ImportReport:
    return IMPORTS[name](
        folder / "in",
        folder / "out",
        on_progress=lambda done, total: None,
        options=Options(**options),
    )


def train_rules(report: ImportReport) -> list[tuple[str, str]]:
    return [(row.rule, row.reason) for row in report.splits["train"].dropped]


def read_sentences(folder: Path) -> list[str]:
    manifest = read_manifest(folder / "out" / "train.tsv")
    check_manifest(manifest)
    return [sample.sentence for sample in manifest.samples]


def train_labels(name: str, folder: Path, sentences: tuple[str, str]) -> Path:
    names = {
        "csl_daily": CSL_CLIPS["train"],
        "how2sign": (how2sign_id(LONG), how2sign_id(SHORT)),
        "phoenix14t": PHOENIX_CLIPS["train"],
    }[name]
    entries = [{"name": n, "text": t} for n, t in zip(names, sentences, strict=True)]
    return write_labels(folder / "labels.train", entries)


def test_sentences_of_how2sign_are_read_as_they_were_written(tmp_path: Path):
    make_how2sign(tmp_path / "in")
    rows = [(f"{LONG}-rgb_front", f"{id}_0-1", 0, 9, text) for id, text in TEXTS.items()]
    write_how2sign_annotation(how2sign_annotation(tmp_path / "in", "train"), rows)

    do_import("how2sign", tmp_path)

    assert read_sentences(tmp_path) == list(TEXTS.values())


@pytest.mark.parametrize("name", ["csl_daily", "phoenix14t"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_sentence_is_read_as_it_was_written(name: str, text: str, tmp_path: Path):
    # The tables cannot quote; label files hold any text.
    MAKERS[name](tmp_path / "in")
    labels = train_labels(name, tmp_path, (text, text))

    do_import(name, tmp_path, labels={"train": labels})

    assert read_sentences(tmp_path) == [text, text]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a\0b", "its sentence has U+0000 at character 2"),
        ("\ud800", "its sentence has U+D800 at character 1"),
        ("x" * 131_073, "its sentence has 131073 characters, more than 131072"),
    ],
    ids=["nul", "surrogate", "131 kB"],
)
def test_a_sentence_that_no_manifest_can_hold_drops_its_row(
    name: str, text: str, reason: str, tmp_path: Path
):
    MAKERS[name](tmp_path / "in")
    labels = train_labels(name, tmp_path, ("fine", text))

    report = do_import(name, tmp_path, labels={"train": labels})

    assert train_rules(report) == [("no plain text", reason)]
    assert read_sentences(tmp_path) == ["fine"]


@pytest.mark.parametrize("name", MAKERS)
def test_nul_in_an_annotation_drops_its_row(name: str, tmp_path: Path):
    MAKERS[name](tmp_path / "in", "eins")
    path = train_annotation(name, tmp_path / "in")
    before, _, after = path.read_bytes().partition(b"eins")
    path.write_bytes(before + b"ei\0ns" + after)

    report = do_import(name, tmp_path)

    assert train_rules(report) == [("no plain text", "its sentence has U+0000 at character 3")]


@pytest.mark.parametrize("name", MAKERS)
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(name: str, tmp_path: Path):
    MAKERS[name](tmp_path / "in", "eins")
    path = train_annotation(name, tmp_path / "in")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))

    do_import(name, tmp_path)

    assert read_sentences(tmp_path) == ["eins", "eins"]


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def without_header(path: Path) -> None:
    path.write_text(path.read_text().partition("\n")[2])


def with_a_wide_row(path: Path) -> None:
    path.write_text(path.read_text() + "|".join("abcdefghi") + "\n")


def as_utf_16(path: Path) -> None:
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))


def with_old_line_ends(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (as_folder, r"(is no file|does not exist)\. Put "),
        (Path.unlink, r"does not exist\. Put "),
        (lambda path: path.write_bytes(b""), r":1: has no column "),
        (lambda path: path.write_bytes(bytes(range(256))), r":\d+: not UTF-8\."),
        (as_utf_16, r":1: not UTF-8\."),
        (without_header, r":1: has no column "),
        (with_a_wide_row, r":\d+: has \d+ values for \d+ columns\."),
    ],
    ids=["folder", "missing", "empty", "binary", "utf-16", "header", "wide"],
)
def test_a_damaged_annotation_gets_one_sentence(
    name: str, damage: Callable[[Path], None], sentence: str, tmp_path: Path
):
    MAKERS[name](tmp_path / "in")
    path = train_annotation(name, tmp_path / "in")
    damage(path)

    with pytest.raises(DataError, match=rf"{path.name}[: ]?{sentence}"):
        do_import(name, tmp_path)

    assert not list(tmp_path.glob("out/*.tsv"))


@pytest.mark.parametrize("name", MAKERS)
def test_old_line_ends_are_read_or_get_one_sentence(name: str, tmp_path: Path):
    MAKERS[name](tmp_path / "in", "eins")
    with_old_line_ends(train_annotation(name, tmp_path / "in"))

    do_import(name, tmp_path)

    assert read_sentences(tmp_path) == ["eins", "eins"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
@pytest.mark.parametrize("name", MAKERS)
def test_an_annotation_that_may_not_be_read_gets_one_sentence(name: str, tmp_path: Path):
    MAKERS[name](tmp_path / "in")
    path = train_annotation(name, tmp_path / "in")
    path.chmod(0)

    done = run(python(f"tools/import_{name}.py", tmp_path / "in", tmp_path / "out"))

    assert (done.returncode, done.stderr) == (1, f"error: {path}: Permission denied.\n")


@pytest.mark.parametrize("name", MAKERS)
def test_a_folder_in_the_place_of_a_label_file_gets_one_sentence(name: str, tmp_path: Path):
    MAKERS[name](tmp_path / "in")
    labels = ["--labels", tmp_path, "-", "-"]

    done = run(python(f"tools/import_{name}.py", tmp_path / "in", tmp_path / "out", *labels))

    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path}: Is a directory.\n")


def test_rows_that_are_there_twice_are_dropped_once(tmp_path: Path):
    make_phoenix14t(tmp_path / "in")
    path = phoenix_annotation(tmp_path / "in", "train")
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")

    assert train_rules(do_import("phoenix14t", tmp_path)) == [
        ("repeated", "line 2 has the same name")
    ]


def test_a_name_of_csl_daily_with_two_sentences_is_named(tmp_path: Path):
    long, _ = make_csl_daily(tmp_path / "in")
    path = train_annotation("csl_daily", tmp_path / "in")
    path.write_text(path.read_text(encoding="utf-8") + f"{long}|{LONG_FRAMES}|anders\n")

    with pytest.raises(DataError, match=rf"map\.txt:6: {long} is also at .*map\.txt:2, with ano"):
        do_import("csl_daily", tmp_path)


@pytest.mark.parametrize("length", [math.inf, math.nan, None, "x", []])
def test_a_length_of_csl_daily_that_is_no_number_is_named(length: object, tmp_path: Path):
    make_csl_daily(tmp_path / "in")
    path = train_annotation("csl_daily", tmp_path / "in")
    path.unlink()
    info = [{"name": "a", "length": length, "label_char": ["a"]}]
    path.with_name("csl2020ct_v2.pkl").write_bytes(pickle.dumps({"info": info}))

    with pytest.raises(DataError, match=r"v2\.pkl, entry 1: has no name, label_char or length"):
        do_import("csl_daily", tmp_path)


@pytest.mark.parametrize("name", ["csl_daily", "phoenix14t"])
@pytest.mark.parametrize("bad", ["", "..", "/etc", "a/b", "x" * 5000, "a\0b", "{0}", "%s"])
def test_a_name_that_is_no_folder_drops_its_row(name: str, bad: str, tmp_path: Path):
    MAKERS[name](tmp_path / "in")
    short = {"csl_daily": CSL_CLIPS, "phoenix14t": PHOENIX_CLIPS}[name]["train"][1]
    path = {
        "csl_daily": tmp_path / "in" / "sentence_label" / "split_1.txt",
        "phoenix14t": phoenix_annotation(tmp_path / "in", "train"),
    }[name]
    path.write_text(path.read_text().replace(short, bad))

    report = do_import(name, tmp_path)

    (dropped,) = report.splits["train"].dropped
    assert dropped.id == bad
    assert dropped.rule == ("no annotation" if name == "csl_daily" else "no video")
    assert len(read_sentences(tmp_path)) == 1


STAMPS = {
    ("nan", "nan"): ("no stamp", "nan s to nan s is no range"),
    ("-inf", "1"): ("no stamp", "-inf s to 1.0 s is no range"),
    ("", ""): ("no stamp", "nan s to nan s is no range"),
    ("0.2", "0.1"): ("ends before it starts", "0.2 s to 0.1 s"),
    ("-3", "-1"): ("before the start", "-3.0 s to -1.0 s"),
    ("1e9", "2e9"): (
        "past the end",
        "1000000000.0 s to 2000000000.0 s, but the recording has 0.250 s",
    ),
    ("0.01", "0.03"): ("fewer than 1 frames", "0.01 s to 0.03 s holds 0 frames"),
}


def test_rows_with_impossible_stamps_are_dropped_and_named(tmp_path: Path):
    make_how2sign(tmp_path / "in")
    rows = [
        (f"{LONG}-rgb_front", f"row{number}_0-1", start, end, "Hi!")
        for number, (start, end) in enumerate([("-1e9", "1e9"), *STAMPS])
    ]
    write_how2sign_annotation(how2sign_annotation(tmp_path / "in", "train"), rows)

    report = do_import("how2sign", tmp_path)

    assert train_rules(report) == list(STAMPS.values())
    (sample,) = read_manifest(tmp_path / "out" / "train.tsv").samples
    assert (sample.start_s, sample.end_s) == (0, pytest.approx(0.25))
    assert sample.num_frames == LONG_FRAMES


def as_text(path: Path) -> None:
    path.write_text("1\n00:00:01,000 --> 00:00:02,000\nsubtitles, not a video\n" * 9)


def as_playlist(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXTINF:1\n/etc/hostname\n")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def linked_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def linked_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone.mp4")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "text": as_text,
    "playlist": as_playlist,
    "truncated": truncated,
    "loop": linked_to_itself,
    "dangling": linked_to_nothing,
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(os.urandom(4000)),
    "no index": lambda path: path.write_bytes(path.read_bytes()[:1000]),
}


def test_rows_of_recordings_that_cannot_be_read_are_dropped_and_the_others_stay(tmp_path: Path):
    make_how2sign(tmp_path / "in")
    whole = how2sign_recording(tmp_path / "in", "train", LONG)
    for name, damage in DAMAGES.items():
        path = whole.with_name(f"{name}.mp4")
        path.write_bytes(whole.read_bytes())
        damage(path)
    rows = [(name, f"{name}_0-1", 0, 9, "Hi!") for name in (whole.stem, *DAMAGES)]
    write_how2sign_annotation(how2sign_annotation(tmp_path / "in", "train"), rows)

    report = do_import("how2sign", tmp_path)

    rules = train_rules(report)
    assert {rule for rule, _ in rules} == {"unreadable recording"}
    for name, (_, reason) in zip(DAMAGES, rules, strict=True):
        assert reason.startswith(f"{whole.with_name(name)}.mp4 does not decode: ")
    assert len(read_sentences(tmp_path)) == 1
    text = (tmp_path / "out" / "report.txt").read_text(encoding="utf-8")
    assert "rows dropped              8, 8 unreadable recording\n" in text


def test_a_video_of_csl_daily_that_cannot_be_read_drops_its_row(tmp_path: Path):
    _, short = make_csl_daily(tmp_path / "in", as_mp4=True)
    truncated(tmp_path / "in" / "sentence-crop" / f"{short}.mp4")

    ((rule, reason),) = train_rules(do_import("csl_daily", tmp_path))

    assert (rule, "does not decode: " in reason) == ("unreadable recording", True)
    assert len(read_sentences(tmp_path)) == 1


def test_a_folder_that_is_named_like_a_recording_is_no_recording(tmp_path: Path):
    make_how2sign(tmp_path / "in")
    as_folder(how2sign_recording(tmp_path / "in", "train", SHORT))

    assert train_rules(do_import("how2sign", tmp_path)) == [
        ("no video", f"there is no file {SHORT}-rgb_front.mp4")
    ]


def test_links_that_lead_in_a_circle_end(tmp_path: Path):
    make_how2sign(tmp_path / "in")
    folder = how2sign_recording(tmp_path / "in", "train", LONG).parent
    (folder / "again").symlink_to(folder)
    (folder / "above").symlink_to(tmp_path / "in" / "video_level" / "train")
    (folder / "itself").symlink_to("itself")

    report = do_import("how2sign", tmp_path)

    assert report.splits["train"].samples_written == 2
    assert report.splits["train"].videos_without_rows == ()


@pytest.mark.parametrize("name", MAKERS)
def test_the_tool_ends_with_one_sentence_and_one(name: str, tmp_path: Path):
    MAKERS[name](tmp_path / "in")
    train_annotation(name, tmp_path / "in").write_bytes(b"\xff")

    done = run(python(f"tools/import_{name}.py", tmp_path / "in", tmp_path / "out"))

    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1

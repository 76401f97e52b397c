"""What every importer takes: rows to leave out, how short a clip may be, repair of mojibake."""

import json
from pathlib import Path

import pytest

from fla.data.importers.options import read_exclusions
from fla.data.manifest import read_manifest
from fla.errors import DataError
from tests.helpers.commands import python, run
from tests.helpers.corpora import MAKERS


def import_corpus(name: str, folder: Path, *words: str | Path):
    return run(python(f"tools/import_{name}.py", folder / "in", folder / "out", *words))


def read_report(folder: Path):
    return json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MAKERS)
def test_rows_are_left_out_by_a_list_and_by_their_frames(name: str, tmp_path: Path):
    long, short = MAKERS[name](tmp_path / "in")
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


@pytest.mark.parametrize("name", MAKERS)
def test_mojibake_of_train_is_repaired_and_references_stay(name: str, tmp_path: Path):
    broken, whole = "f\u00c3\u00bcr \u00e2\u0080\u0098dich", "f\u00fcr \u2018dich"
    MAKERS[name](tmp_path / "in", broken)

    done = import_corpus(name, tmp_path, "--repair-mojibake")

    assert done.returncode == 0, done.stderr
    sentences = {
        split: {s.sentence for s in read_manifest(tmp_path / "out" / f"{split}.tsv").samples}
        for split in ("train", "dev", "test")
    }
    read = broken.replace(" ", "") if name == "csl_daily" else broken
    written = whole.replace(" ", "") if name == "csl_daily" else whole
    assert sentences == {"train": {written}, "dev": {read}, "test": {read}}
    report = read_report(tmp_path)
    train, dev = report["splits"]["train"], report["splits"]["dev"]
    assert [(row["before"], row["after"]) for row in train["repaired"]] == [(read, written)] * 2
    assert (train["sentences"]["mojibake"], dev["repaired"]) == ([], [])
    assert len(dev["sentences"]["mojibake"]) == 1
    assert len(dev["sentences"]["shared_with_train"]) == 1, "as published, both are the same"
    text = (tmp_path / "out" / "report.txt").read_text(encoding="utf-8")
    assert "references of dev and test are as published" in text
    assert f'{json.dumps(read)} is now "{written}"' in text


def test_mojibake_is_left_alone_unless_it_is_to_be_repaired(tmp_path: Path):
    MAKERS["how2sign"](tmp_path / "in", "f\u00c3\u00bcr")

    import_corpus("how2sign", tmp_path)

    report = read_report(tmp_path)
    assert report["remarks"] == report["splits"]["train"]["repaired"] == []
    assert len(report["splits"]["train"]["sentences"]["mojibake"]) == 2


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

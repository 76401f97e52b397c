"""What else How2Sign may be read from: original stamps, pre-cut clips, Uni-Sign's label files."""

import json
from pathlib import Path

import pytest

from fla.data.importers.how2sign import import_how2sign
from fla.data.importers.options import Options
from fla.data.importers.report import ImportReport
from fla.data.manifest import check_manifest, read_manifest
from fla.errors import DataError
from tests.helpers.commands import python, run
from tests.helpers.corpora import (
    H2S_HEADER,
    H2S_VIDEOS,
    how2sign_annotation,
    how2sign_id,
    how2sign_recording,
    make_how2sign,
    write_how2sign_annotation,
    write_labels,
)

LONG, SHORT = map(how2sign_id, H2S_VIDEOS["train"])
ORIGINAL_HEADER = [name.removesuffix("_REALIGNED") for name in H2S_HEADER]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    make_how2sign(tmp_path / "in")
    return tmp_path / "in"


def run_import(source: Path, variant: str, **labels: Path) -> ImportReport:
    return import_how2sign(
        source,
        source.with_name("out"),
        variant=variant,
        options=Options(labels=labels, min_frames=2),
        on_progress=lambda done, total: None,
    )


def samples(source: Path, split: str):
    manifest = read_manifest(source.with_name("out") / f"{split}.tsv")
    check_manifest(manifest)
    return manifest.samples


def write_original(source: Path, header: list[str]) -> None:
    for split, names in H2S_VIDEOS.items():
        rows = [(f"{name}-rgb_front", how2sign_id(name), 0.0, 0.125, "Spoken.") for name in names]
        path = how2sign_annotation(source, split, original=True)
        write_how2sign_annotation(path, rows, header=header)


def cut_clips(source: Path) -> None:
    """The recordings as the clips of their first sentences."""
    for split, names in H2S_VIDEOS.items():
        folder = source / "sentence_level" / split / "rgb_front" / "raw_videos"
        folder.mkdir(parents=True)
        for name in names:
            path = how2sign_recording(source, split, name)
            path.rename(folder / f"{how2sign_id(name)}.mp4")


@pytest.mark.parametrize("header", [ORIGINAL_HEADER, list(H2S_HEADER)], ids=["own", "realigned"])
def test_original_stamps_are_those_of_the_original_file(source: Path, header: list[str]):
    write_original(source, header)

    run_import(source, "original")

    long, _ = samples(source, "train")
    assert (long.id, long.end_s, long.num_frames, long.sentence) == (LONG, 0.125, 3, "Spoken.")
    assert long.video.startswith("video_level/train/rgb_front/")


def test_the_original_file_needs_stamps(source: Path):
    write_original(source, ["VIDEO_NAME", "SENTENCE_NAME", "FROM", "TO", "SENTENCE"])

    with pytest.raises(DataError, match=r"how2sign_train\.csv:1: has no column START, END\."):
        run_import(source, "original")


def test_a_clip_is_a_sample_from_its_beginning_to_its_end(source: Path):
    cut_clips(source)

    report = run_import(source, "clips")

    long, short = samples(source, "train")
    assert long.video == f"sentence_level/train/rgb_front/raw_videos/{LONG}.mp4"
    assert (long.start_s, long.end_s, long.num_frames) == (0, pytest.approx(6 / 24), 6)
    assert (long.signer, short.signer, short.num_frames) == ("1", "2", 2)
    assert report.splits["train"].annotation.endswith("re_aligned/how2sign_realigned_train.csv")
    assert report.splits["train"].stamps is None


def test_clips_take_their_sentences_from_the_original_file_where_it_is_there(source: Path):
    cut_clips(source)
    # Stamps are not asked for.
    write_original(source, ["VIDEO_NAME", "SENTENCE_NAME", "FROM", "TO", "SENTENCE"])

    run_import(source, "clips")

    assert [sample.sentence for sample in samples(source, "train")] == ["Spoken.", "Spoken."]


def test_rows_without_clip_and_clips_without_row_are_reported(source: Path):
    cut_clips(source)
    folder = source / "sentence_level" / "train" / "rgb_front" / "raw_videos"
    (folder / f"{SHORT}.mp4").rename(folder / "nobody_0-1-rgb_front.mp4")

    train = run_import(source, "clips").splits["train"]

    assert [(row.id, row.rule, row.reason) for row in train.dropped] == [
        (SHORT, "no video", f"there is no file {SHORT}.mp4")
    ]
    assert train.rows_without_video == (SHORT,)
    assert train.videos_without_rows == (
        "sentence_level/train/rgb_front/raw_videos/nobody_0-1-rgb_front.mp4",
    )


@pytest.mark.parametrize("variant", ["original", "clips"])
def test_the_log_and_both_reports_begin_with_a_warning(source: Path, variant: str):
    write_original(source, ORIGINAL_HEADER)
    if variant == "clips":
        cut_clips(source)
    output = source.with_name("out")

    done = run(python("tools/import_how2sign.py", source, output, "--source", variant))

    assert done.returncode == 0, done.stderr
    warning = done.stdout.splitlines()[0]
    assert warning.startswith("WARNING: ")
    assert "do not match what is signed" in warning
    assert (output / "report.txt").read_text(encoding="utf-8").splitlines()[2] == warning
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert report["remarks"] == [warning]


def test_realigned_stamps_give_no_warning(source: Path):
    assert run_import(source, "realigned").remarks == ()


@pytest.mark.parametrize(
    ("variant", "missing"),
    [
        ("original", r"train/text/en/raw_text/how2sign_train\.csv does not exist\. Put How2Sign's"),
        ("clips", r"train/rgb_front does not exist\. Unpack How2Sign's Green Screen RGB clips"),
    ],
)
def test_what_a_source_lacks_is_named(source: Path, variant: str, missing: str):
    with pytest.raises(DataError, match=r"in/sentence_level/" + missing):
        run_import(source, variant)


def unisign(path: Path, sentences: dict[str, str]) -> Path:
    content = {
        f"{name}.mp4": {"name": f"{name}.mp4", "gloss": "", "text": text, "video_path": "x"}
        for name, text in sentences.items()
    }
    return write_labels(path, content)


def test_sentences_of_a_label_file_replace_those_of_the_annotation(source: Path, tmp_path: Path):
    train = unisign(tmp_path / "labels.train", {LONG: "Labeled.", "gone_0-1-rgb_front": "Gone."})

    report = run_import(source, "realigned", train=train)

    (long,) = samples(source, "train")
    assert (long.id, long.sentence, long.num_frames) == (LONG, "Labeled.", 6)
    split = report.splits["train"]
    assert [(row.id, row.rule, row.reason) for row in split.dropped] == [
        (SHORT, "no label", "labels.train has no such name")
    ]
    assert split.labels_without_rows == ("gone_0-1-rgb_front",)
    assert split.labels == str(train)
    text = (tmp_path / "out" / "report.txt").read_text(encoding="utf-8")
    assert "labels without rows       1\n" in text
    assert "train: labels without rows\n  gone_0-1-rgb_front\n" in text


def test_clips_take_sentences_of_a_label_file_too(source: Path, tmp_path: Path):
    cut_clips(source)
    train = unisign(tmp_path / "labels.train", {LONG: "Labeled.", SHORT: " "})

    report = run_import(source, "clips", train=train)

    assert [sample.sentence for sample in samples(source, "train")] == ["Labeled."]
    assert report.splits["train"].dropped[0].rule == "no sentence"
    assert report.splits["train"].labels == str(train)


def test_a_split_whose_label_file_is_left_out_keeps_its_annotation(source: Path, tmp_path: Path):
    train = unisign(tmp_path / "labels.train", {LONG: "Labeled.", SHORT: "Labeled, too."})
    test = unisign(tmp_path / "labels.test", {how2sign_id(H2S_VIDEOS["test"][0]): "Tested."})

    words = ["--labels", train, "-", test]
    done = run(python("tools/import_how2sign.py", source, tmp_path / "out", *words))

    assert done.returncode == 0, done.stderr
    splits = {split: samples(source, split) for split in ("train", "dev", "test")}
    assert [sample.sentence for sample in splits["train"]] == ["Labeled.", "Labeled, too."]
    assert [sample.sentence for sample in splits["dev"]] == ["Hi!"]
    assert [sample.sentence for sample in splits["test"]] == ["Tested."]


def test_two_labels_that_contradict_each_other_are_named(source: Path, tmp_path: Path):
    entries = [{"name": LONG, "text": "One."}, {"name": f"{LONG}.mp4", "text": "Another."}]
    path = write_labels(tmp_path / "labels.train", entries)

    with pytest.raises(DataError, match=rf"train, entry 2: an earlier entry has another .*{LONG}"):
        run_import(source, "realigned", train=path)

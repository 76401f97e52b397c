"""Imports small real recordings in the layout, and with the oddities, of How2Sign's download."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from fla.data.datasets import GENERATED, GENERATED_NOTE, HOW2SIGN, read_data_set_name
from fla.data.importers.how2sign import import_how2sign
from fla.data.importers.report import ImportReport
from fla.data.importers.report_text import summarize
from fla.data.importers.sentences import is_mojibake
from fla.data.manifest import Sample, check_manifest, fingerprint, read_manifest
from fla.errors import DataError

TOOL = Path(__file__).parents[2] / "tools" / "import_how2sign.py"
HEADER = (
    "VIDEO_ID VIDEO_NAME SENTENCE_ID SENTENCE_NAME START_REALIGNED END_REALIGNED SENTENCE".split()
)
MOJIBAKE = "You\u00e2\u0080\u0099re done."

Row = tuple[str, str, object, object, str]
"""Recording, number of the sentence, start, end, sentence."""

TRAIN: Sequence[Row] = [
    # Out of order, and the next two overlap by 0.3 s.
    ("-fZc293MpJk-1", "2", 1.7, 3.0, 'He said "no" and left.'),
    ("-fZc293MpJk-1", "0", 0.0, 0.5, "Hi!"),
    ("-fZc293MpJk-1", "1", 0.5, 2.0, "We peel, and we chop."),
    ("-fZc293MpJk-1", "3", 3.0, 4.5, "The last one."),
    ("-fZc293MpJk-1", "4", 4.2, 5.0, "Beyond the end."),
    ("-fZc293MpJk-1", "5", 2.0, 2.0, "No time at all."),
    ("-fZc293MpJk-1", "6", 2.01, 2.05, "One frame."),
    ("-fZc293MpJk-1", "7", "", 2.5, "No stamp."),
    ("-fZc293MpJk-1", "8", "nan", "inf", "No stamps."),
    ("-fZc293MpJk-1", "9", -0.2, 0.2, "Before the start."),
    # The same sentence by another signer.
    ("0pKzG0RRUz4-2", "0_1", 0.04, 1.0, "Hi!"),
    ("lost0000000-4", "0", 0.0, 1.0, "Nobody filmed this."),
]
DEV: Sequence[Row] = [("-dev0000000-3", "0", 0.25, 1.25, "Hi!")]
TEST: Sequence[Row] = [
    ("test0000000-8", "0", 0.0, 0.5, MOJIBAKE),
    ("test0000000-8", "1", 0.5, 1.0, "Caf\u00e9 \u2013 cr\u00e8me."),
]


def write_video(path: Path, *, num_frames: int, codec: str = "libx264") -> None:
    """24 frames a second, key frames every 12 and B-frames between them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options={"g": "12", "bf": "2"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(num_frames):
            image = np.full((32, 32, 3), number % 256, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def annotation(source: Path, split: str) -> Path:
    folder = source / "sentence_level" / split / "text" / "en" / "raw_text" / "re_aligned"
    return folder / f"how2sign_realigned_{split}.csv"


def recording(source: Path, split: str, name: str) -> Path:
    folder = source / "video_level" / split / "rgb_front" / "raw_videos"
    return folder / f"{name}-rgb_front.mp4"


def write_annotation(path: Path, rows: Sequence[Row], *, delimiter: str = "\t") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(HEADER)
        for name, number, start, end, sentence in rows:
            video_id, signer = name.rsplit("-", 1)
            sentence_id = f"{video_id}_{number}"
            names = (video_id, f"{name}-rgb_front", sentence_id)
            writer.writerow((*names, f"{sentence_id}-{signer}-rgb_front", start, end, sentence))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("how2sign")
    write_annotation(annotation(source, "train"), TRAIN)
    write_annotation(annotation(source, "val"), DEV)
    write_annotation(annotation(source, "test"), TEST)
    write_video(recording(source, "train", "-fZc293MpJk-1"), num_frames=97)
    write_video(recording(source, "train", "0pKzG0RRUz4-2"), num_frames=48)
    write_video(recording(source, "train", "unnamed0000-5"), num_frames=2)
    write_video(recording(source, "val", "-dev0000000-3"), num_frames=48)
    write_video(recording(source, "test", "test0000000-8"), num_frames=24)
    return source


@pytest.fixture(scope="module")
def imported(
    pristine: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ImportReport, Path, list[tuple[int, int]]]:
    output = tmp_path_factory.mktemp("manifests")
    progress: list[tuple[int, int]] = []
    report = import_how2sign(
        pristine, output, on_progress=lambda done, total: progress.append((done, total))
    )
    return report, output, progress


@pytest.fixture
def source(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "How2Sign")


def run_import(source: Path) -> ImportReport:
    return import_how2sign(source, source / "out", on_progress=lambda done, total: None)


def samples_of(output: Path, split: str) -> dict[str, Sample]:
    return {sample.id: sample for sample in read_manifest(output / f"{split}.tsv").samples}


def test_what_was_drawn_is_not_called_how2sign(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path / "source")
    names = []

    for _ in range(2):
        report = import_how2sign(
            tmp_path / "source", tmp_path / "manifests", on_progress=lambda done, total: None
        )
        names.append((report.corpus, read_data_set_name(tmp_path / "manifests")))
        (tmp_path / "source" / GENERATED_NOTE).touch()

    assert names == [(HOW2SIGN, HOW2SIGN), (GENERATED, GENERATED)]


def test_a_sample_is_a_range_of_the_whole_recording(imported, pristine: Path):
    _, output, _ = imported

    manifest = read_manifest(output / "dev.tsv")

    assert manifest.root == pristine
    assert manifest.samples == (
        Sample(
            id="-dev0000000_0-3-rgb_front",
            video="video_level/val/rgb_front/raw_videos/-dev0000000-3-rgb_front.mp4",
            start_s=0.25,
            end_s=1.25,
            fps=pytest.approx(24),
            num_frames=24,
            signer="3",
            sentence="Hi!",
        ),
    )


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_every_manifest_passes_the_check_before_training(imported, split: str):
    _, output, _ = imported

    check_manifest(read_manifest(output / f"{split}.tsv"))


def test_every_row_is_written_once_or_dropped_once(imported):
    report, output, _ = imported

    train = report.splits["train"]
    written = [sample.id for sample in read_manifest(output / "train.tsv").samples]
    dropped = [row.id for row in train.dropped]
    names = [f"{name[:-2]}_{number}{name[-2:]}-rgb_front" for name, number, *_ in TRAIN]
    assert sorted(written + dropped) == sorted(names)
    assert train.rows_read == train.samples_written + len(train.dropped) == len(TRAIN)


def test_dropped_rows_are_listed_with_line_rule_and_values(imported):
    report, _, _ = imported

    dropped = {(row.line, row.rule): row.reason for row in report.splits["train"].dropped}

    assert dropped == {
        (6, "past the end"): "4.2 s to 5.0 s, but the recording has 4.042 s",
        (7, "ends before it starts"): "2.0 s to 2.0 s",
        (8, "fewer than 2 frames"): "2.01 s to 2.05 s holds 1 frames",
        (9, "no stamp"): "nan s to 2.5 s is no range",
        (10, "no stamp"): "nan s to inf s is no range",
        (13, "no video"): "there is no file lost0000000-4-rgb_front.mp4",
    }


def test_stamps_outside_the_recording_are_clamped_and_listed(imported):
    report, output, _ = imported

    clamped = {row.id[:13]: (row.start_s, row.end_s) for row in report.splits["train"].clamped}

    assert clamped == {"-fZc293MpJk_3": (3.0, 4.5), "-fZc293MpJk_9": (-0.2, 0.2)}
    train = samples_of(output, "train")
    assert train["-fZc293MpJk_3-1-rgb_front"].end_s == pytest.approx(97 / 24)
    assert train["-fZc293MpJk_3-1-rgb_front"].num_frames == 97 - 72
    assert train["-fZc293MpJk_9-1-rgb_front"].start_s == 0
    assert train["-fZc293MpJk_9-1-rgb_front"].num_frames == 5


def test_frames_are_counted_by_their_times(imported):
    _, output, _ = imported

    num_frames = {id: sample.num_frames for id, sample in samples_of(output, "train").items()}

    # 0.04 s is just before frame 1, at 0.0417 s; 1.7 s just before frame 41, at 1.7083 s.
    assert num_frames["0pKzG0RRUz4_0_1-2-rgb_front"] == 23
    assert num_frames["-fZc293MpJk_2-1-rgb_front"] == 72 - 41
    assert num_frames["-fZc293MpJk_0-1-rgb_front"] == 12


def test_sentences_are_those_of_the_annotation(imported):
    _, output, _ = imported

    train = samples_of(output, "train")
    test = samples_of(output, "test")

    assert train["-fZc293MpJk_2-1-rgb_front"].sentence == 'He said "no" and left.'
    assert test["test0000000_0-8-rgb_front"].sentence == MOJIBAKE


def test_the_report_counts_what_a_user_should_know(imported):
    report, _, _ = imported

    train, dev, test = report.splits["train"], report.splits["dev"], report.splits["test"]

    assert train.rows_without_video == ("lost0000000_0-4-rgb_front",)
    assert train.videos_without_rows == (
        "video_level/train/rgb_front/raw_videos/unnamed0000-5-rgb_front.mp4",
    )
    assert train.recordings == 2
    assert train.stamps.rows_out_of_order == 3
    assert ("-fZc293MpJk_1-1-rgb_front", "-fZc293MpJk_2-1-rgb_front") in train.stamps.overlapping
    assert train.sentences.duplicates == 1
    assert train.sentences.shared_with_train == ()
    assert dev.sentences.shared_with_train == ("-dev0000000_0-3-rgb_front",)
    assert test.sentences.mojibake == ("test0000000_0-8-rgb_front",)
    assert test.sentences.shared_with_train == ()


def test_durations_are_those_of_the_samples_written(imported):
    report, _, _ = imported

    durations = report.splits["test"].durations

    assert (durations.min_s, durations.median_s, durations.max_s) == (0.5, 0.5, 0.5)
    assert durations.hours == pytest.approx(1 / 3600, abs=1e-4)


def test_the_report_on_disk_says_the_same_as_the_value(imported):
    report, output, _ = imported

    on_disk = json.loads((output / "report.json").read_text(encoding="utf-8"))
    text = (output / "report.txt").read_text(encoding="utf-8")

    assert on_disk["splits"]["train"]["rows_read"] == 12
    assert on_disk["splits"]["train"]["dropped"][0]["rule"] == "past the end"
    samples = read_manifest(output / "test.tsv").samples
    assert on_disk["splits"]["test"]["fingerprint"] == fingerprint(samples)
    assert summarize(report) in text
    assert all(row.id in text for row in report.splits["train"].dropped)


def test_progress_counts_the_recordings_that_rows_name(imported):
    _, _, progress = imported

    assert progress == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_copy_saved_by_a_spreadsheet_gives_the_same_manifest(imported, source: Path):
    _, output, _ = imported
    path = annotation(source, "train")
    write_annotation(path, TRAIN, delimiter=",")
    # Without VIDEO_ID, which the import does without, the mark stands before a column it needs.
    lines = [line.partition(b",")[2] for line in path.read_bytes().splitlines()]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))

    run_import(source)

    assert samples_of(source / "out", "train") == samples_of(output, "train")


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("END_REALIGNED\t", "END\t", r":1: has no column END_REALIGNED\."),
        ("\tThe last one.", "\t", r":5: SENTENCE is empty\."),
        ("\tThe last one.", "\t \u00a0 ", r":5: SENTENCE is empty\."),
        ("-fZc293MpJk_3-1-rgb_front\t", "\t", r":5: SENTENCE_NAME is empty\."),
        ("\t4.5\t", "\t0:04\t", r":5: END_REALIGNED \(0:04\) is not a number of seconds\."),
        ("\tThe last one.", "", r":5: has 6 values for 7 columns\."),
        ("The last", '"The last', r":5: .*Close or double the quote\."),
        ("_3-1-rgb", "_1-1-rgb", r":5: SENTENCE_NAME \(-fZc293MpJk_1-1-rgb_front\) is that of li"),
    ],
)
def test_a_row_that_cannot_be_understood_is_named_by_its_line(
    source: Path, before: str, after: str, sentence: str
):
    path = annotation(source, "train")
    path.write_text(path.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")

    with pytest.raises(DataError, match=r"how2sign_realigned_train\.csv" + sentence):
        run_import(source)

    assert not (source / "out").exists()


def test_a_file_that_is_not_utf8_is_named_with_the_line(source: Path):
    annotation(source, "test").write_bytes("\t".join(HEADER).encode() + b"\n\xe9\n")

    with pytest.raises(DataError, match=r"how2sign_realigned_test\.csv:2: not UTF-8\."):
        run_import(source)


def test_a_row_that_is_there_twice_is_dropped_once(source: Path):
    write_annotation(annotation(source, "val"), [*DEV, *DEV])

    dev = run_import(source).splits["dev"]

    assert dev.samples_written == 1
    assert [(row.line, row.reason) for row in dev.dropped] == [(3, "line 2 has the same name")]


def test_every_missing_annotation_is_named_at_once(source: Path):
    annotation(source, "train").unlink()
    annotation(source, "val").unlink()

    with pytest.raises(DataError) as raised:
        run_import(source)

    lines = str(raised.value).splitlines()
    assert [line.split(" does not exist.")[0] for line in lines] == [
        str(annotation(source, "train")),
        str(annotation(source, "val")),
    ]


def test_a_missing_folder_of_recordings_is_named(source: Path):
    shutil.rmtree(source / "video_level" / "test")

    with pytest.raises(DataError, match=r"^\S+video_level/test/rgb_front does not exist\."):
        run_import(source)


def test_a_split_without_any_recording_stops_the_import(source: Path):
    recording(source, "test", "test0000000-8").unlink()

    with pytest.raises(
        DataError, match=r"test\.csv: none of its 2 rows became a sample \(2 no video\); .*no file"
    ):
        run_import(source)


def test_rows_of_a_broken_recording_are_dropped_and_the_others_stay(source: Path):
    # What a download page's error looks like when it is saved as a video.
    recording(source, "train", "0pKzG0RRUz4-2").write_text("<html>Quota exceeded</html>" * 90)

    train = run_import(source).splits["train"]

    broken = {row.id: row.reason for row in train.dropped if row.rule == "unreadable recording"}
    assert list(broken) == ["0pKzG0RRUz4_0_1-2-rgb_front"]
    assert "0pKzG0RRUz4-2-rgb_front.mp4 does not decode: " in broken["0pKzG0RRUz4_0_1-2-rgb_front"]
    assert train.samples_written == 5
    report = (source / "out" / "report.txt").read_text(encoding="utf-8")
    assert "1 unreadable recording" in report
    assert "0pKzG0RRUz4_0_1-2-rgb_front: unreadable recording: " in report


def test_splits_of_which_no_recording_can_be_read_stop_the_import(source: Path):
    recording(source, "val", "-dev0000000-3").write_text("<html>Quota exceeded</html>" * 90)
    recording(source, "test", "test0000000-8").write_bytes(b"")

    with pytest.raises(DataError) as raised:
        run_import(source)

    dev, test = str(raised.value).splitlines()
    assert "val.csv: none of its 1 rows became a sample (1 unreadable recording); " in dev
    assert "test.csv: none of its 2 rows became a sample (2 unreadable recording); " in test
    assert "test0000000-8-rgb_front.mp4 does not decode: " in test
    assert not list((source / "out").glob("*.tsv"))


def test_a_recording_cut_short_by_the_download_is_named(source: Path):
    path = recording(source, "val", "-dev0000000-3")
    path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(DataError, match=r"-dev0000000-3-rgb_front\.mp4 does not decode: "):
        run_import(source)


def test_two_recordings_of_one_name_are_named(source: Path):
    path = recording(source, "val", "-dev0000000-3")
    shutil.copy(path, path.parents[1])

    with pytest.raises(DataError, match=r"-dev0000000-3-rgb_front\.mp4.* is also at .*Remove one"):
        run_import(source)


def test_recordings_may_lie_behind_a_link_on_another_disk(source: Path, tmp_path: Path):
    folder = recording(source, "val", "-dev0000000-3").parent
    folder.rename(tmp_path / "disk")
    folder.symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "._-dev0000000-3-rgb_front.mp4").write_bytes(b"macOS")

    dev = run_import(source).splits["dev"]

    assert dev.samples_written == 1
    assert dev.videos_without_rows == ()


def test_mojibake_is_told_from_other_letters():
    assert is_mojibake(MOJIBAKE)
    assert not is_mojibake("Caf\u00e9.")
    assert not is_mojibake("You\u2019re done.")
    assert not is_mojibake("You're done.")


def run_tool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *words],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(TOOL.parents[1]), "OMP_NUM_THREADS": "1"},
    )


def test_the_tool_prints_progress_summary_and_where_the_report_is(source: Path, tmp_path: Path):
    run = run_tool(str(source), str(tmp_path / "out"))

    assert (run.returncode, run.stderr) == (0, "")
    assert "read: 4 of 4 recordings" in run.stdout
    assert "rows dropped              6, 1 ends before it starts, 1 fewer than 2" in run.stdout
    assert run.stdout.endswith(f"{tmp_path}/out/report.txt\n")


def test_the_tool_says_what_is_wrong_in_one_sentence(tmp_path: Path):
    run = run_tool(str(tmp_path), str(tmp_path / "out"))

    assert run.returncode == 1
    assert run.stderr == (
        f"error: {tmp_path} has no folder sentence_level. Name the folder that holds How2Sign's "
        "sentence_level and video_level.\n"
    )


def test_the_tool_names_an_output_that_cannot_be_written_before_it_reads(
    source: Path, tmp_path: Path
):
    (tmp_path / "out").touch()

    run = run_tool(str(source), str(tmp_path / "out"))

    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"error: {tmp_path}/out: File exists.\n"

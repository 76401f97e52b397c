"""An import that was stopped goes on where it was, and a second one reads nothing again."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from fla.data.importers.how2sign import import_how2sign
from fla.data.importers.recording_notes import Note, Recording, open_notes, read_notes
from fla.data.importers.recordings import read_recordings
from tests.helpers.commands import ROOT, environment, python
from tests.helpers.corpora import (
    H2S_VIDEOS,
    how2sign_annotation,
    how2sign_id,
    how2sign_recording,
    make_how2sign,
    write_how2sign_annotation,
)
from tests.helpers.videos import write_video

MANY = 300


def spoil(path: Path) -> None:
    """Make a recording unreadable without a change of its size or time: reading it would fail."""
    status = path.stat()
    path.write_bytes(b"\0" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def run_import(source: Path, output: Path) -> list[tuple[int, int]]:
    progress: list[tuple[int, int]] = []
    import_how2sign(source, output, on_progress=lambda done, total: progress.append((done, total)))
    return progress


def manifests(output: Path) -> dict[str, str]:
    # All but the first line, which names the way to the videos.
    return {path.name: path.read_text().partition("\n")[2] for path in output.glob("*.tsv")}


def test_a_second_import_reads_no_recording(tmp_path: Path):
    make_how2sign(tmp_path / "in")
    run_import(tmp_path / "in", tmp_path / "out")
    first = manifests(tmp_path / "out")
    for path in (tmp_path / "in").rglob("*.mp4"):
        spoil(path)

    progress = run_import(tmp_path / "in", tmp_path / "out")

    assert progress == [(4, 4)]
    assert manifests(tmp_path / "out") == first


def test_a_recording_that_changed_is_read_again(tmp_path: Path):
    make_how2sign(tmp_path / "in")
    run_import(tmp_path / "in", tmp_path / "out")
    long, short = (how2sign_recording(tmp_path / "in", "train", n) for n in H2S_VIDEOS["train"])
    write_video(long, num_frames=9, fps=24)
    status = short.stat()
    os.utime(short, ns=(status.st_atime_ns, status.st_mtime_ns + 1))

    progress = run_import(tmp_path / "in", tmp_path / "out")

    assert progress == [(2, 4), (3, 4), (4, 4)]
    train = (tmp_path / "out" / "train.tsv").read_text()
    assert "\t9\t1\tHi!\n" in train


def test_a_recording_that_could_not_be_read_is_tried_again(tmp_path: Path):
    make_how2sign(tmp_path / "in")
    path = how2sign_recording(tmp_path / "in", "train", H2S_VIDEOS["train"][1])
    whole = path.read_bytes()
    path.write_bytes(whole[:-300])
    run_import(tmp_path / "in", tmp_path / "out")
    path.write_bytes(whole)

    progress = run_import(tmp_path / "in", tmp_path / "out")

    assert progress == [(3, 4), (4, 4)]
    assert how2sign_id(H2S_VIDEOS["train"][1]) in (tmp_path / "out" / "train.tsv").read_text()


@pytest.mark.parametrize(
    "end", [b'{"path": "video_level/train', b"\xff\xfe\x00", b'{"path": "a"}\n', b"[1]\n\n"]
)
def test_a_line_that_is_not_whole_does_no_harm(end: bytes, tmp_path: Path):
    note = Note(size=1, mtime_ns=1, recording=Recording(fps=24, frame_times=np.arange(3) / 24))
    notes = tmp_path / "notes"
    with open_notes(notes) as add_note:
        add_note("before.mp4", note)
    notes.write_bytes(notes.read_bytes() + end)

    with open_notes(notes) as add_note:
        add_note("after.mp4", note)

    assert list(read_notes(notes)) == ["before.mp4", "after.mp4"]


def test_an_import_that_was_killed_goes_on_where_it_was(tmp_path: Path):
    source, output = tmp_path / "in", tmp_path / "out"
    make_how2sign(source)
    names = [f"many{number:07d}-1" for number in range(MANY)]
    first = how2sign_recording(source, "train", names[0])
    write_video(first, num_frames=200, fps=24)
    for name in names[1:]:
        how2sign_recording(source, "train", name).hardlink_to(first)
    rows = [(f"{name}-rgb_front", how2sign_id(name), 0, 1, "Hi!") for name in names]
    write_how2sign_annotation(how2sign_annotation(source, "train"), rows)

    with subprocess.Popen(
        python("tools/import_how2sign.py", source, output),
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    ) as importer:
        notes = output / "recordings.jsonl"
        while importer.poll() is None and not (notes.is_file() and notes.stat().st_size):
            time.sleep(0.001)
        # Its workers, too.
        os.killpg(importer.pid, signal.SIGKILL)
    noted = len(read_notes(notes))

    assert importer.returncode == -signal.SIGKILL
    assert not list(output.glob("*.tsv"))
    assert 0 < noted < MANY
    progress = run_import(source, output)
    assert progress[0] == (noted, MANY + 2)
    assert progress[-1] == (MANY + 2, MANY + 2)
    assert len((output / "train.tsv").read_text().splitlines()) == MANY + 2


@pytest.mark.parametrize(
    ("times", "fps"),
    [
        (np.arange(7500) * 512 * (1 / 12288), 24.0),
        (np.round(np.arange(7500) * 3753.75) * (1 / 90000), 7499 / 312.7),
        (np.cumsum(np.random.default_rng(0).random(1000)), 23.976),
        (np.zeros(1), 0.0),
    ],
    ids=["even", "rounded", "uneven", "single"],
)
def test_frame_times_are_noted_to_the_last_bit(times, fps: float, tmp_path: Path):
    note = Note(size=3, mtime_ns=4, recording=Recording(fps=fps, frame_times=times))

    with open_notes(tmp_path / "notes") as add_note:
        add_note("-a/\u00fc.mp4", note)
    again = read_notes(tmp_path / "notes")["-a/\u00fc.mp4"]

    assert (again.size, again.mtime_ns, again.recording.fps) == (3, 4, fps)
    np.testing.assert_array_equal(again.recording.frame_times, times)


def test_notes_of_an_evenly_spaced_recording_are_short(tmp_path: Path):
    recording = Recording(fps=24.0, frame_times=np.arange(7500) / 24)

    with open_notes(tmp_path / "notes") as add_note:
        add_note("a", Note(size=1, mtime_ns=1, recording=recording))

    assert (tmp_path / "notes").stat().st_size < 1000


def test_a_recording_is_noted_as_soon_as_it_is_read(tmp_path: Path):
    paths = [write_video(tmp_path / f"{n}.mp4", num_frames=3) for n in "abc"]
    notes = tmp_path / "notes"
    counts: list[tuple[int, int]] = []

    read_recordings(
        paths,
        root=tmp_path,
        notes=notes,
        on_progress=lambda done, total: counts.append((done, len(read_notes(notes)))),
    )

    assert counts == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_notes_hold_for_the_recordings_of_another_choice(tmp_path: Path):
    paths = [write_video(tmp_path / f"{n}.mp4", num_frames=3) for n in "ab"]
    notes = tmp_path / "notes"
    read_recordings(paths[:1], root=tmp_path, notes=notes, on_progress=lambda done, total: None)
    read_recordings(paths[1:], root=tmp_path, notes=notes, on_progress=lambda done, total: None)

    assert sorted(read_notes(notes)) == ["a.mp4", "b.mp4"]

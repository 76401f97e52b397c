"""CSL-Daily in its other packaging: one mp4 a sentence."""

import os
from pathlib import Path

import pytest

from fla.data.importers.csl_daily import import_csl_daily
from fla.data.importers.report import ImportReport
from fla.data.manifest import check_manifest, read_manifest
from fla.errors import DataError
from tests.helpers.commands import python, run
from tests.helpers.corpora import CSL_CLIPS, make_csl_daily
from tests.helpers.videos import write_video

LONG, SHORT = CSL_CLIPS["train"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    make_csl_daily(tmp_path / "in", as_mp4=True)
    return tmp_path / "in"


def run_import(source: Path) -> ImportReport:
    return import_csl_daily(source, source.with_name("out"), on_progress=lambda done, total: None)


def test_a_video_is_a_sample_with_the_frames_and_the_rate_of_its_file(source: Path):
    write_video(source / "sentence-crop" / f"{SHORT}.mp4", num_frames=5, fps=25)

    report = run_import(source)

    manifest = read_manifest(source.with_name("out") / "train.tsv")
    check_manifest(manifest)
    long, short = manifest.samples
    assert (long.video, long.num_frames, long.start_s) == (f"sentence-crop/{LONG}.mp4", 6, 0.0)
    assert (long.fps, long.end_s, long.signer) == (pytest.approx(30), pytest.approx(0.2), "0")
    assert (short.fps, short.num_frames) == (pytest.approx(25), 5)
    assert report.splits["train"].other_lengths == (
        f"{SHORT}: 5 frames, but the annotation says 2",
    )


def test_missing_unnamed_and_broken_videos_are_reported(source: Path):
    folder = source / "sentence-crop"
    (folder / f"{LONG}.mp4").rename(folder / "S9_P9_T9.mp4")
    write_video(folder / "more.mp4", num_frames=3)

    report = run_import(source)

    train = report.splits["train"]
    assert [(row.rule, row.reason) for row in train.dropped] == [
        ("no video", f"there is no file {LONG}.mp4")
    ]
    assert train.videos_without_rows == ("sentence-crop/S9_P9_T9.mp4", "sentence-crop/more.mp4")
    assert report.splits["dev"].videos_without_rows == ()


def test_what_has_been_read_is_noted(source: Path):
    run_import(source)
    for path in (source / "sentence-crop").iterdir():
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert run_import(source).splits["train"].samples_written == 2


@pytest.mark.parametrize(
    ("as_mp4", "said"), [(True, "mp4 videos in"), (False, "folders of images in")]
)
def test_log_and_report_say_what_was_read_and_images_come_first(
    as_mp4: bool, said: str, tmp_path: Path
):
    make_csl_daily(tmp_path / "in", as_mp4=as_mp4)
    if not as_mp4:
        (tmp_path / "in" / "sentence-crop").mkdir()

    done = run(python("tools/import_csl_daily.py", tmp_path / "in", tmp_path / "out"))

    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[0]
    assert line.startswith(f"Clips are {said} {tmp_path}/in/sentence")
    assert (tmp_path / "out" / "report.txt").read_text().splitlines()[2] == line


def test_without_images_and_videos_both_places_are_named(source: Path, tmp_path: Path):
    (source / "sentence-crop").rename(tmp_path / "elsewhere")

    with pytest.raises(DataError, match=r"frames_512x512 does not exist\. .*in/sentence-crop, and"):
        run_import(source)

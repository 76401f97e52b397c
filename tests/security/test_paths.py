"""Ids, paths and names of members that climb out of their folder write, and are read, nowhere."""

import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from fla.compare.clips import gather_clips
from fla.data.check import find_bad_clips
from fla.data.frame_folder import list_frames, read_images
from fla.data.importers.options import Options
from fla.data.importers.phoenix14t import import_phoenix14t
from fla.data.manifest import Sample, check_manifest, read_manifest, write_manifest
from fla.data.transcode import list_recordings
from fla.errors import DataError
from fla.run_folder import DecodedRow, read_decodes, write_decodes
from fla.translation_table import build_table
from tests.helpers.compared_runs import write_corpus
from tests.helpers.corpora import make_phoenix14t, phoenix_annotation
from tests.helpers.videos import write_image, write_video
from tests.security.traps import files_below


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """So far below that a path can climb, and be seen to have climbed."""
    path = tmp_path / "a" / "b" / "c" / "d"
    path.mkdir(parents=True)
    return path


def test_an_id_is_a_name_and_no_path(folder, tmp_path):
    ids = ["../../../escaped", str(tmp_path / "escaped"), "a/../../../escaped", "..", "nul\0byte"]
    manifests = write_corpus(folder / "corpus", references=dict.fromkeys(ids, "A cat."))
    manifest = read_manifest(manifests / "test.tsv")
    check_manifest(manifest)
    before = files_below(tmp_path)

    bad = find_bad_clips(manifest, on_progress=lambda done, total: None)
    clips = gather_clips(manifest, ids)
    decodes = folder / "decodes" / "export.test.tsv"
    write_decodes(decodes, [DecodedRow(i, "A dog.", "A cat.") for i in ids], signature="text")

    assert bad == []
    assert set(clips.urls) == set(ids)
    assert [row.id for row in read_decodes(decodes)[0]] == ids
    assert [row[0] for row in build_table(decodes)["data"]] == ids
    new = {Path(path).name for path in files_below(tmp_path) - before}
    assert new == {"test.tsv.checked", "decodes", "export.test.tsv"}


def write_one(folder: Path, video: str) -> Path:
    """A manifest of one clip."""
    sample = Sample(
        id="a", video=video, start_s=0.0, end_s=1.0, fps=15.0, num_frames=15, signer="",
        sentence="A cat.",
    )  # fmt: skip
    (folder / "videos").mkdir()
    write_manifest(folder / "test.tsv", [sample], root=folder / "videos")
    return folder / "test.tsv"


@pytest.mark.parametrize("video", ["../../outside.mp4", "x/../../../outside.mp4", "ABSOLUTE"])
def test_no_copy_of_a_recording_is_written_outside_of_its_folder(video, folder, tmp_path):
    outside = write_video(folder.parent / "outside.mp4", num_frames=15)
    path = write_one(folder, video.replace("ABSOLUTE", str(outside)))
    (folder / "videos" / "x").mkdir()
    manifest = read_manifest(path)
    check_manifest(manifest)
    before = files_below(tmp_path)

    with pytest.raises(DataError, match=r"test\.tsv:3: .*outside\.mp4 is not below"):
        list_recordings([manifest], folder / "copies" / "small")

    assert files_below(tmp_path) == before


@pytest.mark.parametrize("video", ["a\0.mp4", "\0", "a.zip\0/b"])
def test_a_zero_in_the_path_of_a_recording_is_refused(video, folder):
    manifest = read_manifest(write_one(folder, video))

    with pytest.raises(DataError, match=r"test\.tsv:3: the video of a, .*, does not exist"):
        check_manifest(manifest)


def test_a_name_of_an_annotation_is_looked_for_in_its_own_folder_alone(folder, tmp_path):
    make_phoenix14t(folder)
    write_image(tmp_path / "escaped.png", 1, size=32)
    (tmp_path / "escaped").mkdir()
    (tmp_path / "escaped.png").rename(tmp_path / "escaped" / "images0001.png")
    climbing = "../" * 7 + "escaped"
    assert (folder / "features" / "fullFrame-210x260px" / "train" / climbing).is_dir()
    annotation = phoenix_annotation(folder, "train")
    rows = [f"{name}|x|-1|-1|A|G|ein satz" for name in (climbing, str(tmp_path / "escaped"))]
    annotation.write_text(annotation.read_text() + "\n".join(rows) + "\n")
    before = files_below(tmp_path)

    report = import_phoenix14t(
        folder, folder / "out", options=Options(), on_progress=lambda done, total: None
    )

    assert [row.rule for row in report.splits["train"].dropped] == ["no video", "no video"]
    assert {path.partition("/out")[0] for path in files_below(tmp_path) - before} == {"a/b/c/d"}


@pytest.fixture
def archive(folder: Path) -> Path:
    """Images whose names climb, and one that is a link."""
    write_image(folder / "image.png", 1, size=32)
    image = (folder / "image.png").read_bytes()
    link = zipfile.ZipInfo("train/link/images0001.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(folder / "frames.zip", "w") as file:
        for name in ("../../../escaped", "/escaped", "train/clip"):
            file.writestr(f"{name}/images0001.png", image)
        file.writestr("train/clip/../../../../escaped.png", image)
        file.writestr(link, "/etc/passwd")
    return folder / "frames.zip"


@pytest.mark.parametrize("name", ["train/clip", "../../../escaped", "train/clip/../../../.."])
def test_members_of_an_archive_are_read_and_never_unpacked(name, archive, folder, tmp_path):
    before = files_below(tmp_path)

    names = list_frames(archive / name)
    images = read_images(archive / name, names)

    assert [image[:4] for image in images] == [b"\x89PNG"]
    assert files_below(tmp_path) == before


def test_a_link_in_an_archive_is_not_followed(archive):
    assert read_images(archive / "train" / "link", ["images0001.png"]) == [b"/etc/passwd"]


def test_what_lies_outside_of_an_archive_is_not_read_through_it(archive, folder):
    shutil.copytree(folder, folder.parent / "elsewhere")

    assert list_frames(archive / ".." / ".." / "elsewhere") == ()
    with pytest.raises(DataError, match=r"elsewhere cannot be read: .*There is no item named"):
        read_images(archive / ".." / ".." / "elsewhere", ["image.png"])

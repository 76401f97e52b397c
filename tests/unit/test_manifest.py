import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from fla.data.manifest import (
    Manifest,
    Sample,
    check_manifest,
    deal_videos_at_random,
    fingerprint,
    read_manifest,
    write_manifest,
)
from fla.errors import DataError

HEADER = "id\tvideo\tstart_s\tend_s\tfps\tnum_frames\tsigner\tsentence"


def a_sample(number: int = 0, **changes: object) -> Sample:
    sample = Sample(
        id=f"-a_{number}-1-rgb_front",
        video=f"videos/{number}.mp4",
        start_s=0.1 + number,
        end_s=2.7 + number,
        fps=23.976023976023978,
        num_frames=62 + number,
        signer=str(number),
        sentence=f"Sentence {number}.",
    )
    return replace(sample, **changes)


def written(folder: Path, *samples: Sample) -> Manifest:
    for sample in samples:
        (folder / sample.video).parent.mkdir(exist_ok=True)
        (folder / sample.video).touch()
    write_manifest(folder / "train.tsv", samples, root=folder)
    return read_manifest(folder / "train.tsv")


def test_what_is_written_is_read_back(tmp_path: Path):
    samples = (a_sample(0), a_sample(1, sentence='He said "no" –\tand "yes".'), a_sample(2))

    manifest = written(tmp_path, *samples)

    assert manifest.samples == samples
    assert manifest.root == tmp_path
    assert manifest.lines == (3, 4, 5)


@pytest.mark.parametrize("sentence", ['"', "a\nb", "a\r\nb", "a\rb", " a ", "#", "a\x85b", "'"])
def test_a_sentence_is_kept_letter_by_letter(tmp_path: Path, sentence: str):
    manifest = written(tmp_path, a_sample(0, sentence=sentence), a_sample(1))

    assert [sample.sentence for sample in manifest.samples] == [sentence, "Sentence 1."]


def test_lines_are_those_of_the_file_after_a_sentence_of_two_lines(tmp_path: Path):
    manifest = written(tmp_path, a_sample(0, sentence="a\nb"), a_sample(1, sentence=" "))

    with pytest.raises(DataError, match=r"train\.tsv:5: the sentence of -a_1-1-rgb_front is empty"):
        check_manifest(manifest)


def test_what_an_editor_on_windows_adds_changes_no_sample(tmp_path: Path):
    before = written(tmp_path, a_sample(0), a_sample(1))
    path = tmp_path / "train.tsv"

    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    after = read_manifest(path)

    assert (after.root, after.samples) == (before.root, before.samples)


def test_hash_is_that_of_the_file(tmp_path: Path):
    manifest = written(tmp_path, a_sample())

    data = (tmp_path / "train.tsv").read_bytes()
    assert manifest.sha256 == hashlib.sha256(data).hexdigest()


def test_manifest_and_videos_can_move_together(tmp_path: Path):
    (tmp_path / "before" / "corpus").mkdir(parents=True)
    write_manifest(
        tmp_path / "before" / "lists" / "dev.tsv", [a_sample()], root=tmp_path / "before" / "corpus"
    )

    (tmp_path / "before").rename(tmp_path / "after")

    root = read_manifest(tmp_path / "after" / "lists" / "dev.tsv").root
    assert root == tmp_path / "after" / "corpus"


def test_root_is_absolute_where_nothing_is_shared(tmp_path: Path):
    write_manifest(tmp_path / "dev.tsv", [a_sample()], root=Path("/corpora/How2Sign"))

    first_line = (tmp_path / "dev.tsv").read_text().splitlines()[0]
    assert first_line == "# fla-manifest 1 root=/corpora/How2Sign"
    assert read_manifest(tmp_path / "dev.tsv").root == Path("/corpora/How2Sign")


def test_video_root_of_the_caller_replaces_that_of_the_file(tmp_path: Path):
    write_manifest(tmp_path / "dev.tsv", [a_sample()], root=tmp_path)

    manifest = read_manifest(tmp_path / "dev.tsv", video_root=str(tmp_path / "elsewhere"))

    assert manifest.root == tmp_path / "elsewhere"


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path: Path):
    written(tmp_path, a_sample())
    before = (tmp_path / "train.tsv").read_bytes()

    with pytest.raises(UnicodeEncodeError):
        write_manifest(tmp_path / "train.tsv", [a_sample(sentence="\ud800")], root=tmp_path)

    assert (tmp_path / "train.tsv").read_bytes() == before


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("a\tv\t0\t1\t25\t25\t", r":3: has 7 values for 8 columns\."),
        ("a\tv\t0\t1\t25\t25\t\ta\tb", r":3: has 9 values for 8 columns\."),
        ("a\tv\tzero\t1\t25\t25\t\ta", r":3: start_s \(zero\) is not a number\."),
        ("a\tv\t0\t\t25\t25\t\ta", r":3: end_s \(\) is not a number\."),
        ("a\tv\t0\t1\t25\t2.5\t\ta", r":3: num_frames \(2\.5\) is not a whole number\."),
        ('a\tv\t0\t1\t25\t25\t\t"a', r":3: unexpected end of data\. Close or double the quote\."),
    ],
)
def test_a_row_that_is_no_sample_is_named_by_its_line(tmp_path: Path, row: str, sentence: str):
    (tmp_path / "dev.tsv").write_text(f"# fla-manifest 1 root=.\n{HEADER}\n{row}\n")

    with pytest.raises(DataError, match=r"dev\.tsv" + sentence):
        read_manifest(tmp_path / "dev.tsv")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", r":1: a manifest begins with '# fla-manifest 1 root=PATH', not with ''"),
        (b"id\tvideo\n", r":1: a manifest begins with .*, not with 'id\tvideo'"),
        (b"# fla-manifest 1 root=.\n", r":2: the columns are none, and must be id video start_s"),
        (b"# fla-manifest 1 root=.\nid\tvideo\n", r":2: the columns are id video, and must be id"),
        (b"# fla-manifest 1 root=.\nid\tb\xff\n", r":2: not UTF-8"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, text: bytes, sentence: str):
    (tmp_path / "dev.tsv").write_bytes(text)

    with pytest.raises(DataError, match=r"dev\.tsv" + sentence):
        read_manifest(tmp_path / "dev.tsv")


def test_columns_may_stand_in_any_order(tmp_path: Path):
    columns = "\t".join(reversed(HEADER.split("\t")))
    row = "Hi.\t1\t25\t25.0\t1\t0\tv.mp4\ta"
    (tmp_path / "dev.tsv").write_text(f"# fla-manifest 1 root=.\n{columns}\n{row}\n")

    (sample,) = read_manifest(tmp_path / "dev.tsv").samples

    assert (sample.id, sample.sentence, sample.end_s) == ("a", "Hi.", 1.0)


def test_a_missing_manifest_is_one_sentence(tmp_path: Path):
    with pytest.raises(DataError, match=r"dev\.tsv does not exist\. Import the corpus first\.$"):
        read_manifest(tmp_path / "dev.tsv")


def test_a_sound_manifest_passes(tmp_path: Path):
    check_manifest(written(tmp_path, a_sample(0), a_sample(1)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sentence": ""}, r"the sentence of -a_1-1-rgb_front is empty\."),
        ({"sentence": " \t "}, r"the sentence of -a_1-1-rgb_front is empty\."),
        ({"id": "-a_0-1-rgb_front"}, r"the id -a_0-1-rgb_front is that of line 3\."),
        ({"id": ""}, r"the id is empty\."),
        ({"start_s": 4.0, "end_s": 3.2}, r"end_s \(3\.2\) is not after start_s \(4\.0\)\."),
        ({"start_s": 4.0, "end_s": 4.0}, r"end_s \(4\.0\) is not after start_s \(4\.0\)\."),
        ({"start_s": -0.5}, r"start_s \(-0\.5\) is before the recording\."),
        ({"end_s": float("nan")}, r"start_s \(1\.1\), end_s \(nan\) and fps .* must be finite\."),
        ({"end_s": float("inf")}, r"start_s \(1\.1\), end_s \(inf\) and fps .* must be finite\."),
        ({"fps": 0.0}, r"fps \(0\.0\) is not above 0\."),
        ({"num_frames": 0}, r"num_frames \(0\) is below 1\."),
    ],
)
def test_a_sample_that_cannot_be_used_stops_the_run(
    tmp_path: Path, changes: dict[str, object], sentence: str
):
    manifest = written(tmp_path, a_sample(0), a_sample(1, **changes))

    with pytest.raises(DataError, match=r"^\S+train\.tsv:4: " + sentence + "[^\n]*$"):
        check_manifest(manifest)


def test_a_missing_video_is_named_with_its_whole_path(tmp_path: Path):
    manifest = written(tmp_path, a_sample(0), a_sample(1))
    (tmp_path / "videos" / "1.mp4").unlink()

    with pytest.raises(
        DataError, match=rf":4: the video of -a_1.*, {tmp_path}/videos/1\.mp4, does"
    ):
        check_manifest(manifest)


def test_a_missing_video_folder_is_one_sentence_and_not_one_a_row(tmp_path: Path):
    write_manifest(tmp_path / "dev.tsv", [a_sample(0), a_sample(1)], root=tmp_path / "gone")

    with pytest.raises(DataError, match=r"^\S+dev\.tsv:1: the folder of the videos, [^\n]*$"):
        check_manifest(read_manifest(tmp_path / "dev.tsv"))


def test_many_faults_are_counted_and_not_all_printed(tmp_path: Path):
    manifest = written(tmp_path, *[a_sample(number, sentence="") for number in range(12)])

    with pytest.raises(DataError) as raised:
        check_manifest(manifest)

    lines = str(raised.value).splitlines()
    assert len(lines) == 11
    assert lines[9].split(":")[1] == "12"
    assert lines[10] == "2 more faults follow."


def test_an_empty_manifest_is_refused(tmp_path: Path):
    write_manifest(tmp_path / "dev.tsv", [], root=tmp_path)

    with pytest.raises(DataError, match=r"dev\.tsv: has no sample\."):
        check_manifest(read_manifest(tmp_path / "dev.tsv"))


@pytest.mark.parametrize("num_samples", [2, 3, 10])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nobody_keeps_the_own_video_when_they_are_dealt(num_samples: int, seed: int):
    samples = tuple(a_sample(number) for number in range(num_samples))

    dealt = deal_videos_at_random(samples, seed=seed)

    assert all(new.video != old.video for new, old in zip(dealt, samples, strict=True))
    assert {sample.video for sample in dealt} == {sample.video for sample in samples}


def test_dealing_moves_the_whole_clip_and_leaves_the_sentence():
    samples = tuple(a_sample(number) for number in range(10))

    dealt = deal_videos_at_random(samples, seed=1)

    assert [(s.id, s.sentence) for s in dealt] == [(s.id, s.sentence) for s in samples]
    clip_of = {s.video: (s.start_s, s.end_s, s.fps, s.num_frames, s.signer) for s in samples}
    assert all(
        clip_of[s.video] == (s.start_s, s.end_s, s.fps, s.num_frames, s.signer) for s in dealt
    )


def test_the_seed_decides_the_deal():
    samples = tuple(a_sample(number) for number in range(10))

    assert deal_videos_at_random(samples, seed=1) == deal_videos_at_random(samples, seed=1)
    assert deal_videos_at_random(samples, seed=1) != deal_videos_at_random(samples, seed=2)


def test_a_single_sample_cannot_be_dealt():
    with pytest.raises(DataError, match="has no other video"):
        deal_videos_at_random([a_sample()], seed=1)


def test_fingerprint_ignores_order_and_video():
    samples = [a_sample(0), a_sample(1)]

    moved = [replace(samples[1], video="x.mp4"), samples[0]]

    assert fingerprint(moved) == fingerprint(samples)


def test_fingerprint_can_be_made_with_sha256sum():
    samples = [a_sample(0, id="b", sentence="Yes."), a_sample(1, id="a", sentence="No.")]

    assert fingerprint(samples) == {
        "num_samples": 2,
        "ids_sha256": hashlib.sha256(b"a\nb\n").hexdigest(),
        "references_sha256": hashlib.sha256(b"No.\nYes.\n").hexdigest(),
    }

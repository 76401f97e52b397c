"""Files that say where the sentences of a recording are."""

import math
from pathlib import Path

import pytest
from pympi import Eaf

from fla.errors import DataError
from fla.translating.segments import Segment, check_segments, read_segments

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello.

2
00:01:00,250 --> 00:01:04,000
Two
lines.
"""
VTT = """WEBVTT - a title

NOTE a remark

00:01.000 --> 00:02.500 align:start
Hello.

second
00:01:00.250 --> 00:01:04.000
Two
"""
VIDEO = Path("talk one.mp4")
TWO = [Segment(start_s=1.0, end_s=2.5), Segment(start_s=60.25, end_s=64.0)]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def write_elan(path: Path, **tiers: list[tuple[int, int, str]]) -> Path:
    file = Eaf()
    for name, rows in tiers.items():
        file.add_tier(name)
        for row in rows:
            file.add_annotation(name, *row)
    file.to_file(str(path))
    return path


def test_subtitles_say_where_sentences_are(tmp_path):
    assert read_segments(write(tmp_path / "a.srt", SRT), video=VIDEO) == TWO
    assert read_segments(write(tmp_path / "a.vtt", VTT), video=VIDEO) == TWO
    assert (
        read_segments(write(tmp_path / "b.srt", "\ufeff" + SRT.replace("\n", "\r\n")), video=VIDEO)
        == TWO
    )


def test_a_table_says_where_sentences_are_in_any_order(tmp_path):
    text = "id\tend_s\tstart_s\nb\t64\t60.25\na\t2.5\t1\n"

    assert read_segments(write(tmp_path / "a.tsv", text), video=VIDEO) == TWO


def test_a_quotation_over_several_rows_of_a_table_hides_none(tmp_path):
    text = 'start_s\tend_s\ttext\n1\t2.5\t"I went home\n60.25\t64\tand then\n'

    assert read_segments(write(tmp_path / "a.tsv", text), video=VIDEO) == TWO


@pytest.mark.parametrize(
    "text",
    [
        '"start_s"\t"end_s"\n1\t2.5\n60.25\t64\n',
        'start_s\tend_s\n"1"\t"2.5"\n"60.25"\t"64"\n',
        'start_s\tend_s\ttext\n1\t2.5\t"two\nlines"\n60.25\t64\tand then\n',
    ],
)
def test_a_table_whose_cells_are_quoted_is_read(tmp_path, text):
    assert read_segments(write(tmp_path / "a.tsv", text), video=VIDEO) == TWO


def test_a_tier_of_elan_says_where_sentences_are(tmp_path):
    path = write_elan(tmp_path / "a.eaf", sentences=[(1000, 2500, "a"), (60250, 64000, "b")])

    assert read_segments(path, video=VIDEO) == TWO
    assert read_segments(path, video=VIDEO, tier="sentences") == TWO


def test_of_several_tiers_one_must_be_named(tmp_path):
    path = write_elan(
        tmp_path / "a.eaf", sentences=[(0, 900, "a")], signs=[(0, 300, "b"), (300, 900, "c")]
    )

    assert read_segments(path, video=VIDEO, tier="signs")[1] == Segment(start_s=0.3, end_s=0.9)
    with pytest.raises(DataError, match=r"these: sentences \(1\), signs \(2\)\. .*--tier"):
        read_segments(path, video=VIDEO)
    with pytest.raises(DataError, match=r"has no tier words\. .*: sentences \(1\), signs \(2\)\."):
        read_segments(path, video=VIDEO, tier="words")


def test_annotations_that_refer_to_others_have_their_times(tmp_path):
    file = Eaf()
    file.add_tier("signs")
    file.add_annotation("signs", 1000, 2500, "a")
    file.add_linguistic_type("translation", constraints="Symbolic_Association")
    file.add_tier("sentences", ling="translation", parent="signs")
    file.add_ref_annotation("sentences", "signs", 1200, "b")
    file.to_file(str(tmp_path / "a.eaf"))

    assert read_segments(tmp_path / "a.eaf", video=VIDEO, tier="sentences") == TWO[:1]


def write_with_origins(path: Path, **origins: int | None) -> Path:
    write_elan(path, sentences=[(500, 2000, "a")])
    file = Eaf(str(path))
    for name, origin in origins.items():
        url = f"file:///C:/recorded/{name.replace('_', '%20')}.mp4"
        file.add_linked_file(url, mimetype="video/mp4", time_origin=origin)
    file.to_file(str(path))
    return path


@pytest.mark.parametrize(
    "origins",
    [{"talk_one": 500, "face": 40}, {"of_another_name": 500}, {"front": 500, "side": 500}],
)
def test_what_begins_later_in_its_video_is_moved_there(tmp_path, origins):
    path = write_with_origins(tmp_path / "a.eaf", **origins)

    assert read_segments(path, video=VIDEO) == TWO[:1]


def test_a_video_without_an_origin_begins_with_its_annotations(tmp_path):
    path = write_with_origins(tmp_path / "a.eaf", talk_one=None, face=40)

    assert read_segments(path, video=VIDEO) == [Segment(start_s=0.5, end_s=2.0)]


def test_an_origin_that_may_be_of_another_video_is_not_guessed(tmp_path):
    path = write_with_origins(tmp_path / "a.eaf", front=500, side=0)

    with pytest.raises(DataError, match=r"different moments of front\.mp4, side\.mp4, .* talk one"):
        read_segments(path, video=VIDEO)


@pytest.mark.parametrize("origin", ["soon", "1.5"])
def test_an_origin_that_is_no_number_is_told(tmp_path, origin):
    path = write_with_origins(tmp_path / "a.eaf", front=500)
    path.write_text(path.read_text().replace('TIME_ORIGIN="500"', f'TIME_ORIGIN="{origin}"'))

    with pytest.raises(DataError, match=rf"a\.eaf is no file of ELAN .*{origin}"):
        read_segments(path, video=VIDEO)


@pytest.mark.parametrize("text", ["", "<a/>", "<ANNOTATION_DOCUMENT/>", "{}"])
def test_what_is_no_file_of_elan_is_named(tmp_path, text):
    path = write(tmp_path / "a.eaf", text)

    with pytest.raises(DataError, match=r"a\.eaf"):
        read_segments(path, video=VIDEO)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.srt", SRT.replace("00:01:00,250", "0:1m"), "2 lines have an arrow .*but 1 have two"),
        ("a.vtt", "WEBVTT\n\n", r"lists no segment\."),
        ("a.srt", SRT.replace("02,500", "00,500"), "segment 1 starts at 1.000 s and ends at 0.500"),
        ("a.tsv", "start_s\tend_s\n1\t2\n3\t\n", r"a\.tsv:3: start_s \(3\) and end_s \(\)"),
        ("a.tsv", "start_s\tend_s\n1\t2\n3\n", r"a\.tsv:3: start_s \(3\) and end_s \(\)"),
        ("a.tsv", "start_s\tend_s\n1\tinf\n", "segment 1 starts at 1.000 s and ends at inf"),
        ("a.tsv", "start_s\tend_s\n-1\t2\n", "must start at 0 or later"),
        ("a.tsv", "start\tend\n1\t2\n", "names start, end, and not start_s and end_s"),
        ("a.tsv", "", "lists no segment"),
        ("a.csv", "1,2\n", r"are read from \.srt, \.vtt, \.eaf and \.tsv"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, text, reason):
    path = write(tmp_path / name, text)

    with pytest.raises(DataError, match=reason):
        read_segments(path, video=VIDEO)


@pytest.mark.parametrize("name", ["a.srt", "a.tsv"])
def test_another_encoding_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes("start_s\tend_s\tm\u00fcde\n".encode("latin-1"))

    with pytest.raises(DataError, match="UTF-8"):
        read_segments(path, video=VIDEO)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.srt: there is no such file\."):
        read_segments(tmp_path / "nothing.srt", video=VIDEO)


def test_segments_lie_inside_their_video():
    video = Path("v.mp4")

    check_segments(TWO, duration_s=64.0, video=video)
    # Sound lasts a little longer, and the end of the video is an end.
    check_segments(TWO, duration_s=63.6, video=video)
    check_segments([Segment(end_s=math.inf)], duration_s=1.0, video=video)
    with pytest.raises(DataError, match=r"v\.mp4: the segment 60\.25 s to 64\.00 s .* 63\.00 s"):
        check_segments(TWO, duration_s=63.0, video=video)
    with pytest.raises(DataError, match=r"the segment 9\.00 s to the end is not inside"):
        check_segments([Segment(start_s=9.0)], duration_s=9.0, video=video)

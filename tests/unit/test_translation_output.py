"""Translations as text, tables and subtitles."""

import csv
import io
import json
import math
from pathlib import Path

import pysubs2
import pytest

from fla.errors import ConfigError
from fla.search import Hypothesis
from fla.translating.output import OutputFormat, Row, Writer, choose_format
from fla.translating.segments import Segment
from fla.translating.subtitles import Subtitle, format_subtitles

NASTY = 'Tags <i>are</i> text,\nso is --> & {\\an8} & \\N "this"\t.'
ROWS = [
    Row(
        video=Path("a.mp4"),
        segment=Segment(start_s=0.5, end_s=2.0),
        hypotheses=(Hypothesis("Guten Tag.", math.log(0.5)), Hypothesis("Hallo.", math.log(0.25))),
    ),
    Row(
        video=Path("b c.mp4"),
        segment=Segment(start_s=3.0, end_s=4.25),
        hypotheses=(Hypothesis(NASTY, math.log(0.125)),),
        warnings=("It is wide.",),
    ),
]


def write(kind: OutputFormat, rows: list[Row], *, several: bool = False) -> str:
    file = io.StringIO()
    writer = Writer(file, kind=kind, several_videos=several)
    for row in rows:
        writer.add(row)
    writer.close()
    return file.getvalue()


def test_text_is_the_bare_sentence_of_one_video():
    assert write("text", ROWS[:1]) == "Guten Tag.\n"


def test_text_of_several_videos_names_them():
    lines = write("text", ROWS, several=True).splitlines()

    assert lines[0] == "a.mp4\tGuten Tag."
    assert lines[1].startswith("b c.mp4\tTags <i>are</i> text, so is")
    assert len(lines) == 2


def test_a_table_has_every_hypothesis_with_rank_and_confidence():
    rows = list(csv.DictReader(io.StringIO(write("tsv", ROWS)), delimiter="\t"))

    assert [(row["rank"], row["confidence"]) for row in rows] == [
        ("1", "0.5000"), ("2", "0.2500"), ("1", "0.1250"),
    ]  # fmt: skip
    assert rows[1]["hypothesis"] == "Hallo."
    assert rows[2] == {
        "video": "b c.mp4", "start_s": "3.000", "end_s": "4.250", "rank": "1",
        "confidence": "0.1250", "hypothesis": NASTY,
    }  # fmt: skip


def test_json_lines_have_everything():
    first, second = map(json.loads, write("jsonl", ROWS).splitlines())

    assert first["hypotheses"] == [
        {"text": "Guten Tag.", "confidence": 0.5, "log_prob": -0.6931},
        {"text": "Hallo.", "confidence": 0.25, "log_prob": -1.3863},
    ]
    assert first["warnings"] == []
    assert second["hypotheses"][0]["text"] == NASTY
    assert (second["video"], second["start_s"], second["end_s"]) == ("b c.mp4", 3.0, 4.25)
    assert second["warnings"] == ["It is wide."]


def test_subtitles_have_one_event_a_segment():
    assert write("srt", ROWS[:1]) == "1\n00:00:00,500 --> 00:00:02,000\nGuten Tag.\n\n"
    assert write("vtt", ROWS[:1]).startswith(
        "WEBVTT\n\n1\n00:00:00.500 --> 00:00:02.000\nGuten Tag.\n"
    )


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_no_sentence_is_taken_for_markup(kind):
    rows = [Subtitle(0.0, 1.0, NASTY), Subtitle(1.0, 2.0, ""), Subtitle(2.0, 3.0, "Ende.")]

    text = format_subtitles(rows, kind=kind)

    lines = text.splitlines()
    assert sum("-->" in line for line in lines) == 3
    assert not any("<i>" in line or "{\\a" in line for line in lines)
    events = pysubs2.SSAFile.from_string(text, format_=kind).events
    assert [(event.start, event.end) for event in events] == [(0, 1000), (1000, 2000), (2000, 3000)]
    assert events[1].text == ""
    assert events[2].text == "Ende."
    shown = events[0].text.replace("\N{WORD JOINER}", "")
    for name, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        shown = shown.replace(name, sign) if kind == "vtt" else shown
    assert shown == " ".join(NASTY.split())


def test_the_ending_of_a_file_tells_the_format():
    assert choose_format(None, None) == "text"
    assert choose_format(None, Path("a.VTT")) == "vtt"
    assert choose_format("tsv", Path("a.csv")) == "tsv"
    with pytest.raises(ConfigError, match=r"--out a\.csv: its ending is none of \.txt, \.tsv"):
        choose_format(None, Path("a.csv"))

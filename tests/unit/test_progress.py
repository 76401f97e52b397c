import io
import logging
import re
import sys

import pytest

from fla import progress
from fla.progress import Progress, count_progress


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    caplog.set_level(logging.INFO)
    return clock


def test_a_line_every_few_seconds_says_how_far_how_fast_and_how_long(clock, caplog):
    with Progress("train", total=100, unit="steps") as shown:
        for _ in range(10):
            clock.now_s += 1.0
            shown.advance(2, note="loss 1.5")
        lines = [record.message for record in caplog.records]

    assert lines == [
        "train: 10 of 100 steps, loss 1.5, 2.0 a second, 45 s left",
        "train: 20 of 100 steps, loss 1.5, 2.0 a second, 40 s left",
    ]


def test_the_last_line_comes_however_short_the_work_was(clock, caplog):
    with Progress("decode dev", total=2, unit="batches") as shown:
        clock.now_s += 0.5
        shown.advance()
        shown.advance()

    assert [record.message for record in caplog.records] == [
        "decode dev: 2 of 2 batches, 4.0 a second, 0 s left"
    ]


def test_what_a_former_run_did_is_counted_but_not_as_speed(clock, caplog):
    with Progress("train", total=100, unit="steps", first=90) as shown:
        clock.now_s += 5.0
        shown.advance(5)

    assert caplog.records[0].message == "train: 95 of 100 steps, 1.0 a second, 5 s left"


def test_a_note_stays_until_it_changes(clock, caplog):
    with Progress("train", total=3, unit="steps") as shown:
        shown.advance(0, note="loss 2.0")
        clock.now_s += 6.0
        shown.advance()

    assert "loss 2.0" in caplog.records[0].message


def test_silent_ranks_say_nothing(clock, caplog, capsys):
    with Progress("train", total=1, unit="steps", is_shown=False) as shown:
        clock.now_s += 60.0
        shown.advance()

    assert caplog.records == []
    assert capsys.readouterr() == ("", "")


def test_work_that_failed_at_once_prints_no_line(clock, caplog):
    with pytest.raises(KeyError), Progress("train", total=1, unit="steps"):
        raise KeyError

    assert caplog.records == []


def test_a_terminal_gets_a_bar_and_no_lines(monkeypatch, caplog):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    caplog.set_level(logging.INFO)

    with Progress("train", total=4, unit="steps", first=1) as shown:
        shown.advance(3, note="loss 2.0")

    last = re.split(r"[\r\n]+", terminal.getvalue().strip())[-1]
    assert "train: 100%" in last and "4/4" in last and "loss 2.0" in last
    assert caplog.records == []


def test_work_that_counts_by_itself_is_shown_the_same_way(clock, caplog):
    show = count_progress("read", unit="recordings")

    show(0, 4)
    for done in (1, 2, 3, 4):
        clock.now_s += 3.0
        show(done, 4)

    assert [record.message for record in caplog.records] == [
        "read: 2 of 4 recordings, 0.3 a second, 6 s left",
        "read: 4 of 4 recordings, 0.3 a second, 0 s left",
    ]


def test_what_was_done_before_the_first_call_is_no_speed(
    clock: Clock, caplog: pytest.LogCaptureFixture
):
    show = count_progress("read", unit="recordings")

    show(100, 104)
    for done in (101, 102, 103, 104):
        clock.now_s += 3.0
        show(done, 104)

    assert caplog.records[0].message == "read: 102 of 104 recordings, 0.3 a second, 6 s left"

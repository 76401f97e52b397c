"""The arithmetic of make bench; what it measures is no test's business."""

from pathlib import Path

import numpy as np
import pytest

from fla.compare.charts import draw_curves
from fla.errors import DataError
from tests.benchmarks.curves import Cost, rows_of, svg_of
from tests.benchmarks.diff import describe, find_changes
from tests.benchmarks.features import rows_of as feature_rows
from tests.benchmarks.line import fit_line
from tests.benchmarks.padding import padded_percent
from tests.benchmarks.race import ratios, take_turns
from tests.benchmarks.rows import Better, Report, Row, median_row, read_report, write_report


def row(name: str = "a: b", *, value: float = 1.0, better: Better = "lower", **rest: float) -> Row:
    return Row(name=name, value=value, unit="s", better=better, **rest)


def report(*rows: Row, cores: int = 2) -> Report:
    return Report(rows=rows, machine={"cpu": "any", "cores": cores, "git": None})


def test_costs_on_a_line_are_explained_by_it():
    line = fit_line([1, 2, 4], [5.0, 7.0, 11.0])

    assert (line.offset, line.slope) == pytest.approx((3.0, 2.0))
    assert line.r_squared == pytest.approx(1.0)
    assert line.max_deviation == pytest.approx(0.0, abs=1e-12)


def test_the_distance_from_a_line_is_told_in_the_largest_cost():
    # The nearest line of 0, 0, 3 is -0.5, 1, 2.5.
    line = fit_line([0, 1, 2], [0.0, 0.0, 3.0])

    assert line.max_deviation == pytest.approx(1 / 3)
    assert line.r_squared == pytest.approx(0.75)


def test_equal_costs_are_a_flat_line():
    assert fit_line([1, 2], [4.0, 4.0]).r_squared == 1.0


def test_one_amount_is_no_line():
    with pytest.raises(ValueError, match="two different amounts"):
        fit_line([2, 2], [1.0, 2.0])


def test_a_curve_has_a_row_a_point_and_two_for_its_straightness():
    rows = rows_of("frames", {n: Cost(seconds=n, peak_mib=10.0 * n) for n in (1, 2, 4)})

    assert len(rows) == 8
    assert [it.verdict for it in rows[-2:]] == ["reached", "reached"]


def test_padding_is_what_shorter_clips_leave():
    # 3 + 3 places for 3 + 1 frames, and 2 for 2.
    percent = padded_percent([(0, 1), (2,)], np.array([3, 1, 2]))

    assert percent == pytest.approx(25.0)


def test_ways_are_measured_once_a_round_after_one_that_warms_up():
    calls = iter(range(100))

    measured = take_turns({"a": lambda: next(calls), "b": lambda: next(calls)}, rounds=2, seed=1)

    assert sorted(measured["a"] + measured["b"]) == [2, 3, 4, 5]
    assert ratios([1.0, 6.0], [2.0, 3.0]) == [0.5, 2.0]


def test_a_median_keeps_its_spread():
    found = median_row("a: b", [3.0, 1.0, 2.0], unit="s", better="lower", target=1.5)

    assert (found.value, found.low, found.high) == (2.0, 1.0, 3.0)
    assert found.verdict == "not reached"


@pytest.mark.parametrize(
    ("better", "value", "verdict"),
    [
        ("lower", 2.0, "reached"),
        ("lower", 2.1, "not reached"),
        ("higher", 2.0, "reached"),
        ("higher", 1.9, "not reached"),
    ],
)
def test_a_target_is_the_worst_value_that_is_good(better: Better, value: float, verdict: str):
    assert row(value=value, better=better, target=2.0).verdict == verdict


def test_a_cache_is_told_by_what_it_saves():
    seconds = {"data_online": 6.0, "data_cached": 2.0, "online": 8.0, "cached": 4.0}

    assert [it.value for it in feature_rows("small", [seconds])] == [3.0, 2.0]


def test_a_report_is_read_as_it_was_written(tmp_path: Path):
    rows = (row(low=0.5, high=1.5), row("c: d", better="higher", target=2.0))

    write_report(tmp_path / "new" / "bench.json", rows, machine={"cores": 2})

    assert read_report(tmp_path / "new" / "bench.json") == Report(rows=rows, machine={"cores": 2})


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 0}'])
def test_another_file_is_no_report(tmp_path: Path, text: str):
    path = tmp_path / "bench.json"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(DataError, match=r"bench\.json"):
        read_report(path)


def test_small_changes_are_not_shown():
    old = report(row("a", value=100.0), row("b", value=100.0), row("c", value=100.0))
    new = report(row("a", value=104.0), row("b", value=50.0), row("c", value=110.0))

    changes = find_changes(old, new, threshold_percent=5)

    assert [(it.new.name, it.ratio) for it in changes] == [("b", 0.5), ("c", pytest.approx(1.1))]


@pytest.mark.parametrize(
    ("better", "judgement"), [("lower", "worse"), ("higher", "better"), ("neither", "changed")]
)
def test_whether_more_is_better_depends_on_the_row(better: Better, judgement: str):
    (change,) = find_changes(
        report(row(better=better)), report(row(value=2.0, better=better)), threshold_percent=5
    )

    assert change.judgement == judgement


def test_spreads_that_meet_are_told():
    old, new = row(value=1.0, low=0.5, high=1.5), row(value=2.0, low=1.4, high=3.0)

    (change,) = find_changes(report(old), report(new), threshold_percent=5)

    assert change.judgement == "worse, within the spread"


def test_nothing_from_zero_is_an_infinite_change():
    (change,) = find_changes(report(row(value=0.0)), report(row(value=1.0)), threshold_percent=5)

    assert change.ratio == float("inf")


def test_rows_of_one_report_and_another_machine_are_named():
    lines = [*describe(report(row("a")), report(row("b"), cores=4), threshold_percent=5)]

    assert "Other machine: cores was 2, is 4." in lines
    assert lines[-2:] == ["Only in the old report: a.", "Only in the new report: b."]
    assert any(line.endswith("0 of 0 rows changed by more than 5 %.") for line in lines)


def test_a_plot_is_a_file_of_its_own():
    chart = draw_curves("Time & memory", {0: ("it", ((1, 2.0), (2, 4.0)))}, x_label="frames")

    svg = svg_of(chart)

    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "Time &amp; memory" in svg
    assert svg.count("<circle") == 2

"""What is said of runs side by side: settings, pairs, groups, changed sentences, charts."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fla.compare.charts import choose_ticks, draw_curves
from fla.compare.clips import MAX_REPORT_MB
from fla.compare.comparison import compare_runs
from fla.compare.from_folder import gather_curves, read_folder
from fla.compare.marking import count_words, mark
from fla.compare.pairing import pair_runs
from fla.compare.records import Decodes, RunRecord, with_unique_names
from fla.compare.scoring import find_changes, group_by_length, group_by_signer, score_runs
from fla.compare.settings import find_differences
from fla.compare.table import format_table
from fla.errors import ConfigError, DataError
from fla.journal import Point
from fla.run_folder import DecodedRow
from tests.helpers.compared_runs import REFERENCES, write_corpus, write_run

GOOD = dict(REFERENCES)
BAD = {"a": "The dog is red.", "b": "A house.", "c": "We eat an apple today.", "d": "Where?"}


def record(
    name: str,
    rows: Sequence[tuple[str, str, str]],
    *,
    split: str = "test",
    protocol: str = "text",
) -> RunRecord:
    """A run that translated one split: id, hypothesis and reference."""
    decodes = Decodes(
        rows=tuple(DecodedRow(*row) for row in rows), source=f"{name}.tsv", protocol=protocol
    )
    return RunRecord(
        name=name, where=f"runs/{name}", config={}, curves={}, decodes={split: decodes}
    )


def shown(reference: str, hypothesis: str) -> str:
    """Marks as text: -missing-, +added+."""
    signs = {"same": "", "added": "+", "missing": "-"}
    return "".join(
        f"{piece.gap}{signs[piece.kind]}{piece.text}{signs[piece.kind]}"
        for piece in mark(reference, hypothesis)
    )


@pytest.mark.parametrize(
    ("reference", "hypothesis", "marked"),
    [
        ("The cat runs.", "The cat runs.", "The cat runs."),
        ("The cat runs.", "The dog runs.", "The -cat- +dog+ runs."),
        ("The cat runs.", "The runs.", "The -cat- runs."),
        ("The cat runs.", "The big cat runs.", "The +big+ cat runs."),
        ("The cat runs.", "Really?", "-The cat runs.- +Really?+"),
        ("The cat.", "", "-The cat.-"),
        ("It's today.", "Its today.", "-It's- +Its+ today."),
        # Characters, without blanks between them.
        ("\u4eca\u5929\u5f88\u51b7\u3002", "\u4eca\u5929\u5f88\u70ed\u3002",
         "\u4eca\u5929\u5f88-\u51b7-+\u70ed+\u3002"),
        ("Gr\u00fc\u00dfe aus K\u00f6ln", "Gr\u00fc\u00dfe aus Bonn",
         "Gr\u00fc\u00dfe aus -K\u00f6ln- +Bonn+"),
    ],
)  # fmt: skip
def test_a_hypothesis_is_marked_where_it_departs(reference, hypothesis, marked):
    assert shown(reference, hypothesis) == marked


def test_length_counts_words_and_chinese_characters_without_punctuation():
    assert count_words("It's a small, red cat!") == 5
    assert count_words("\u4eca\u5929\u5f88\u51b7\u3002") == 4


def test_only_settings_that_differ_are_listed_and_those_of_one_run_come_last():
    found = find_differences(
        [
            {"run_dir": "a", "only": "x", "lr": "0.1", "seed": "1", "data.dir": "d"},
            {"run_dir": "b", "lr": "0.2", "seed": "1", "data.dir": "d"},
        ]
    )

    assert [(one.key, one.values) for one in found] == [
        ("lr", ("0.1", "0.2")),
        ("only", ("x", None)),
    ]


def test_a_run_whose_settings_are_unknown_makes_no_difference():
    assert find_differences([{"lr": "0.1"}, {}]) == ()


def test_runs_are_paired_by_id_whatever_their_order():
    paired = pair_runs(
        [
            record("one", [("a", "A1", "ra"), ("b", "B1", "rb")]),
            record("two", [("b", "B2", "rb"), ("a", "A2", "ra")]),
        ],
        split="",
    )

    assert paired.ids == ("a", "b")
    assert paired.references == ("ra", "rb")
    assert paired.hypotheses == (("A1", "B1"), ("A2", "B2"))
    assert paired.notes == ()


def test_only_shared_samples_are_compared_and_it_is_said():
    paired = pair_runs(
        [
            record("one", [("a", "A1", "ra"), ("b", "B1", "rb")]),
            record("two", [("b", "B2", "rb"), ("c", "C2", "rc"), ("d", "D2", "rd")]),
        ],
        split="test",
    )

    assert paired.ids == ("b",)
    assert paired.notes == (
        "The runs translated 2, 3 samples; the 1 that they share are compared.",
    )


@pytest.mark.parametrize(
    ("second", "error", "sentence"),
    [
        (record("two", [("b", "B", "rb")]), DataError, "they share no sample id"),
        (record("two", [("a", "A", "other")]), DataError, "1 of 1 references differ, such as a"),
        (record("two", [("a", "A", "ra"), ("a", "B", "ra")]), DataError, "a is there 2 times"),
        (record("two", [("a", "A", "ra")], split="dev"), ConfigError, "no split in common: test "
         "by runs/one; dev by runs/two"),
        (RunRecord(name="two", where="runs/two", config={}, curves={}, decodes={}), ConfigError,
         "runs/two: this run has no translations"),
    ],
)  # fmt: skip
def test_what_cannot_be_paired_is_refused_in_a_sentence(second, error, sentence):
    first = record("one", [("a", "A1", "ra")])

    with pytest.raises(error, match=sentence):
        pair_runs([first, second], split="")


def test_a_split_that_one_run_lacks_is_refused():
    one = record("one", [("a", "A1", "ra")])

    with pytest.raises(ConfigError, match=r"runs/one: .* no translations of dev. It has test"):
        pair_runs([one, one], split="dev")


def test_all_runs_are_scored_by_the_baselines_protocol():
    rows = [("a", "A1", "ra")]

    paired = pair_runs([record("one", rows), record("two", rows, protocol="how2sign")], split="")

    assert paired.protocol == "text"
    assert paired.notes == ("Runs were scored by text and how2sign; here all are scored by text.",)


def test_lengths_are_grouped_evenly():
    references = ["w " * length for length in (1, 1, 2, 3, 4, 5, 6, 9)]

    groups = group_by_length(references)

    assert [(one.name, one.indices) for one in groups] == [
        ("1 word", (0, 1)),
        ("2 to 3 words", (2, 3)),
        ("4 to 5 words", (4, 5)),
        ("6 to 9 words", (6, 7)),
    ]


def test_sentences_of_one_length_are_one_group():
    groups = group_by_length(["\u4eca\u5929"] * 5)

    assert [(one.name, len(one.indices)) for one in groups] == [("2 characters", 5)]


def test_signers_are_groups_and_the_rest_is_one():
    signers = [str(number) for number in range(14)] + ["0", ""]

    groups = group_by_signer(signers)

    assert groups[0].name == "signer 0"
    assert groups[0].indices == (0, 14)
    assert [one.name for one in groups[12:]] == ["2 other signers", "unknown"]
    assert group_by_signer(["", ""]) == ()


def test_sentences_that_changed_are_sorted_by_how_much():
    rows = [(i, BAD[i], REFERENCES[i]) for i in REFERENCES]
    good = [(i, GOOD[i], REFERENCES[i]) for i in REFERENCES]
    paired = pair_runs([record("bad", rows), record("good", good)], split="")
    bad, best = score_runs(["bad", "good"], paired)

    changes = find_changes(bad, best)

    assert [paired.ids[one.index] for one in changes.better] == ["d", "b", "a"]
    assert changes.worse == ()
    assert changes.num_equal == 1
    assert [one.gain for one in changes.better] == sorted(
        (one.gain for one in changes.better), reverse=True
    )
    back = find_changes(best, bad)
    assert [one.index for one in back.worse] == [one.index for one in changes.better]


def test_a_step_that_a_resumed_run_took_again_counts_once():
    points = [Point("loss", 3.0, 1, 10), Point("loss", 2.0, 2, 20), Point("loss", 1.0, 3, 20)]

    assert gather_curves(points) == {"loss": ((10, 3.0), (20, 1.0))}


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, (0, 50, 100)),
        (12, 47, (10, 20, 30, 40, 50)),
        (0.5, 0.9, (0.5, 0.6, 0.7, 0.8, 0.9)),
        (5, 5, (4, 6)),
        (0, 0, (0, 0.5)),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, ticks):
    found = choose_ticks(low, high)

    assert set(ticks) <= {round(tick, 9) for tick in found}
    assert found[0] - 1e-9 <= low and found[-1] + 1e-9 >= high
    assert 2 <= len(found) <= 6


def test_a_long_curve_is_thinned_to_its_end():
    curve = tuple((step, 1.0) for step in range(10_000))

    (line,) = draw_curves("loss", {0: ("one", curve)}, x_label="step").lines

    assert len(line.points) <= 300
    assert line.points[-1] == draw_curves(
        "loss", {0: ("one", ((0, 1.0), (9_999, 1.0)))}, x_label="step"
    ).lines[0].points[-1]  # fmt: skip


def test_runs_of_one_name_are_told_apart():
    one, two = (
        RunRecord(name="stage2", where=f"runs/{seed}/stage2", config={}, curves={}, decodes={})
        for seed in ("seed1", "seed2")
    )

    assert with_unique_names([one, two]) == ["seed1/stage2", "seed2/stage2"]
    assert with_unique_names([one, one]) == ["seed1/stage2 (1)", "seed1/stage2 (2)"]


def test_the_best_evaluation_stands_in_where_nothing_was_decoded(tmp_path: Path):
    folder = write_run(tmp_path / "run", GOOD, split="dev")
    folder.decodes_tsv("export", "dev").rename(folder.decodes_tsv("step_0000020", "dev"))

    found = read_folder(tmp_path / "run", uri="")

    assert set(found.decodes) == {"dev"}
    assert found.decodes["dev"].protocol == "text"
    assert found.curves["dev/bleu4"] == ((10, 10.0), (20, 20.0))


def test_a_folder_that_decoding_alone_wrote_has_the_settings_of_its_model(tmp_path: Path):
    model = write_run(tmp_path / "stage2", GOOD, settings="seed: 7\n")
    other = write_run(tmp_path / "dealt", BAD)
    other.config_yaml.unlink()
    text = other.scores_json.read_text().replace(str(other.export), str(model.export))
    other.scores_json.write_text(text.replace('"shuffle_videos": false', '"shuffle_videos": true'))

    found = read_folder(other.path, uri="")

    assert found.config == {"seed": "7"}
    assert found.decoding["test"] == {
        "beam.num_beams": "5",
        "shuffle_videos": "True",
        "export": str(model.export),
    }


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="this folder holds no run"):
        read_folder(tmp_path, uri="")


def test_the_table_fits_80_columns_and_names_the_winner(tmp_path: Path):
    manifests = write_corpus(tmp_path / "corpus")
    settings = f"data:\n  manifest_dir: {manifests}\noptim:\n  learning_rate: "
    write_run(tmp_path / "one", BAD, settings=f"{settings}0.1\n")
    write_run(tmp_path / "a_run_with_quite_a_long_name", GOOD, settings=f"{settings}0.2\n")
    names = ("one", "a_run_with_quite_a_long_name")

    comparison = compare_runs([read_folder(tmp_path / name, uri="") for name in names], split="")
    table = format_table(comparison)

    assert max(map(len, table.splitlines())) <= 80
    assert "optim.learning_rate                0.1 | 0.2" in table
    assert "3 sentences better than one by chrF2, 0 worse, 1 equal." in " ".join(table.split())
    assert "signer 1" in table
    assert [one.num_sentences for one in comparison.by_signer] == [2, 2]
    assert set(comparison.clips.urls) == {"a", "b", "d"}
    assert sum(map(len, comparison.clips.urls.values())) < MAX_REPORT_MB * 1e6


def test_without_the_corpus_clips_and_signers_are_missing_and_it_is_said(tmp_path: Path):
    write_run(tmp_path / "one", BAD)
    write_run(tmp_path / "two", GOOD)

    comparison = compare_runs(
        [read_folder(tmp_path / name, uri="") for name in ("one", "two")], split=""
    )

    assert comparison.clips.urls == {}
    assert "There are no clips here" in comparison.clips.notes[0]
    assert "Who signs is not known" in comparison.signer_note
    assert "Who signs is not known" in format_table(comparison)

"""Stage 1, stage 2 and decoding by the commands that a user types, on two ranks."""

import json
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from fla.checkpoint_weights import open_checkpoint
from fla.run_folder import RunFolder, list_complete_checkpoints, read_decodes
from fla.weights import SAFETENSORS, open_tensors
from tests.helpers.commands import deepspeed, on_ranks, python, run_well
from tests.helpers.faults import launched

NUM_STEPS = 4
LONGER = ("train.num_epochs=2", f"train.max_steps={NUM_STEPS}", "train.evaluate_every_steps=2")


class Resumed(NamedTuple):
    """A run that was killed and started again."""

    folder: RunFolder
    journal: list[str]
    """Lines of the journal when the run was killed."""
    killed_after: int
    """Step of the newest complete checkpoint then."""


def kill_after_first_checkpoint(command: list[str], folder: RunFolder) -> None:
    """SIGKILL to the launcher and all its ranks at once, as a machine that loses its power."""
    with launched(command, folder.path.with_suffix(".log")) as run:
        run.wait_until(lambda: bool(list_complete_checkpoints(folder)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def stage1_words(corpus, runs) -> list[str]:
    return [*corpus.stage1(runs / "stage1"), *LONGER]


@pytest.fixture(scope="module")
def stage1(runs, stage1_words) -> Resumed:
    folder = RunFolder(runs / "stage1")
    kill_after_first_checkpoint(deepspeed(*stage1_words), folder)
    journal = folder.metrics_jsonl.read_text().splitlines()
    killed_after = json.loads((list_complete_checkpoints(folder)[-1] / "state.json").read_text())
    run_well(on_ranks(*stage1_words), timeout_s=250)
    return Resumed(folder, journal, killed_after["step"])


@pytest.fixture(scope="module")
def stage2(corpus, runs, stage1) -> RunFolder:
    run_well(on_ranks(*corpus.stage2(runs / "stage2", stage1.folder.export)), timeout_s=250)
    return RunFolder(runs / "stage2")


def training_rows(folder: RunFolder) -> list[int]:
    rows = map(json.loads, folder.metrics_jsonl.read_text().splitlines())
    return [row["step"] for row in rows if "train/loss_nats_per_token" in row]


def runs_in_mlflow(home: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(home / "mlflow.db")) as store:
        return store.execute("SELECT name, status FROM runs ORDER BY name").fetchall()


def test_a_killed_run_goes_on_after_its_last_whole_checkpoint(stage1):
    assert stage1.killed_after < NUM_STEPS
    assert training_rows(stage1.folder) == list(range(1, NUM_STEPS + 1))
    # What was written before that step is still the first run's.
    kept = [line for line in stage1.journal if json.loads(line)["step"] <= stage1.killed_after]
    lines = stage1.folder.metrics_jsonl.read_text().splitlines()
    assert len(kept) >= stage1.killed_after
    assert lines[: len(kept)] == kept
    provenance = json.loads(stage1.folder.provenance_json.read_text())
    assert len(provenance["earlier_starts"]) == 1


def test_a_killed_run_is_one_run_in_mlflow_and_ended_well(stage1, stage2):
    assert runs_in_mlflow(stage1.folder.path.parent) == [
        # The pipeline, whose children the stages are.
        ("demo", "FINISHED"),
        ("stage1-seed1", "FINISHED"),
        ("stage2-seed1", "FINISHED"),
    ]


@pytest.mark.parametrize(("stage", "num_steps"), [("stage1", NUM_STEPS), ("stage2", 2)])
def test_a_run_folder_holds_all_that_a_run_was_made_of(stage1, stage2, stage, num_steps):
    folder = stage1.folder if stage == "stage1" else stage2

    for path in (
        folder.config_yaml,
        folder.deepspeed_json,
        folder.provenance_json,
        folder.metrics_jsonl,
        folder.mlflow_run_json,
        folder.logs / "rank_000.log",
        folder.logs / "rank_001.log",
        folder.export / "config.json",
        folder.export / "model.safetensors",
        folder.export / "tokenizer.json",
        folder.export / "preprocessor_config.json",
        folder.export / "README.md",
        folder.path / "DONE",
    ):
        assert path.is_file(), path
    last = folder.checkpoint(num_steps)
    assert last in list_complete_checkpoints(folder)
    assert json.loads((last / "state.json").read_text())["world_size"] == 2
    rows, _ = read_decodes(folder.decodes_tsv(last.name, "dev"))
    assert len({row.id for row in rows}) == len(rows) == 4
    assert json.loads(folder.provenance_json.read_text())["devices"][1:] != []


def test_stage_2_ran_under_zero_3_and_left_whole_weights(stage2):
    assert json.loads(stage2.deepspeed_json.read_text())["zero_optimization"]["stage"] == 3
    shards = {path.name for path in stage2.checkpoint(2).glob("*_optim_states.pt")}
    assert len(shards) == 2
    assert json.loads((stage2.export / "config.json").read_text())["stage"] == 2


def test_a_finished_run_that_is_started_again_says_so(stage1, stage1_words):
    before = stage1.folder.metrics_jsonl.read_text()

    done = run_well(python(*stage1_words))

    assert f"{stage1.folder.path} is finished" in done.stdout + done.stderr
    assert stage1.folder.metrics_jsonl.read_text() == before


def decode_with(folder: Path, *words: str, num_ranks: int = 1) -> tuple[RunFolder, dict[str, Any]]:
    """Decode the test split; gives the folder and what scores.json says."""
    command = python if num_ranks == 1 else partial(on_ranks, num_ranks=num_ranks)
    common = ["beam.batch_size=2", "beam.max_new_tokens=8", f"output_dir={folder}"]
    run_well(command("launchers/decode.py", *words, *common))
    run = RunFolder(folder)
    return run, json.loads(run.scores_json.read_text())["test"]


@pytest.mark.slow
def test_two_and_three_ranks_translate_what_two_trained_under_zero_3_as_one_does(stage2, tmp_path):
    words = [f"export_dir={stage2.export}", "beam.num_hypotheses=2"]

    found = [
        decode_with(tmp_path / str(num_ranks), *words, num_ranks=num_ranks)
        for num_ranks in (1, 2, 3)
    ]

    (one, scores), *others = found
    rows, _ = read_decodes(one.decodes_tsv("export", "test"))
    assert len({row.id for row in rows}) == 4
    assert scores["num_sentences"] == 4
    for other, its_scores in others:
        assert its_scores == scores
        for path in (one.decodes_tsv("export", "test"), one.n_best_jsonl("export", "test")):
            assert (other.decodes / path.name).read_bytes() == path.read_bytes()
    n_best = map(json.loads, one.n_best_jsonl("export", "test").read_text().splitlines())
    for row, line in zip(rows, n_best, strict=True):
        best, second = line["hypotheses"]
        assert (line["id"], best["text"]) == (row.id, row.hypothesis)
        assert best["log_prob"] >= second["log_prob"]


@pytest.mark.slow
def test_a_checkpoint_translates_as_the_export_that_was_made_of_it(stage2, tmp_path):
    # Two ranks wrote it under ZeRO-3; the last step was the best, or the export is of another one.
    checkpoint = stage2.checkpoint(2)
    assert stage2.best_txt.read_text().strip() == checkpoint.name

    of_checkpoint, scores = decode_with(tmp_path / "checkpoint", f"checkpoint={checkpoint}")
    of_export, expected = decode_with(tmp_path / "export", f"export_dir={stage2.export}")

    ours, theirs = (run.decodes_tsv("export", "test") for run in (of_checkpoint, of_export))
    assert ours.read_bytes() == theirs.read_bytes()
    assert scores["bleu4"] == expected["bleu4"]
    assert Path(scores["export"]) == stage2.exports / checkpoint.name / "export"
    made = open_tensors(Path(scores["export"]) / SAFETENSORS)
    trained = open_tensors(stage2.export / SAFETENSORS)
    assert made.names == trained.names
    for name in made.names:
        assert made.tensor(name).dtype == trained.tensor(name).dtype
        assert torch.equal(made.tensor(name), trained.tensor(name)), name


@pytest.mark.slow
def test_both_stages_sample_together_what_they_do_on_one_rank_on_three(stage1, stage2, tmp_path):
    words = [f"export_dir={stage2.export}", f"ensemble={stage1.folder.export}"]
    words += ["beam.num_beams=1", "beam.temperature=1.5", "beam.top_p=0.9", "beam.num_hypotheses=3"]

    found = [
        decode_with(tmp_path / str(num_ranks), *words, num_ranks=num_ranks) for num_ranks in (1, 3)
    ]

    (one, scores), (three, its_scores) = found
    assert its_scores == scores
    assert scores["ensemble"] == [str(stage1.folder.export)]
    assert scores["beam"]["temperature"] == 1.5
    for path in (one.decodes_tsv("export", "test"), one.n_best_jsonl("export", "test")):
        assert (three.decodes / path.name).read_bytes() == path.read_bytes()
    lines = one.n_best_jsonl("export", "test").read_text().splitlines()
    assert {len(json.loads(line)["hypotheses"]) for line in lines} == {3}


@pytest.mark.slow
def test_the_last_checkpoints_of_stage_1_are_averaged(stage1, tmp_path):
    newest = list_complete_checkpoints(stage1.folder)[-2:]

    _, scores = decode_with(tmp_path / "mean", f"checkpoint={stage1.folder.path}", "average_last=2")

    export = stage1.folder.exports / f"{newest[-1].name}_mean_of_2" / "export"
    assert Path(scores["export"]) == export
    mean = open_tensors(export / SAFETENSORS)
    name = "adapter.out.weight" if "adapter.out.weight" in mean else mean.names[0]
    parts = [open_checkpoint(path).parameter(name, mean.tensor(name).shape) for path in newest]
    torch.testing.assert_close(mean.tensor(name), (parts[0] + parts[1]) / 2)
    assert not torch.equal(parts[0], parts[1])

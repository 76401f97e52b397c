"""tools/compare_runs.py on run folders and on runs of a real MLflow store."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fla.compare.comparison import compare_runs
from fla.compare.from_mlflow import find_runs, log_report
from fla.errors import ConfigError
from fla.mlflow_reader import MlflowReader
from fla.run_folder import RunFolder
from fla.tracking import open_tracker
from tests.helpers.commands import python, run, run_well
from tests.helpers.compared_runs import REFERENCES, read_run_id, write_corpus, write_run

BAD = dict.fromkeys(REFERENCES, "A cat is here.")


def track(folder: RunFolder, *, params: dict[str, str], stage: str) -> None:
    """Give a run folder its run in the MLflow store beside it."""
    with open_tracker(
        run_folder=folder,
        uri="",
        experiment="corpus",
        run_name=f"{stage}-seed1",
        pipeline="demo",
        params=params,
        tags={"stage": stage, "run_folder": str(folder.path), "protocol": "text"},
    ) as tracker:
        tracker.log_translations(folder.decodes_tsv("export", "test"), split="test")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracked runs of a pipeline, and their corpus."""
    home = tmp_path_factory.mktemp("home") / "runs"
    manifests = write_corpus(home.parent / "corpus")
    for number, (stage, hypotheses) in enumerate((("stage1", BAD), ("stage2", REFERENCES))):
        settings = f"seed: {number}\ndata:\n  manifest_dir: {manifests}\n"
        folder = write_run(home / stage, hypotheses, settings=settings)
        params = {"seed": str(number), "data.manifest_dir": str(manifests)}
        track(folder, params=params, stage=stage)
    return home


def client(home: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")


def test_two_folders_become_a_table_a_report_and_an_artifact_of_both_runs(made, tmp_path):
    report = tmp_path / "report.html"

    done = run_well(
        python("tools/compare_runs.py", made / "stage1", made / "stage2", "--out", report)
    )

    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    assert "4 sentences better than stage1 by chrF2" in done.stdout
    assert done.stdout.splitlines()[-1] == f"report: {report}"
    assert done.stderr == ""
    assert report.read_text().startswith("<!DOCTYPE html>")
    for stage in ("stage1", "stage2"):
        run_id = read_run_id(RunFolder(made / stage))
        there = client(made).list_artifacts(run_id, "comparisons")
        assert [item.path for item in there] == ["comparisons/report.html"]


def test_runs_are_found_by_id_and_by_search_and_read_from_their_folders(made):
    run_id = read_run_id(RunFolder(made / "stage1"))

    one, two = find_runs([run_id, "tags.stage = 'stage2'"], uri=f"sqlite:///{made}/mlflow.db")

    assert (one.name, two.name) == ("stage1", "stage2")
    assert one.curves["dev/bleu4"] == ((10, 10.0), (20, 20.0))


def test_a_run_whose_folder_is_elsewhere_is_read_from_mlflow(made, tmp_path):
    home = tmp_path / "runs"
    shutil.copytree(made, home)
    store = client(home)
    ids = [read_run_id(RunFolder(home / stage)) for stage in ("stage1", "stage2")]
    for run_id in ids:
        store.set_tag(run_id, "run_folder", "/on/another/machine")

    records = find_runs(ids, uri=f"sqlite:///{home}/mlflow.db")
    comparison = compare_runs(records, split="")

    assert [record.name for record in records] == ["stage1-seed1", "stage2-seed1"]
    assert records[0].curves["dev/bleu4"] == ((10, 10.0), (20, 20.0))
    assert records[0].config["seed"] == "0"
    assert dict(zip(comparison.paired.ids, comparison.paired.hypotheses[0], strict=True)) == BAD
    assert comparison.paired.references == tuple(REFERENCES.values())
    assert len(comparison.changed[0].better) == 4
    # The manifest is on this machine.
    assert len(comparison.clips.urls) == 4


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("nothing", "there is no such run folder, and this is neither a run id of MLflow nor"),
        ("0" * 32, "has no run of this id"),
        ("tags.stage = 'stage9'", "no run matches"),
        ("tags.protocol = 'text'", r"2 runs match: stage\d-seed1 \(\w{32}\), stage\d"),
        ("tags.stage LIKE", "MLflow does not understand this search"),
    ],
)
def test_a_word_that_names_no_single_run_is_refused(made, word, sentence):
    with pytest.raises(ConfigError, match=sentence):
        find_runs([str(made / "stage1"), word], uri="")


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(ConfigError, match="there is no such database"):
        MlflowReader(f"sqlite:///{tmp_path}/mlflow.db")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("{made}/mlflow.db", r"^.*/mlflow\.db: this is a file\. Name the store as sqlite:////"),
        ("sqlite:///{made}/stage1/config.yaml", "does not answer as it should"),
        ("file://{made}", "does not answer as it should"),
        ("nothing://here", "does not answer as it should"),
    ],
)
def test_a_word_that_is_no_store_is_a_sentence(made, uri, sentence):
    with pytest.raises(ConfigError, match=sentence):
        MlflowReader(uri.format(made=made))


def test_a_report_that_mlflow_does_not_take_is_a_sentence(made, tmp_path):
    shutil.copytree(made / "stage1", tmp_path / "stage1")
    records = find_runs([str(tmp_path / "stage1")], uri="")

    faults = log_report(made / "report.html", records)

    assert len(faults) == 1
    assert "The report was not logged to stage1: sqlite:///" in faults[0]


def test_mistakes_are_one_sentence_and_an_exit_code(made, tmp_path):
    (tmp_path / "empty").mkdir()
    words = [made / "stage1", tmp_path / "empty", "--out", tmp_path / "report.html"]

    done = run(python("tools/compare_runs.py", *words))

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/empty: this folder holds no run")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_the_table_of_translations_is_what_mlflows_page_reads(made):
    run_id = read_run_id(RunFolder(made / "stage1"))
    store = client(made)

    frame = json.loads(Path(store.download_artifacts(run_id, "translations/test.json")).read_text())

    assert frame["columns"] == ["id", "reference", "hypothesis", "chrf2"]
    assert frame["data"][0][:3] == ["a", REFERENCES["a"], BAD["a"]]
    assert 0 < frame["data"][0][3] < 100
    tables = json.loads(store.get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert tables == [{"path": "translations/test.json", "type": "table"}]

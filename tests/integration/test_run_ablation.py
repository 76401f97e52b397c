"""tools/run_ablation.py: tables of the paper on a tiny corpus, by the command that a user types."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fla.runtime import computes_bfloat16
from tests.helpers.commands import TINY_RUN, python, run, run_well
from tests.helpers.tiny_corpus import TinyCorpus

RECIPES = ("launchers/recipes/demo_stage1.yaml", "launchers/recipes/demo_stage2.yaml")


def words_of(corpus: TinyCorpus) -> list[str]:
    """What makes the demo's recipes as small as a run can be."""
    words = [f"data.manifest_dir={corpus.manifests}", f"text.tokenizer_dir={corpus.mbart}"]
    words += [*TINY_RUN, f"stage2.model.llm_dir={corpus.mbart}", "stage1.model.sign_width=32"]
    if not computes_bfloat16("cpu"):
        words += ["stage1.deepspeed=ds_configs/zero1_fp32.json"]
        words += ["stage2.deepspeed=ds_configs/zero3_fp32.json"]
    return words


def test_a_table_whose_corpus_is_missing_ends_before_anything_is_started(tmp_path):
    words = ["data.manifest_dir=data/nowhere", "--dir", tmp_path / "tables"]

    done = run(python("tools/run_ablation.py", "8", *words))

    assert done.returncode == 2
    assert "error: data.manifest_dir (data/nowhere): there is no train.tsv" in done.stderr
    assert not (tmp_path / "tables").exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_table_4_is_run_and_figure_2_is_drawn_of_the_same_runs(corpus, tmp_path):
    folder = tmp_path / "tiny"
    words = [*RECIPES, *words_of(corpus), "--dir", folder]

    first = run_well(python("tools/run_ablation.py", "4", *words), timeout_s=1200)
    second = run_well(python("tools/run_ablation.py", "fig2", *words), timeout_s=300)

    assert first.stdout.count("\n== Train") == 3
    assert "\n== Train" not in second.stdout
    expect_table(folder / "table_4")
    expect_figure(folder / "figure_2")
    expect_one_experiment(folder)


def expect_table(folder: Path) -> None:
    table = json.loads((folder / "table.json").read_text())
    end_to_end, factorized = table["rows"]
    assert table["num_sentences"] == 4
    assert end_to_end["paper"]["bleu4"] == 12.9
    assert 0 <= end_to_end["tests"]["bleu4"]["randomisation_p"] <= 1
    assert factorized["tests"] == {}
    assert [
        row.split("|")[1].strip()
        for row in (folder / "TABLE.md").read_text().splitlines()
        if row.startswith("| ")
    ] == ["row", "end to end", "factorized (reference)"]


def expect_figure(folder: Path) -> None:
    norms = json.loads((folder / "table.json").read_text())["norms"]
    assert [(phase["row"], phase["stage"]) for phase in norms] == [
        ("end to end", 2),
        ("factorized", 1),
        ("factorized", 2),
    ]
    assert norms[0]["means"]["grad_norm/visual"] > 0
    # The encoder is frozen.
    assert norms[2]["means"]["grad_norm/visual"] is None
    assert ElementTree.parse(folder / "figure.svg").getroot().tag.endswith("svg")


def expect_one_experiment(folder: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny-ablations")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    children = [it for it in runs if it.data.tags.get("fla.role") != "pipeline"]
    assert sorted(it.info.run_name for it in children) == [
        "Figure 2",
        "Table 4",
        "stage1-seed1",
        "stage2-seed1",
        "stage2-seed1",
    ]
    table = next(it for it in children if it.info.run_name == "Table 4")
    files = {it.path for it in client.list_artifacts(table.info.run_id)}
    assert files == {"TABLE.md", "table.json"}
    assert "test/bleu4/end-to-end" in table.data.metrics

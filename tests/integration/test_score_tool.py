"""The command that scores files of translations."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.bleurt import write_bleurt
from tests.helpers.commands import ROOT, environment

HYPOTHESES = ["es regnet im norden", "im süden scheint die sonne", "es ist kalt"]
REFERENCES = ["es schneit im norden", "im süden scheint die sonne", "heute ist es kalt"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    for name, texts in (("hyp", HYPOTHESES), ("ref", REFERENCES)):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return str(tmp_path / "hyp"), str(tmp_path / "ref")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/score.py", *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )


def test_json_has_the_scores_and_all_that_says_how_they_came_about(files):
    hypotheses, references = files
    done = run(
        hypotheses, references, "--protocol", "phoenix14t", "--baseline", references, "--json"
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["num_sentences"] == 3
    assert found["signature"].startswith("phoenix14t.v1|prep:lowercase BLEU-4|nrefs:1|case:mixed")
    for key in ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "chrf2", "chrf_pp"):
        assert 0 < found[key] < 100
    for key in ("bleu4", "rouge_l", "chrf2", "chrf_pp"):
        low, high = found["intervals"][key]
        assert low < high
        assert found["comparisons"][key]["baseline"] == pytest.approx(100)
        assert 0 < found["comparisons"][key]["bootstrap_p"] <= 1
    # The convention of the other half of the papers.
    assert found["protocols"]["phoenix14t-period"]["bleu1"] > found["bleu1"]


def test_people_get_a_table_of_every_convention(files):
    done = run(*files, "--all-protocols")

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "3 sentences"
    assert any(line.startswith("BLEU-4 ") and "95 % interval" in line for line in lines)
    table = [
        line.split()[0] for line in lines if line.startswith(("text", "phoenix", "csl", "how"))
    ]
    assert table == [
        "text", "phoenix14t", "phoenix14t-period", "csl-daily-char", "csl-daily-char-nfkc",
        "how2sign", "how2sign-rbleu",
    ]  # fmt: skip
    assert all(len(line) <= 80 for line in lines if not line.startswith("signature: "))


def test_files_that_do_not_belong_together_end_with_a_sentence_and_exit_code_1(files, tmp_path):
    (tmp_path / "short").write_text("eins\n")

    done = run(str(tmp_path / "short"), files[1])

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "has 1 sentences, " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistyped_protocol_is_answered_with_the_names(files):
    done = run(*files, "--protocol", "phoenix")

    assert done.returncode == 2
    assert "phoenix14t-period" in done.stderr


@pytest.mark.slow
def test_bleurt_is_one_more_score_when_a_checkpoint_is_named(files, tmp_path):
    checkpoint = tmp_path / "bleurt"
    checkpoint.mkdir()
    write_bleurt(checkpoint)

    words = [*files, "--baseline", files[1], "--bleurt-checkpoint", str(checkpoint)]
    done = run(*words, "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    low, high = found["intervals"]["bleurt"]
    assert low < high
    assert found["comparisons"]["bleurt"]["other"] == pytest.approx(found["bleurt"])
    assert " BLEURT|" in found["signature"]
    assert "weights:bleurt." in found["signature"]


def test_a_bleurt_checkpoint_that_is_missing_is_answered_in_a_sentence(files, tmp_path):
    done = run(*files, "--bleurt-checkpoint", str(tmp_path / "BLEURT-20"))

    assert done.returncode == 1
    assert done.stderr.endswith("with config.json, weights and spm.model.\n")
    assert "Traceback" not in done.stderr


def test_neither_torch_nor_transformers_is_imported(files):
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "print(*sorted({'torch', 'transformers', 'mlflow', 'deepspeed'} & {*sys.modules}), '.')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "tools/score.py", *files],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines()[-1].strip() == "."

"""Weights and disks that are not as they should be: one sentence, and nothing lost."""

import resource
import subprocess
from pathlib import Path

import pytest

from fla.run_folder import RunFolder, list_complete_checkpoints
from tests.helpers.commands import ROOT, environment, python, run, run_well
from tests.helpers.exports import write_untrained_stage1

MIB = 2**20


@pytest.fixture(scope="module")
def llm(tmp_path_factory) -> Path:
    """An mBART whose optimizer takes 30 MB, with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("llm") / "mbart"
    sizes = ["--layers", "1", "--d-model", "256", "--pieces", "2000"]
    run_well(python("tools/make_random_mbart.py", folder, *sizes))
    return folder


@pytest.fixture(scope="module")
def stage1(corpus, llm, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stage1") / "export"
    return write_untrained_stage1(folder, tokenizer=llm, manifests=corpus.manifests)


@pytest.fixture
def words(corpus, llm, stage1, tmp_path) -> list[str]:
    words = corpus.stage2(tmp_path / "runs" / "stage2", stage1)
    return [*words, f"model.llm_dir={llm}", f"text.tokenizer_dir={llm}", "train.max_steps=1"]


@pytest.fixture
def copy_of_llm(llm, tmp_path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in llm.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def expect_sentence(command: list[str], *fragments: str) -> None:
    done = run(command)
    assert done.returncode == 1, done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, done.stderr
    assert [part for part in fragments if part not in sentences[0]] == [], sentences[0]
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.slow
def test_a_flipped_bit_is_named_with_its_tensor(words, copy_of_llm):
    path = copy_of_llm / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 0x10
    path.write_bytes(content)

    expect_sentence(
        python(*words, f"model.llm_dir={copy_of_llm}"),
        f"{path}: the bytes of ",
        "are not those that were written",
    )


def limit_file_size() -> None:
    # As a full disk: writing fails, what is there stays. Enough for logs and MLflow's store.
    resource.setrlimit(resource.RLIMIT_FSIZE, (12 * MIB, 12 * MIB))


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_its_former_checkpoint_is_whole(words, tmp_path):
    folder = RunFolder(tmp_path / "runs" / "stage2")
    run_well(python(*words))
    former = [path.name for path in list_complete_checkpoints(folder)]
    longer = [*words, "train.max_steps=2"]

    done = subprocess.run(
        python(*longer), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=150,
        preexec_fn=limit_file_size, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert "step_0000002: the checkpoint could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in list_complete_checkpoints(folder)] == former == ["step_0000001"]
    resumed = run_well(python(*longer))
    assert "Going on from" in resumed.stdout + resumed.stderr
    assert [path.name for path in list_complete_checkpoints(folder)][-1] == "step_0000002"

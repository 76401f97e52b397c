"""A user's mistake ends a command with one sentence and exit code 1 or 2, printed once."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, deepspeed, environment, python, run
from tests.helpers.exports import write_untrained_stage1

CONFIG, DATA = 2, 1

LAUNCHERS = (
    "launchers/stage1.py",
    "launchers/stage2.py",
    "launchers/decode.py",
    "tools/pretrain_mbart.py",
)


def expect_sentence(
    done: subprocess.CompletedProcess[str], *fragments: str, exit_code: int
) -> None:
    """One sentence on stderr that holds all fragments, no traceback, and the exit code."""
    assert done.returncode == exit_code, done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, done.stderr
    assert [part for part in fragments if part not in sentences[0]] == [], sentences[0]
    assert sentences[0].endswith((".", "?"))
    assert "Traceback" not in done.stderr + done.stdout


@pytest.fixture
def stage1_export(corpus, tmp_path) -> Path:
    return write_untrained_stage1(
        tmp_path / "stage1" / "export", tokenizer=corpus.mbart, manifests=corpus.manifests
    )


@pytest.fixture
def broken_manifests(corpus, tmp_path) -> Callable[[Callable[[list[str]], None]], Path]:
    """Copies of the manifests, with one row of train.tsv and test.tsv changed."""

    def break_row(change: Callable[[list[str]], None]) -> Path:
        folder = tmp_path / "manifests"
        shutil.copytree(corpus.manifests, folder)
        for name in ("train", "dev", "test"):
            path = folder / f"{name}.tsv"
            _, columns, first, *others = path.read_text().splitlines()
            values = first.split("\t")
            if name != "dev":
                change(values)
            lines = [f"# fla-manifest 1 root={corpus.source}", columns, "\t".join(values), *others]
            path.write_text("".join(f"{line}\n" for line in lines))
        return folder

    return break_row


def test_unknown_key_names_the_nearest_one(corpus, tmp_path):
    done = run(python(*corpus.stage1(tmp_path), "optim.learning_rat=1"))

    expect_sentence(done, "optim.learning_rat:", "'learning_rate'", exit_code=CONFIG)


def test_mistyped_value_names_key_type_and_value(corpus, tmp_path):
    done = run(python(*corpus.stage2(tmp_path, tmp_path), "train.num_epochs=ten"))

    expect_sentence(done, "train.num_epochs: expected int", "'ten'", exit_code=CONFIG)


def test_missing_recipe_names_those_that_are_there():
    done = run(python("launchers/stage1.py", "launchers/recipes/demo.yaml"))

    expect_sentence(done, "launchers/recipes/demo.yaml", "demo_stage1.yaml", exit_code=CONFIG)


def test_missing_manifests_name_the_command_that_makes_them(corpus, tmp_path):
    done = run(python(*corpus.stage1(tmp_path), f"data.manifest_dir={tmp_path}/corpus"))

    expect_sentence(
        done, "train.tsv, dev.tsv, test.tsv", "tools/import_how2sign.py", exit_code=CONFIG
    )


def test_batch_sizes_that_do_not_divide_name_all_numbers(corpus, tmp_path):
    done = run(python(*corpus.stage1(tmp_path), "train.global_batch_size=7"))

    expect_sentence(
        done,
        "train.global_batch_size (7) must be a multiple of train.micro_batch_size x world size "
        "(2 x 1). Set train.micro_batch_size=1.",
        exit_code=CONFIG,
    )


def test_stage_2_pointed_at_a_folder_that_is_no_export_says_what_makes_one(corpus, tmp_path):
    done = run(python(*corpus.stage2(tmp_path / "run", tmp_path / "nothing")))

    expect_sentence(done, "model.encoder_export", "deepspeed launchers/stage1.py", exit_code=CONFIG)


def test_stage_2_pointed_at_an_mbart_is_told_that_it_is_no_export(corpus, tmp_path):
    done = run(python(*corpus.stage2(tmp_path / "run", corpus.mbart)))

    expect_sentence(done, "model.encoder_export", str(corpus.mbart), exit_code=CONFIG)


def test_stage_2_pointed_at_a_run_folder_is_shown_its_export(corpus, stage1_export, tmp_path):
    done = run(python(*corpus.stage2(tmp_path / "run", stage1_export.parent)))

    expect_sentence(done, f"Did you mean {stage1_export}?", exit_code=CONFIG)


def test_decoding_without_an_export_says_what_makes_one(tmp_path):
    done = run(python("launchers/decode.py", f"export_dir={tmp_path}"))

    expect_sentence(done, "export_dir", "deepspeed launchers/stage2.py", exit_code=CONFIG)


def test_missing_source_of_an_import_is_one_sentence(tmp_path):
    done = run(python("tools/import_how2sign.py", tmp_path / "How2Sign", tmp_path / "manifests"))

    expect_sentence(done, str(tmp_path / "How2Sign"), exit_code=DATA)


def test_missing_video_is_named_before_training(corpus, broken_manifests, tmp_path):
    def change(values: list[str]) -> None:
        values[1] = "video_level/gone.mp4"

    folder = broken_manifests(change)

    done = run(python(*corpus.stage1(tmp_path / "run"), f"data.manifest_dir={folder}"))

    expect_sentence(
        done, "train.tsv:3:", "gone.mp4, does not exist", "data.video_root", exit_code=DATA
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_video_that_does_not_decode_is_named(corpus, broken_manifests, tmp_path):
    (tmp_path / "junk.mp4").write_bytes(b"no video" * 1000)

    def change(values: list[str]) -> None:
        values[1] = f"{tmp_path}/junk.mp4"

    folder = broken_manifests(change)
    words = [f"data.manifest_dir={folder}", "train.global_batch_size=12", "train.max_steps=1"]

    done = run(python(*corpus.stage1(tmp_path / "run"), *words))

    expect_sentence(done, "junk.mp4", exit_code=DATA)
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


@pytest.mark.slow
def test_empty_sentence_is_named_with_its_line(corpus, broken_manifests, stage1_export):
    def change(values: list[str]) -> None:
        values[7] = " "

    folder = broken_manifests(change)

    done = run(
        python("launchers/decode.py", f"export_dir={stage1_export}", f"manifest_dir={folder}")
    )

    expect_sentence(done, "test.tsv:3:", "is empty", exit_code=DATA)


@pytest.mark.slow
def test_stamp_past_the_end_of_the_recording_is_named(corpus, broken_manifests, stage1_export):
    names = []

    def change(values: list[str]) -> None:
        values[3] = str(float(values[3]) + 1000)
        values[5] = str(int(values[5]) + 15000)
        names.append(values[0])

    folder = broken_manifests(change)

    done = run(
        python("launchers/decode.py", f"export_dir={stage1_export}", f"manifest_dir={folder}")
    )

    expect_sentence(done, names[-1], exit_code=DATA)


@pytest.mark.slow
def test_vocabulary_that_does_not_match_the_weights_names_both_sizes(
    corpus, stage1_export, tmp_path
):
    from fla.text.codec import read_codec, train_codec

    other = train_codec(["one two three", "six seven"], max_pieces=110, language="en_XX")
    other.save(tmp_path / "tokenizer")
    sizes = [other.vocab_size, read_codec(corpus.mbart, language="en_XX").vocab_size]

    done = run(
        python(
            *corpus.stage2(tmp_path / "run", stage1_export),
            f"text.tokenizer_dir={tmp_path / 'tokenizer'}",
            "deepspeed=ds_configs/zero3_fp32.json",
        )
    )

    expect_sentence(done, *map(str, sizes), str(corpus.mbart), exit_code=DATA)


@pytest.mark.slow
def test_two_ranks_under_deepspeeds_launcher_say_it_once(corpus, tmp_path):
    done = run(deepspeed(*corpus.stage1(tmp_path), "optim.learning_rat=1"))

    expect_sentence(done, "optim.learning_rat:", "'learning_rate'", exit_code=CONFIG)


@pytest.mark.slow
def test_a_port_that_another_run_holds_is_named(stage1_export):
    words = ["launchers/decode.py", f"export_dir={stage1_export}"]
    with socket.socket() as other_run:
        other_run.bind(("", 0))
        other_run.listen()
        port = str(other_run.getsockname()[1])
        command = deepspeed(*words, num_ranks=1)
        command[command.index("--master_port") + 1] = port
        done = run(command)

    expect_sentence(done, f"Port {port} ", "deepspeed --master_port PORT", exit_code=CONFIG)


@pytest.mark.parametrize("program", LAUNCHERS)
def test_help_lists_the_keys_without_torch(program):
    code = (
        f"import runpy, sys; sys.argv = [{program!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'deepspeed', 'transformers', 'mlflow'} & sys.modules.keys()\n"
        "print(*heavy, file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert done.stderr.strip() == ""
    assert "  seed  (int; default 1)" in done.stdout
    # What the program does, and how it is called.
    assert program in done.stdout.partition("Keys:")[0]


def test_help_cut_short_by_a_pager_is_no_error():
    with subprocess.Popen(
        python(*LAUNCHERS[:1], "--help"),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:
        launcher.stdout.close()
        complaint = launcher.stderr.read()

    assert (launcher.returncode, complaint) == (0, "")

"""`python -m tests.gpu` as far as it goes without a GPU: rows, sentences, and a rehearsal."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
import torch

import tests.gpu.__main__ as command
from fla.models.visual_encoder import build_visual_encoder
from tests.gpu.checks import choose_setting
from tests.gpu.decoding import difference_of
from tests.gpu.environment import check_nvdec, describe_environment, find_missing
from tests.gpu.rows import Row, Step, exit_code, table_of, take_steps, write_report
from tests.gpu.setting import FULL, SMALL, Setting
from tests.gpu.stage1 import count_frame_flops, find_peak, mfu_row, rows_of
from tests.gpu.stage2 import rows_of as stage2_rows
from tests.gpu.training import (
    CardMemory,
    CommandFailed,
    Peaks,
    Trained,
    on_one_rank,
    read_metrics,
    run_command,
)
from tests.helpers.commands import python, run

IMAGENET_STD_RED = 0.229 * 255


@pytest.fixture
def setting(tmp_path: Path):
    return choose_setting("cpu", tmp_path / "check", small=True)


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch):
    def refuse() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # The command sets them for good, as here they are not to be.
    for name in ("HF_HUB_OFFLINE", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(pynvml, "nvmlInit", refuse)


@pytest.mark.parametrize(
    ("row", "state", "bound"),
    [
        (Row(name="a", value=40.0, at_least=40.0), "ok", ">= 40"),
        (Row(name="a", value=39.9, at_least=40.0), "failed", ">= 40"),
        (Row(name="a", value=5.1, at_most=5.0), "failed", "<= 5"),
        (Row(name="a", value=1.0, at_least=0.85, at_most=1.15), "ok", "0.85 to 1.15"),
        (Row(name="a", value=float("nan"), at_most=5.0), "failed", "<= 5"),
        (Row(name="a", value=3.0), "noted", ""),
        (Row(name="a", at_least=40.0, note="no GPU"), "skipped", ">= 40"),
        (Row(name="a", fault="It is not there."), "failed", ""),
    ],
)
def test_a_row_knows_whether_its_bounds_hold(row: Row, state: str, bound: str):
    assert (row.state, row.bound) == (state, bound)


def test_the_table_says_why_a_number_is_missing():
    rows = [
        Row(name="a", value=1.23456, unit="s", note="fast"),
        Row(name="b", fault="two\nlines"),
    ]

    lines = table_of(rows).splitlines()[2:]

    assert lines == ["| a | 1.235 s |  | noted: fast |", "| b |  |  | failed: two lines |"]


def test_one_failed_row_makes_the_exit_code():
    fine = [Row(name="a", value=1.0), Row(name="b"), Row(name="c", value=1.0, at_most=1.0)]

    assert exit_code(fine) == 0
    assert exit_code([*fine, Row(name="d", value=2.0, at_most=1.0)]) == 1


def test_a_step_that_breaks_off_keeps_its_rows_and_lets_the_others_go_on():
    def broken():
        yield Row(name="first", value=1.0)
        raise OSError("the disk is full")

    def whole():
        yield Row(name="second", value=2.0)

    rows = take_steps([Step("broken", broken), Step("whole", whole)])

    assert [row.name for row in rows] == ["first", "broken: all of it", "second"]
    assert rows[1].fault == "the disk is full"


def test_the_report_has_the_state_of_each_row(tmp_path: Path):
    path = tmp_path / "new" / "gpu_check.json"

    write_report(path, [Row(name="a", value=2.0, at_most=1.0)], machine={"device": "cpu"})

    found = json.loads(path.read_text())
    assert found["rows"][0]["state"] == "failed"
    assert found["machine"] == {"device": "cpu"}


def test_without_a_driver_the_command_says_so_and_ends_with_1(
    no_driver: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    monkeypatch.setattr("sys.argv", ["gpu", "--folder", str(tmp_path / "check")])

    assert command.main() == 1

    said = capsys.readouterr().err
    assert said.startswith("error: There is no NVIDIA GPU here, or no driver for it")
    assert said.count("\n") == 1
    assert not (tmp_path / "check").exists()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DS_ACCELERATOR", "cpu", "Unset it."),
        ("CUDA_VISIBLE_DEVICES", "GPU-5f1b", "Give a number"),
    ],
)
def test_what_hides_the_gpu_is_named(
    no_driver: None, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
):
    monkeypatch.setenv(name, value)

    missing = find_missing()

    assert name in missing
    assert words in missing


def test_a_missing_library_of_nvdec_is_named_with_what_to_do():
    assert "NVIDIA_DRIVER_CAPABILITIES" in check_nvdec("libthereisnone.so.1")


def test_a_difference_is_counted_in_levels():
    ours = torch.zeros(2, 3, 4, 4)
    theirs = ours.clone()
    theirs[0, 0, 0, 0] = 24 / IMAGENET_STD_RED

    found = difference_of(ours, theirs)

    assert found.most == pytest.approx(24, abs=1e-3)
    assert found.mean == pytest.approx(24 / 96, abs=1e-4)


def test_other_numbers_of_frames_are_no_difference():
    with pytest.raises(ValueError, match="other ones"):
        difference_of(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))


def test_a_frame_of_224_pixels_takes_three_forward_passes_without_one_gradient():
    with torch.device("meta"):
        encoder = build_visual_encoder(sign_width=1024, kernel_size=3)

    flops = count_frame_flops(encoder, 224)

    # ResNet-18 is 1.81 billion multiplications a frame. No one needs the gradient of pixels,
    # which is 0.12 of them.
    assert flops == pytest.approx(2e9 * (3 * 1.815 - 0.118), rel=0.01)


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("NVIDIA GH100 480GB", None),
    ],
)
def test_only_gpus_with_published_figures_have_a_peak(device: str, peak: float | None):
    assert find_peak(device) == peak


def test_without_a_published_figure_there_is_no_mfu(setting):
    row = mfu_row(setting, 1000.0, name="MFU", at_least=40.0)

    assert row.state == "skipped"
    assert "TFLOP/s" in row.note


def test_speed_is_taken_behind_the_first_row_of_metrics(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        row_of(5, time_s=100.0, loss=4.0, tokens_per_s=1.0, wait=0.9),
        row_of(10, time_s=102.0, loss=3.0, tokens_per_s=50.0, wait=0.1),
        {"step": 10, "time_s": 102.5, "dev/bleu4": 1.0},
        row_of(20, time_s=108.0, loss=2.0, tokens_per_s=10.0, wait=0.5),
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    found = read_metrics(path, peaks=None)

    assert found.losses == (4.0, 3.0, 2.0)
    assert (found.num_steps, found.seconds) == (15, 8.0)
    assert found.wait_fraction == pytest.approx((2 * 0.1 + 6 * 0.5) / 8)
    assert found.tokens_per_s == pytest.approx((100 + 60) / 8)


def row_of(step: int, *, time_s: float, loss: float, tokens_per_s: float, wait: float):
    return {
        "step": step,
        "time_s": time_s,
        "train/loss_nats_per_token": loss,
        "train/tokens_per_s": tokens_per_s,
        "train/data_wait_fraction": wait,
    }


def test_targets_bind_where_they_are_to_be_reached(setting):
    trained = Trained(
        losses=(4.0, 3.0), num_steps=10, seconds=2.0, wait_fraction=0.2, tokens_per_s=1.0,
        peaks=Peaks(allocated=2**30, card=2**31),
    )  # fmt: skip

    rows = {row.name: row for row in rows_of(setting, trained, name="run", has_targets=True)}

    assert rows["run: waits for data"].state == "failed"
    assert rows["run: a step"].value == 200.0
    frames_per_step = SMALL.clips_per_step * SMALL.max_frames
    assert rows["run: frames that are trained on"].value == 10 * frames_per_step / 2.0
    assert rows["run: most memory of the card"].value == 2.0


def test_a_command_that_fails_is_told_with_the_line_that_says_why():
    with pytest.raises(CommandFailed, match=r"ended with 2: .*there is no such key"):
        run_command(python("launchers/stage1.py", "train.num_epoch=3"))


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A setting whose GPU answers questions and computes nothing."""
    handle = SimpleNamespace(used=3 * 2**30)
    for name, answer in {
        "nvmlInit": None,
        "nvmlSystemGetDriverVersion": "580.65",
        "nvmlDeviceGetHandleByUUID": handle,
        "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=1)],
    }.items():
        monkeypatch.setattr(pynvml, name, lambda *_, answer=answer: answer)
    properties = SimpleNamespace(name="NVIDIA H100 80GB HBM3", uuid="5f1b", total_memory=80 * 2**30)
    for name, answer in {
        "get_device_properties": properties,
        "get_device_name": properties.name,
        "mem_get_info": (70 * 2**30, 80 * 2**30),
        "is_bf16_supported": True,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    return Setting(device="cuda:0", sizes=FULL, folder=tmp_path)


def test_a_gpu_is_described_with_who_else_is_on_it(pretended_gpu: Setting):
    rows = {row.name: row for row in describe_environment(pretended_gpu)}

    assert rows["environment: GPU memory"].value == 80
    assert "driver 580.65" in rows["environment: GPU memory"].note
    assert rows["environment: free GPU memory"].state == "ok"
    assert "processes 1;" in rows["environment: free GPU memory"].note
    assert rows["environment: bfloat16"].state == "ok"


def test_mfu_is_a_part_of_the_published_figure(pretended_gpu: Setting):
    row = mfu_row(pretended_gpu, 9282.0, name="MFU", at_least=40.0)

    # 10.65 GFLOP a frame.
    assert row.value == pytest.approx(10.0, abs=0.02)
    assert row.state == "failed"


def test_memory_of_the_card_is_the_most_above_what_was_there(
    pretended_gpu: Setting, monkeypatch: pytest.MonkeyPatch
):
    answers = iter([5, 7, 15, 9])
    seen = threading.Event()

    def used(_: int) -> int:
        value = next(answers, None)
        if value is None:
            seen.set()
        return value or 0

    monkeypatch.setattr(torch.cuda, "device_memory_used", used)

    with CardMemory(pretended_gpu, period_s=0.001) as card:
        assert seen.wait(10)

    assert card.most == 10


def test_the_launcher_takes_the_gpu_that_this_process_sees(
    pretended_gpu: Setting, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert on_one_rank(pretended_gpu, "script.py")[1:3] == ["--num_gpus", "1"]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    assert on_one_rank(pretended_gpu, "script.py")[1:3] == ["--include", "localhost:3"]


def test_memory_of_stage_2_is_compared_with_its_plan():
    memory = SimpleNamespace(gpu_peak=10 * 2**30, waiting_bytes=2 * 2**30)
    plan = SimpleNamespace(memory=memory, num_parameters=10**6)
    trained = Trained(
        losses=(4.0, 3.0), num_steps=10, seconds=2.0, wait_fraction=0.0, tokens_per_s=1.0,
        peaks=Peaks(allocated=12 * 2**30, card=11 * 2**30),
    )  # fmt: skip

    rows = {row.name: row for row in stage2_rows(trained, plan, name="run")}

    compared = rows["run: most memory of tensors / planned"]
    assert compared.state == "failed"
    # Where decoding does not keep up, no frames wait.
    assert compared.at_least == pytest.approx(0.85 * 0.8)
    assert rows["run: most memory of the card beyond the plan"].value == 1.0
    assert rows["run: most memory of the card beyond the plan"].state == "ok"


@pytest.mark.parametrize("sizes", [FULL, SMALL])
def test_training_is_timed_over_more_than_one_row(sizes):
    for num_steps in (sizes.stage1_steps, sizes.stage2_steps):
        assert num_steps % sizes.log_every_steps == 0
        assert num_steps >= 2 * sizes.log_every_steps


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_rehearsal_goes_through_every_step(tmp_path: Path):
    done = run(python("-m", "tests.gpu", "--rehearse", "--folder", tmp_path), timeout_s=1700)

    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    found = json.loads((tmp_path / "rehearsal" / "gpu_check.json").read_text())
    states = {row["name"]: row["state"] for row in found["rows"]}
    assert "failed" not in states.values()
    assert states["decoding: wrong frames by the CPU again, of 8 recordings"] == "ok"
    assert states["stage 1, small copies: last loss / first loss"] == "ok"
    assert states["stage 1: rows of metrics after its checkpoint"] == "ok"
    assert states["stage 2, ZeRO-2, cached features: losses that are no number"] == "ok"
    assert "| stage 2, ZeRO-3, frames: tokens | " in done.stdout

"""A profile of some steps of the real loop, with stand-ins for engine and loader."""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed

from fla.losses import LossSum
from fla.profiling import NO_PROFILE, open_profile
from fla.run_folder import open_run_folder
from fla.runtime import join_process_group
from tests.helpers.training import RUNTIME, Engine, Training


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    join_process_group("gloo", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class CountingEngine(Engine):
    """Another operator at every step, so that a trace tells which steps it has."""

    OPERATORS = (torch.sin, torch.cos, torch.tan, torch.asin, torch.acos, torch.atan)

    def __call__(self, batch: Tensor) -> LossSum:
        self.OPERATORS[self.num_steps](batch)
        return super().__call__(batch)


def run(folder: Path, **schedule: int) -> Training:
    training = Training(folder, **schedule)
    training.engine = CountingEngine()
    training.run()
    return training


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Training:
    # Six steps; the fifth is followed by an evaluation.
    return run(tmp_path_factory.mktemp("run"), profile_steps=2, evaluate_every_steps=5)


def test_the_trace_has_the_steps_behind_the_first_three(profiled):
    trace = gzip.decompress((profiled.folder.path / "profile" / "trace.json.gz").read_bytes())

    names = {event.get("name") for event in json.loads(trace)["traceEvents"]}
    assert {"aten::asin", "aten::acos"} <= names
    assert names.isdisjoint({"aten::sin", "aten::cos", "aten::tan", "aten::atan"})


def test_the_table_has_phases_and_operators(profiled):
    text = (profiled.folder.path / "profile" / "operators.txt").read_text(encoding="utf-8")

    phases, _, operators = text.partition("Operators")
    times = dict(re.findall(r"^(\S.*?) +(\d+) +[\d.]+$", phases, re.MULTILINE))
    assert text.startswith("2 steps;")
    # Two steps of two micro-batches.
    expected = {"data wait": "2", "forward": "4", "backward": "4", "step": "2", "evaluation": "1"}
    assert times == expected
    assert "aten::asin" in operators


def test_mlflow_gets_both_files(profiled):
    assert profiled.log.artifacts == ["profile"]


def test_a_run_that_ends_before_has_a_profile_of_fewer_steps(tmp_path):
    run(tmp_path, profile_steps=50, max_steps=4)

    assert (tmp_path / "profile" / "operators.txt").read_text().startswith("1 steps;")


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_a_run_that_ends_before_the_first_recorded_step_has_none(tmp_path, num_steps):
    run(tmp_path, profile_steps=2, max_steps=num_steps)

    assert not (tmp_path / "profile").exists()


def test_without_the_key_there_is_nothing(tmp_path):
    run(tmp_path)

    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize(("num_steps", "rank"), [(0, 0), (5, 1)])
def test_without_the_key_and_on_other_ranks_steps_are_handed_on_as_they_are(
    tmp_path, num_steps, rank
):
    folder, steps = open_run_folder(tmp_path), iter([1])

    profile = open_profile(
        num_steps, run_folder=folder, tracker=None, runtime=replace(RUNTIME, rank=rank)
    )

    assert profile is NO_PROFILE
    assert profile.steps(steps) is steps


def test_a_profile_that_cannot_be_written_ends_no_run(tmp_path, caplog):
    (tmp_path / "profile").write_text("in the way")

    training = run(tmp_path, profile_steps=1)

    assert training.engine.num_steps == 6
    assert "the profile could not be written" in caplog.text

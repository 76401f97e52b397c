"""Stage 2 on cached features by the commands that a user types: killed, resumed, as online."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fla.data.features import read_cache_json
from fla.run_folder import RunFolder, list_complete_checkpoints
from tests.helpers.commands import ROOT, deepspeed, environment, python, run, run_well
from tests.helpers.exports import write_untrained_stage1

# Of 12 clips, so that there is something left to do when the first shard is there.
MANY_VIEWS = "features.num_views=24"


@pytest.fixture(scope="module")
def encoder_export(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stage1") / "export"
    return write_untrained_stage1(folder, tokenizer=corpus.mbart, manifests=corpus.manifests)


@pytest.fixture(scope="module")
def words(corpus, encoder_export, tmp_path_factory) -> list[str]:
    """Of stage 2 without the launcher: the tool takes them, too."""
    home = tmp_path_factory.mktemp("runs")
    return corpus.stage2(home / "online", encoder_export)[1:]


def kill_when(command: list[str], log: Path, is_time: object) -> None:
    """SIGKILL to a command and all its ranks at once, as a machine that loses its power."""
    assert callable(is_time)
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 150
            while not is_time():
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.005)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def shards_in(cache_dir: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache_dir.glob("train-*/view_*.safetensors")}


@pytest.mark.slow
def test_a_killed_build_goes_on_and_makes_no_shard_twice(words, tmp_path):
    build = ["tools/cache_features.py", *words, MANY_VIEWS, f"features.cache_dir={tmp_path}"]

    kill_when(deepspeed(*build), tmp_path / "log", lambda: shards_in(tmp_path))
    after_kill = shards_in(tmp_path)
    (cache_json,) = tmp_path.glob("train-*/cache.json")
    content = read_cache_json(cache_json)
    # Two ranks began, one ends.
    done = run_well(python(*build))

    assert content is not None and content["shards"] is None
    assert "is not whole: building goes on" in done.stdout + done.stderr
    assert after_kill.items() < shards_in(tmp_path).items()
    whole = read_cache_json(cache_json)
    assert whole is not None and len(whole["shards"]) == len(shards_in(tmp_path))


def losses(folder: RunFolder) -> list[float]:
    rows = map(json.loads, folder.metrics_jsonl.read_text().splitlines())
    key = "train/loss_nats_per_token"
    return [row[key] for row in rows if key in row]


@pytest.mark.slow
def test_cached_training_has_the_losses_of_online_training_also_when_resumed(words, tmp_path):
    longer = ["train.max_steps=3", "train.evaluate_every_steps=2"]
    online, cached = RunFolder(tmp_path / "online"), RunFolder(tmp_path / "cached")
    stage2 = ["launchers/stage2.py", *words, *longer]
    cached_words = [*stage2, f"run_dir={cached.path}", "features=cached", "features.num_views=1"]

    run_well(python(*stage2, f"run_dir={online.path}"))
    # In the middle of the first epoch, which has three steps.
    kill_when(python(*cached_words), tmp_path / "log", lambda: list_complete_checkpoints(cached))
    resumed = run_well(python(*cached_words))

    assert len(losses(online)) == 3
    # All that may differ is with how many others a clip went through the encoder, in bfloat16;
    # other frames of the same clips move these losses by 4e-5 to 2e-4 of their value.
    assert losses(cached) == pytest.approx(losses(online), rel=1e-5)
    assert "There was nothing left to encode." in resumed.stdout + resumed.stderr
    assert {path.name.split("-")[0] for path in (tmp_path / "features").iterdir()} == {
        "train",
        "dev",
    }


def test_an_encoder_that_learns_is_not_cached(words):
    done = run(python("launchers/stage2.py", *words, "features=cached", "model.freeze=nothing"))

    assert done.returncode == 2
    assert "error: features=cached with model.freeze=nothing" in done.stderr

"""A recording that is damaged inside, met by a real run on two ranks."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from fla.data.manifest import read_manifest
from fla.run_folder import RunFolder, list_complete_checkpoints
from tests.helpers.commands import on_ranks, run, run_well


class Damaged(NamedTuple):
    """A corpus with one recording that opens and does not decode."""

    words: list[str]
    """Of a run on it, all but the run folder."""
    bad_ids: list[str]
    """Training clips of that recording."""


@pytest.fixture(scope="module")
def damaged(corpus, tmp_path_factory) -> Damaged:
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(corpus.source, folder / "source")
    manifest = read_manifest(corpus.manifests / "train.tsv", video_root=str(folder / "source"))
    video = manifest.samples[0].video
    path = manifest.root / video
    data = bytearray(path.read_bytes())
    # The header stands in front or behind: what lies between are pictures.
    data[len(data) // 10 : len(data) * 8 // 10] = bytes(len(data) * 8 // 10 - len(data) // 10)
    path.write_bytes(data)
    return Damaged(
        words=[*corpus.stage1(folder / "run"), f"data.video_root={folder / 'source'}"],
        bad_ids=sorted(sample.id for sample in manifest.samples if sample.video == video),
    )


@pytest.mark.slow
def test_by_default_the_first_bad_clip_ends_the_run_with_its_name(damaged, tmp_path):
    done = run(on_ranks(*damaged.words, f"run_dir={tmp_path / 'run'}"))

    assert done.returncode == 1
    assert any(f"error: {id}: " in done.stderr for id in damaged.bad_ids), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_bad_clips_are_left_out_on_all_ranks_and_listed(damaged, tmp_path):
    folder = RunFolder(tmp_path / "run")
    words = [f"run_dir={folder.path}", "data.on_decode_error=skip", "data.max_skipped_fraction=0.9"]

    run_well(on_ranks(*damaged.words, *words, "train.max_steps=3"))

    listed = dict(line.split("\t", 1) for line in folder.skipped_tsv.read_text().splitlines())
    # Those before and behind the damage decode.
    assert listed and set(listed) <= set(damaged.bad_ids)
    state = json.loads((list_complete_checkpoints(folder)[-1] / "state.json").read_text())
    assert state["skipped"] == listed
    rows = [json.loads(line) for line in folder.metrics_jsonl.read_text().splitlines()]
    counts = [row["train/skipped_clips"] for row in rows if "train/skipped_clips" in row]
    assert counts[-1] == len(listed)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        (artifacts,) = store.execute(
            "SELECT artifact_uri FROM runs WHERE name LIKE 'stage1%'"
        ).fetchone()
    assert (Path(artifacts.removeprefix("file://")) / "skipped_clips.tsv").is_file()


@pytest.mark.slow
def test_clips_of_a_recording_that_does_not_open_are_left_out_like_others(corpus, tmp_path):
    source = shutil.copytree(corpus.source, tmp_path / "source")
    manifest = read_manifest(corpus.manifests / "train.tsv", video_root=str(source))
    video = manifest.samples[0].video
    (manifest.root / video).write_bytes(b"no video")
    folder = RunFolder(tmp_path / "run")
    words = [*corpus.stage1(folder.path), f"data.video_root={source}", "train.max_steps=3"]

    stopped = run(on_ranks(*words))
    run_well(on_ranks(*words, "data.on_decode_error=skip", "data.max_skipped_fraction=0.9"))

    bad_ids = [sample.id for sample in manifest.samples if sample.video == video]
    assert stopped.returncode == 1
    assert f"sample {bad_ids[0]}: {manifest.root / video} does not decode" in stopped.stderr
    listed = [line.split("\t")[0] for line in folder.skipped_tsv.read_text().splitlines()]
    assert sorted(listed) == sorted(bad_ids)


@pytest.mark.slow
def test_more_bad_clips_than_allowed_end_the_run(damaged, tmp_path):
    words = [f"run_dir={tmp_path / 'run'}", "data.on_decode_error=skip"]

    done = run(on_ranks(*damaged.words, *words, "train.max_steps=3"))

    assert done.returncode == 1
    assert (
        "of 12 training clips do not decode, more than data.max_skipped_fraction (0.01)"
        in done.stderr
    )
    assert "Traceback" not in done.stderr

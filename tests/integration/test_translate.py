"""A video of one's own goes the way of the split that launchers/decode.py translates."""

import json
from itertools import groupby
from pathlib import Path

import pytest

from fla.data.manifest import Sample, read_manifest
from fla.run_folder import RunFolder, read_decodes
from tests.helpers.commands import python, run_well
from tests.helpers.exports import write_untrained_stage1


@pytest.fixture(scope="module")
def export(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / "export"
    return write_untrained_stage1(folder, tokenizer=corpus.mbart, manifests=corpus.manifests)


def write_ranges(path: Path, samples: list[Sample]) -> Path:
    rows = [f"{sample.start_s}\t{sample.end_s}\n" for sample in samples]
    path.write_text("start_s\tend_s\n" + "".join(rows))
    return path


def test_a_file_is_translated_as_its_sentences_are_in_the_corpus(corpus, export, tmp_path):
    manifest = read_manifest(corpus.manifests / "test.tsv")
    by_video = sorted(manifest.samples, key=lambda sample: (sample.video, sample.start_s))
    words = [f"export_dir={export}", f"output_dir={tmp_path}"]
    search = ["beam.num_beams=2", "beam.max_new_tokens=150"]

    run_well(python("launchers/decode.py", *words, *search))
    translated = {}
    for video, samples in groupby(by_video, key=lambda sample: sample.video):
        of_video = list(samples)
        ranges = write_ranges(tmp_path / "ranges.tsv", of_video)
        options = ["--model", export, "--segments", ranges, "--num-beams", "2", "--format", "jsonl"]
        done = run_well(python("tools/translate.py", manifest.root / video, *options))
        rows = map(json.loads, done.stdout.splitlines())
        for sample, row in zip(of_video, rows, strict=True):
            translated[sample.id] = row["hypotheses"][0]["text"]

    rows, _ = read_decodes(RunFolder(tmp_path).decodes_tsv("export", "test"))
    assert translated == {row.id: row.hypothesis for row in rows}
    assert len(translated) == 4

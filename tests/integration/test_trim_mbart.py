import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import MBartForConditionalGeneration

from fla.data.manifest import Sample, write_manifest
from fla.errors import ConfigError, DataError
from fla.text.codec import read_codec
from fla.trim import read_manifest_texts, read_text
from fla.weights import Layout
from tests.helpers.commands import ROOT, environment, python, run, run_well
from tools.make_random_mbart import make_config, make_random_mbart, model_layouts

SMALL = ["--layers", "2", "--d-model", "128", "--pieces", "900", "--dtype", "fp32"]
SPLITS = {
    "train": ["Heute regnet es.", "Morgen schneit es im Norden!"],
    "dev": ["Heute schneit es."],
    "test": ["Quark \u4e2d"],
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "de.txt"
    path.write_text("\n".join(SPLITS["train"] * 20), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def mbart(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "mbart"
    run_well(python("tools/make_random_mbart.py", folder, "--text", text, *SMALL))
    return folder


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    for split, sentences in SPLITS.items():
        samples = [
            Sample(
                id=f"{split}{number}",
                video="a.mp4",
                start_s=0.0,
                end_s=1.0,
                fps=25.0,
                num_frames=25,
                signer="",
                sentence=sentence,
            )
            for number, sentence in enumerate(sentences)
        ]
        write_manifest(tmp_path / "manifests" / f"{split}.tsv", samples, root=tmp_path)
    return tmp_path / "manifests"


def test_a_random_mbart_is_laid_out_as_facebooks():
    layouts = model_layouts(
        make_config(num_tokens=250_027, num_layers=12, d_model=1024, dtype="bfloat16")
    )

    # 16 in each of 12 layers of the encoder, 26 in the decoder's, 12 around them.
    assert len(layouts) == 12 * 16 + 12 * 26 + 12
    # Without final_logits_bias, which is no parameter.
    bias = layouts.pop("final_logits_bias")
    assert bias == Layout((1, 250_027), torch.bfloat16)
    assert sum(torch.Size(layout.shape).numel() for layout in layouts.values()) == 610_851_840
    assert layouts["model.shared.weight"].shape == (250_027, 1024)
    assert layouts["model.decoder.embed_positions.weight"].shape == (1026, 1024)


def test_a_random_mbart_loads_whole_and_speaks_by_a_tokenizer_of_its_size(mbart: Path):
    model, report = MBartForConditionalGeneration.from_pretrained(
        mbart, local_files_only=True, output_loading_info=True
    )

    assert not report["missing_keys"] and not report["unexpected_keys"]
    # 2 layers a side: 32 and 52, and those around them.
    assert len(load_file(mbart / "model.safetensors")) == 32 + 52 + 12
    assert model.config.scale_embedding
    assert len(model.model.encoder.layers) == 2
    assert model.model.encoder.layers[0].self_attn.num_heads == 2
    codec = read_codec(mbart, language="de_DE")
    assert codec.vocab_size == 900 + 30 == model.model.shared.num_embeddings
    (ids,) = codec.encode(["Heute regnet es."], max_tokens=50)
    assert codec.decode(torch.tensor([ids])) == ["Heute regnet es."]


def test_random_weights_are_those_of_a_new_model(mbart: Path):
    weights = load_file(mbart / "model.safetensors")

    assert weights["model.shared.weight"][2:].std().item() == pytest.approx(0.02, rel=0.02)
    assert weights["model.shared.weight"][1].abs().max() == 0.0
    norms = [name for name in weights if "norm" in name and name.endswith("weight")]
    # 2 a layer of the encoder, 3 a layer of the decoder, 2 more on each side.
    assert len(norms) == 4 + 6 + 4
    assert all((weights[name] == 1.0).all() for name in norms)
    assert all((weights[name] == 0.0).all() for name in weights if name.endswith("bias"))


def make(out_dir: Path, **changed: Any) -> Path:
    """A random mBART as small as it can be, but for what is changed."""
    words: dict[str, Any] = {"text": None, "num_pieces": 200, "num_layers": 1, "d_model": 64}
    make_random_mbart(out_dir, **{**words, "dtype": "float32", "seed": 1, **changed})
    return out_dir


def test_a_seed_gives_the_same_weights_and_another_gives_others(tmp_path: Path):
    first, again, other = (
        make(tmp_path / name, seed=seed) / "model.safetensors"
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )

    assert again.read_bytes() == first.read_bytes()
    assert other.read_bytes() != first.read_bytes()


def test_without_text_a_random_mbart_spells_ascii(tmp_path: Path):
    out = make(tmp_path / "out", dtype="bfloat16")

    weights = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    codec = read_codec(out, language="en_XX")
    ids = codec.encode(["Any (ASCII) text?"], max_tokens=50)
    assert codec.decode(torch.tensor(ids)) == ["Any (ASCII) text?"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ({"d_model": 100}, r"--d-model \(100\) is no multiple of 64"),
        ({"num_pieces": 5}, r"--pieces \(5\) is less than the text's characters need"),
    ],
)
def test_sizes_that_make_no_mbart_are_refused(word: dict[str, int], message: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        make(tmp_path / "out", **word)

    assert not (tmp_path / "out").exists()


def test_a_random_mbart_overwrites_nothing(mbart: Path):
    with pytest.raises(ConfigError, match="exists and is not empty"):
        make(mbart)


def test_the_tool_trims_to_a_folder_of_manifests(mbart: Path, manifests: Path, tmp_path: Path):
    out = tmp_path / "out"
    words = ["--manifests", manifests, "--language", "de_DE"]

    done = run_well(python("tools/trim_mbart.py", mbart, out, *words))

    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "coverage.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab_map.json",
    ]
    assert "test: no piece for \u4e2d" in done.stdout
    report = json.loads((out / "coverage.json").read_text())
    assert list(report["splits"]) == ["train", "dev", "test"]
    assert report["splits"]["train"]["num_changed"] == 0
    codec = read_codec(out, language="de_DE")
    assert report["after"]["num_tokens"] == codec.vocab_size < report["before"]["num_tokens"]

    again = run(python("tools/trim_mbart.py", mbart, out, *words))
    assert again.returncode == 2
    assert again.stderr == f"error: {out} exists and is not empty. Name a new folder.\n"


def test_the_tool_takes_text_and_characters(text: Path, tmp_path: Path):
    source = make(tmp_path / "in", text=text)
    words = ["--text", text, "--characters"]

    run_well(python("tools/trim_mbart.py", source, tmp_path / "out", *words))

    report = json.loads((tmp_path / "out" / "coverage.json").read_text())
    assert report["splits"]["text"]["num_changed"] == 40


def test_manifests_without_train_are_refused(manifests: Path):
    (manifests / "train.tsv").unlink()

    with pytest.raises(DataError, match=r"train\.tsv does not exist\. Import the corpus first"):
        read_manifest_texts(manifests)


def test_text_that_cannot_be_read_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"de\.txt does not exist"):
        read_text(tmp_path / "de.txt")

    (tmp_path / "de.txt").write_bytes("sch\u00f6n".encode("latin-1"))
    with pytest.raises(DataError, match=r"de\.txt: not UTF-8"):
        read_text(tmp_path / "de.txt")


# Growth of the process' own memory, without pages of files, while it trims.
MEASURE = """
import re, sys, threading
from pathlib import Path
from fla.trim import read_text, trim_mbart

def own_bytes():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def watch():
    while not done.wait(0.002):
        sizes.append(own_bytes())

source, target, text = map(Path, sys.argv[1:])
done, sizes = threading.Event(), [own_bytes()]
watcher = threading.Thread(target=watch)
watcher.start()
trim_mbart(source, target, texts=read_text(text), language="en_XX", characters=False)
done.set()
watcher.join()
print(max(sizes) - sizes[0])
"""


def test_trimming_never_holds_the_model_in_memory(text: Path, tmp_path: Path):
    make(tmp_path / "in", num_pieces=20_000, d_model=1024)

    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "in", tmp_path / "out", text],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=150,
        check=True,
    )

    num_bytes = (tmp_path / "in" / "model.safetensors").stat().st_size
    # The largest tensor is 0.4 of it; measured: 0.17.
    assert int(done.stdout) < 0.5 * num_bytes

"""A small demo corpus, its tokenizer, and configurations on it: made once and kept in a folder."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fla.config.load import load_config
from fla.config.schema import Stage1Config
from fla.pretrain import read_sentences
from fla.text.codec import train_codec

RECIPES = Path("launchers/recipes")
NUM_SENTENCES = 512
MAX_PIECES = 400
LARGE_FRAMES = ("data.resize_px=256", "data.crop_px=224", "data.host_memory_gib=8")
"""Frames of 224 pixels, as in the paper."""


@dataclass(frozen=True)
class DemoCorpus:
    """Its files."""

    folder: Path

    @property
    def source(self) -> Path:
        """In How2Sign's layout."""
        return self.folder / "source"

    @property
    def manifests(self) -> Path:
        return self.folder / "manifests"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer"

    def words(self, run_dir: Path) -> list[str]:
        """What a run on it is told, beside its recipe."""
        return [
            f"run_dir={run_dir}",
            f"data.manifest_dir={self.manifests}",
            f"text.tokenizer_dir={self.tokenizer}",
        ]

    def stage1(self, run_dir: Path, *words: str) -> Stage1Config:
        """The demo's recipe in float32, which every CPU computes by itself."""
        return load_config(
            Stage1Config,
            [
                str(RECIPES / "demo_stage1.yaml"),
                *self.words(run_dir),
                "deepspeed=ds_configs/zero1_fp32.json",
                *words,
            ],
        )


def make_demo_corpus(folder: Path) -> DemoCorpus:
    """Film the sentences, import them, and train a tokenizer, where that is still to do."""
    corpus = DemoCorpus(folder)
    if not (corpus.manifests / "report.json").exists():
        sizes = {"train": NUM_SENTENCES, "dev": 32, "test": 32, "text": 4000}
        words = [w for k, n in sizes.items() for w in (f"--{k}-sentences", str(n))]
        _python("tools/make_demo_corpus.py", str(corpus.source), *words)
        _python("tools/import_how2sign.py", str(corpus.source), str(corpus.manifests))
    sentences = read_sentences(corpus.source / "text" / "en.txt", at_least=1)
    corpus.tokenizer.mkdir(exist_ok=True)
    train_codec(sentences, max_pieces=MAX_PIECES, language="en_XX").save(corpus.tokenizer)
    return corpus


def _python(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

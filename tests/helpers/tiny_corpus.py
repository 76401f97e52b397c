"""A corpus and a language model that are small enough to run every command on."""

from dataclasses import dataclass
from pathlib import Path

from fla.runtime import computes_bfloat16
from tests.helpers.commands import TINY_RUN, python, run_well


def precise(sharding: str) -> list[str]:
    """Train in float32 where the CPU would only imitate bfloat16, many times slower."""
    return [] if computes_bfloat16("cpu") else [f"deepspeed=ds_configs/{sharding}_fp32.json"]


@dataclass(frozen=True)
class TinyCorpus:
    """Files that the first commands of the demo make."""

    source: Path
    """In How2Sign's layout."""
    manifests: Path
    mbart: Path
    """Weights and tokenizer in Hugging Face format."""

    def stage1(self, run_dir: Path) -> list[str]:
        """Words of a tiny run of stage 1."""
        return [
            "launchers/stage1.py",
            "model.sign_width=32",
            *precise("zero1"),
            *self._both_stages(run_dir),
        ]

    def stage2(self, run_dir: Path, encoder_export: Path) -> list[str]:
        """Words of a tiny run of stage 2."""
        return [
            "launchers/stage2.py",
            f"model.encoder_export={encoder_export}",
            f"model.llm_dir={self.mbart}",
            *precise("zero3"),
            *self._both_stages(run_dir),
        ]

    def _both_stages(self, run_dir: Path) -> list[str]:
        return [
            f"run_dir={run_dir}",
            f"data.manifest_dir={self.manifests}",
            f"text.tokenizer_dir={self.mbart}",
            *TINY_RUN,
        ]


def make_corpus(folder: Path) -> TinyCorpus:
    """12 training, 4 dev and 4 test sentences, and an mBART that has seen three batches."""
    made = TinyCorpus(
        source=folder / "source",
        manifests=folder / "manifests",
        mbart=folder / "mbart" / "export",
    )
    sizes = ["--train-sentences", "12", "--dev-sentences", "4", "--test-sentences", "4"]
    sizes += ["--text-sentences", "200", "--size-px", "64"]
    run_well(python("tools/make_demo_corpus.py", made.source, *sizes))
    run_well(python("tools/import_how2sign.py", made.source, made.manifests))
    run_well(
        python(
            "tools/pretrain_mbart.py",
            f"run_dir={made.mbart.parent}",
            f"data.train_text={made.source / 'text' / 'en.txt'}",
            "data.max_pieces=120",
            "model.d_model=32",
            "model.num_layers=1",
            "model.num_heads=2",
            "model.ffn_width=64",
            "num_epochs=1",
        )
    )
    return made

"""Stage 2 with an mbart-large of random weights: ZeRO-3 and ZeRO-2, frames and cached features.

Memory is compared with what tools/plan_run.py says of the same settings.
"""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

from fla.config.load import load_config
from fla.config.schema import Stage2Config
from fla.plan.run import RunPlan, plan_run
from fla.plan.text import RESERVE_BYTES
from tests.gpu.material import make_manifests, make_signing, write_sentences
from tests.gpu.rows import Row
from tests.gpu.setting import Setting
from tests.gpu.stage1 import data_words, memory_rows
from tests.gpu.training import GIB, Trained, go_on, run_tool, train

PLAN_FROM, PLAN_TO = 0.85, 1.15
"""Most memory of tensors in what is planned; on CPUs they were 10 % apart at most. Frames wait only
where decoding is faster than training."""

_SCRIPT = "launchers/stage2.py"
_RECIPE = Path("launchers/recipes/demo_stage2.yaml")


def train_stage2(setting: Setting) -> Iterator[Row]:
    """Rows of stage 2 in its three ways on one GPU."""
    make_mbart(setting)
    ways = {
        "ZeRO-3, frames": (3, "features=online"),
        "ZeRO-3, cached features": (3, "features=cached"),
        "ZeRO-2, cached features": (2, "features=cached"),
    }
    for way, (stage, features) in ways.items():
        name = f"stage 2, {way}"
        words = stage2_words(setting, stage=stage, features=features)
        run_dir = setting.folder / "runs" / name.replace(", ", "_").replace(" ", "_")
        trained = train(setting, _SCRIPT, words, run_dir=run_dir)
        yield from rows_of(trained, plan_run(_read(words), world_size=1), name=name)
        if way == "ZeRO-3, frames":
            yield go_on(setting, _SCRIPT, words, run_dir=run_dir, name=name)
        # Nine gigabytes at full size.
        shutil.rmtree(run_dir / "checkpoints")
        shutil.rmtree(run_dir / "export")


def rows_of(trained: Trained, plan: RunPlan, *, name: str) -> Iterator[Row]:
    """What a run says, beside its plan."""
    first, last = trained.losses[0], trained.losses[-1]
    yield Row(
        name=f"{name}: losses that are no number",
        value=float(sum(not math.isfinite(loss) for loss in trained.losses)),
        at_most=0.0,
        note=f"{first:.3f} to {last:.3f} nats a token",
    )
    yield Row(name=f"{name}: a step", value=1000 * trained.step_s, unit="ms")
    yield Row(name=f"{name}: tokens", value=trained.tokens_per_s, unit="tokens/s")
    yield Row(name=f"{name}: waits for data", value=100 * trained.wait_fraction, unit="%")
    yield from memory_rows(trained, name=name)
    planned = plan.memory.gpu_peak
    if trained.peaks is None:
        yield Row(name=f"{name}: planned memory", value=planned / GIB, unit="GiB")
        return
    yield Row(
        name=f"{name}: most memory of tensors / planned",
        value=trained.peaks.allocated / planned,
        at_least=PLAN_FROM * (1 - plan.memory.waiting_bytes / planned),
        at_most=PLAN_TO,
        note=f"planned {planned / GIB:.2f} GiB for {plan.num_parameters / 1e6:.0f} M parameters",
    )
    yield Row(
        name=f"{name}: most memory of the card beyond the plan",
        value=(trained.peaks.card - planned) / GIB,
        unit="GiB",
        at_most=RESERVE_BYTES / GIB,
        note="the plan sets so much aside",
    )


def make_mbart(setting: Setting) -> Path:
    """An mBART of random weights with its tokenizer, where it is still to be made."""
    folder = setting.folder / "mbart"
    if (folder / "generation_config.json").exists():
        return folder
    # Cut short the last time.
    shutil.rmtree(folder, ignore_errors=True)
    text = setting.folder / "text.txt"
    sentences = write_sentences(num_words=setting.sizes.num_words)
    text.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    run_tool("tools/make_random_mbart.py", folder, "--text", text, *setting.sizes.mbart)
    return folder


def stage2_words(setting: Setting, *, stage: int, features: str) -> list[str]:
    """Words of a run, but for its folder."""
    sizes = setting.sizes
    # 16 at full size, as in the paper.
    clips_per_step = 2 * sizes.clips_per_step
    recordings = make_signing(setting)
    manifests = make_manifests(
        setting, recordings, recordings.small, num_train=sizes.stage2_steps * clips_per_step
    )
    mbart = make_mbart(setting)
    return [
        f"deepspeed={setting.deepspeed_json(stage, 'bf16')}",
        *data_words(setting, clips_per_step=clips_per_step),
        f"data.manifest_dir={manifests}",
        f"text.tokenizer_dir={mbart}",
        f"model.llm_dir={mbart}",
        f"model.encoder_export={setting.folder / 'runs' / 'stage1' / 'export'}",
        features,
        "optim.llm_learning_rate=1e-4",
        # Of the paper's runs; they take memory.
        "model.dropout=0.3",
        "model.attention_dropout=0.1",
        f"train.max_steps={sizes.stage2_steps}",
        "beam.batch_size=4",
    ]


def _read(words: list[str]) -> Stage2Config:
    return load_config(Stage2Config, [str(_RECIPE), "run_dir=planned", *words])

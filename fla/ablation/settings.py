"""What each row's stages are told: recipes, what follows from them, the user's words, the row's.

Later words win. A key that a table varies is the table's alone: a user's word on it is refused.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from fla.ablation.tables import FIG4, Row, Table, Words, build_table
from fla.config.load import load_config
from fla.config.modes import bf16_parameters
from fla.config.schema import Stage1Config, Stage2Config
from fla.errors import ConfigError

_PLACES = (
    "run_dir",
    "resume",
    "seed",
    "tracking.experiment",
    "tracking.pipeline",
    "model.encoder_export",
)
"""What every plan sets itself."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a user asks for."""

    table: str
    """As `parse_name` gives it."""
    recipe1: str
    """Path of stage 1's recipe."""
    recipe2: str
    words1: Words = ()
    """`key=value` for stage 1."""
    words2: Words = ()
    mt5_dir: str = ""
    """Weights and tokenizer of an mT5, for table 10; empty: its rows are left out."""

    def load1(self) -> Stage1Config:
        """Stage 1 as recipe and user have it."""
        return load_stage1((self.recipe1, *self.words1))

    def load2(self) -> Stage2Config:
        """Stage 2 as recipe and user have it."""
        return load_stage2((self.recipe2, *self.words2))


# Loading takes a tenth of a second, and each row is asked for once a seed.
@cache
def load_stage1(words: Words) -> Stage1Config:
    """What launchers/stage1.py makes of its words."""
    return load_config(Stage1Config, words)


@cache
def load_stage2(words: Words) -> Stage2Config:
    """What launchers/stage2.py makes of its words."""
    return load_config(Stage2Config, words)


def sort_words(words: Sequence[str]) -> tuple[Words, Words, Words]:
    """Recipes, words of stage 1 and words of stage 2: `stage1.KEY=V`, `stage2.KEY=V`, `KEY=V`."""
    recipes: list[str] = []
    stages: dict[str, list[str]] = {"stage1": [], "stage2": []}
    for word in words:
        key, equals, _ = word.partition("=")
        stage, _, rest = key.partition(".")
        if not equals:
            recipes.append(word)
        elif stage in stages and rest:
            stages[stage].append(word.removeprefix(f"{stage}."))
        else:
            for of_stage in stages.values():
                of_stage.append(word)
    return tuple(recipes), tuple(stages["stage1"]), tuple(stages["stage2"])


def complete_table(settings: Settings) -> Table:
    """The table as it can be run.

    Raises:
        ConfigError: The user's settings contradict it.
    """
    stage1, stage2 = settings.load1(), settings.load2()
    table = build_table(settings.table, num_epochs=stage1.train.num_epochs)
    problems = [*_contradictions(table, settings, stage1, stage2)]
    if problems:
        raise ConfigError("\n".join(problems))
    if settings.mt5_dir or not any(row.needs_mt5 for row in table.rows):
        return table
    rows = tuple(row for row in table.rows if not row.needs_mt5)
    left_out = ", ".join(row.name for row in table.rows if row.needs_mt5)
    note = f"Left out, because no --mt5 folder was named: {left_out}."
    return replace(table, rows=rows, notes=(*table.notes, note))


def row_settings(row: Row, table: Table, settings: Settings) -> tuple[Words | None, Words | None]:
    """Recipe and words of a row's stages, without places; None: the row lacks the stage."""
    first = second = None
    if row.stage1 is not None:
        derived = _frame_words(row, settings.load1())
        first = (settings.recipe1, *settings.words1, *derived, *row.stage1)
    if row.stage2 is not None:
        second = (
            settings.recipe2,
            *settings.words2,
            *_frame_words(row, settings.load2()),
            *_common_words(table, settings),
            *_source_words(row, settings),
            *row.stage2,
        )
    return first, second


def _frame_words(row: Row, config: Stage1Config | Stage2Config) -> Iterator[str]:
    """At another rate of frames, as many seconds of video fit as before."""
    strides = [word.partition("=")[2] for word in row.stage1 or () if "data.frame_stride=" in word]
    for stride in strides:
        ratio = config.data.frame_stride / int(stride)
        yield f"data.max_frames={math.ceil(config.data.max_frames * ratio)}"
        if ratio > 1:
            # Batch normalization sees as many clips as before; memory grows along.
            yield f"data.frames_per_batch={math.ceil(config.data.frames_per_batch * ratio)}"


def _common_words(table: Table, settings: Settings) -> Iterator[str]:
    """What one row needs, all have, so that rows differ in what the table is about alone."""
    config = settings.load2()
    if not table.trains_encoders:
        return
    if config.features.mode == "cached":
        yield "features.mode=online"
    if any(bf16_parameters(config.deepspeed, "", "")):
        in_autocast = Path(config.deepspeed.replace("_bf16", "_autocast"))
        if in_autocast.is_file():
            yield f"deepspeed={in_autocast}"


def _source_words(row: Row, settings: Settings) -> Iterator[str]:
    """Where the visual encoder and the LLM come from."""
    if row.stage1 is None:
        encoder = settings.load1().model
        yield f"model.backbone_weights={encoder.backbone_weights}"
        yield f"model.sign_width={encoder.sign_width}"
        yield f"model.kernel_size={encoder.kernel_size}"
        yield "model.encoder_export="
    if row.needs_mt5:
        yield f"model.llm_dir={settings.mt5_dir}"
        yield f"text.tokenizer_dir={settings.mt5_dir}"


def _contradictions(
    table: Table, settings: Settings, stage1: Stage1Config, stage2: Stage2Config
) -> Iterator[str]:
    for stage, given, words in (
        ("stage1", settings.words1, [row.stage1 for row in table.rows]),
        ("stage2", settings.words2, [row.stage2 for row in table.rows]),
    ):
        varied = {word.partition("=")[0] for some in words for word in some or ()}
        for key in dict.fromkeys(word.partition("=")[0] for word in given):
            if key in varied or key in _PLACES:
                yield (
                    f"{stage}.{key}: {table.heading} sets this key itself. Leave it out; --dir "
                    "chooses the folder, and --seeds the seeds."
                )
    if any("data.frame_stride=" in word for row in table.rows for word in row.stage1 or ()):
        for stage, data in (("stage1", stage1.data), ("stage2", stage2.data)):
            if data.target_fps:
                yield (
                    f"{stage}.data.target_fps ({data.target_fps:g}) decides the frames, and "
                    f"{table.heading} varies data.frame_stride. Add {stage}.data.target_fps=0."
                )
    if table.name == FIG4 and stage1.train.max_steps:
        yield (
            f"stage1.train.max_steps ({stage1.train.max_steps}) ends stage 1, and {table.heading} "
            "varies its epochs. Add stage1.train.max_steps=0."
        )
    needs_imagenet = any(
        row.stage1 is None and "model.freeze=backbone" in (row.stage2 or ()) for row in table.rows
    )
    if needs_imagenet and not stage1.model.backbone_weights:
        yield (
            f"stage1.model.backbone_weights is empty: {table.heading} has a row whose backbone "
            "stays as ImageNet left it. Add stage1.model.backbone_weights=FILE, a ResNet-18 of "
            "torchvision."
        )

"""A table, two recipes and seeds become runs: what each is told, where it lies, what it needs.

Runs are known by their settings: rows, and tables in one folder, share those that are equal. The
order is that of seeds, so that a whole table is there once the first seed is done.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fla.ablation.naming import label_stage1, label_stage2
from fla.ablation.settings import (
    Settings,
    complete_table,
    load_stage1,
    load_stage2,
    row_settings,
)
from fla.ablation.tables import Row, Table, Words
from fla.config.schema import Stage1Config, Stage2Config, TrackingConfig
from fla.run_folder import RunFolder

TEST = "test"
"""The split that tables are of."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run, and perhaps its translation of the test split."""

    name: str
    """Of its folder."""
    stage: Literal[1, 2]
    config: Stage1Config | Stage2Config
    words: tuple[str, ...]
    """Of its launcher."""
    needs: str
    """The run of stage 1 that it goes on from; empty: none."""
    is_decoded: bool = False
    """Whether a row of the table is its scores."""

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(self.config.run_dir))

    @property
    def launcher(self) -> str:
        """What trains it, from the repository's folder."""
        return f"launchers/stage{self.stage}.py"

    @property
    def decode_words(self) -> tuple[str, ...]:
        """Words of launchers/decode.py: every key that its recipe would set, as in training."""
        config = self.config
        return (
            f"export_dir={self.folder.export}",
            f"split={TEST}",
            f"seed={config.seed}",
            f"shuffle_videos={str(config.data.shuffle_videos).lower()}",
            f"num_threads={config.data.num_threads}",
            f"host_memory_gib={config.data.host_memory_gib:g}",
            f"frames_per_batch={config.data.frames_per_batch}",
            *(f"beam.{key}={value}" for key, value in vars(config.beam).items()),
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of a table."""

    table: Table
    folder: Path
    """Holds the run folders, and those of the tables."""
    experiment: str
    """The one MLflow experiment of the folder."""
    seeds: tuple[int, ...]
    num_gpus: int
    runs: tuple[Run, ...]
    """Each after what it needs."""
    results: Mapping[tuple[str, int], str]
    """Name of the run whose scores count, by row and seed."""

    @property
    def output(self) -> Path:
        """Where the table is written."""
        return self.folder / self.table.heading.lower().replace(" ", "_")

    def run(self, name: str) -> Run:
        """The run of a name."""
        return next(run for run in self.runs if run.name == name)

    def result(self, row: Row, seed: int) -> Run:
        """The run whose scores are those of a row."""
        return self.run(self.results[row.name, seed])


def make_plan(settings: Settings, *, seeds: Sequence[int], num_gpus: int, folder: Path) -> Plan:
    """Expand a table into runs, each once.

    Args:
        settings: The table's name, the words of both stages.
        seeds: Of the rows.
        num_gpus: Ranks of each run.
        folder: Of the ablations of one corpus.

    Raises:
        ConfigError: A recipe or word that cannot be read, or that contradicts the table.
    """
    table = complete_table(settings)
    experiment = f"{folder.absolute().name}-ablations"
    runs: dict[str, Run] = {}
    results: dict[tuple[str, int], str] = {}
    for seed in dict.fromkeys(seeds):
        for row in table.rows:
            expanded = _expand_row(row, table, settings, seed, folder, experiment)
            for run in expanded:
                known = runs.setdefault(run.name, run)
                assert known.config == run.config, f"{run.name} has two meanings"
            results[row.name, seed] = expanded[-1].name
    return Plan(
        table=table,
        folder=folder,
        experiment=experiment,
        seeds=tuple(dict.fromkeys(seeds)),
        num_gpus=num_gpus,
        runs=tuple(_mark_decoded(runs.values(), results)),
        results=results,
    )


def _expand_row(
    row: Row, table: Table, settings: Settings, seed: int, folder: Path, experiment: str
) -> list[Run]:
    """The runs of one row and seed: of stage 1, of stage 2, or of both."""
    first, second = row_settings(row, table, settings)
    runs: list[Run] = []
    label1 = ""
    if first is not None:
        config1 = load_stage1(first)
        label1 = label_stage1(config1, settings.load1())
        places = _Places(folder, "stage1", label1, label1, seed, experiment)
        runs.append(
            Run(
                name=places.name,
                stage=1,
                config=replace(config1, **places.values(config1.tracking)),
                words=(*first, *places.words),
                needs="",
            )
        )
    if second is not None:
        config2 = load_stage2(second)
        label2, gathered = label_stage2(config2, settings.load2(), label1)
        places = _Places(folder, "stage2", label2, gathered, seed, experiment)
        export = str(runs[0].folder.export) if runs else ""
        model = replace(config2.model, encoder_export=export)
        runs.append(
            Run(
                name=places.name,
                stage=2,
                config=replace(config2, model=model, **places.values(config2.tracking)),
                words=(*second, f"model.encoder_export={export}", *places.words),
                needs=runs[0].name if runs else "",
            )
        )
    return runs


def _mark_decoded(runs: Iterable[Run], results: Mapping[tuple[str, int], str]) -> Iterable[Run]:
    scored = set(results.values())
    return (replace(run, is_decoded=run.name in scored) for run in runs)


@dataclass(frozen=True)
class _Places:
    """Where a run is written and recorded; the same for every row that it belongs to."""

    folder: Path
    stage: str
    label: str
    gathered: str
    seed: int
    experiment: str

    @property
    def name(self) -> str:
        return "_".join(filter(None, (self.stage, self.label, f"seed{self.seed}")))

    @property
    def run_dir(self) -> str:
        return str(self.folder / self.name)

    @property
    def pipeline(self) -> str:
        return f"{self.gathered or 'recipe'}_seed{self.seed}"

    @property
    def words(self) -> Words:
        """For a launcher."""
        return (
            f"run_dir={self.run_dir}",
            f"seed={self.seed}",
            f"tracking.experiment={self.experiment}",
            f"tracking.pipeline={self.pipeline}",
        )

    def values(self, tracking: TrackingConfig) -> dict[str, Any]:
        """The same as fields of a stage's configuration."""
        tracking = replace(tracking, experiment=self.experiment, pipeline=self.pipeline)
        return {"run_dir": self.run_dir, "seed": self.seed, "tracking": tracking}

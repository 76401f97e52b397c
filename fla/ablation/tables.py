"""The ablations of the paper as values: rows, what each sets, and what the paper reports.

Chen et al., "Factorized Learning Assisted with Large Language Model for Gloss-free Sign Language
Translation", LREC-COLING 2024: tables 4 to 10 and figures 2 and 4, all on PHOENIX14T's test split.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from fla.errors import ConfigError

Words = tuple[str, ...]
"""`key=value`, as launchers take them."""

FIG2, FIG4 = "fig2", "fig4"
PAPER_EPOCHS = (25, 50, 75, 100)
"""Lengths of stage 1 in figure 4; 75 is the paper's own."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    name: str
    stage1: Words | None = ()
    """What it sets in stage 1; None: it has no stage 1, and learns end to end in stage 2."""
    stage2: Words | None = ()
    """What it sets in stage 2; None: it has no stage 2, and stage 1's own translations count."""
    rouge_l: float | None = None
    """The paper's, on PHOENIX14T; None: it gives none that is known here."""
    bleu4: float | None = None
    needs_mt5: bool = False
    """Its LLM is mT5."""
    remark: str = ""
    """What else the paper says of it."""


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """Two rows of which the paper has one above the other in BLEU-4."""

    better: str
    worse: str
    difference: float | None
    """By how much; None: the paper's numbers are not known here."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """An ablation."""

    name: str
    """As a user types it: 4 to 10, fig2, fig4."""
    title: str
    rows: tuple[Row, ...]
    reference: str
    """Name of the row that the others are tested against."""
    stated: tuple[Ordering, ...] = ()
    """Orderings that the paper states without numbers."""
    notes: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """As the paper calls it, such as `Table 4`."""
        return f"Figure {self.name[3:]}" if self.name in (FIG2, FIG4) else f"Table {self.name}"

    @property
    def orderings(self) -> Iterator[Ordering]:
        """Every pair of rows that the paper orders, by its numbers or in words."""
        for pair in combinations(self.rows, 2):
            better, worse = sorted(pair, key=lambda row: -(row.bleu4 or 0))
            if better.bleu4 is not None and worse.bleu4 is not None:
                difference = round(better.bleu4 - worse.bleu4, 2)
                yield Ordering(better=better.name, worse=worse.name, difference=difference)
        yield from self.stated

    @property
    def trains_encoders(self) -> bool:
        """Whether the visual encoder is trained in the stage 2 of some row."""
        freezing = [
            word for row in self.rows for word in row.stage2 or () if "model.freeze=" in word
        ]
        return any(word != "model.freeze=all" for word in freezing)


def _factorized(name: str, *, stage1: Words = (), stage2: Words = ()) -> Row:
    """The method itself, which is the reference of every table."""
    return Row(name=name, stage1=stage1, stage2=stage2, rouge_l=45.27, bleu4=23.09)


_END_TO_END = (
    Row(
        name="end to end",
        stage1=None,
        stage2=("model.freeze=nothing",),
        rouge_l=32.52,
        bleu4=12.90,
    ),
    _factorized("factorized", stage2=("model.freeze=all",)),
)

_ALL = (
    Table(
        name="4",
        title="end-to-end and factorized learning",
        rows=_END_TO_END,
        reference="factorized",
        notes=("The end-to-end row has stage 2's epochs; the paper does not give them.",),
    ),
    Table(
        name="5",
        title="what each stage contributes",
        rows=(
            Row(
                name="stage 2 only",
                stage1=None,
                stage2=("model.freeze=backbone",),
                rouge_l=17.33,
                bleu4=5.62,
                remark="ImageNet's backbone frozen; the temporal module is trained",
            ),
            Row(name="stage 1 only", stage2=None, rouge_l=38.67, bleu4=17.69),
            _factorized("both stages", stage2=("model.freeze=all",)),
        ),
        reference="both stages",
    ),
    Table(
        name="6",
        title="rate of the video frames",
        rows=tuple(
            Row(
                name=f"{100 / stride:g} %",
                stage1=(f"data.frame_stride={stride}",),
                stage2=(f"data.frame_stride={stride}",),
                rouge_l=rouge_l,
                bleu4=bleu4,
                remark=f"stage 1 took {hours:.2f} h",
            )
            for stride, rouge_l, bleu4, hours in (
                (1, 44.55, 22.96, 17.90),
                (2, 44.60, 23.04, 9.85),
                (4, 45.27, 23.09, 4.75),
                (8, 40.77, 20.02, 3.55),
            )
        ),
        reference="25 %",
        notes=("The longest clip in frames, and a micro-batch's frames, go with the rate.",),
    ),
    Table(
        name="7",
        title="size of Light-T",
        rows=tuple(
            Row(name=size, stage1=(f"model.light_t={size}",), bleu4=bleu4, remark=shape)
            for size, bleu4, shape in (
                ("tiny", 22.52, "1 layer, 3.61 M parameters"),
                ("small", 22.36, "2 layers, 18.25 M parameters"),
                ("base", 23.09, "3 layers, 25.61 M parameters"),
                ("large", 22.49, "4 layers, 124.66 M parameters"),
            )
        ),
        reference="base",
    ),
    Table(
        name="8",
        title="what the LLM reads",
        rows=(
            Row(
                name="frame-wise features",
                stage2=("model.input_features=frame_wise", "model.freeze=all"),
                rouge_l=41.59,
                bleu4=20.30,
            ),
            _factorized(
                "sign-wise features", stage2=("model.input_features=sign_wise", "model.freeze=all")
            ),
            Row(
                name="hidden states of Light-T's encoder",
                stage2=("model.input_features=light_t", "model.freeze=all"),
                rouge_l=45.16,
                bleu4=22.60,
            ),
        ),
        reference="sign-wise features",
    ),
    Table(
        name="9",
        title="what stage 2 freezes",
        rows=(
            Row(name="nothing", stage2=("model.freeze=nothing",), rouge_l=40.72, bleu4=17.86),
            Row(name="backbone", stage2=("model.freeze=backbone",), rouge_l=39.86, bleu4=20.40),
            _factorized("backbone and temporal module", stage2=("model.freeze=all",)),
        ),
        reference="backbone and temporal module",
    ),
    Table(
        name="10",
        title="the LLM and its weights",
        rows=(
            Row(
                name="mBART, random",
                stage2=("model.random_llm=true",),
                rouge_l=40.18,
                bleu4=16.19,
            ),
            Row(
                name="mT5, random",
                stage2=("model.random_llm=true",),
                rouge_l=22.71,
                bleu4=7.39,
                needs_mt5=True,
            ),
            _factorized("mBART, pretrained", stage2=("model.random_llm=false",)),
            Row(
                name="mT5, pretrained",
                stage2=("model.random_llm=false",),
                rouge_l=41.06,
                bleu4=19.71,
                needs_mt5=True,
            ),
        ),
        reference="mBART, pretrained",
        notes=("mT5 has its own tokenizer in stage 2; stage 1 is the same for all rows.",),
    ),
    Table(
        name=FIG2,
        title="norms of the last layers over training",
        rows=_END_TO_END,
        reference="factorized",
        notes=(
            "The paper's figure is a picture: of it is known here only that end to end the "
            "gradient norm of the LLM's last layer stays above the visual encoder's.",
        ),
    ),
)

NAMES = (*(table.name for table in _ALL), FIG4)
"""Of all tables and figures, as a user types them."""
_BY_NAME: Mapping[str, Table] = {table.name: table for table in _ALL}


def parse_name(word: str) -> str:
    """The name of a table by what a user calls it: `9`, `table 9`, `Fig. 2`, `figure2`.

    Raises:
        ConfigError: There is no such table.
    """
    bare = re.sub(r"[^a-z0-9]", "", word.lower())
    name = bare.removeprefix("table").replace("figure", "fig")
    if name not in NAMES:
        raise ConfigError(
            f"{word}: the paper has no such ablation. Name one of {', '.join(NAMES)}."
        )
    return name


def build_table(name: str, *, num_epochs: int) -> Table:
    """The table of a name.

    Args:
        name: As `parse_name` gives it.
        num_epochs: Of stage 1's recipe, of which figure 4 takes 1/3, 2/3, 1 and 4/3: of the
            paper's 75 those are its 25, 50 and 100.
    """
    return _build_figure4(num_epochs) if name == FIG4 else _BY_NAME[name]


def _build_figure4(num_epochs: int) -> Table:
    scaled = {max(1, round(num_epochs * paper / 75)) for paper in PAPER_EPOCHS}
    # Of a very short recipe, too, one row is longer than its own.
    lengths = sorted(scaled | {max(*scaled, num_epochs + 1)})
    own, longest = _tell_epochs(num_epochs), _tell_epochs(lengths[-1])

    def build_row(length: int) -> Row:
        words = (f"train.num_epochs={length}",)
        if length == num_epochs:
            return _factorized(own, stage1=words)
        return Row(name=_tell_epochs(length), stage1=words)

    return Table(
        name=FIG4,
        title="length of stage 1 and the result of stage 2",
        rows=tuple(map(build_row, lengths)),
        reference=own,
        stated=(Ordering(better=own, worse=longest, difference=None),),
        notes=(
            "Of the paper's figure 4 only 75 epochs, and that 100 were worse after stage 2, are "
            "known here; that its axis has 25 and 50, too, is assumed, and their scores are not "
            "known.",
            f"Lengths are 1/3, 2/3, 1 and 4/3 of the recipe's {num_epochs} epochs.",
        ),
    )


def _tell_epochs(number: int) -> str:
    return "1 epoch" if number == 1 else f"{number} epochs"

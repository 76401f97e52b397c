"""What was translated, as text, tables or subtitles."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO, get_args

from fla.errors import ConfigError
from fla.translating.segments import Segment
from fla.translating.subtitles import Subtitle, format_subtitles

if TYPE_CHECKING:
    # It imports torch, and a tool's options are answered before.
    from fla.search import Hypothesis

OutputFormat = Literal["text", "tsv", "jsonl", "srt", "vtt"]

OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)

_BY_ENDING: dict[str, OutputFormat] = {
    ".txt": "text",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".srt": "srt",
    ".vtt": "vtt",
}

_COLUMNS = ("video", "start_s", "end_s", "rank", "confidence", "hypothesis")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A segment of a video and what it says."""

    video: Path
    segment: Segment
    hypotheses: tuple[Hypothesis, ...]
    """Best first."""
    warnings: tuple[str, ...] = ()
    """In which ways it is unlike the training data."""


def choose_format(given: OutputFormat | None, out: Path | None) -> OutputFormat:
    """The format that is asked for, else that of the file's ending, else text.

    Raises:
        ConfigError: The ending tells no format.
    """
    if given is not None:
        return given
    if out is None:
        return "text"
    if out.suffix.lower() not in _BY_ENDING:
        raise ConfigError(
            f"--out {out}: its ending is none of {', '.join(_BY_ENDING)}. Say the format with "
            "--format."
        )
    return _BY_ENDING[out.suffix.lower()]


class Writer:
    """Writes rows as they come; close it, as subtitles are written then.

    Args:
        file: Open for text.
        kind: Format of the file.
        several_videos: Whether lines of text say which video they are of.
    """

    def __init__(self, file: TextIO, *, kind: OutputFormat, several_videos: bool) -> None:
        self._file, self._kind, self._several = file, kind, several_videos
        self._subtitles: list[Subtitle] = []
        if kind == "tsv":
            file.write(_as_tsv(_COLUMNS))

    def add(self, row: Row) -> None:
        """One more row; those of subtitles come in the order of their starts."""
        best = row.hypotheses[0].text
        if self._kind == "text":
            sentence = " ".join(best.split())
            self._file.write(f"{row.video}\t{sentence}\n" if self._several else f"{sentence}\n")
        elif self._kind == "tsv":
            self._file.write("".join(map(_as_tsv, _as_cells(row))))
        elif self._kind == "jsonl":
            self._file.write(_as_json(row))
        else:
            self._subtitles.append(Subtitle(row.segment.start_s, row.segment.end_s, best))

    def flush(self) -> None:
        """Bring what was written to where others see it."""
        self._file.flush()

    def close(self) -> None:
        """Write the subtitles; the file stays open."""
        if self._kind in ("srt", "vtt"):
            self._file.write(format_subtitles(self._subtitles, kind=self._kind))
        self._file.flush()


def _as_json(row: Row) -> str:
    content = {
        "video": str(row.video),
        "start_s": round(row.segment.start_s, 3),
        "end_s": round(row.segment.end_s, 3),
        "hypotheses": [
            {
                "text": hypothesis.text,
                "confidence": round(math.exp(hypothesis.log_prob), 4),
                "log_prob": round(hypothesis.log_prob, 4),
            }
            for hypothesis in row.hypotheses
        ],
        "warnings": list(row.warnings),
    }
    return json.dumps(content, ensure_ascii=False) + "\n"


def _as_cells(row: Row) -> list[tuple[str, ...]]:
    return [
        (
            str(row.video),
            f"{row.segment.start_s:.3f}",
            f"{row.segment.end_s:.3f}",
            str(rank),
            f"{math.exp(hypothesis.log_prob):.4f}",
            hypothesis.text,
        )
        for rank, hypothesis in enumerate(row.hypotheses, 1)
    ]


def _as_tsv(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, delimiter="\t", lineterminator="\n").writerow(cells)
    return line.getvalue()

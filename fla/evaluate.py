"""Decode a split on all ranks and check that every sample was decoded exactly once."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor, distributed

from fla.batch import Batch
from fla.config.schema import BeamConfig
from fla.metrics.protocols import Protocol as ScoringProtocol
from fla.metrics.scores import Scores, score
from fla.progress import Progress
from fla.run_folder import DecodedRow, RunFolder, write_atomically, write_decodes
from fla.runtime import Runtime
from fla.search import Found, Hypothesis, Search, read_hypotheses


class Batches(Protocol):
    """What gives this rank's share of a split."""

    num_batches: int

    def __iter__(self) -> Iterator[Batch]: ...


class Generator(Protocol):
    """What can translate a batch: a stage model."""

    def generate(self, batch: Batch, *, search: Search) -> Found: ...


class DecodedClip(NamedTuple):
    """What was found for one sample."""

    id: str
    hypotheses: tuple[Hypothesis, ...]
    """The best first."""
    reference: str


class Identified(Protocol):
    """What belongs to a sample."""

    @property
    def id(self) -> str: ...


Decoded = TypeVar("Decoded", bound=Identified)


def decode_share(
    model: Generator,
    batches: Iterable[Batch],
    *,
    ids_to_text: Callable[[Tensor], list[str]],
    search: Search,
    progress: Progress,
) -> list[DecodedClip]:
    """Translate the batches of one rank.

    Args:
        model: Whole weights, eval mode.
        batches: This rank's share of the split, on the model's device.
        ids_to_text: The codec's decode.
        search: How sentences are searched for.
        progress: Advances by one a batch.
    """
    decodes: list[DecodedClip] = []
    for batch in batches:
        hypotheses = read_hypotheses(model.generate(batch, search=search), ids_to_text)
        clips = zip(batch.sample_ids, hypotheses, batch.references, strict=True)
        decodes += [DecodedClip(*clip) for clip in clips]
        progress.advance()
    return decodes


def search_of(beam: BeamConfig, *, seed: int) -> Search:
    """What a configuration says of the search; the seed is that of sampling."""
    return Search(
        num_beams=beam.num_beams,
        length_penalty=beam.length_penalty,
        max_new_tokens=beam.max_new_tokens,
        num_hypotheses=beam.num_hypotheses,
        temperature=beam.temperature,
        top_k=beam.top_k,
        top_p=beam.top_p,
        seed=seed,
    )


def gather_decodes(share: Sequence[Decoded], *, world_size: int) -> list[Decoded]:
    """All ranks' decodes, on every rank; every rank calls it."""
    if world_size == 1:
        return list(share)
    shares: list[list[Decoded] | None] = [None] * world_size
    distributed.all_gather_object(shares, list(share))
    return [decode for part in shares if part is not None for decode in part]


def arrange_decodes(decodes: Iterable[Decoded], *, split_ids: Sequence[str]) -> list[Decoded]:
    """Put decodes into the split's order.

    Args:
        decodes: From all ranks, in any order.
        split_ids: Every id of the split, once.

    Raises:
        RuntimeError: A sample was decoded twice, not at all, or is not of the split: a score
            over such a list would look right and be wrong.
    """
    decodes = list(decodes)
    counts = Counter(decode.id for decode in decodes)
    repeated = [sample_id for sample_id, count in counts.items() if count > 1]
    missing = [sample_id for sample_id in split_ids if sample_id not in counts]
    strangers = counts.keys() - set(split_ids)
    if repeated or missing or strangers:
        raise RuntimeError(
            f"Decoded samples differ from the split: {len(repeated)} repeated {repeated[:3]}, "
            f"{len(missing)} missing {missing[:3]}, {len(strangers)} unknown "
            f"{sorted(strangers)[:3]}."
        )
    by_id = {decode.id: decode for decode in decodes}
    return [by_id[sample_id] for sample_id in split_ids]


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Translates one split and writes what came out: into the run folder and to the tracker."""

    loader: Batches
    """This rank's share of the split."""
    split: str
    """train, dev or test."""
    split_ids: Sequence[str]
    """All ids of the split."""
    prepare: Callable[[Batch], Batch]
    """Brings a batch to the device and into the model's form."""
    ids_to_text: Callable[[Tensor], list[str]]
    """The codec's decode."""
    search: Search
    protocol: ScoringProtocol
    runtime: Runtime
    folder: RunFolder

    def evaluate(self, model: Generator, *, tag: str) -> tuple[Scores, Path]:
        """Decode the split on all ranks and score it once, over all of it.

        Args:
            model: Whole weights, eval mode.
            tag: Goes into the file's name.

        Returns:
            The scores, equal on every rank, and the file that rank 0 wrote.
        """
        progress = Progress(
            f"decode {self.split}", total=self.loader.num_batches, unit="batches",
            is_shown=self.runtime.is_main,
        )  # fmt: skip
        with progress:
            share = decode_share(
                model,
                map(self.prepare, self.loader),
                ids_to_text=self.ids_to_text,
                search=self.search,
                progress=progress,
            )
        gathered = gather_decodes(share, world_size=self.runtime.world_size)
        clips = arrange_decodes(gathered, split_ids=self.split_ids)
        rows = [DecodedRow(clip.id, clip.hypotheses[0].text, clip.reference) for clip in clips]
        scores = score(
            [row.hypothesis for row in rows],
            [row.reference for row in rows],
            protocol=self.protocol,
        )
        path = self.folder.decodes_tsv(tag, self.split)
        if self.runtime.is_main:
            write_decodes(path, rows, signature=scores.signature)
            n_best = self.folder.n_best_jsonl(tag, self.split)
            # Of an earlier decoding.
            n_best.unlink(missing_ok=True)
            if self.search.num_hypotheses > 1:
                _write_n_best(n_best, clips)
        return scores, path


def _write_n_best(path: Path, clips: Iterable[DecodedClip]) -> None:
    """A line a sample: its id, and its hypotheses with the mean log-probability of a token."""
    lines = [
        json.dumps(
            {"id": clip.id, "hypotheses": [it._asdict() for it in clip.hypotheses]},
            ensure_ascii=False,
        )
        for clip in clips
    ]
    write_atomically(path, "".join(f"{line}\n" for line in lines))

"""The corpus as a whole: which sentences go where, and the files in How2Sign's layout."""

import csv
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fla.data.datasets import GENERATED_NOTE
from fla.data.processes import map_on_all_cores

from .language import Sentence, draw_long, draw_short, one_sign
from .recording import Recording, Row, plan_recording, write_recording

SPLITS = ("train", "val", "test")
SENTENCES_A_RECORDING = (8, 15)
COLUMNS = (
    "VIDEO_ID", "VIDEO_NAME", "SENTENCE_ID", "SENTENCE_NAME",
    "START_REALIGNED", "END_REALIGNED", "SENTENCE",
)  # fmt: skip


@dataclass(frozen=True)
class CorpusSize:
    """How much to make."""

    train_sentences: int = 9000
    dev_sentences: int = 150
    test_sentences: int = 300
    text_sentences: int = 20000
    size_px: int = 96
    single_share: float = 0.45
    """Share of training sentences that are one sign."""
    short_share: float = 0.15
    """Share of training sentences that are two or three signs without a verb."""


@dataclass(frozen=True)
class Texts:
    """The sentences of every split, and the text-only corpus."""

    signed: dict[str, tuple[Sentence, ...]]
    text: tuple[str, ...]


def draw_unique(rng: np.random.Generator, count: int, taken: set[str]) -> list[Sentence]:
    """Draw whole sentences whose English is not in `taken`, which grows."""
    drawn: list[Sentence] = []
    misses = 0
    while len(drawn) < count:
        sentence = draw_long(rng)
        if sentence.english in taken:
            misses += 1
            if misses > 50 * count + 10000:
                raise ValueError(f"The language has fewer than {count} more sentences.")
            continue
        taken.add(sentence.english)
        drawn.append(sentence)
    return drawn


def draw_texts(size: CorpusSize, *, seed: int) -> Texts:
    """Draw all sentences. No dev or test sentence is in train or in the text-only corpus."""
    rng = np.random.default_rng((seed, 1))
    # Single signs and short phrases train the eye; their English may repeat, but only in train.
    fragments = {s.english for s in (draw_short(rng) for _ in range(5000))}
    taken = set(fragments)
    test = draw_unique(rng, size.test_sentences, taken)
    dev = draw_unique(rng, size.dev_sentences, taken)
    num_single = round(size.single_share * size.train_sentences)
    num_short = round(size.short_share * size.train_sentences)
    held_out = {s.english for s in (*test, *dev)}
    train = [one_sign(rng) for _ in range(num_single)]
    train += [draw_short(rng) for _ in range(num_short)]
    train += draw_unique(rng, size.train_sentences - len(train), taken)
    train = [s for s in train if s.english not in held_out]
    text = [s.english for s in draw_unique(rng, size.text_sentences, set(held_out))]
    order = rng.permutation(len(train))
    signed = {
        "train": tuple(train[i] for i in order), "val": tuple(dev), "test": tuple(test),
    }  # fmt: skip
    return Texts(signed, tuple(text))


def plan_split(sentences: tuple[Sentence, ...], *, seed: int, split: str) -> list[Recording]:
    """Deal a split's sentences to recordings of 8 to 15."""
    rng = np.random.default_rng((seed, 2, SPLITS.index(split)))
    recordings: list[Recording] = []
    begin = 0
    while begin < len(sentences):
        low, high = SENTENCES_A_RECORDING
        end = begin + int(rng.integers(low, high + 1))
        number = (seed, 3, SPLITS.index(split), len(recordings))
        recordings.append(plan_recording(sentences[begin:end], seed=number))
        begin = end
    return recordings


def write_annotation(path: Path, rows: Iterable[Row]) -> None:
    """Write the re-aligned annotation: tab-separated, quoted where a sentence has quotes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(vars(row).values() for row in rows)


def make_corpus(
    output: Path, size: CorpusSize, *, seed: int, on_progress: Callable[[int, int], None]
) -> None:
    """Write the whole corpus.

    Args:
        output: Folder to write into; made if it is missing.
        size: How much to make.
        seed: The same seed and size give the same sentences, stamps and frames.
        on_progress: Called with recordings written and recordings in all.
    """
    texts = draw_texts(size, seed=seed)
    jobs: list[tuple[Recording, Path]] = []
    for split in SPLITS:
        recordings = plan_split(texts.signed[split], seed=seed, split=split)
        videos = output / "video_level" / split / "rgb_front" / "raw_videos"
        videos.mkdir(parents=True, exist_ok=True)
        jobs += [(recording, videos) for recording in recordings]
        rows = [row for recording in recordings for row in recording.rows]
        order = np.random.default_rng((seed, 4, SPLITS.index(split))).permutation(len(rows))
        folder = output / "sentence_level" / split / "text" / "en" / "raw_text" / "re_aligned"
        write_annotation(folder / f"how2sign_realigned_{split}.csv", (rows[i] for i in order))
    note = f"Sentences and recordings were made by tools/make_demo_corpus.py with seed {seed}.\n"
    (output / GENERATED_NOTE).write_text(note, encoding="utf-8")
    text_file = output / "text" / "en.txt"
    text_file.parent.mkdir(parents=True, exist_ok=True)
    text_file.write_text("".join(f"{line}\n" for line in texts.text), encoding="utf-8")
    write_videos(jobs, size_px=size.size_px, on_progress=on_progress)


def write_videos(
    jobs: list[tuple[Recording, Path]], *, size_px: int, on_progress: Callable[[int, int], None]
) -> None:
    """Draw and encode on all cores."""
    with closing(map_on_all_cores(partial(_write, size_px=size_px), jobs)) as written:
        for done, _ in enumerate(written, start=1):
            on_progress(done, len(jobs))


def _write(job: tuple[Recording, Path], *, size_px: int) -> None:
    write_recording(*job, size_px=size_px)

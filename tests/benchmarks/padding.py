"""How much of a batch is padding: python -m tests.benchmarks.padding

Nothing is decoded: the plans are those of real epochs on the whole demo corpus, whose sentences and
time lines are drawn as tools/make_demo_corpus.py draws them. Frames go through the visual encoder
without padding; it is the translator that sees clips and sentences of a batch at one length. In
evaluation nobody knows the sentences beforehand.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fla.config.schema import Stage1Config
from fla.data.manifest import Sample
from fla.data.sampling import MicroBatch, plan_epoch, plan_evaluation
from fla.loaders import plain_view
from fla.text.codec import read_codec
from tests.benchmarks.corpus import make_demo_corpus
from tests.benchmarks.rows import Row, run_benchmark

SEED = 1
NUM_EPOCHS = 3
TARGET_PERCENT = 10.0


def measure(folder: Path) -> list[Row]:
    """Padded shares in both stages and in evaluation, and in batches drawn at random."""
    corpus = make_demo_corpus(folder / "demo")
    config = corpus.stage1(corpus.folder / "runs" / "padding")
    codec = read_codec(corpus.tokenizer, language=config.text.language)
    view = plain_view(config.data)

    train = plan_samples("train")
    frames = view.lengths(train)
    ids = codec.encode([it.sentence for it in train], max_tokens=config.text.max_tokens)
    tokens = np.array([len(it) for it in ids], np.int64)
    drawn = _random(len(frames), config.train.micro_batch_size)
    size = config.train.micro_batch_size
    planned = _epochs(frames, config, micro_batch_size=size)
    alike = _epochs(frames, config, micro_batch_size=size, num_tokens=tokens)
    halves = _epochs(frames, config, micro_batch_size=size // 2, num_tokens=tokens)
    test = view.lengths(plan_samples("test"))
    return [
        _row("training, batches at random, frames", drawn, frames),
        _row("training, batches at random, tokens", drawn, tokens),
        _row("training, frames", planned, frames, target=TARGET_PERCENT),
        _row("training, tokens", planned, tokens, target=TARGET_PERCENT),
        _row("stage 2, frozen encoder, tokens", alike, tokens, target=TARGET_PERCENT),
        _row("the same, micro-batches of half the size", halves, tokens, target=TARGET_PERCENT),
        _row("evaluation, frames", _evaluation(test, config), test, target=TARGET_PERCENT),
    ]


def plan_samples(split: str) -> list[Sample]:
    """The samples of a split of the demo corpus, without their recordings."""
    # The tools are no package: each is run from its own folder.
    sys.path.insert(0, str(Path("tools").absolute()))
    from demo_corpus.corpus import CorpusSize, draw_texts, plan_split

    sentences = draw_texts(CorpusSize(), seed=SEED).signed[split]
    return [
        Sample(
            id=row.sentence_name,
            video=recording.video_name,
            start_s=float(row.start),
            end_s=float(row.end),
            fps=float(recording.frame_rate),
            num_frames=max(
                1, round((float(row.end) - float(row.start)) * float(recording.frame_rate))
            ),
            signer="",
            sentence=row.sentence,
        )
        for recording in plan_split(sentences, seed=SEED, split=split)
        for row in recording.rows
    ]


def padded_percent(batches: Iterable[MicroBatch], lengths: NDArray[np.integer]) -> float:
    """Places of all batches that are no frame or token, where each is as long as its longest."""
    places = real = 0
    for batch in batches:
        each = lengths[list(batch)]
        places += len(each) * int(each.max())
        real += int(each.sum())
    return 100 * (1 - real / places)


def _row(
    name: str,
    batches: Sequence[MicroBatch],
    lengths: NDArray[np.integer],
    *,
    target: float | None = None,
) -> Row:
    return Row(
        name=f"padding: {name}",
        value=padded_percent(batches, lengths),
        unit="%",
        better="neither" if target is None else "lower",
        target=target,
    )


def _epochs(
    frames: NDArray[np.integer],
    config: Stage1Config,
    *,
    micro_batch_size: int,
    num_tokens: NDArray[np.integer] | None = None,
) -> list[MicroBatch]:
    steps = (
        step
        for epoch in range(NUM_EPOCHS)
        for step in plan_epoch(
            frames,
            global_batch_size=config.train.global_batch_size,
            micro_batch_size=micro_batch_size,
            frames_per_batch=config.data.frames_per_batch,
            world_size=1,
            seed=SEED,
            epoch=epoch,
            num_tokens=num_tokens,
        )
    )
    return [batch for step in steps for rank in step.ranks for batch in rank]


def _evaluation(frames: NDArray[np.integer], config: Stage1Config) -> list[MicroBatch]:
    shares = plan_evaluation(
        frames,
        batch_size=config.beam.batch_size,
        frames_per_batch=config.data.frames_per_batch,
        world_size=1,
    )
    return [batch for share in shares for batch in share]


def _random(count: int, size: int) -> list[MicroBatch]:
    order = np.random.default_rng(SEED).permutation(count)[: count // size * size]
    return [tuple(batch) for batch in order.reshape(-1, size).tolist()]


if __name__ == "__main__":
    sys.exit(run_benchmark(measure, description=__doc__))

"""Stage 2 from a feature cache beside stage 2 online: python -m tests.benchmarks.features

One rank on the demo corpus: A with the demo's recipe, frames of 32 pixels; B with frames of 224, as
in the paper. ResNet-18 and the small mBART have random weights, on which speed does not depend.
What counts is wall-clock time, since overlap is what is measured. The ways take turns within one
process, and a ratio is taken within a round.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from fla.assembly import open_parts
from fla.batch import Batch, Step
from fla.config.load import load_config
from fla.config.schema import Stage2Config
from fla.data.command import run_tool
from fla.data.manifest import read_manifest, write_manifest
from fla.engine import Engine, open_engine
from fla.loaders import Loaders, open_loaders
from fla.models.adapters import Adapter
from fla.models.features import FrozenEncoder, build_feature_encoder
from fla.models.light_t import build_small_mbart
from fla.models.stages import Stage2Model
from fla.models.visual_encoder import build_visual_encoder
from fla.optim import build_adamw, cosine_schedule, decay_groups
from fla.runtime import Runtime, start_runtime, stop_runtime
from fla.text.codec import TextCodec
from tests.benchmarks.corpus import LARGE_FRAMES, RECIPES, DemoCorpus, make_demo_corpus
from tests.benchmarks.rows import Row, add_words, describe_machine, median_row, write_report

SIGN_WIDTH = 512
TARGET = 20.0
SEED = 1


MEANINGS = {
    "data_online": "decoding and encoding alone",
    "data_cached": "the same batches from the cache",
    "encoder": "encoding alone, of frames that are decoded",
    "model": "the language model's steps alone, on features that are there",
    "one_by_one": "training online, encoding when the model waits",
    "online": "training online, encoding one step ahead",
    "cached": "training from the cache",
}
# Where a pass through the encoder takes half a minute.
FEW = ("data_online", "data_cached", "model", "online", "cached")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    names: tuple[str, ...]
    """Ways of A."""
    num_large: int
    """Clips of B."""
    words_large: tuple[str, ...]


FULL = Size(names=tuple(MEANINGS), num_large=64, words_large=())
SMALL = Size(names=FEW, num_large=32, words_large=("data.max_frames=6",))


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Compare stage 2 from a cache with stage 2 online. The first run makes the "
        "corpus."
    )
    add_words(parser)
    parser.add_argument(
        "--small", action="store_true", help="few ways, and fewer clips of 224 pixels"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    words = parser.parse_args()
    if words.rounds < 1:
        parser.error(f"--rounds ({words.rounds}) must be at least 1.")
    size = SMALL if words.small else FULL
    return run_tool(partial(_compare, words.folder, words.json, size=size, rounds=words.rounds))


def _compare(folder: Path, json_path: Path | None, *, size: Size, rounds: int) -> int:
    machine = describe_machine()
    runtime = start_runtime()
    corpus = make_demo_corpus(folder / "demo")
    print("\nA. The demo's recipe", flush=True)
    a = _race(_configure(corpus), runtime, names=size.names, rounds=rounds)
    print(f"\nB. The first {size.num_large} clips in frames of 224 pixels", flush=True)
    few = _first_clips(corpus, size.num_large)
    b = _race(_configure(few, *LARGE_FRAMES, *size.words_large), runtime, names=FEW, rounds=rounds)
    stop_runtime()
    if json_path is not None:
        rows = [*rows_of("frames of 32 px", a), *rows_of("frames of 224 px", b)]
        write_report(json_path, rows, machine=machine)
    return 0


def rows_of(name: str, results: Sequence[Mapping[str, float]]) -> list[Row]:
    """What the cache is worth.

    Args:
        name: Of the frames.
        results: Seconds of an epoch by way, one mapping a round.
    """
    return [
        median_row(
            f"features: {name}, {what}, online / cached",
            [result[online] / result[cached] for result in results],
            unit="ratio",
            better="higher",
            target=target,
        )
        for what, online, cached, target in (
            ("loader and encoder", "data_online", "data_cached", TARGET),
            # Its target is one of whole clips of 224 pixels.
            ("whole training", "online", "cached", None),
        )
    ]


def _race(
    config: Stage2Config, runtime: Runtime, *, names: tuple[str, ...], rounds: int
) -> list[dict[str, float]]:
    torch.manual_seed(SEED)
    visual_encoder = build_visual_encoder(sign_width=SIGN_WIDTH, kernel_size=3)
    encoder = FrozenEncoder(
        build_feature_encoder(visual_encoder, input_features="sign_wise", light_t=None)
    )
    with ExitStack() as stack:
        begin_s = time.monotonic()
        parts = stack.enter_context(open_parts(config, runtime, encoder=encoder))
        building_s = time.monotonic() - begin_s
        online = replace(config, features=replace(config.features, mode="online"))
        both = partial(open_loaders, runtime=runtime, train=parts.train_split, dev=parts.dev_split)
        ways = _Ways(
            _open_engine(config, parts.codec, parts.deepspeed_config, runtime),
            encoder,
            frames=stack.enter_context(both(online, encoder=None)),
            ahead=stack.enter_context(both(online, encoder=encoder)),
            cached=parts.loaders,
        )
        results = []
        for number in range(rounds + 1):
            result = ways.take_turns(number, names)
            # The first one warms up.
            results += [result] if number else []
            print(f"{number} of {rounds} rounds", file=sys.stderr, flush=True)
    num_clips, num_steps = len(parts.train_split.samples), parts.loaders.train.num_steps
    print(
        f"\n{num_clips} clips, {num_steps} steps of 32 sentences, one rank, "
        f"{torch.get_num_threads()} thread(s) an operator, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, seed {SEED}.\nThe cache was made, or found, in "
        f"{building_s:.1f} s. Seconds of an epoch, median (lowest to highest):\n"
    )
    _report(results)
    return results


def _first_clips(corpus: DemoCorpus, count: int) -> DemoCorpus:
    """The same with fewer clips."""
    small = DemoCorpus(corpus.folder / f"first_{count}")
    for split in ("train", "dev", "test"):
        manifest = read_manifest(corpus.manifests / f"{split}.tsv")
        path = small.manifests / f"{split}.tsv"
        write_manifest(path, manifest.samples[:count], root=manifest.root)
    shutil.copytree(corpus.tokenizer, small.tokenizer, dirs_exist_ok=True)
    return small


def _configure(corpus: DemoCorpus, *words: str) -> Stage2Config:
    return load_config(
        Stage2Config,
        [
            str(RECIPES / "demo_stage2.yaml"),
            *corpus.words(corpus.folder / "runs" / "stage2"),
            "features=cached",
            *words,
        ],
    )


def _open_engine(
    config: Stage2Config, codec: TextCodec, deepspeed_config: dict[str, Any], runtime: Runtime
) -> Engine:
    mbart = build_small_mbart(
        d_model=256, num_layers=3, num_heads=4, ffn_width=1024, dropout=config.model.dropout,
        vocab_size=codec.vocab_size, pad_id=codec.pad_id, eos_id=codec.eos_id,
        start_id=codec.start_id,
    )  # fmt: skip
    model = Stage2Model(
        None,
        Adapter(in_width=SIGN_WIDTH, out_width=256),
        mbart,
        label_smoothing=config.train.label_smoothing,
        start_id=codec.start_id,
    )
    groups = decay_groups([model], learning_rate=1e-4, weight_decay=1e-3, name="all")
    return open_engine(
        model,
        optimizer=build_adamw(groups, betas=(0.9, 0.998)),
        schedule=cosine_schedule(num_steps=100_000, warmup_fraction=0.0),
        config=deepspeed_config,
        runtime=runtime,
    )


class _Ways:
    """The ways to go through an epoch."""

    def __init__(
        self,
        engine: Engine,
        encoder: FrozenEncoder,
        *,
        frames: Loaders,
        ahead: Loaders,
        cached: Loaders,
    ) -> None:
        self._engine, self._encoder = engine, encoder
        self._frames, self._ahead, self._cached = frames, ahead, cached

    def take_turns(self, epoch: int, names: tuple[str, ...]) -> dict[str, float]:
        """Each way once, through the same epoch, in an order that turns round by round."""
        prepared = list(self._cached.train.epoch(epoch))
        decoded = [b for step in self._frames.train.epoch(epoch) for b in step.micro_batches]
        ways: dict[str, Callable[[], None]] = {
            "data_online": lambda: _drain(self._ahead.train.epoch(epoch)),
            "data_cached": lambda: _drain(self._cached.train.epoch(epoch)),
            "encoder": lambda: _drain(map(self._encoder, decoded)),
            "model": lambda: self._train(iter(prepared)),
            "one_by_one": lambda: self._train(self._frames.train.epoch(epoch), self._encoder),
            "online": lambda: self._train(self._ahead.train.epoch(epoch)),
            "cached": lambda: self._train(self._cached.train.epoch(epoch)),
        }
        turn = epoch % len(names)
        return {name: _time(ways[name]) for name in [*names[turn:], *names[:turn]]}

    def _train(
        self,
        steps: Iterator[Step[Batch]],
        prepare: Callable[[Batch], Batch] = lambda batch: batch,
    ) -> None:
        for step in steps:
            last = len(step.micro_batches) - 1
            for index, batch in enumerate(step.micro_batches):
                loss = self._engine(prepare(batch))
                self._engine.backward(loss.nats, num_tokens=step.num_tokens, is_last=index == last)
            self._engine.step()


def _drain(items: Iterator[Any]) -> None:
    for _ in items:
        pass


def _time(work: Callable[[], None]) -> float:
    begin_s = time.monotonic()
    work()
    return time.monotonic() - begin_s


def _report(results: list[dict[str, float]]) -> None:
    print("| | s |\n|---|---|")
    for name, meaning in MEANINGS.items():
        if name in results[0]:
            print(f"| {meaning} | {_spread([result[name] for result in results])} |")

    def ratios(name: str, other: str) -> list[float]:
        return [result[name] / result[other] for result in results]

    data, whole = ratios("data_online", "data_cached"), ratios("online", "cached")
    print(f"\nData and encoder, online / cached: {_spread(data)}. {_verdict(data)}")
    print(f"Whole epoch, online / cached: {_spread(whole)}. {_verdict(whole)}")
    print(f"Were reading free, it would be at {_spread(ratios('online', 'model'))}.")
    if "one_by_one" in results[0]:
        print(f"Encoding one step ahead: {_spread(ratios('one_by_one', 'online'))} times as fast.")


def _verdict(ratios: list[float]) -> str:
    return f"Target {TARGET:g}: {'' if median(ratios) >= TARGET else 'not '}reached."


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())

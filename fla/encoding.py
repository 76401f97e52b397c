"""Encode train and dev for stage 2 before it runs: assembles the parts."""

from pathlib import Path

from fla.assembly import read_stage_split
from fla.config.schema import Stage2Config
from fla.encoder import read_encoder
from fla.loaders import cache_builder
from fla.runtime import start_runtime, stop_runtime
from fla.text.codec import read_codec


def run_encoding(config: Stage2Config) -> None:
    """Make what is missing of the features, and say what is there; every rank calls it.

    Args:
        config: Of stage 2.

    Raises:
        FlaError: Something that the user can fix.
    """
    runtime = start_runtime()
    encoder, _, _ = read_encoder(config, runtime)
    assert encoder is not None, "features=cached goes with model.freeze=all alone"
    codec = read_codec(Path(config.text.tokenizer_dir), language=config.text.language)
    train = read_stage_split("train", config, codec, runtime)
    cache_builder(config, runtime, train, encoder, kind="train").open().close()
    dev = read_stage_split("dev", config, codec, runtime)
    cache_builder(config, runtime, dev, encoder, kind="evaluation").open().close()
    stop_runtime()

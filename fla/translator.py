"""The LLM of stage 2 as a run's settings name it; no weights are opened."""

from pathlib import Path
from typing import Any

from fla.config.schema import Stage2Config
from fla.models.llm import check_positions, read_llm
from fla.text.codec import TextCodec


def read_translator(config: Stage2Config, codec: TextCodec) -> dict[str, Any]:
    """What the LLM of stage 2 is, as of `read_llm`; no weights are opened.

    Args:
        config: Names its folder.
        codec: Of the tokenizer that it is used with.

    Raises:
        CheckpointError: As of `read_llm`, or the run's clips or sentences are too long for it.
    """
    folder = Path(config.model.llm_dir)
    description = read_llm(
        folder,
        dropout=config.model.dropout,
        attention_dropout=config.model.attention_dropout,
        pad_id=codec.pad_id,
        eos_id=codec.eos_id,
        start_id=codec.start_id,
        vocab_size=codec.vocab_size,
    )
    lengths = (config.data.max_frames, config.text.max_tokens, config.beam.max_new_tokens)
    check_positions(folder, description, num_positions=max(lengths))
    return description

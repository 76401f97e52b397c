"""Names of runs, by how their settings differ from the recipes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fla.config.load import flatten
from fla.config.schema import Stage1Config, Stage2Config

# These follow from another key that the name has, or from what stage 1 the run goes on from.
_IMPLIED = frozenset(
    {
        "data.max_frames",
        "data.frames_per_batch",
        "model.backbone_weights",
        "model.encoder_export",
        "model.kernel_size",
        "model.sign_width",
        "text.tokenizer_dir",
    }
)


def label_stage1(config: Stage1Config, base: Stage1Config) -> str:
    """What sets a run of stage 1 apart from the recipe's, such as `light_t-tiny`; empty: nothing.

    Args:
        config: Of the row.
        base: What recipe and user say.
    """
    return "_".join(_parts(config, base))


def label_stage2(config: Stage2Config, base: Stage2Config, stage1_label: str) -> tuple[str, str]:
    """The same of stage 2, and what gathers its run with that of stage 1 in MLflow.

    Args:
        config: Of the row; an empty encoder_export makes it end to end.
        base: What recipe and user say.
        stage1_label: Of the run that it goes on from.
    """
    parts = [*_parts(config, base)]
    if not config.model.encoder_export:
        parts.insert(0, "end_to_end")
    if not stage1_label:
        return "_".join(parts), "_".join(parts)
    return "_".join([*parts, f"on_{stage1_label}"]), "_".join(dict.fromkeys([stage1_label, *parts]))


def _parts(config: Any, base: Any) -> Iterator[str]:
    old = flatten(base)
    for key, value in flatten(config).items():
        if value != old[key] and key not in _IMPLIED:
            yield _part(key, value)


def _part(key: str, value: Any) -> str:
    leaf = key.rpartition(".")[2]
    if key == "deepspeed":
        return Path(value).stem
    if isinstance(value, bool):
        return leaf if value else f"no_{leaf}"
    short = Path(value).name if isinstance(value, str) else f"{value:g}"
    return f"{leaf}-{re.sub(r'[^A-Za-z0-9.-]+', '-', short)}"

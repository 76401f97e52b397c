"""What makes an export a folder that transformers loads, where this toolkit is not installed.

Keys in config.json, preprocessor_config.json, and the two files of `fla/export_code`, copied.
Light-T and the language model are described by their own configurations, so that the copied code
knows no sizes.
"""

from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fla.build import describe_light_t
from fla.description import Description, Preprocessing
from fla.run_folder import write_atomically, write_json
from fla.text.codec import TextCodec
from fla.weights import Layout

CODE = Path(__file__).parent / "export_code"
MODEL_TYPE = "fla_llm"
_MODEL_CLASS = "FlaLlmForTranslation"
_PROCESSOR_CLASS = "FlaLlmProcessor"
# The first works without Pillow; the second is what people look for.
_PROCESSOR_NAMES = ("AutoProcessor", "AutoImageProcessor")

# What torchvision's ResNet-18 was trained on; the pipeline of training has them times 255.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def describe_for_transformers(
    description: Description, codec: TextCodec, layouts: Mapping[str, Layout]
) -> dict[str, Any]:
    """Keys of config.json that transformers and the copied code read.

    Args:
        description: Of the export.
        codec: Its tokenizer.
        layouts: Of its tensors, by name.
    """
    model = f"modeling_{MODEL_TYPE}.{_MODEL_CLASS}"
    return {
        "model_type": MODEL_TYPE,
        "architectures": [_MODEL_CLASS],
        "auto_map": {
            "AutoConfig": f"modeling_{MODEL_TYPE}.FlaLlmConfig",
            "AutoModel": model,
            "AutoModelForSeq2SeqLM": model,
        },
        "dtype": str(_main_type(layouts)).removeprefix("torch."),
        "transformers_version": metadata.version("transformers"),
        "light_t": describe_light_t(description, codec) or None,
        "decoder_start_id": codec.start_id,
    }


def write_for_transformers(folder: Path, preprocessing: Preprocessing) -> None:
    """Write preprocessor_config.json and the code beside the weights."""
    processor = f"processing_{MODEL_TYPE}.{_PROCESSOR_CLASS}"
    content = {
        "feature_extractor_type": _PROCESSOR_CLASS,
        "auto_map": dict.fromkeys(_PROCESSOR_NAMES, processor),
        "size": {"height": preprocessing.resize_px, "width": preprocessing.resize_px},
        "crop_size": {"height": preprocessing.crop_px, "width": preprocessing.crop_px},
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
        "frame_stride": preprocessing.frame_stride,
        "target_fps": preprocessing.target_fps,
        "max_frames": preprocessing.max_frames,
    }
    write_json(folder / "preprocessor_config.json", content)
    for name in (f"modeling_{MODEL_TYPE}.py", f"processing_{MODEL_TYPE}.py"):
        write_atomically(folder / name, (CODE / name).read_text(encoding="utf-8"))


def _main_type(layouts: Mapping[str, Layout]) -> torch.dtype:
    """The type that most of the weights have."""
    sizes: Counter[torch.dtype] = Counter()
    for layout in layouts.values():
        if layout.dtype.is_floating_point:
            sizes[layout.dtype] += layout.num_bytes
    return sizes.most_common(1)[0][0]

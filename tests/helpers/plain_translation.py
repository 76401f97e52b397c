"""Loads exports by the call that their cards name, where nothing but PyTorch and transformers is.

    python plain_translation.py FOLDER...   with inputs.safetensors, writes outputs.safetensors

A program of its own: it must not import what it forbids itself to have.
"""

import json
import sys
from pathlib import Path

FORBIDDEN = {
    "PIL",
    "av",
    "deepspeed",
    "fla",
    "mlflow",
    "nvidia",
    "omegaconf",
    "rouge_score",
    "sacrebleu",
    "torchvision",
}


class NotInstalled:
    """Finds no module that is forbidden."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def translate(folder: Path) -> None:
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer

    inputs = load_file(folder / "inputs.safetensors")
    export = folder / "export"
    model, found = AutoModelForSeq2SeqLM.from_pretrained(
        export, trust_remote_code=True, output_loading_info=True
    )
    processor = AutoProcessor.from_pretrained(export, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=True)

    batch = {name: inputs[name] for name in ("pixel_values", "frame_lengths")}
    autocast = json.loads((export / "config.json").read_text())["autocast"]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(**batch, labels=inputs["labels"]).logits
        ids = model.generate(**batch, num_beams=3, max_new_tokens=8)
    save_file({"logits": logits, "ids": ids.contiguous()}, folder / "outputs.safetensors")

    video = processor(np.zeros((9, 40, 50, 3), np.uint8), fps=25.0)
    answer = {
        "not loaded": [name for names in found.values() for name in names],
        "sentences": tokenizer.batch_decode(ids, skip_special_tokens=True),
        "of a video": tokenizer.batch_decode(model.generate(**video), skip_special_tokens=True),
    }
    (folder / "outputs.json").write_text(json.dumps(answer))


def main() -> None:
    sys.meta_path.insert(0, NotInstalled())
    for folder in sys.argv[1:]:
        translate(Path(folder))
    assert FORBIDDEN.isdisjoint(sys.modules)


if __name__ == "__main__":
    main()

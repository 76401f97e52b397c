"""Exports to start from."""

from pathlib import Path

import torch

from fla.build import build_stage1
from fla.description import Corpus, Description, EncoderShape, Preprocessing
from fla.export import stored_tensors, write_export
from fla.text.codec import read_codec, train_codec
from fla.weights import layouts_of


def write_untrained_stage1(folder: Path, *, tokenizer: Path, manifests: Path) -> Path:
    """An export of a stage 1 that has learned nothing, 32 wide: enough to start stage 2 from."""
    codec = read_codec(tokenizer, language="en_XX")
    description = Description(
        stage=1,
        encoder=EncoderShape(sign_width=32, kernel_size=3),
        translator={"size": "tiny"},
        language="en_XX",
        max_tokens=150,
        autocast=False,
        preprocessing=Preprocessing(frame_stride=4, max_frames=12, resize_px=36, crop_px=32),
        corpus=Corpus(manifest_dir=str(manifests), video_root=""),
    )
    torch.manual_seed(1)
    tensors = stored_tensors(build_stage1(description, codec))
    write_export(folder, layouts_of(tensors), tensors.items(), description=description, codec=codec)
    return folder


def write_untrained_export(folder: Path) -> Path:
    """The same with a tokenizer of its own, where there is no corpus."""
    codec = train_codec(["the cat is here", "where is a dog"], max_pieces=110, language="en_XX")
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    codec.save(tokenizer)
    return write_untrained_stage1(folder / "export", tokenizer=tokenizer, manifests=folder)

"""A small BLEURT checkpoint, and the BERT that it is."""

import json
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification

WORDS = "rain snow wind sun cloud north south east west today tomorrow night".split()
MAX_TOKENS = 48


def write_bleurt(folder: Path) -> BertForSequenceClassification:
    """Write a checkpoint into `folder`: a BERT whose embeddings are projected onto themselves."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=MAX_TOKENS, num_labels=1,
    )  # fmt: skip
    bert = BertForSequenceClassification(config).eval()
    for name, parameter in bert.named_parameters():
        parameter.data.add_(torch.randn_like(parameter) * (0.0 if "LayerNorm" in name else 0.2))
    fields = config.to_dict() | {"model_type": "bleurt", "embedding_size": 16}
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    weights = {
        name.replace("bert.", "bleurt."): tensor for name, tensor in bert.state_dict().items()
    }
    weights["bleurt.encoder.embedding_projection.weight"] = torch.eye(16)
    weights["bleurt.encoder.embedding_projection.bias"] = torch.zeros(16)
    save_file(weights, folder / "model.safetensors")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 20),
        model_prefix=str(folder / "spm"),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols=["[CLS]", "[SEP]"],
        minloglevel=2,
    )
    return bert

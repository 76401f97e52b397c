"""BLEURT-20, a learned metric, from a checkpoint that the user has: nothing is downloaded.

A checkpoint is the published one as PyTorch has it: config.json of model_type `bleurt`, weights,
and the SentencePiece model spm.model. BLEURT-20 is a RemBERT with a number for its output, and
transformers has RemBERT, so that only names are translated here. Texts are taken as they are, case
and punctuation included, whatever the protocol does to them for other metrics.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sacrebleu.metrics.base import Signature

from fla.errors import CheckpointError, first_line
from fla.metrics.counting import SentenceMean
from fla.weights import Weights, open_weights

if TYPE_CHECKING:
    from torch import Tensor

_BATCH_SIZE = 32
_SENTENCE_PIECES = ("spm.model", "sent_piece.model")
# What transformers calls the parts of the model, by the names that they are stored under.
_PARTS = {
    "rembert.embeddings.": "bleurt.embeddings.",
    "rembert.encoder.embedding_hidden_mapping_in.": "bleurt.encoder.embedding_projection.",
    "rembert.encoder.layer.": "bleurt.encoder.layer.",
    "rembert.pooler.": "bleurt.pooler.",
    "classifier.": "classifier.",
}
_SHAPE = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
)

Pair = tuple[str, str]
"""A hypothesis and its reference."""


class _Signature(Signature):
    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__(args)
        self.info["weights"] = args["weights"]
        self.info["prep"] = "none"


class Bleurt(SentenceMean):
    """BLEURT as a metric of sacrebleu: the mean over sentences, times 100.

    Args:
        scores: Of every pair of sentences that will be asked for, as of `score_pairs`.
        weights: What the weights are known by in the signature.
    """

    _SIGNATURE_TYPE = _Signature
    title = "BLEURT"

    def __init__(self, scores: Mapping[Pair, float], *, weights: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._scores, self.weights = scores, weights

    def score_pair(self, hypothesis: str, reference: str) -> float:
        """Of a pair, as it was scored before."""
        return self._scores[hypothesis, reference]


def score_pairs(pairs: Sequence[Pair], folder: Path) -> Bleurt:
    """Score pairs of sentences, each once, on a GPU where there is one.

    Args:
        pairs: Hypotheses and references; repeated ones are scored once.
        folder: Of the checkpoint.

    Raises:
        CheckpointError: The folder is no such checkpoint.
    """
    import torch

    pieces = _open_pieces(folder)
    model = _load(folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    unique = sorted(set(pairs), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
    scores: dict[Pair, float] = {}
    for start in range(0, len(unique), _BATCH_SIZE):
        some = unique[start : start + _BATCH_SIZE]
        words = [_encode(pieces, pair, model.config.max_position_embeddings) for pair in some]
        with torch.no_grad():
            said: Tensor = model(**_batch(words, model.device)).logits[:, 0]
        scores |= zip(some, said.tolist(), strict=True)
    return Bleurt(scores, weights=_fingerprint(folder))


def _open_pieces(folder: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    if (folder / "saved_model.pb").is_file():
        raise CheckpointError(
            f"{folder}: this is BLEURT-20 as TensorFlow has it. Give the same checkpoint converted "
            "to PyTorch, a folder with config.json, weights and spm.model."
        )
    paths = [folder / name for name in _SENTENCE_PIECES if (folder / name).is_file()]
    if not paths:
        raise CheckpointError(
            f"{folder}: there is no spm.model. Give the folder of a BLEURT-20 checkpoint in "
            "PyTorch's form, with config.json, weights and spm.model."
        )
    try:
        return SentencePieceProcessor(model_file=str(paths[0]))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{paths[0]}: this is no SentencePiece model ({first_line(error)}). Copy it again."
        ) from error


def _load(folder: Path, device: Any) -> Any:
    from transformers import RemBertConfig, RemBertForSequenceClassification

    path = folder / "config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        config = RemBertConfig(
            **{name: fields[name] for name in _SHAPE},
            input_embedding_size=fields["embedding_size"],
            pad_token_id=0,
            # Only a language model has them.
            bos_token_id=None,
            eos_token_id=None,
        )
        config.num_labels = 1
        model = RemBertForSequenceClassification(config)
    except Exception as error:
        # transformers' own checks raise errors of many kinds.
        raise CheckpointError(
            f"{path}: this does not describe a BLEURT-20 ({first_line(error)}). Give the folder of "
            "a BLEURT-20 checkpoint in PyTorch's form."
        ) from error
    weights = open_weights(folder).renamed(_PARTS)
    model.load_state_dict(_gather(weights, model.state_dict()))
    return model.to(device).eval()


def _gather(weights: Weights, wanted: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    for name, tensor in wanted.items():
        if name not in weights or weights.tensor(name).shape != tensor.shape:
            raise CheckpointError(
                f"{weights.path}: {name} is missing, or has another shape than config.json says. "
                "Give the weights that belong to it."
            )
    return {name: weights.tensor(name).float() for name in wanted}


def _encode(pieces: Any, pair: Pair, max_tokens: int) -> tuple[list[int], int]:
    """Ids of `[CLS] reference [SEP] hypothesis [SEP]`, and how many come before the hypothesis."""
    hypothesis, reference = (pieces.encode(text) for text in pair)
    # As published: the longer one gives way, and the hypothesis of two that are alike.
    while len(reference) + len(hypothesis) > max_tokens - 3:
        (reference if len(reference) > len(hypothesis) else hypothesis).pop()
    begin, end = (pieces.piece_to_id(name) for name in ("[CLS]", "[SEP]"))
    return [begin, *reference, end, *hypothesis, end], len(reference) + 2


def _batch(words: Sequence[tuple[list[int], int]], device: Any) -> dict[str, "Tensor"]:
    import torch

    longest = max(len(ids) for ids, _ in words)
    columns = torch.arange(longest)
    lengths = torch.tensor([[len(ids)] for ids, _ in words])
    firsts = torch.tensor([[first] for _, first in words])
    is_real = columns < lengths
    return {
        "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in words]).to(
            device
        ),
        "attention_mask": is_real.long().to(device),
        "token_type_ids": (is_real & (columns >= firsts)).long().to(device),
    }


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"{folder.name}.{digest.hexdigest()[:12]}"

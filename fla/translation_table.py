"""A split's translations as MLflow's page shows tables, so that runs can be read side by side."""

from pathlib import Path

from fla.metrics.protocols import PROTOCOLS, find_protocol
from fla.metrics.scores import score_sentences
from fla.run_folder import read_decodes


def build_table(decodes: Path) -> dict[str, list[object]]:
    """Read a decodes file as `{"columns": [...], "data": [[...], ...]}`.

    The last column is chrF2 of the sentence, by the protocol that the file's signature names.

    Raises:
        DataError: The file cannot be read.
    """
    rows, signature = read_decodes(decodes)
    scores = score_sentences(
        [row.hypothesis for row in rows],
        [row.reference for row in rows],
        protocol=find_protocol(protocol_of(signature) or "text"),
    )
    return {
        "columns": ["id", "reference", "hypothesis", "chrf2"],
        "data": [
            [row.id, row.reference, row.hypothesis, round(one.chrf2, 2)]
            for row, one in zip(rows, scores, strict=True)
        ],
    }


def protocol_of(signature: str) -> str:
    """The protocol that a signature begins with, as `text.v1|...`; empty: it names none we know."""
    name, _, version = signature.partition("|")[0].rpartition(".v")
    return name if name in PROTOCOLS and version.isdigit() else ""

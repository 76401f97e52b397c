"""The data sets that have importers: what is signed in them, and on which terms.

What an import is of stands in its report.json, beside the manifests.
"""

import json
from dataclasses import dataclass
from pathlib import Path

PHOENIX14T = "PHOENIX14T"
CSL_DAILY = "CSL-Daily"
HOW2SIGN = "How2Sign"
GENERATED = "generated demo corpus"

GENERATED_NOTE = "GENERATED.txt"
"""File in a source folder that says that its recordings were drawn by this toolkit."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What a model that was trained on it takes over."""

    name: str
    sign_language: str = ""
    """Its English name; empty: unknown."""
    sign_language_code: str = ""
    """ISO 639-3; empty: none."""
    subject: str = ""
    """What is talked about; empty: unknown."""
    license: str = "unknown"
    """Identifier of the Hugging Face hub."""
    license_name: str = ""
    """Where the identifier is `other`."""
    terms: str
    """What its license means to whoever passes a model on, a sentence or two."""


_KNOWN = (
    DataSet(
        name=PHOENIX14T,
        sign_language="German Sign Language",
        sign_language_code="gsg",
        subject="weather forecasts on German television",
        license="other",
        license_name="cc-by-nc-sa",
        terms="PHOENIX14T is licensed CC BY-NC-SA: name its authors, no commercial use, and pass "
        "on what you make of it under the same terms. The license file in its archive says which "
        "version.",
    ),
    DataSet(
        name=CSL_DAILY,
        sign_language="Chinese Sign Language",
        sign_language_code="csl",
        subject="sentences of daily life, recorded in a studio",
        license="other",
        license_name="csl-daily-agreement",
        terms="CSL-Daily is given to those who signed its agreement, for research. Read that "
        "agreement before you pass this model on.",
    ),
    DataSet(
        name=HOW2SIGN,
        sign_language="American Sign Language",
        sign_language_code="ase",
        subject="spoken instructions of how-to videos, interpreted in a studio",
        license="cc-by-nc-4.0",
        terms="How2Sign is licensed CC BY-NC 4.0: name its authors, no commercial use.",
    ),
    DataSet(
        name=GENERATED,
        sign_language="an invented sign language",
        subject="short sentences about a few dozen things, signed by an animated figure",
        license="other",
        license_name="no-limits-by-the-data",
        terms="The corpus was drawn by the toolkit: nobody was filmed, and it sets no limits.",
    ),
)


def find_data_set(name: str) -> DataSet:
    """The data set of a name; for one without an importer, that nothing is known."""
    for data_set in _KNOWN:
        if data_set.name == name:
            return data_set
    return DataSet(
        name=name,
        terms="The toolkit does not know the license of this data set. Look it up before you pass "
        "this model on.",
    )


def read_data_set_name(manifest_dir: Path) -> str:
    """What was imported into a folder, by its report.json; without one, the folder's name."""
    try:
        report = json.loads((manifest_dir / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = {}
    name = report.get("corpus") if isinstance(report, dict) else None
    return name if isinstance(name, str) and name else manifest_dir.absolute().name

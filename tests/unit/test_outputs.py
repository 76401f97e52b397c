"""Files of translations: every form, and what is wrong with one in a sentence."""

from pathlib import Path

import pytest

from fla.data.manifest import Sample, fingerprint, read_manifest, write_manifest
from fla.errors import DataError
from fla.metrics.outputs import Outputs, fingerprint_references, pair, read_outputs
from fla.run_folder import DecodedRow, write_decodes


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(path: Path, text: str | bytes, side: str = "hypothesis") -> Outputs:
    return read_outputs(write(path, text), side)  # type: ignore[arg-type]


def test_plain_text_has_a_sentence_a_line_and_no_ids(tmp_path):
    found = read(tmp_path / "a.txt", "eins zwei\n\ndrei\n")

    assert (found.ids, found.texts) == (None, ("eins zwei", "", "drei"))


@pytest.mark.parametrize("text", ["\ufeffein Wort\r\nnoch eins\r\n", "ein Wort\nnoch eins"])
def test_files_of_other_systems_are_read_alike(tmp_path, text):
    assert read(tmp_path / "a.txt", text).texts == ("ein Wort", "noch eins")


def test_line_separators_within_a_sentence_end_no_line(tmp_path):
    assert read(tmp_path / "a.txt", "one\u2028two\x0bthree\x85four\n").texts == (
        "one\u2028two\x0bthree\x85four",
    )


def test_our_decodes_have_both_sides(tmp_path):
    path = tmp_path / "export.test.tsv"
    write_decodes(path, [DecodedRow("b", 'say "hi"\tthere', "x"), DecodedRow("a", "", "y z")],
                  signature="text.v1")  # fmt: skip

    assert read_outputs(path, "hypothesis").texts == ('say "hi"\tthere', "")
    assert read_outputs(path, "reference").texts == ("x", "y z")
    assert read_outputs(path, "reference").ids == ("b", "a")


def test_a_manifest_gives_references_and_their_fingerprint(tmp_path):
    samples = [
        Sample(id=name, video=f"{name}.mp4", start_s=0.0, end_s=1.0, num_frames=25, fps=25.0,
               sentence=sentence, signer="")
        for name, sentence in (("b", "Guten Tag"), ("a", "天气"))
    ]  # fmt: skip
    path = tmp_path / "test.tsv"
    write_manifest(path, samples, root=tmp_path)
    references = read_outputs(path, "reference")

    pairs = pair(references, references)

    assert pairs.references == ("Guten Tag", "天气")
    expected = fingerprint(read_manifest(path).samples)["references_sha256"]
    assert fingerprint_references(pairs) == expected


def test_json_lines(tmp_path):
    text = '{"id": 7, "hypothesis": "eins", "reference": "zwei"}\n{"id": "8", "hypothesis": ""}\n'

    found = read(tmp_path / "a.jsonl", text)

    assert (found.ids, found.texts) == (("7", "8"), ("eins", ""))


def test_the_lines_of_other_toolkits(tmp_path):
    text = "sample: dev/11August, prediction: am tag, regen\nsample: dev/12, prediction: \n"

    found = read(tmp_path / "predictions.txt", text)

    assert found.ids == ("dev/11August", "dev/12")
    assert found.texts == ("am tag, regen", "")


def test_ids_pair_whatever_the_order(tmp_path):
    hypotheses = read(tmp_path / "h.tsv", "name\ttranslation\nb\tzwei\na\teins\n")
    references = read(tmp_path / "r.tsv", "id\tsentence\na\tEins\nb\tZwei\n", "reference")

    pairs = pair(hypotheses, references)

    assert pairs.ids == ("a", "b")
    assert pairs.hypotheses == ("eins", "zwei")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "", "a.txt: the file has no sentence. Give one that has."),
        ("a.txt", b"gut\nschlecht \xe4\n",
         "a.txt, line 2: the byte 0xe4 is not UTF-8. Save the file as UTF-8."),
        ("a.txt", "ä\n".encode("utf-16"), "a.txt: the file is in UTF-16. Save it as UTF-8."),
        ("a.tsv", "id\tx\n1\t2\n",
         "a.tsv: no column for a hypothesis; it has id, x. Name one hypothesis or "),
        ("a.tsv", "id\thypothesis\n1\ta\n2\n",
         "a.tsv, line 3: 1 columns, the head has 2. Mend the line."),
        ("a.tsv", "id\thypothesis\n1\ta\n1\tb\n",
         "a.tsv: the sample 1 is there twice. Keep one of them."),
        ("a.tsv", "id\thypothesis\n1\ta\n\tb\n",
         "a.tsv: a sample has no id, others have. Give all an id."),
        ("a.tsv", "id\thypothesis\n\ta\n2\tb\n",
         "a.tsv: a sample has no id, others have. Give all an id."),
        ("a.jsonl", '{"hypothesis": "a"}\n{"hypothesis"\n', "a.jsonl, line 2: no JSON ("),
        ("a.jsonl", '{"hypothesis": null}\n', "a.jsonl, line 1: the hypothesis is None, no text."),
        ("a.jsonl", "[1]\n", "a.jsonl, line 1: no JSON object. Write one a line."),
        ("a.txt", "sample: 1, prediction: a\nb\n",
         "a.txt, line 2: 'b' is not of the form `sample: ID, prediction: TEXT` of the lines"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_it_seems_is_refused_in_a_sentence(tmp_path, name, text, expected):
    with pytest.raises(DataError) as error:
        read(tmp_path / name, text)

    assert str(error.value).startswith(f"{tmp_path}/{expected}")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt: the file cannot be read \(No such file"):
        read_outputs(tmp_path / "a.txt", "reference")


def test_an_empty_reference_is_refused_and_an_empty_hypothesis_is_not(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt: the reference of sentence 2 is empty"):
        read(tmp_path / "a.txt", "eins\n \n", "reference")
    with pytest.raises(DataError, match=r"a\.tsv: the reference of s2 is empty"):
        read(tmp_path / "a.tsv", "id\tsentence\ns1\teins\ns2\t\n", "reference")


@pytest.mark.parametrize(
    ("hypotheses", "expected"),
    [
        ("a\teins\n", "lacks 1 of the samples of {r}, such as b. Give files of the same split."),
        ("a\t1\nb\t2\nc\t3\n",
         "has 1 sample(s) that {r} lacks, such as c. Give files of the same"),
    ],
)  # fmt: skip
def test_samples_that_differ_are_refused(tmp_path, hypotheses, expected):
    found = read(tmp_path / "h.tsv", f"id\thypothesis\n{hypotheses}")
    references = read(tmp_path / "r.tsv", "id\treference\na\tEins\nb\tZwei\n", "reference")

    with pytest.raises(DataError) as error:
        pair(found, references)

    assert expected.format(r=references.path) in str(error.value)


def test_different_numbers_of_lines_are_refused(tmp_path):
    hypotheses = read(tmp_path / "h.txt", "eins\nzwei\n")
    references = read(tmp_path / "r.txt", "eins\n", "reference")

    with pytest.raises(DataError, match=r"h\.txt has 2 sentences, .*r\.txt has 1"):
        pair(hypotheses, references)

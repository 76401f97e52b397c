"""Imports small trees of images in the layouts, and with the oddities, of official downloads."""

import gzip
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fla.data.importers.csl_daily import import_csl_daily
from fla.data.importers.labels import read_labels
from fla.data.importers.options import Options
from fla.data.importers.phoenix14t import import_phoenix14t
from fla.data.importers.report import ImportReport
from fla.data.manifest import check_manifest, read_manifest
from fla.errors import DataError
from tests.helpers.videos import write_image

ROOT = Path(__file__).parents[2]
SIZE = 16

PHOENIX_HEADER = "name|video|start|end|speaker|orth|translation"
PHOENIX_TRAIN = [
    ("11August_2010_Wednesday_tagesschau-2", "Signer08", "tiefer luftdruck bestimmt das wetter"),
    # A quote is a letter here.
    ("11August_2010_Wednesday_tagesschau-1", "Signer01", 'das wort "sonne" ist kein zitat'),
    ("12August_2010_Thursday_tagesschau-9", "Signer03", "dieses video fehlt"),
]
PHOENIX_DEV = [("31May_2011_Tuesday_tagesschau-4295", "Signer05", "guten abend")]
PHOENIX_TEST = [("25October_2010_Monday_tagesschau-17", "Signer04", "guten abend")]
PHOENIX = {"train": PHOENIX_TRAIN, "dev": PHOENIX_DEV, "test": PHOENIX_TEST}


def write_frames(folder: Path, *, num_frames: int, first: int, pattern: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + num_frames):
        write_image(folder / pattern.format(number), number, size=SIZE)


def write_phoenix(root: Path) -> Path:
    base = root / "PHOENIX-2014-T-release-v3" / "PHOENIX-2014-T"
    frames = base / "features" / "fullFrame-210x260px"
    for split, rows in PHOENIX.items():
        path = base / "annotations" / "manual" / f"PHOENIX-2014-T.{split}.corpus.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{n}|{n}/1/*.png|-1|-1|{who}|GLOSS|{text}" for n, who, text in rows]
        path.write_text("\n".join([PHOENIX_HEADER, *lines]) + "\n", encoding="utf-8")
        for index, (name, _, _) in enumerate(rows[:2]):
            write_frames(
                frames / split / name, num_frames=5 + index, first=1, pattern="images{:04d}.png"
            )
    # What the real download has beside the images.
    (frames / "dev" / PHOENIX_DEV[0][0] / "createDnnTrainingLabels-profile.py.lprof").touch()
    write_frames(frames / "train" / "nobody", num_frames=1, first=1, pattern="images{:04d}.png")
    return base


def import_phoenix(
    source: Path, output: Path, labels: dict[str, Path] | None = None
) -> ImportReport:
    options = Options(labels=labels or {})
    return import_phoenix14t(source, output, options=options, on_progress=lambda done, total: None)


@pytest.mark.parametrize("inner", [".", "PHOENIX-2014-T-release-v3"])
def test_phoenix_rows_become_samples_of_25_frames_a_second(inner: str, tmp_path: Path):
    write_phoenix(tmp_path / "download")

    import_phoenix(tmp_path / "download" / inner, tmp_path / "out")

    manifest = read_manifest(tmp_path / "out" / "train.tsv")
    check_manifest(manifest)
    first, second = manifest.samples
    assert first.id == "11August_2010_Wednesday_tagesschau-2"
    assert first.video == f"features/fullFrame-210x260px/train/{first.id}"
    assert (first.fps, first.num_frames, first.start_s, first.end_s) == (25.0, 5, 0.0, 0.2)
    assert (first.signer, second.signer) == ("Signer08", "Signer01")
    assert second.sentence == 'das wort "sonne" ist kein zitat'
    assert read_manifest(tmp_path / "out" / "dev.tsv").samples[0].num_frames == 5


def test_the_report_says_what_became_of_every_row_and_folder(tmp_path: Path):
    write_phoenix(tmp_path / "download")

    report = import_phoenix(tmp_path / "download", tmp_path / "out")

    train = report.splits["train"]
    assert (train.rows_read, train.samples_written, train.frames) == (3, 2, 11)
    assert [(row.line, row.id, row.rule) for row in train.dropped] == [
        (4, "12August_2010_Thursday_tagesschau-9", "no video")
    ]
    assert train.videos_without_rows == ("features/fullFrame-210x260px/train/nobody",)
    assert report.splits["test"].sentences.shared_with_train == ()
    text = (tmp_path / "out" / "report.txt").read_text(encoding="utf-8")
    assert "3 (a complete download: 7096; 7095 in some feature files)" in text
    assert "11 (a complete download: 827354)" in text
    assert "out of order" not in text, "PHOENIX14T has no stamps"


def test_a_folder_where_an_image_is_missing_is_dropped_and_named(tmp_path: Path):
    base = write_phoenix(tmp_path / "download")
    name = PHOENIX_TRAIN[0][0]
    folder = base / "features" / "fullFrame-210x260px" / "train" / name
    (folder / "images0003.png").unlink()

    train = import_phoenix(tmp_path / "download", tmp_path / "out").splits["train"]

    assert (train.rows_read, train.samples_written) == (3, 1)
    assert (train.dropped[0].id, train.dropped[0].rule) == (name, "unreadable recording")
    assert "images are missing between images0002.png and images0004" in train.dropped[0].reason


def test_missing_parts_of_phoenix_are_each_named(tmp_path: Path):
    base = write_phoenix(tmp_path / "download")
    (base / "annotations" / "manual" / "PHOENIX-2014-T.dev.corpus.csv").unlink()
    (base / "features" / "fullFrame-210x260px" / "test").rename(tmp_path / "elsewhere")

    with pytest.raises(DataError) as raised:
        import_phoenix(tmp_path / "download", tmp_path / "out")

    first, second = str(raised.value).splitlines()
    assert first.startswith(f"{base}/annotations/manual/PHOENIX-2014-T.dev.corpus.csv does not")
    assert second.startswith(f"{base}/features/fullFrame-210x260px/test does not exist. Unpack")


def test_a_row_with_a_pipe_too_many_is_named_with_its_line(tmp_path: Path):
    base = write_phoenix(tmp_path / "download")
    path = base / "annotations" / "manual" / "PHOENIX-2014-T.dev.corpus.csv"
    path.write_text(path.read_text() + "a|b|-1|-1|s|GLOSS|one | two\n")

    with pytest.raises(DataError, match=rf"{path}:3: has 8 values for 7 columns"):
        import_phoenix(tmp_path / "download", tmp_path / "out")


def test_an_annotation_without_rows_is_named(tmp_path: Path):
    base = write_phoenix(tmp_path / "download")
    path = base / "annotations" / "manual" / "PHOENIX-2014-T.test.corpus.csv"
    path.write_text(f"{PHOENIX_HEADER}\n")

    with pytest.raises(DataError, match=rf"{path}: has no row of test\. Download it again"):
        import_phoenix(tmp_path / "download", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tsv"))


def write_labels(path: Path, content: object) -> Path:
    path.write_bytes(gzip.compress(pickle.dumps(content)))
    return path


@pytest.mark.parametrize("layout", ["gfslt", "slrt"])
def test_label_files_of_others_stand_in_for_the_annotation(layout: str, tmp_path: Path):
    write_phoenix(tmp_path / "download")
    labels = {}
    for split, rows in PHOENIX.items():
        entries = [
            {"name": f"{split}/{name}", "signer": who, "text": f"{text} .", "gloss": "GLOSS"}
            for name, who, text in rows
        ]
        content = {e["name"]: e for e in entries} if layout == "gfslt" else entries
        labels[split] = write_labels(tmp_path / f"labels.{split}", content)

    import_phoenix(tmp_path / "download", tmp_path / "out", labels)

    samples = read_manifest(tmp_path / "out" / "train.tsv").samples
    assert [sample.id for sample in samples] == [name for name, _, _ in PHOENIX_TRAIN[:2]]
    assert samples[0].sentence == "tiefer luftdruck bestimmt das wetter ."
    assert samples[0].signer == "Signer08"


def test_who_signs_is_known_by_the_annotation_where_a_label_file_does_not_say(tmp_path: Path):
    write_phoenix(tmp_path / "download")
    entries = [{"name": f"train/{name}", "text": "x"} for name, _, _ in PHOENIX_TRAIN]
    labels = {"train": write_labels(tmp_path / "labels.train", entries)}

    import_phoenix(tmp_path / "download", tmp_path / "out", labels)

    samples = read_manifest(tmp_path / "out" / "train.tsv").samples
    assert [sample.signer for sample in samples] == ["Signer08", "Signer01"]


def test_who_signs_in_csl_daily_is_in_the_names_of_a_label_file(tmp_path: Path):
    write_csl(tmp_path / "csl")
    entries = [{"name": "S000001_P0010_T00", "text": "x"}]
    labels = {"train": write_labels(tmp_path / "labels.train", entries)}

    import_csl(tmp_path / "csl", tmp_path / "out", labels)

    assert [s.signer for s in read_manifest(tmp_path / "out" / "train.tsv").samples] == ["10"]


def test_a_file_that_is_given_for_two_splits_is_refused(tmp_path: Path):
    write_csl(tmp_path / "csl")
    train = write_labels(tmp_path / "labels.train", [{"name": "S000001_P0010_T00", "text": "x"}])

    with pytest.raises(
        DataError, match=rf"^{train}: 1 clips of dev are also in train, such as S000001_P0010_T00"
    ):
        import_csl(tmp_path / "csl", tmp_path / "out", {"train": train, "dev": train})

    assert not list((tmp_path / "out").glob("*.tsv"))


def test_a_folder_that_cannot_be_listed_drops_its_row_alone(tmp_path: Path, monkeypatch):
    write_phoenix(tmp_path / "download")
    name = PHOENIX_TRAIN[0][0]
    iterdir = Path.iterdir

    def failing_iterdir(self: Path):
        if self.name == name:
            raise OSError(5, "Input/output error")
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", failing_iterdir)

    train = import_phoenix(tmp_path / "download", tmp_path / "out").splits["train"]

    assert train.samples_written == 1
    assert (train.dropped[0].id, train.dropped[0].rule) == (name, "unreadable recording")
    assert "Input/output error" in train.dropped[0].reason


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_label_file_cannot_run_anything(tmp_path: Path):
    content = [{"name": "a", "text": "hallo", "sign": Evil(tmp_path / "pwned")}]
    path = write_labels(tmp_path / "labels.train", content)

    labels = read_labels(path)

    assert [(label.name, label.sentence) for label in labels] == [("a", "hallo")]
    assert not (tmp_path / "pwned").exists()


def test_features_in_a_label_file_are_passed_over(tmp_path: Path):
    torch = pytest.importorskip("torch")
    np = pytest.importorskip("numpy")
    content = [
        {"name": "a", "text": "eins", "sign": torch.zeros(3, 4)},
        {"name": "b", "text": "zwei", "sign": np.zeros((3, 4), np.float32)},
    ]

    labels = read_labels(write_labels(tmp_path / "labels.train", content))

    assert [label.sentence for label in labels] == ["eins", "zwei"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"not a pickle", r"labels is no pickle of plain values"),
        (
            gzip.compress(pickle.dumps([{"name": "a"}])),
            r"labels, entry 1: text \(None\) is no text",
        ),
        (pickle.dumps("text"), "holds no list of sentences"),
        (pickle.dumps(["a"]), "entry 1: is no dictionary"),
        (gzip.compress(pickle.dumps([{"name": "a", "text": "b"}]))[:-9], "is no pickle"),
    ],
)
def test_what_is_no_label_file_gets_one_sentence(content: bytes, sentence: str, tmp_path: Path):
    path = tmp_path / "labels"
    path.write_bytes(content)

    with pytest.raises(DataError, match=sentence):
        read_labels(path)


# Real names: the split has the first and lacks the second, the annotation the reverse.
ONLY_IN_SPLIT, ONLY_IN_ANNOTATION = "S000005_P0004_T00", "S000007_P0003_T00"
CSL = {
    "S000000_P0000_T00": ("train", "他 是 谁 ？", 4),
    "S000001_P0010_T00": ("train", "今 天 3 点 。", 5),
    "S000002_P0004_T01": ("dev", "你 好 。", 4),
    "S000003_P0008_T00": ("test", "你 好 。", 4),
}


def write_csl(source: Path, *, pickled: bool = False) -> None:
    labels = source / "sentence_label"
    labels.mkdir(parents=True)
    split_rows = [f"{name}|{split}" for name, (split, _, _) in CSL.items()]
    split_rows.append(f"{ONLY_IN_SPLIT}|train")
    (labels / "split_1.txt").write_text("\n".join(["name|split", *split_rows]) + "\n")
    sentences = {name: (text, length) for name, (_, text, length) in CSL.items()}
    sentences[ONLY_IN_ANNOTATION] = ("他 是 谁 ？", 55)
    if pickled:
        info = [
            {"name": n, "length": length, "label_char": text.split(), "signer": 0, "time": 0}
            for n, (text, length) in sentences.items()
        ]
        (labels / "csl2020ct_v2.pkl").write_bytes(pickle.dumps({"info": info, "gloss_map": []}))
    else:
        rows = [
            f"{index}|{n}|{length}|GLOSS|{text}|{text}|r v"
            for index, (n, (text, length)) in enumerate(sentences.items())
        ]
        header = "index|name|length|gloss|char|word|postag"
        (labels / "video_map.txt").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    for name in [*CSL, ONLY_IN_SPLIT, ONLY_IN_ANNOTATION]:
        folder = source / "sentence_frames-512x512" / "frames_512x512" / name
        write_frames(folder, num_frames=4, first=0, pattern="{:06d}.jpg")


def import_csl(source: Path, output: Path, labels: dict[str, Path] | None = None) -> ImportReport:
    options = Options(labels=labels or {})
    return import_csl_daily(source, output, options=options, on_progress=lambda done, total: None)


def sentences(output: Path, split: str) -> Sequence[str]:
    return [sample.sentence for sample in read_manifest(output / f"{split}.tsv").samples]


@pytest.mark.parametrize("pickled", [False, True])
def test_csl_daily_gives_the_same_manifests_from_either_annotation(pickled: bool, tmp_path: Path):
    write_csl(tmp_path / "csl", pickled=pickled)

    import_csl(tmp_path / "csl", tmp_path / "out")

    manifest = read_manifest(tmp_path / "out" / "train.tsv")
    check_manifest(manifest)
    assert sentences(tmp_path / "out", "train") == ["他是谁？", "今天3点。"]
    first = manifest.samples[0]
    assert (first.fps, first.num_frames, first.signer) == (30.0, 4, "0")
    assert manifest.samples[1].signer == "10"


def test_csl_daily_names_both_orphans_and_lengths_that_differ(tmp_path: Path):
    write_csl(tmp_path / "csl")

    report = import_csl(tmp_path / "csl", tmp_path / "out")

    train = report.splits["train"]
    assert [(row.id, row.rule) for row in train.dropped] == [(ONLY_IN_SPLIT, "no annotation")]
    assert report.rows_without_split == (ONLY_IN_ANNOTATION,)
    assert train.other_lengths == ("S000001_P0010_T00: 4 frames, but the annotation says 5",)
    assert train.videos_without_rows == (
        f"sentence_frames-512x512/frames_512x512/{ONLY_IN_ANNOTATION}",
    )
    assert report.splits["dev"].videos_without_rows == ()
    text = (tmp_path / "out" / "report.txt").read_text(encoding="utf-8")
    assert f"in no split: {ONLY_IN_ANNOTATION}" in text
    assert "but the annotation says 5" in text


def test_a_split_that_nobody_knows_is_named_with_its_line(tmp_path: Path):
    write_csl(tmp_path / "csl")
    path = tmp_path / "csl" / "sentence_label" / "split_1.txt"
    path.write_text(path.read_text() + "S000009_P0000_T00|val\n")

    with pytest.raises(DataError, match=rf"{path}:7: split \(val\) is none of train, dev, test"):
        import_csl(tmp_path / "csl", tmp_path / "out")


@pytest.mark.parametrize(
    ("tool", "write"), [("import_phoenix14t.py", write_phoenix), ("import_csl_daily.py", write_csl)]
)
def test_the_tools_print_the_summary_or_one_sentence(tool: str, write, tmp_path: Path):
    write(tmp_path / "download")
    command = [sys.executable, str(ROOT / "tools" / tool)]

    good, bad = (
        subprocess.run(
            [*command, str(tmp_path / name), str(tmp_path / "out")],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        for name in ("download", "nowhere")
    )

    assert good.returncode == 0, good.stderr
    assert "samples written" in good.stdout
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith("error: ") and len(bad.stderr.splitlines()) == 1

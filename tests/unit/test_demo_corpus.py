"""The demo corpus: its language, its signs, and the files that an importer will find."""

import csv
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from fla.data.datasets import GENERATED_NOTE
from tools.demo_corpus.body import POSE_WIDTH, SIGNERS, Camera, Stage, bend
from tools.demo_corpus.corpus import CorpusSize, draw_texts, make_corpus
from tools.demo_corpus.language import draw_long, draw_short, one_sign
from tools.demo_corpus.recording import plan_recording, write_recording
from tools.demo_corpus.signs import SIGNS
from tools.demo_corpus.timeline import build_timeline, poses_at, rest_pose

TOOL = Path(__file__).parents[2] / "tools" / "make_demo_corpus.py"
TINY = CorpusSize(
    train_sentences=12, dev_sentences=4, test_sentences=4, text_sentences=200, size_px=64
)
ANNOTATION = "sentence_level/{0}/text/en/raw_text/re_aligned/how2sign_realigned_{0}.csv"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder, TINY, seed=3, on_progress=lambda done, total: None)
    return folder


def read_rows(corpus: Path, split: str) -> list[dict[str, str]]:
    with (corpus / ANNOTATION.format(split)).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def draw_sentences(count: int) -> list:
    rng = np.random.default_rng(0)
    return [make(rng) for _ in range(count) for make in (one_sign, draw_short, draw_long)]


def test_signs_have_one_translation():
    meaning: dict[tuple[str, ...], str] = {}

    for sentence in draw_sentences(4000):
        assert meaning.setdefault(sentence.signs, sentence.english) == sentence.english


def test_every_sign_is_used_and_every_used_sign_has_a_form():
    used = {sign for sentence in draw_sentences(4000) for sign in sentence.signs}

    assert used == set(SIGNS)


def test_english_is_rarely_in_signed_order():
    rng = np.random.default_rng(1)
    sentences = [s for s in (draw_long(rng) for _ in range(300)) if "SEE" in s.signs[2:]]

    # The sign for seeing comes after what is seen, the English word before it.
    word_is_last = [
        s.english.rstrip(".?!").split()[-1] in ("see", "sees", "saw", "seeing") for s in sentences
    ]

    assert len(sentences) > 10
    assert sum(word_is_last) < 0.3 * len(sentences)


@pytest.mark.parametrize(
    "signs, english",
    [
        (("APPLE", "I", "EAT"), "I eat an apple."),
        (("DOG", "HUNGRY", "NOT"), "The dog is not hungry."),
        (("TEACHER", "BUY", "WHAT"), "What does the teacher buy?"),
        (("HELLO", "FRIEND"), "Hello, friend!"),
    ],
)
def test_known_sentences_are_translated(signs: tuple[str, ...], english: str):
    rng = np.random.default_rng(2)
    drawn = (make(rng) for _ in range(100_000) for make in (draw_short, draw_long))

    found = next(sentence for sentence in drawn if sentence.signs == signs)

    assert found.english == english


def test_signs_at_one_place_differ_in_two_more_ways():
    for first, second in combinations(SIGNS.values(), 2):
        if (first.place, first.hands) == (second.place, second.hands):
            differences = (
                first.shape != second.shape,
                first.move != second.move,
                abs(first.angle - second.angle) >= 45,
            )
            assert sum(differences) >= 2, (first, second)


def test_no_held_out_sentence_is_in_train_or_in_the_text_corpus():
    size = CorpusSize(
        train_sentences=900, dev_sentences=100, test_sentences=100, text_sentences=4000
    )

    texts = draw_texts(size, seed=5)

    dev, test, train = ({s.english for s in texts.signed[k]} for k in ("val", "test", "train"))
    assert len(dev) == len(test) == 100
    assert len(texts.signed["train"]) == 900
    assert len(set(texts.text)) == 4000
    assert not dev & test
    assert not (dev | test) & (train | set(texts.text))


def test_arm_bones_keep_their_length():
    elbow, wrist = bend((0.2, 0.5), (0.0, 0.2), 0.25, 1.0)

    assert np.hypot(elbow[0] - 0.2, elbow[1] - 0.5) == pytest.approx(0.25)
    assert np.hypot(elbow[0] - wrist[0], elbow[1] - wrist[1]) == pytest.approx(0.25)
    assert wrist == pytest.approx((0.0, 0.2))


def test_poses_move_smoothly_between_signs():
    timeline = build_timeline((("DOG", "I", "SEE"),), speed=1.0, rng=np.random.default_rng(0))

    poses = poses_at(timeline, np.arange(0.0, timeline.end_s, 0.001))

    # A hand crosses the picture in no less than a tenth of a second.
    assert np.abs(np.diff(poses[:, :2], axis=0)).max() < 0.01


def test_a_sign_alone_is_shown_slowly():
    def length_s(signs: tuple[str, ...]) -> float:
        timeline = build_timeline((signs,), speed=1.0, rng=np.random.default_rng(0))
        return timeline.sentences[0].end_s - timeline.sentences[0].start_s

    assert length_s(("DOG",)) > 0.6 * length_s(("DOG", "DOG"))


def test_left_handed_signers_are_mirrored():
    pose = rest_pose()
    pose[:2] = (0.3, 0.3)
    camera = Camera(zoom=0.9, shift_x=0.0, shift_y=0.0, brightness=1.0, noise=0.0)
    right = next(s for s in SIGNERS if not s.left_handed)
    left = type(right)(**{**vars(right), "left_handed": True})

    pictures = [
        Stage(signer=signer, camera=camera, background=0, size_px=64).draw(pose).astype(int)
        for signer in (right, left)
    ]

    assert pose.shape == (POSE_WIDTH,)
    assert np.abs(pictures[0][:, ::-1] - pictures[1]).mean() < 2.0
    assert np.abs(pictures[0] - pictures[1]).mean() > 4.0


def test_the_corpus_says_that_nobody_was_filmed(corpus: Path):
    note = (corpus / GENERATED_NOTE).read_text()

    assert note == "Sentences and recordings were made by tools/make_demo_corpus.py with seed 3.\n"


def test_annotation_has_the_columns_of_how2sign(corpus: Path):
    header = (corpus / ANNOTATION.format("train")).read_text(encoding="utf-8").splitlines()[0]

    assert header == (
        "VIDEO_ID\tVIDEO_NAME\tSENTENCE_ID\tSENTENCE_NAME\tSTART_REALIGNED\tEND_REALIGNED\tSENTENCE"
    )


@pytest.mark.parametrize("split, count", [("train", 12), ("val", 4), ("test", 4)])
def test_every_row_lies_inside_a_recording_in_h264(corpus: Path, split: str, count: int):
    rows = read_rows(corpus, split)

    assert len(rows) == len({row["SENTENCE_NAME"] for row in rows}) == count
    for row in rows:
        folder = corpus / "video_level" / split / "rgb_front" / "raw_videos"
        with av.open(str(folder / f"{row['VIDEO_NAME']}.mp4")) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            seconds = float(stream.frames / stream.average_rate)
        assert 0 <= float(row["START_REALIGNED"]) < float(row["END_REALIGNED"]) <= seconds + 0.1


def test_stamps_are_out_of_order_and_overlap_and_sentences_are_quoted(tmp_path: Path):
    size = CorpusSize(
        train_sentences=200, dev_sentences=1, test_sentences=1, text_sentences=1, size_px=16
    )
    make_corpus(tmp_path, size, seed=1, on_progress=lambda done, total: None)

    rows = read_rows(tmp_path, "train")

    starts = [(row["VIDEO_ID"], float(row["START_REALIGNED"])) for row in rows]
    assert starts != sorted(starts)
    in_order = sorted(rows, key=lambda row: (row["VIDEO_ID"], float(row["START_REALIGNED"])))
    overlaps = sum(
        first["VIDEO_ID"] == second["VIDEO_ID"]
        and float(second["START_REALIGNED"]) < float(first["END_REALIGNED"])
        for first, second in pairwise(in_order)
    )
    assert 2 <= overlaps < 100
    assert any('"' in row["SENTENCE"] for row in rows)
    assert any(row["VIDEO_ID"].startswith("-") for row in rows)


def test_the_command_repeats_a_corpus_byte_for_byte(corpus: Path, tmp_path: Path):
    command = [sys.executable, str(TOOL), str(tmp_path), "--seed=3"]
    command += ["--train-sentences=12", "--dev-sentences=4", "--test-sentences=4"]
    command += ["--text-sentences=200", "--size-px=64"]

    done = subprocess.run(command, check=True, capture_output=True, text=True)

    assert "film: 3 of 3 recordings" in done.stdout
    files = sorted(p.relative_to(corpus) for p in corpus.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    for file in files:
        assert (corpus / file).read_bytes() == (tmp_path / file).read_bytes(), file


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--size-px=33"], 2, "error: --size-px (33) must be even and at least 32."),
        (["--size-px=0"], 2, "error: --size-px (0) must be even and at least 32."),
        ([], 1, "error: "),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, words: list[str], code: int, sentence: str):
    (tmp_path / "file").touch()
    command = [sys.executable, str(TOOL), str(tmp_path / "file"), *words]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == code
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1


def test_a_recording_is_the_same_file_every_time(tmp_path: Path):
    rng = np.random.default_rng(5)
    recording = plan_recording(tuple(draw_long(rng) for _ in range(8)), seed=(3, 1))

    files = set()
    for attempt in range(8):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        write_recording(recording, folder, size_px=96)
        files.add((folder / f"{recording.video_name}.mp4").read_bytes())

    assert len(files) == 1

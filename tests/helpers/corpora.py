"""Small downloads in the layouts of the real ones: a long and a short clip in train, one elsewhere.

Each maker returns the ids of the long and of the short one.
"""

import csv
import gzip
import pickle
from collections.abc import Sequence
from pathlib import Path

from tests.helpers.videos import write_image, write_video

LONG_FRAMES, SHORT_FRAMES = 6, 2

H2S_VIDEOS = {"train": ("-long000000-1", "short000000-2"), "val": ("dev00000000-3",)}
H2S_VIDEOS |= {"test": ("-test000000-4",)}
H2S_HEADER = ("VIDEO_NAME", "SENTENCE_NAME", "START_REALIGNED", "END_REALIGNED", "SENTENCE")

PHOENIX_CLIPS = {"train": ("long", "short"), "dev": ("anders",), "test": ("noch_anders",)}
CSL_CLIPS = {
    "train": ("S000000_P0000_T00", "S000001_P0001_T00"),
    "dev": ("S000002_P0002_T00",),
    "test": ("S000003_P0003_T00",),
}


def how2sign_annotation(source: Path, split: str, *, original: bool = False) -> Path:
    folder = source / "sentence_level" / split / "text" / "en" / "raw_text"
    if original:
        return folder / f"how2sign_{split}.csv"
    return folder / "re_aligned" / f"how2sign_realigned_{split}.csv"


def how2sign_recording(source: Path, split: str, name: str) -> Path:
    return source / "video_level" / split / "rgb_front" / "raw_videos" / f"{name}-rgb_front.mp4"


def how2sign_id(name: str) -> str:
    """SENTENCE_NAME of a recording's first sentence."""
    video_id, _, signer = name.rpartition("-")
    return f"{video_id}_0-{signer}-rgb_front"


def write_how2sign_annotation(
    path: Path, rows: Sequence[Sequence[object]], *, header: Sequence[str] = H2S_HEADER
) -> Path:
    """Strings are quoted, as is needed for a lone carriage return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerows([header, *rows])
    return path


def make_how2sign(source: Path, sentence: str = "Hi!") -> tuple[str, str]:
    """Whole recordings of 24 frames a second and the re-aligned annotation."""
    for split, names in H2S_VIDEOS.items():
        rows = [(f"{name}-rgb_front", how2sign_id(name), 0, 9, sentence) for name in names]
        write_how2sign_annotation(how2sign_annotation(source, split), rows)
        for name in names:
            path = how2sign_recording(source, split, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, num_frames=_num_frames(name), fps=24)
    long, short = H2S_VIDEOS["train"]
    return how2sign_id(long), how2sign_id(short)


def make_phoenix14t(source: Path, sentence: str = "guten abend") -> tuple[str, str]:
    header = "name|video|start|end|speaker|orth|translation"
    for split, names in PHOENIX_CLIPS.items():
        rows = [f"{name}|{name}/1/*.png|-1|-1|Signer01|GLOSS|{sentence}" for name in names]
        path = phoenix_annotation(source, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        for name in names:
            folder = source / "features" / "fullFrame-210x260px" / split / name
            _write_images(folder, "images{:04d}.png", first=1, num_frames=_num_frames(name))
    long, short = PHOENIX_CLIPS["train"]
    return long, short


def phoenix_annotation(source: Path, split: str) -> Path:
    return source / "annotations" / "manual" / f"PHOENIX-2014-T.{split}.corpus.csv"


def make_csl_daily(
    source: Path, sentence: str = "你好。", *, as_mp4: bool = False
) -> tuple[str, str]:
    labels = source / "sentence_label"
    labels.mkdir(parents=True)
    long, short = CSL_CLIPS["train"]
    splits, sentences = ["name|split"], ["name|length|char"]
    for split, names in CSL_CLIPS.items():
        for name in names:
            num_frames = SHORT_FRAMES if name == short else LONG_FRAMES
            splits.append(f"{name}|{split}")
            sentences.append(f"{name}|{num_frames}|{sentence}")
            if as_mp4:
                path = source / "sentence-crop" / f"{name}.mp4"
                path.parent.mkdir(exist_ok=True)
                write_video(path, num_frames=num_frames, fps=30)
            else:
                folder = source / "sentence_frames-512x512" / "frames_512x512" / name
                _write_images(folder, "{:06d}.jpg", first=0, num_frames=num_frames)
    (labels / "split_1.txt").write_text("\n".join(splits) + "\n", encoding="utf-8")
    (labels / "video_map.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    return long, short


MAKERS = {
    "csl_daily": make_csl_daily,
    "how2sign": make_how2sign,
    "phoenix14t": make_phoenix14t,
}
"""By the name of the importer."""


def write_labels(path: Path, content: object) -> Path:
    """A label file as others publish them: a pickle in gzip."""
    path.write_bytes(gzip.compress(pickle.dumps(content)))
    return path


def _num_frames(name: str) -> int:
    return SHORT_FRAMES if name.startswith("short") else LONG_FRAMES


def _write_images(folder: Path, pattern: str, *, first: int, num_frames: int) -> None:
    folder.mkdir(parents=True)
    for number in range(first, first + num_frames):
        write_image(folder / pattern.format(number), number, size=16)

"""Videos of one's own: any rate, size and orientation, one or many, whole or damaged."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from pympi import Eaf

from fla.data.decode.video import read_frames
from fla.data.views import PlainView
from fla.errors import CheckpointError, ConfigError, DataError
from fla.search import Search
from fla.text.codec import train_codec
from fla.translate import (
    Recording,
    Segment,
    Translation,
    VideoTranslator,
    describe_clip,
    read_recording,
)
from fla.translate_files import translate_files
from fla.translating.activity import Cut
from fla.translating.job import Job, check_job, read_inputs
from tests.helpers.commands import ROOT, environment, python
from tests.helpers.exports import write_untrained_stage1
from tests.helpers.videos import (
    numbered_frame,
    read_number,
    turn_video,
    write_image,
    write_video,
)

SEARCH = Search(num_beams=2, max_new_tokens=8, num_hypotheses=2)
CLOCKWISE = (0, 1, -1, 0)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    codec = train_codec(["the cat is here", "where is a dog"], max_pieces=110, language="en_XX")
    (folder / "tokenizer").mkdir()
    codec.save(folder / "tokenizer")
    return write_untrained_stage1(
        folder / "export", tokenizer=folder / "tokenizer", manifests=folder
    )


@pytest.fixture(scope="module")
def translator(export: Path) -> Iterator[VideoTranslator]:
    with VideoTranslator(export, search=SEARCH) as opened:
        yield opened


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two that decode, and between them one that does not."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", num_frames=40)
    (folder / "b.mp4").write_bytes((folder / "a.mp4").read_bytes()[:900])
    write_video(folder / "c.webm", num_frames=50, codec="libvpx-vp9")
    (folder / "notes.txt").write_text("no video")
    return folder


def write_clock(path: Path, *, fps: int, seconds: int = 4) -> Path:
    """A video that shows the number of fifteenths of a second since its begin, at any rate."""
    with av.open(path, "w") as output:
        stream = output.add_stream("libx264", rate=fps, options={"preset": "veryfast"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(seconds * fps):
            image = numbered_frame(number * 15 // fps, size=64)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        output.mux(stream.encode())
    return path


def see(path: Path, *, target_fps: float) -> list[int]:
    """Numbers in the frames that a model of such a rate sees of a whole video."""
    view = PlainView(
        frame_stride=4, target_fps=target_fps, max_frames=100, resize_px=64, crop_px=64
    )
    sample = describe_clip(read_recording(path), Segment(), sample_id="a")
    frames = read_frames(
        path,
        start_s=sample.start_s,
        end_s=sample.end_s,
        num_frames=sample.num_frames,
        frame_numbers=view.draw(sample, epoch=0)[0],
        height=64,
        width=64,
    )
    return [read_number(frame) for frame in frames]


@pytest.mark.parametrize("fps", [25, 30, 60])
def test_a_model_with_a_rate_of_its_own_sees_the_same_at_any_rate(tmp_path, fps):
    slow = write_clock(tmp_path / "slow.mp4", fps=15)
    fast = write_clock(tmp_path / "fast.mp4", fps=fps)

    seen = see(fast, target_fps=5), see(slow, target_fps=5)

    assert seen[1] == list(range(0, 60, 3))
    assert len(seen[0]) == len(seen[1])
    assert np.abs(np.subtract(*seen)).max() <= 1


def test_uneven_frames_of_a_phone_are_translated(translator, tmp_path):
    times_ms = np.cumsum(np.random.default_rng(1).integers(8, 60, 90)).tolist()
    path = write_video(tmp_path / "a.mp4", num_frames=90, times_ms=times_ms)

    (translation,) = translator.translate(path, [Segment(start_s=0.5)])

    assert len(translation.hypotheses) == 2
    lasts_s = (times_ms[-1] - times_ms[0]) / 1000
    assert translation.segment.end_s == pytest.approx(lasts_s, abs=0.1)


def test_a_portrait_that_is_stored_lying_is_seen_upright(translator, tmp_path):
    lying = write_video(tmp_path / "lying.mp4", num_frames=30, size=192, height=108)
    turned = turn_video(lying, tmp_path / "turned.mp4", matrix=CLOCKWISE)

    assert read_recording(turned).aspect == pytest.approx(9 / 16, abs=0.01)
    (upright,), (other,) = (translator.translate(path, [Segment()]) for path in (turned, lying))
    assert upright.hypotheses[0].log_prob != other.hypotheses[0].log_prob


def test_a_video_of_a_phone_in_full_size_is_translated(translator, tmp_path):
    lying = write_video(tmp_path / "a.mp4", num_frames=24, size=1920, height=1080, fps=60)
    path = turn_video(lying, tmp_path / "b.mp4", matrix=CLOCKWISE)

    (translation,) = translator.translate(path, [Segment()])

    assert translation.segment == Segment(start_s=0.0, end_s=pytest.approx(0.4))


def test_segments_say_the_same_batched_or_one_by_one(translator, videos):
    clips = [
        (read_recording(videos / name), Segment(start_s=start_s, end_s=start_s + length_s))
        for name in ("a.mp4", "c.webm")
        for start_s, length_s in ((0.0, 2.5), (1.0, 0.3), (0.5, 1.5))
    ]

    together = translator.translate_clips(clips)

    for (recording, segment), translation in zip(clips, together, strict=True):
        (alone,) = translator.translate(recording, [segment])
        assert alone.segment == translation.segment == segment
        texts = [[found.text for found in one.hypotheses] for one in (alone, translation)]
        assert texts[0] == texts[1]
        log_probs = [[found.log_prob for found in one.hypotheses] for one in (alone, translation)]
        assert log_probs[0] == pytest.approx(log_probs[1], abs=1e-4)


def test_batches_hold_no_more_frames_than_the_memory(translator, export, videos):
    clips = [(read_recording(videos / "c.webm"), Segment(start_s=0.1 * n)) for n in range(5)]
    # Every clip by itself: one has 13 frames, and about 20 fit.
    with VideoTranslator(export, search=SEARCH, host_memory_gib=0.001) as small:
        few = small.translate_clips(clips)
    many = translator.translate_clips(clips)

    assert [one.hypotheses[0].text for one in few] == [one.hypotheses[0].text for one in many]
    with VideoTranslator(export, search=SEARCH, host_memory_gib=0.0002) as smallest:
        (result,) = smallest.translate_clips(clips[:1])
    assert isinstance(result, DataError)
    assert "frames of it do not fit into 0.0002 GiB" in str(result)


def text_of(result: Translation | DataError) -> str:
    assert isinstance(result, Translation)
    return result.hypotheses[0].text


def test_what_does_not_decode_leaves_the_others_alone(translator, tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=60, key_frame_every=15)
    whole = read_recording(path)
    clips = [(whole, Segment(start_s=start, end_s=start + 0.9)) for start in (0.0, 1.0, 2.0)]
    before = translator.translate_clips(clips)
    with av.open(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for packet in packets[16:30]:
        begin = data.index(bytes(packet))
        data[begin + 5 : begin + len(bytes(packet))] = bytes(len(bytes(packet)) - 5)
    path.write_bytes(data)

    after = translator.translate_clips([*clips, (whole, Segment(start_s=9.0))])

    assert [text_of(after[0]), text_of(after[2])] == [text_of(before[0]), text_of(before[2])]
    assert isinstance(after[1], DataError) and str(after[1]).startswith(str(path))
    assert isinstance(after[3], DataError) and "no frame lies in the segment 9.00" in str(after[3])
    with pytest.raises(DataError, match="does not decode"):
        translator.translate(path, [segment for _, segment in clips])


def test_a_folder_is_translated_and_what_is_damaged_is_listed(export, videos, tmp_path):
    job = Job(
        inputs=(videos, videos / "nothing.mp4"), model=export, out=tmp_path / "out.jsonl",
        num_beams=2, num_hypotheses=2,
    )  # fmt: skip

    check_job(job)
    faults = translate_files(job, read_inputs(job))

    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [Path(row["video"]).name for row in rows] == ["a.mp4", "c.webm"]
    assert all(len(row["hypotheses"]) == 2 for row in rows)
    assert [row["end_s"] for row in rows] == pytest.approx([40 / 15, 50 / 15], abs=2e-3)
    assert [str(fault).split()[0] for fault in faults] == [
        str(videos / "b.mp4"), f"{videos / 'nothing.mp4'}:",
    ]  # fmt: skip


def test_names_that_are_no_utf8_or_look_like_a_protocol_are_names(
    export, videos, tmp_path, monkeypatch
):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    for name in ("10:30.mp4", os.fsdecode(b"b\xfcro.mp4")):
        shutil.copy(videos / "a.mp4", name)
    out = tmp_path / "out.tsv"
    job = Job(inputs=(Path(),), model=export, out=out, num_beams=2)

    faults = translate_files(job, read_inputs(job))

    assert faults == []
    lines = out.read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == ["10:30.mp4", "b\\udcfcro.mp4"]


@pytest.mark.parametrize("kind", ["jsonl", "srt"])
def test_a_full_disk_is_a_sentence(export, videos, kind):
    job = Job(
        inputs=(videos / "a.mp4",), model=export, out=Path("/dev/full"), format=kind,
        num_beams=2,
    )  # fmt: skip

    with pytest.raises(DataError, match=r"^--out /dev/full cannot be written: No space left"):
        translate_files(job, read_inputs(job))


def test_who_reads_no_further_ends_it_quietly(export, videos):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        python("tools/translate.py", videos / "a.mp4", "--model", export),
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT, env=environment(),
    )  # fmt: skip
    os.close(writing)

    assert done.returncode == 141
    assert "Traceback" not in done.stderr and "Broken pipe" not in done.stderr


def test_a_video_that_is_gone_meanwhile_leaves_the_others_alone(translator, videos, tmp_path):
    gone = Path(shutil.copy(videos / "a.mp4", tmp_path / "gone.mp4"))
    clips = [(read_recording(path), Segment()) for path in (gone, videos / "a.mp4")]
    gone.unlink()

    first, second = translator.translate_clips(clips)

    assert isinstance(first, DataError) and str(first).startswith(f"{gone} cannot be read: No such")
    assert isinstance(second, Translation)


def test_a_long_file_that_is_one_sentence_is_refused_before_it_is_read(export, videos, tmp_path):
    path = shutil.copy(videos / "a.mp4", tmp_path / "long.mp4")
    os.truncate(path, 3 * 2**30)
    recording = read_recording(path)
    half = Segment(start_s=0.0, end_s=recording.duration_s / 2)

    with VideoTranslator(export, search=SEARCH, host_memory_gib=2.0) as translator:
        whole, part = translator.translate_clips([(recording, Segment()), (recording, half)])

    assert isinstance(whole, DataError) and "3.0 GiB of the file are one sentence" in str(whole)
    assert isinstance(part, Translation)


def test_lines_name_their_video_even_where_the_others_are_damaged(export, videos, capsys):
    for names, num_columns in ((["a.mp4"], 1), (["a.mp4", "b.mp4"], 2)):
        job = Job(inputs=tuple(videos / name for name in names), model=export, num_beams=2)

        translate_files(job, read_inputs(job))

        (line,) = capsys.readouterr().out.splitlines()
        assert len(line.split("\t")) == num_columns


def test_images_of_a_folder_are_a_video_of_a_known_rate(export, tmp_path, capsys):
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(20):
        write_image(folder / f"img_{number:03}.png", number, size=64)
    job = Job(inputs=(folder,), model=export, num_beams=2, images_fps=10.0)

    assert translate_files(job, read_inputs(job)) == []
    assert len(capsys.readouterr().out.splitlines()) == 1
    (fault,) = translate_files(replace(job, cut=Cut()), read_inputs(job))
    assert "is a folder of images, in which no pauses are looked for" in str(fault)
    (fault,) = read_inputs(Job(inputs=(folder,), model=export)).faults
    assert "holds 20 images" in str(fault) and "--fps 25" in str(fault)


def write_signing(path: Path) -> Path:
    """Two seconds of rest, two of motion, and two of rest."""
    rng = np.random.default_rng(0)
    with av.open(path, "w") as output:
        stream = output.add_stream("libx264", rate=Fraction(15))
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(90):
            image = np.full((64, 64, 3), 90, np.uint8)
            if 30 <= number < 60:
                image[16:48, 16:40] = rng.integers(150, 255)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        output.mux(stream.encode())
    return path


def test_a_recording_becomes_subtitles(export, tmp_path):
    video = write_signing(tmp_path / "a.mp4")
    job = Job(inputs=(video,), model=export, out=tmp_path / "a.srt", num_beams=2, cut=Cut())

    assert translate_files(job, read_inputs(job)) == []

    number, times, *_ = (tmp_path / "a.srt").read_text().splitlines()
    assert number == "1"
    starts, ends = (float(stamp[-6:].replace(",", ".")) for stamp in times.split(" --> "))
    assert (starts, ends) == (pytest.approx(2, abs=0.1), pytest.approx(4, abs=0.1))


def test_a_recording_in_which_nothing_moves_has_no_subtitles(export, tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(path, "w") as output:
        stream = output.add_stream("libx264", rate=15)
        stream.width = stream.height = 64
        for _ in range(30):
            image = np.full((64, 64, 3), 90, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        output.mux(stream.encode())
    job = Job(inputs=(path,), model=export, out=tmp_path / "a.vtt", num_beams=2, cut=Cut())

    (fault,) = translate_files(job, read_inputs(job))

    assert "no signing was found" in str(fault)


def test_warnings_are_said_once_a_video_and_stand_in_the_rows(export, videos, tmp_path, capsys):
    ranges = tmp_path / "ranges.tsv"
    ranges.write_text("start_s\tend_s\n" + "0\t2.6\n" * 9)
    content = json.loads((export / "config.json").read_text())
    content["corpus"]["typical"] = {
        "fps_low": 50, "fps_high": 50, "aspect_low": 1, "aspect_high": 1, "seconds_low": 0.1,
        "seconds_high": 2,
    }  # fmt: skip
    other = tmp_path / "export"
    other.mkdir()
    for path in export.iterdir():
        (other / path.name).symlink_to(path)
    (other / "config.json").unlink()
    (other / "config.json").write_text(json.dumps(content))
    job = Job(
        inputs=(videos / "a.mp4",), model=other, out=tmp_path / "a.jsonl", num_beams=2,
        segments=ranges,
    )  # fmt: skip

    assert translate_files(job, read_inputs(job)) == []

    said = capsys.readouterr().err
    assert said.count("of its 15 frames a second the model sees 3.75, and in training") == 1
    assert said.count("it lasts 2.6 s") == 5
    assert "4 more such warnings" in said
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [len(row["warnings"]) for row in rows] == [2] * 9


@pytest.mark.parametrize(
    ("words", "kind", "reason"),
    [
        ({"num_hypotheses": 6}, ConfigError, r"--n-best \(6\) must be between 1 and .*\(5\)"),
        ({"num_hypotheses": 2}, ConfigError, "text has room for one sentence"),
        ({"out": Path("nowhere/a.srt")}, DataError, "there is no folder nowhere"),
        ({"out": Path("tests")}, ConfigError, "its ending is none of"),
        ({"whole": Segment(start_s=2.0, end_s=1.0)}, ConfigError, r"--start-s \(2\)"),
        ({"cut": Cut(min_pause_s=-1.0)}, ConfigError, r"--min-pause-s \(-1\)"),
        ({"cut": Cut(max_length_s=0.1)}, ConfigError, r"--max-length-s \(0\.1\)"),
        ({"images_fps": -5.0}, ConfigError, r"--fps \(-5\)"),
        ({"host_memory_gib": 0.0}, ConfigError, r"--host-memory-gib \(0\)"),
    ],
)
def test_options_that_make_no_sense_are_told(words, kind, reason):
    with pytest.raises(kind, match=reason):
        check_job(Job(inputs=(Path("a.mp4"),), model=Path("export"), **words))


def test_what_is_read_is_not_written_over(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text("")

    with pytest.raises(DataError, match=r"a\.srt is what is read"):
        check_job(Job(inputs=(Path("a.mp4"),), model=Path("e"), segments=path, out=path))


def test_subtitles_and_segments_are_of_one_video(videos, tmp_path):
    for words in ({"out": tmp_path / "a.srt"}, {"segments": tmp_path / "a.tsv"}):
        with pytest.raises(ConfigError, match="of one video, and 3 are to be translated"):
            read_inputs(Job(inputs=(videos,), model=Path("export"), **words))


def test_an_elan_file_counts_from_where_the_video_to_translate_begins(videos, tmp_path):
    file = Eaf()
    file.add_tier("sentences")
    file.add_annotation("sentences", 500, 1500, "a")
    for name, origin in (("a.mp4", 250), ("other.mp4", 40)):
        file.add_linked_file(f"file:///D:/{name}", mimetype="video/mp4", time_origin=origin)
    file.to_file(str(tmp_path / "a.eaf"))

    job = Job(inputs=(videos / "a.mp4",), model=Path("e"), segments=tmp_path / "a.eaf")

    ((_, segments),) = read_inputs(job).parts
    assert segments == (Segment(start_s=0.75, end_s=1.75),)


def test_a_folder_without_videos_is_told(tmp_path):
    (fault,) = read_inputs(Job(inputs=(tmp_path,), model=Path("export"))).faults

    assert f"{tmp_path} holds no video file" in str(fault)


def test_a_segment_outside_of_the_video_is_told_before_a_model_is_loaded(videos):
    job = Job(inputs=(videos / "a.mp4",), model=Path("e"), whole=Segment(end_s=99.0))

    (fault,) = read_inputs(job).faults

    assert "0.00 s to 99.00 s is not inside the video, which lasts 2.67 s" in str(fault)


def test_a_folder_that_is_no_export_is_told(videos, tmp_path):
    job = Job(inputs=(videos / "a.mp4",), model=tmp_path)

    with pytest.raises(CheckpointError, match="is no export"):
        translate_files(job, read_inputs(job))


def test_a_recording_is_opened_once_for_all_its_segments(translator, videos):
    recording = read_recording(videos / "a.mp4")

    assert isinstance(recording, Recording)
    first, second = translator.translate(recording, [Segment(end_s=1.0), Segment(start_s=1.0)])
    assert second.segment.end_s == recording.duration_s == pytest.approx(40 / 15)
    assert first.hypotheses[0].log_prob >= first.hypotheses[1].log_prob

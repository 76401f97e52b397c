"""Compare the data path with others, in ratios: python -m tests.benchmarks.decode

What counts is CPU time on one thread: other work on the machine disturbs it least. A ratio is
taken within a round, then the median over the rounds.
"""

import argparse
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from fla.data.command import run_tool
from tests.benchmarks.contestants import (
    draw_jobs,
    make_decord,
    make_ffmpeg,
    make_gfslt,
    make_opencv,
    make_ours,
    make_pyav,
    make_torchcodec,
)
from tests.benchmarks.material import (
    SECONDS,
    SEED,
    draw_clips,
    make_png_folders,
    make_recordings,
    make_small_copies,
    whole_folders,
)
from tests.benchmarks.race import Contestant, Result, race
from tests.benchmarks.rows import Row, add_words, describe_machine, median_row, write_report

OURS = "ours"
# Does less than the others, so nobody is measured against it.
LIMIT = "ffmpeg, decoding alone"
PACKAGES = (
    "torch torchvision nvidia-dali-cuda130 av torchcodec decord opencv-python-headless pillow "
    "imageio-ffmpeg"
).split()
LEGEND = """\
CPU s: one round, median (lowest to highest). source, kept: frames of the clips, and frames that
come out, in a CPU second. ratio: clips in a CPU second, of this row / of the reference, median
(lowest to highest); above 1 is faster. off: mean difference from our frames in levels of 255.
Every way does the same work on one thread: every 4th frame, 256x256, one random warp a clip to
224x224, normalized, packed. Peers of A warp with cv2.warpAffine, the fastest on a CPU. In C the
warp is a crop at a random place: GFSLT-VLP's own augmentation is left out, which favors it.
torchcodec uses PyAV's build of FFmpeg. decord 0.6.0, its newest release, is of June 2021."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Compare the data path with others, in CPU time. The first run makes the "
        "recordings, which takes some minutes."
    )
    add_words(parser)
    parser.add_argument(
        "--small", action="store_true", help="shorter recordings and fewer clips: some minutes less"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    words = parser.parse_args()
    if words.rounds < 1:
        parser.error(f"--rounds ({words.rounds}) must be at least 1.")

    size = SMALL if words.small else FULL
    return run_tool(partial(_compare, words.folder, words.json, size=size, rounds=words.rounds))


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is decoded in a round."""

    folder: str
    """Within that of the benchmarks."""
    seconds: int
    """Length of a recording."""
    num_clips: int
    times_small: int
    """How often over the clips of B, and the next one those of C."""
    times_images: int


FULL = Size(folder=".", seconds=SECONDS, num_clips=12, times_small=4, times_images=8)
SMALL = Size(folder="small", seconds=24, num_clips=6, times_small=4, times_images=4)


def _compare(folder: Path, json_path: Path | None, *, size: Size, rounds: int) -> int:
    machine = describe_machine()
    rows = _contestants(folder / size.folder, size)
    print(*_setting(), "", LEGEND, sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as links:
        _lend_ffmpeg(Path(links))
        # B is measured against A. C by itself, so that its rows follow each other closely.
        results = [
            *race([row for row in rows if row.table != "C"], rounds=rounds, seed=SEED),
            *race([row for row in rows if row.table == "C"], rounds=rounds, seed=SEED),
        ]
    print(f"\nload of the machine at the end: {os.getloadavg()[0]:.1f}")
    _report(results)
    _save(folder / "results.json", results)
    if json_path is not None:
        write_report(json_path, rows_of(results), machine=machine)
    return 0


def rows_of(results: Sequence[Result]) -> list[Row]:
    """Ours beside each other way that ran."""
    a, b, c = ([result for result in results if result.row.table == table] for table in "ABC")
    peers = [
        (f"long recordings, ours / {peer.row.name}", a[0], peer, 0.95)
        for peer in a[1:]
        if peer.row.name != LIMIT
    ]
    peers.append(("ours, transcoded recordings / long ones", b[0], a[0], 5.0))
    peers += [(f"folders of images, ours / {peer.row.name}", c[0], peer, 2.0) for peer in c[1:]]
    return [
        median_row(
            f"decode: {what}",
            ratios,
            unit="ratio of clips in a CPU second",
            better="higher",
            target=target,
        )
        for what, ours, peer, target in peers
        if (ratios := _ratios(ours, peer))
    ]


def _contestants(folder: Path, size: Size) -> list[Contestant]:
    recordings = make_recordings(folder, seconds=size.seconds)
    copies = make_small_copies(folder, recordings)
    long, small = (
        draw_jobs(draw_clips(paths, num_clips=size.num_clips, seconds=size.seconds), augment=True)
        for paths in (recordings, copies)
    )
    # Several times over, because once is over too soon to be measured.
    images = draw_jobs(whole_folders(make_png_folders(folder)) * size.times_images, augment=False)
    a = {
        OURS: make_ours,
        "PyAV": make_pyav,
        "torchcodec, exact seek": partial(make_torchcodec, "exact"),
        "torchcodec, approximate seek": partial(make_torchcodec, "approximate"),
        "decord": make_decord,
        "OpenCV": make_opencv,
        LIMIT: make_ffmpeg,
    }
    return [
        *(Contestant(table="A", name=name, make=make, jobs=long) for name, make in a.items()),
        Contestant(table="B", name=OURS, make=make_ours, jobs=small * size.times_small),
        Contestant(table="C", name=OURS, make=make_ours, jobs=images),
        Contestant(table="C", name="GFSLT-VLP", make=make_gfslt, jobs=images),
    ]


def _lend_ffmpeg(links: Path) -> None:
    """Let torchcodec find the FFmpeg that PyAV brings: under its plain names, in new processes."""
    spec = find_spec("av")
    libraries = Path(spec.origin or "").parents[1] / "av.libs" if spec else Path()
    for library in libraries.glob("lib*.so*"):
        found = re.fullmatch(r"(lib(?:av|sw)\w+)-\w+(\.so\.\d+)[.\d]*", library.name)
        if found:
            (links / f"{found[1]}{found[2]}").symlink_to(library)
    folders = [str(links), str(libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, folders))


def _setting() -> list[str]:
    """What the numbers depend on, a line each."""
    cpus = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return [
        f"command: {shlex.join(['python', '-m', 'tests.benchmarks.decode', *sys.argv[1:]])}",
        f"machine: {cpus[0] if cpus else 'unknown CPU'}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f} before",
        f"Python {sys.version.split()[0]}; " + ", ".join(map(_version, PACKAGES)),
        f"seed {SEED}",
    ]


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} missing"


def _report(results: Sequence[Result]) -> None:
    a, b, c = ([result for result in results if result.row.table == table] for table in "ABC")
    peer = _best_peer(a)
    _print_table("A. Clips out of long recordings, 1280x720 H.264, GOP 250", a, reference=peer)
    _judge(a[0], peer, target=0.95, of=f"the best peer, {peer.row.name}")
    _print_table(
        "B. The same after transcoding: 256 pixels, GOP 12, no B-frames, fastdecode",
        b,
        reference=a[0],
    )
    _judge(b[0], a[0], target=5, of="ours in A")
    peer = _best_peer(c)
    _print_table("C. Folders of PNG images, 210x260", c, reference=peer)
    _judge(c[0], peer, target=2, of=peer.row.name)


def _best_peer(results: Sequence[Result]) -> Result:
    peers = [result for result in results if result.row.name not in (OURS, LIMIT)]
    return min(peers, key=lambda peer: median(peer.cpu_s) if peer.cpu_s else float("inf"))


def _print_table(title: str, results: Sequence[Result], *, reference: Result) -> None:
    print(f"\n{title}\n")
    print("| | CPU s | source | kept | clips a CPU s | ratio | off |")
    print("|---|---|---|---|---|---|---|")
    for result in results:
        if not result.cpu_s:
            print(f"| {result.row.name} | does not run: {result.fault} | | | | | |")
            continue
        jobs, cpu_s = result.row.jobs, median(result.cpu_s)
        source = sum(job.clip.num_frames for job in jobs) / cpu_s
        kept = sum(len(job.frame_numbers) for job in jobs) / cpu_s
        off = None if result is results[0] else result.differs_from(results[0])
        print(
            f"| {result.row.name} | {_spread(result.cpu_s)} | {source:.0f} | {kept:.0f} "
            f"| {len(jobs) / cpu_s:.2f} | {_spread(_ratios(result, reference))} "
            f"| {'' if off is None else f'{off:.2f}'} |"
        )


def _judge(ours: Result, reference: Result, *, target: float, of: str) -> None:
    ratios = _ratios(ours, reference)
    if not ratios:
        print(f"\nTarget: at least {target} of {of}. Not measured.")
        return
    verdict = "reached" if median(ratios) >= target else "not reached"
    print(f"\nTarget: at least {target} of {of}. It is {median(ratios):.2f}: {verdict}.")


def _ratios(result: Result, reference: Result) -> list[float]:
    """How many times as many clips in a CPU second, one ratio a round."""
    work = len(result.row.jobs) / len(reference.row.jobs)
    return [theirs / own * work for own, theirs in zip(result.cpu_s, reference.cpu_s, strict=False)]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _save(path: Path, results: Sequence[Result]) -> None:
    rows = [
        {
            "table": result.row.table,
            "name": result.row.name,
            "clips": len(result.row.jobs),
            "source_frames": sum(job.clip.num_frames for job in result.row.jobs),
            "kept_frames": sum(len(job.frame_numbers) for job in result.row.jobs),
            "cpu_s": result.cpu_s,
            "fault": result.fault,
        }
        for result in results
    ]
    report = {"setting": _setting(), "rows": rows}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

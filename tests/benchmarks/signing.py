"""How well signing is found without a model: python -m tests.benchmarks.signing MANIFEST.tsv ...

Every recording of a manifest is cut, and what is found is compared with the manifest's ranges. A
segment and a range match where their overlap is at least half of what they cover together.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from fla.data.manifest import read_manifest
from fla.progress import Progress
from fla.translating.activity import Cut, find_signing
from fla.translating.recordings import read_recording
from fla.translating.segments import Segment

ENOUGH = 0.5


def count_matches(found: Sequence[Segment], real: Sequence[Segment]) -> int:
    """Pairs that match, each segment in one at most."""
    # Two that match the same one would have to overlap by half.
    return sum(any(_overlap(one, other) >= ENOUGH for other in found) for one in real)


def _overlap(one: Segment, other: Segment) -> float:
    common = min(one.end_s, other.end_s) - max(one.start_s, other.start_s)
    return common / (max(one.end_s, other.end_s) - min(one.start_s, other.start_s))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, nargs="+")
    parser.add_argument("--min-pause-s", type=float, default=Cut.min_pause_s)
    parser.add_argument("--most", type=int, default=1_000_000, help="recordings of a manifest")
    words = parser.parse_args()
    for path in words.manifest:
        manifest = read_manifest(path)
        ranges = defaultdict(list)
        for row in manifest.samples:
            ranges[row.video].append(Segment(start_s=row.start_s, end_s=row.end_s))
        videos = sorted(ranges)[: words.most]
        found = matches = 0
        with Progress(str(path), total=len(videos), unit="recordings") as progress:
            for video in videos:
                recording = read_recording(manifest.root / video)
                cut = Cut(min_pause_s=words.min_pause_s)
                segments = find_signing(recording, cut=cut, on_progress=lambda _: None)
                found += len(segments)
                matches += count_matches(segments, ranges[video])
                progress.advance()
        real = sum(len(ranges[video]) for video in videos)
        print(
            f"{path.name}: {len(videos)} recordings, {real} sentences, {found} segments: "
            f"recall {matches / real:.3f}, precision {matches / found:.3f} at IoU {ENOUGH}"
        )


if __name__ == "__main__":
    main()

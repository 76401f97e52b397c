"""The frozen encoder runs once over a split, on any number of ranks, and never in vain."""

import fcntl
import json
import logging
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from fla.batch import Batch
from fla.caching import CacheBuilder
from fla.config.schema import DataConfig
from fla.data.clips import DecodedClips
from fla.data.decode.video import in_range, probe_video
from fla.data.features import CachedFeatures
from fla.data.loader import ClipLoader
from fla.data.manifest import Sample
from fla.data.views import DrawnViews, PlainView
from fla.errors import CheckpointError, DataError, DiskError
from fla.models.features import FrozenEncoder, build_feature_encoder
from fla.models.visual_encoder import build_visual_encoder
from fla.runtime import Runtime, join_process_group
from fla.split import Split
from tests.helpers.ranks import one_of, run_ranks
from tests.helpers.videos import write_video

NUM_SAMPLES = 7
WIDTH = 16
LOOK: dict[str, Any] = {
    "frame_stride": 3,
    "target_fps": 0.0,
    "max_frames": 8,
    "resize_px": 36,
    "crop_px": 32,
}
DRAWN = DrawnViews(
    seed=1,
    augment=True,
    max_rotation_deg=8.0,
    max_rescale_fraction=0.1,
    max_shift_fraction=0.04,
    **LOOK,
)
DATA = DataConfig(
    manifest_dir="", frames_per_batch=24, num_threads=1, prefetch_batches=2, host_memory_gib=1.0
)


@pytest.fixture(scope="module", autouse=True)
def process_group():
    join_process_group("gloo", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    write_video(root / "h264.mp4", num_frames=120)
    (root / "broken.mp4").write_bytes(b"no video" * 500)
    return root


def split_of(root: Path, *, broken: tuple[int, ...] = ()) -> Split:
    times = probe_video(root / "h264.mp4").frame_times
    samples = []
    for number in range(NUM_SAMPLES):
        start_s, end_s = 0.5 * number, 0.5 * number + 0.5 + 0.2 * number
        samples.append(
            Sample(
                id=f"clip{number}",
                video="broken.mp4" if number in broken else "h264.mp4",
                start_s=start_s,
                end_s=end_s,
                fps=15.0,
                num_frames=int(in_range(times, start_s, end_s).sum()),
                signer="",
                sentence=f"Sentence {number}.",
            )
        )
    return Split(
        name="train",
        samples=tuple(samples),
        root=root,
        token_ids=[[4, 2]] * NUM_SAMPLES,
        manifest=root / "train.tsv",
        manifest_sha256="",
        full_frame_px=0,
    )


class Counted(FrozenEncoder):
    """Counts what it encodes."""

    num_frames = 0

    def forward(self, batch: Batch) -> Batch:
        assert batch.frames is not None
        self.num_frames += len(batch.frames)
        return super().forward(batch)


def encoder_of(seed: int = 1, width: int = WIDTH) -> Counted:
    torch.manual_seed(seed)
    visual_encoder = build_visual_encoder(sign_width=width, kernel_size=3)
    return Counted(build_feature_encoder(visual_encoder, input_features="sign_wise", light_t=None))


def builder_of(root: Path, cache_dir: Path, **changes: Any) -> CacheBuilder:
    arguments: dict[str, Any] = {
        "split": split_of(root),
        "views": PlainView(**LOOK),
        "num_views": 0,
        "encoder": encoder_of(),
        "input_features": "sign_wise",
        "cache_dir": cache_dir,
        "data": DATA,
        "leaves_out": False,
        "runtime": one_of(1),
    }
    return CacheBuilder(**(arguments | changes))


def decoder_of(builder: CacheBuilder) -> ClipLoader:
    split = builder.split
    return ClipLoader(
        split.samples,
        source=DecodedClips(
            root=split.root,
            views=builder.views,
            runtime=one_of(1),
            max_clips=1,
            frames_per_batch=24,
            num_threads=1,
            host_memory_gib=1.0,
            full_frame_px=0,
        ),
        lengths=builder.views.lengths(split.samples),
        token_ids=split.token_ids,
        runtime=one_of(1),
        frames_per_batch=24,
        prefetch_batches=2,
    )


def cache_of(cache_dir: Path) -> Path:
    (folder,) = cache_dir.iterdir()
    return folder


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def build_on_ranks(root: Path, cache_dir: Path) -> int:
    """Frames that this rank encoded."""
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    encoder = encoder_of()
    runtime: Runtime = one_of(world_size, rank)
    builder_of(root, cache_dir, encoder=encoder, views=DRAWN, num_views=2, runtime=runtime).open()
    return encoder.num_frames


def test_ranks_share_the_work_and_make_what_one_makes(root: Path, tmp_path: Path):
    by_rank = run_ranks(build_on_ranks, root, tmp_path / "two", world_size=2)
    (alone,) = run_ranks(build_on_ranks, root, tmp_path / "one", world_size=1)

    # Each looked at one gray frame, too.
    assert sum(by_rank) - 2 == alone - 1
    assert min(by_rank) > 1
    one, two = cache_of(tmp_path / "one"), cache_of(tmp_path / "two")
    assert one.name == two.name
    assert shards_of(one) == shards_of(two)
    assert (one / "cache.json").read_bytes() == (two / "cache.json").read_bytes()


def test_cached_features_are_what_the_encoder_makes_of_the_frames(root: Path, tmp_path: Path):
    builder = builder_of(root, tmp_path, views=DRAWN, num_views=2)

    cached = builder.open()

    with torch.no_grad():
        loader = decoder_of(builder)
        for batch in loader.read([((4,), 0), ((6,), 1)]):
            epoch = 1 if batch.sample_ids == ("clip6",) else 0
            samples = [builder.split.samples[int(id[4:])] for id in batch.sample_ids]
            clips = cached.read(samples, epoch=epoch)
            torch.testing.assert_close(
                clips.features, builder.encoder(batch).features, rtol=0.02, atol=0.02
            )
            assert clips.lengths.tolist() == batch.frame_lengths.tolist()
        loader.close()


def test_what_is_there_is_not_encoded_again(root: Path, tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    builder_of(root, tmp_path).open()
    before = shards_of(cache_of(tmp_path))
    again = encoder_of()

    builder_of(root, tmp_path, encoder=again).open()

    assert again.num_frames == 0
    assert shards_of(cache_of(tmp_path)) == before
    assert "There was nothing left to encode." in caplog.messages[-1]


def test_what_it_will_take_is_said_first(root: Path, tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)

    builder_of(root, tmp_path).open()

    (line,) = [message for message in caplog.messages if "to be encoded" in message]
    assert line.startswith(
        "train: 7 clips with 41 frames are to be encoded, 0.00125 MiB on disk, in "
    )


def test_a_build_goes_on_with_the_shards_that_are_missing(root: Path, tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    builder_of(root, tmp_path).open()
    folder = cache_of(tmp_path)
    whole = shards_of(folder)
    content = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps(content | {"shards": None}))
    lost = sorted(whole)[2]
    (folder / lost).unlink()
    (folder / f".{lost}.4711").write_bytes(b"half a shard")
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}

    builder_of(root, tmp_path).open()

    assert shards_of(folder) == whole
    assert times == {name: (folder / name).stat().st_mtime_ns for name in times}
    assert not list(folder.glob(".*"))
    assert f"{folder} is not whole: building goes on, 6 of 7 shards are there." in caplog.messages


def test_a_cache_of_no_use_is_named_with_what_differs(root: Path, tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    builder_of(root, tmp_path).open()
    stale = cache_of(tmp_path)

    builder_of(
        root,
        tmp_path,
        encoder=encoder_of(seed=2),
        views=PlainView(**(LOOK | {"frame_stride": 4})),
    ).open()

    assert (
        f"{stale} is of no use here: other encoder weights, data.frame_stride was 3 and is 4. "
        "Delete it, unless another run has use for it."
    ) in caplog.messages
    assert len(list(tmp_path.iterdir())) == 2


def test_a_copy_of_another_cache_is_refused(root: Path, tmp_path: Path):
    builder_of(root, tmp_path / "a").open()
    builder_of(root, tmp_path / "b", encoder=encoder_of(seed=2)).open()
    place = cache_of(tmp_path / "b")
    place.rename(tmp_path / "aside")
    cache_of(tmp_path / "a").rename(place)

    with pytest.raises(CheckpointError, match="that of another cache: other encoder weights"):
        builder_of(root, tmp_path / "b", encoder=encoder_of(seed=2)).open()


def test_a_clip_that_does_not_decode_ends_the_build_with_its_name(root: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"^clip2: .*broken\.mp4 does not decode: "):
        builder_of(root, tmp_path, split=split_of(root, broken=(2,))).open()


def test_such_clips_are_left_out_and_listed_where_that_is_asked_for(
    root: Path, tmp_path: Path, caplog
):
    split = split_of(root, broken=(2,))
    data = replace(DATA, max_skipped_fraction=0.2)

    builder = builder_of(root, tmp_path, split=split, data=data, leaves_out=True)
    features: CachedFeatures = builder.open()

    assert "1 do not decode and have none" in features.summary
    assert any(m.startswith("Left out: clip2: ") for m in caplog.messages)
    with pytest.raises(DataError, match=r"^clip2: .*broken\.mp4 does not decode: "):
        features.read([split.samples[2]], epoch=0)
    assert features.read([split.samples[3]], epoch=0).features is not None


def test_more_of_them_than_allowed_end_the_build(root: Path, tmp_path: Path):
    split = split_of(root, broken=(2, 4))
    data = replace(DATA, max_skipped_fraction=0.2)

    with pytest.raises(DataError, match=r"^2 of 7 training clips do not decode, more than"):
        builder_of(root, tmp_path, split=split, data=data, leaves_out=True).open()


class Huge:
    """An encoder whose features fit on no disk."""

    def __call__(self, batch: Batch) -> Batch:
        features = torch.zeros(1, 1).expand(int(batch.frame_lengths.sum()), 10**12)
        return replace(batch, frames=None, features=features)

    def digest(self) -> str:
        return "c" * 64


def test_a_disk_with_less_room_is_refused_before_anything_is_encoded(root: Path, tmp_path: Path):
    with pytest.raises(
        DataError,
        match=r"the features of train need \d+\.\d\d GiB, and \d+\.\d\d GiB are free\. Make room",
    ):
        builder_of(root, tmp_path, encoder=Huge()).open()

    assert shards_of(cache_of(tmp_path)) == {}


def build_with_little_room(root: Path, cache_dir: Path) -> None:
    # What a file may grow to: as good as a full disk, and needs no disk of its own.
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
    builder_of(root, cache_dir, encoder=encoder_of(width=2048)).open()


def test_a_disk_that_fills_while_features_are_written_is_one_sentence(root: Path, tmp_path: Path):
    with pytest.raises(DiskError) as caught:
        run_ranks(build_with_little_room, root, tmp_path, world_size=1)

    sentence = str(caught.value).splitlines()[0]
    assert ".safetensors: it could not be written (File too large; " in sentence
    assert not list(cache_of(tmp_path).glob(".*.safetensors.*"))


def test_two_builds_of_one_cache_do_not_meet(root: Path, tmp_path: Path):
    builder_of(root, tmp_path).open()
    folder = cache_of(tmp_path)
    (folder / "cache.json").unlink()

    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another run is encoding there"):
            builder_of(root, tmp_path).open()

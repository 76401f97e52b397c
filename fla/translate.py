"""Translate one's own videos with an exported model, through the very pipeline of training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from fla.batch import Batch, pad_labels
from fla.data.clips import Clips, DecodedClips
from fla.data.decode.video import in_range
from fla.data.manifest import Sample
from fla.data.memory import fit_frames
from fla.data.pipeline import ClipError, choose_decoder
from fla.data.processes import count_cores
from fla.data.sampling import cut_in_order
from fla.data.views import PlainView
from fla.errors import DataError
from fla.export import load_translator
from fla.runtime import Runtime, find_device
from fla.search import Hypothesis, Search
from fla.translating.likeness import describe_length, describe_unlike
from fla.translating.recordings import Recording, read_recording
from fla.translating.segments import Segment

__all__ = ["Recording", "Segment", "Translation", "VideoTranslator", "read_recording"]

# As launchers/decode.py batches.
_BATCH_SIZE = 16
_FRAMES_PER_BATCH = 600
_MAX_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Translation:
    """What a segment of a video says."""

    segment: Segment
    """As asked for; an end behind that of the video is the video's end."""
    hypotheses: tuple[Hypothesis, ...]
    """Best first, at least one."""
    warnings: tuple[str, ...] = ()
    """In which ways the segment is unlike the training data."""


class VideoTranslator:
    """An exported model, ready to translate videos; close it, or use it in a `with` block.

    Args:
        export: Export folder of a run.
        search: How sentences are searched for.
        host_memory_gib: Bound of the memory that decoded frames take outside of a GPU.

    Raises:
        CheckpointError: The folder is no export.
    """

    def __init__(self, export: Path, *, search: Search, host_memory_gib: float = 4.0) -> None:
        device = find_device()
        self._runtime = Runtime(
            device=device.name,
            rank=0,
            local_rank=0,
            world_size=1,
            dali_device_id=device.dali_device_id,
            decode_device=device.decode_device,
        )
        self._search, self._host_memory_gib = search, host_memory_gib
        self._translator = load_translator(export, device=device.name)
        self.preprocessing = self._translator.description.preprocessing
        self._typical = self._translator.description.corpus.typical
        ours = self.preprocessing
        self._views = PlainView(
            frame_stride=ours.frame_stride,
            target_fps=ours.target_fps,
            max_frames=ours.max_frames,
            resize_px=ours.resize_px,
            crop_px=ours.crop_px,
        )
        self._source = DecodedClips(
            root=Path(),
            views=self._views,
            runtime=self._runtime,
            max_clips=_BATCH_SIZE,
            # How many a batch may have depends on the videos.
            frames_per_batch=1,
            num_threads=min(count_cores(), _MAX_THREADS),
            host_memory_gib=host_memory_gib,
            full_frame_px=0,
        )

    def __enter__(self) -> "VideoTranslator":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the decoding threads."""
        self._source.close()

    def translate(self, video: Path | Recording, segments: Sequence[Segment]) -> list[Translation]:
        """Translate segments of a video, each taken as one sentence.

        Args:
            video: Any file that the data path decodes, or what `read_recording` gives of it.
            segments: In any order.

        Raises:
            DataError: The file is no video, or a segment of it has no frame or does not decode.
        """
        recording = video if isinstance(video, Recording) else read_recording(video)
        results = self.translate_clips([(recording, segment) for segment in segments])
        translations = []
        for result in results:
            if isinstance(result, DataError):
                raise result
            translations.append(result)
        return translations

    def translate_clips(
        self,
        clips: Sequence[tuple[Recording, Segment]],
        *,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> list[Translation | DataError]:
        """Translate segments of several videos; what one of them lacks does not stop the others.

        Long clips are batched with long ones, as many as the memory holds; which they are does not
        change what they say.

        Args:
            clips: In any order.
            on_progress: Called with the number of clips that have been done since the last call.

        Returns:
            For each clip, in the order of `clips`, its translation, or what is wrong with it.
        """
        results: dict[int, Translation | DataError] = {}
        samples: dict[int, Sample] = {}
        for index, (recording, segment) in enumerate(clips):
            try:
                sample = describe_clip(recording, segment, sample_id=str(index))
                self._check_memory(recording, sample)
                samples[index] = sample
            except DataError as error:
                results[index] = error
        on_progress(len(results))
        for batch in self._plan(samples, [recording for recording, _ in clips]):
            results |= self._translate_batch({index: samples[index] for index in batch})
            on_progress(len(batch))
        return [results[index] for index in range(len(clips))]

    def describe_unlike(self, recording: Recording) -> tuple[str, ...]:
        """Sentences on what of a video is unlike the training data; they name the video."""
        return describe_unlike(recording, preprocessing=self.preprocessing, typical=self._typical)

    def _plan(
        self, samples: Mapping[int, Sample], recordings: Sequence[Recording]
    ) -> Sequence[Sequence[int]]:
        """Batches of clips, the longest first."""
        if not samples:
            return []
        lengths = {index: self._length(sample) for index, sample in samples.items()}
        fitting = min(self._fit_frames(recordings[index]) for index in samples)
        return cut_in_order(
            sorted(samples, key=lambda index: -lengths[index]),
            lengths,
            batch_size=_BATCH_SIZE,
            frames_per_batch=min(_FRAMES_PER_BATCH, fitting),
        )

    def _translate_batch(self, samples: Mapping[int, Sample]) -> dict[int, Translation | DataError]:
        results: dict[int, Translation | DataError] = {}
        left = list(samples)
        while left:
            try:
                clips = self._source.read([samples[index] for index in left], epoch=0)
            except ClipError as error:
                # It names the clip by its number here, which says nothing to a user.
                index = int(error.sample_id)
                results[index] = DataError(error.args[1])
                left.remove(index)
                continue
            found = self._search_batch([samples[index] for index in left], clips)
            return results | dict(zip(left, found, strict=True))
        return results

    def _search_batch(self, samples: Sequence[Sample], clips: Clips) -> list[Translation]:
        batch = Batch(
            sample_ids=tuple(sample.id for sample in samples),
            references=("",) * len(samples),
            frame_lengths=clips.lengths,
            labels=pad_labels([[self._translator.codec.eos_id]] * len(samples)),
            frames=clips.frames,
        )
        found = self._translator.translate(batch, search=self._search)
        return [
            Translation(
                segment=Segment(start_s=sample.start_s, end_s=sample.end_s),
                hypotheses=hypotheses,
                warnings=describe_length(
                    sample, preprocessing=self.preprocessing, typical=self._typical
                ),
            )
            for sample, hypotheses in zip(samples, found, strict=True)
        ]

    def _length(self, sample: Sample) -> int:
        return int(self._views.lengths([sample])[0])

    def _fit_frames(self, recording: Recording) -> int:
        """Frames of a recording that the memory holds at once."""
        video, device = recording.format, self._runtime.decode_device
        has_full_frames = (
            video is not None and device == "cpu" and choose_decoder(video, device) == "dali"
        )
        return fit_frames(
            host_memory_gib=self._host_memory_gib,
            resize_px=self._views.resize_px,
            crop_px=self._views.crop_px,
            full_frame_px=video.width * video.height if video and has_full_frames else 0,
            is_on_gpu=self._runtime.dali_device_id is not None,
        )

    def _check_memory(self, recording: Recording, sample: Sample) -> None:
        fitting, length = self._fit_frames(recording), self._length(sample)
        if length > fitting:
            raise DataError(
                f"{recording.path}: {length} frames of it do not fit into "
                f"{self._host_memory_gib:g} GiB, only {fitting} do. Give more with "
                "--host-memory-gib, or make the video smaller."
            )
        # What is compressed of it is held as a whole, too.
        part = (sample.end_s - sample.start_s) / recording.duration_s
        try:
            size = recording.path.stat().st_size if recording.format is not None else 0
        except OSError as error:
            raise DataError(
                f"{recording.path} cannot be read: {error.strerror}. Look whether it is there."
            ) from error
        num_gib = part * size / 2**30
        if num_gib > self._host_memory_gib:
            raise DataError(
                f"{recording.path}: {num_gib:.1f} GiB of the file are one sentence, and only "
                f"{self._host_memory_gib:g} GiB are for it. Cut it into sentences, with --segments "
                "or --segment-automatically, or give more with --host-memory-gib."
            )


def describe_clip(recording: Recording, segment: Segment, *, sample_id: str) -> Sample:
    """A segment as the data path knows the sentences of a corpus.

    Raises:
        DataError: No frame lies in it.
    """
    times = recording.frame_times
    num_frames = int(in_range(times, segment.start_s, segment.end_s).sum())
    if num_frames == 0:
        raise DataError(
            f"{recording.path}: no frame lies in the segment {segment}; the video lasts "
            f"{recording.duration_s:.2f} s. Give another range."
        )
    return Sample(
        id=sample_id,
        video=str(recording.path),
        start_s=segment.start_s,
        end_s=min(segment.end_s, recording.duration_s),
        fps=recording.fps,
        num_frames=num_frames,
        signer="",
        sentence="",
    )

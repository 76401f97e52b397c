"""Translate one video with an exported model, through the very pipeline of training."""

from contextlib import closing
from pathlib import Path

from fla.batch import Batch, pad_labels
from fla.config.schema import BeamConfig
from fla.data.decode.video import in_range, probe_video
from fla.data.pipeline import ClipPipeline, ClipRequest
from fla.data.sampling import centre_warp, choose_frames, choose_stride
from fla.description import Preprocessing
from fla.errors import DataError
from fla.export import load_translator
from fla.runtime import find_device


def translate_video(
    video: Path, export: Path, *, start_s: float, end_s: float, num_beams: int
) -> str:
    """Translate the range of a video, taken as one sentence.

    Args:
        video: Any file that the data path decodes.
        export: Export folder of a run.
        start_s: First moment, in seconds after the first presented frame.
        end_s: End, exclusive; infinity: the whole video.
        num_beams: Hypotheses kept while decoding.

    Raises:
        CheckpointError: The folder is no export.
        DataError: The file is no video, or has no frame in the range.
    """
    device = find_device()
    translator = load_translator(export, device=device.name)
    request = _choose_clip(video, start_s, end_s, translator.description.preprocessing)
    preprocessing = translator.description.preprocessing
    with closing(
        ClipPipeline(
            decode_device=device.decode_device,
            dali_device_id=device.dali_device_id,
            resize_px=preprocessing.resize_px,
            crop_px=preprocessing.crop_px,
            max_clips=1,
            num_threads=2,
        )
    ) as pipeline:
        frames, frame_lengths = pipeline.run([request])
    batch = Batch(
        sample_ids=(request.sample_id,),
        references=("",),
        frame_lengths=frame_lengths,
        labels=pad_labels([[translator.codec.eos_id]]),
        frames=frames,
    )
    with translator.inference():
        ids = translator.model.generate(
            translator.prepare(batch),
            num_beams=num_beams,
            length_penalty=BeamConfig().length_penalty,
            max_new_tokens=BeamConfig().max_new_tokens,
        )
    return translator.codec.decode(ids)[0]


def _choose_clip(
    video: Path, start_s: float, end_s: float, preprocessing: Preprocessing
) -> ClipRequest:
    info = probe_video(video)
    times = info.frame_times
    num_frames = int(in_range(times, start_s, end_s).sum())
    if num_frames == 0:
        raise DataError(
            f"{video}: no frame lies between {start_s} s and {end_s} s; the video lasts "
            f"{times[-1]:.2f} s. Give another range."
        )
    return ClipRequest(
        sample_id=video.name,
        path=video,
        fps=info.fps,
        start_s=start_s,
        end_s=end_s,
        num_frames=num_frames,
        frame_numbers=choose_frames(
            num_frames,
            stride=choose_stride(
                info.fps,
                frame_stride=preprocessing.frame_stride,
                target_fps=preprocessing.target_fps,
            ),
            max_frames=preprocessing.max_frames,
        ),
        warp=centre_warp(resize_px=preprocessing.resize_px, crop_px=preprocessing.crop_px),
    )

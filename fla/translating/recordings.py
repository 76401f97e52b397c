"""Videos to translate: found among what a user names, and opened without decoding them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fla.data.decode.images import read_image_size
from fla.data.decode.video import VideoFormat, probe_video
from fla.data.frame_folder import is_frame_folder, list_frames
from fla.errors import DataError

VIDEO_ENDINGS = frozenset(
    ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()
)
"""Names of files that are taken for videos where a folder is to be translated."""

# The length of a recording's one frame, where nothing says how long it is shown.
_ONE_FRAME_FPS = 25.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """A video, or a folder of images, that can be translated."""

    path: Path
    """As the user named it: how sentences speak of it."""
    fps: float
    """Mean frame rate."""
    frame_times: NDArray[np.float64]
    """Presentation times in seconds after the first frame, rising."""
    aspect: float
    """Width over height as it is shown."""
    format: VideoFormat | None
    """None: a folder of images."""

    @property
    def duration_s(self) -> float:
        """When its last frame is over."""
        return float(self.frame_times[-1]) + 1 / (self.fps or _ONE_FRAME_FPS)


def list_videos(path: Path) -> list[Path]:
    """What a user's word stands for: the videos of a folder in order of their names, else itself.

    Raises:
        DataError: The folder holds nothing that can be translated.
    """
    if not path.is_dir():
        return [path]
    # "._x.mp4" is what macOS leaves beside x.mp4 on foreign disks.
    videos = sorted(
        child
        for child in path.iterdir()
        if child.suffix.lower() in VIDEO_ENDINGS and not child.name.startswith(".")
    )
    if videos:
        return videos
    if list_frames(path):
        return [path]
    raise DataError(
        f"{path} holds no video file ({', '.join(sorted(VIDEO_ENDINGS))}) and no image. Name the "
        "folder that holds them directly."
    )


def read_recording(path: Path, *, images_fps: float = 0.0) -> Recording:
    """List the frames of a video or a folder of images.

    Args:
        path: The video, the folder of its images, or such a folder inside a zip archive.
        images_fps: Frames a second of images, which do not say it themselves; 0: not known.

    Raises:
        DataError: There is no such file, it is no video, or the rate of images is not known.
    """
    if not path.exists() and not is_frame_folder(path):
        raise DataError(f"{path}: there is no such file. Check the path.")
    if is_frame_folder(path):
        return _read_images(path, images_fps)
    info = probe_video(path)
    return Recording(
        path=path,
        fps=info.fps,
        frame_times=info.frame_times,
        aspect=info.aspect,
        format=info,
    )


def _read_images(path: Path, fps: float) -> Recording:
    names = list_frames(path)
    if not names:
        raise DataError(f"{path} holds no image. Name the folder that holds them directly.")
    if not fps:
        raise DataError(
            f"{path} holds {len(names)} images, which do not say how fast they were taken. Say it "
            "with --fps, as --fps 25."
        )
    width, height = read_image_size(path)
    return Recording(
        path=path,
        fps=fps,
        frame_times=np.arange(len(names)) / fps,
        aspect=width / height,
        format=None,
    )

"""What the log says of a split before training."""

from fla.data.decode.video import VideoFormat
from fla.data.pipeline import choose_decoder
from fla.split import describe_decoders


def video(codec: str, pixel_format: str = "yuv420p") -> VideoFormat:
    return VideoFormat(
        codec=codec, width=1280, height=720, pixel_format=pixel_format, duration_s=9.0,
        is_plain=True, aspect=16 / 9,
    )  # fmt: skip


def test_a_split_says_how_many_clips_go_which_way():
    kinds = {("images", "images"): 2, ("vp9 yuv420p", "dali"): 3, ("h264 yuv422p", "software"): 9}

    assert describe_decoders("train", kinds) == [
        "train: 9 clips of h264 yuv422p: decoded in software.",
        "train: 3 clips of vp9 yuv420p: decoded by DALI.",
        "train: 2 clips of images: decoded in software.",
    ]


def test_dali_gets_what_it_decodes_on_a_device_and_software_the_rest():
    assert choose_decoder(video("h264"), "mixed") == "dali"
    assert choose_decoder(video("h264"), "cpu") == "software"
    assert choose_decoder(video("vp9"), "cpu") == "dali"
    assert choose_decoder(video("av1"), "mixed") == "software"


def test_ten_bits_and_4_2_2_are_not_for_nvdec():
    assert choose_decoder(video("h264", "yuv420p10le"), "mixed") == "software"
    assert choose_decoder(video("h264", "yuv422p"), "mixed") == "software"


def test_images_are_no_recording():
    assert choose_decoder(None, "mixed") == "images"

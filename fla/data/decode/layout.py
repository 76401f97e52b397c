"""Size and colors of compressed pictures, read from their headers without decoding them.

For decoders that believe a file's header: DALI on a CPU writes behind its buffers where a later
picture is wider, and gives black where it is smaller. Browsers record such VP8 and VP9.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

Layout = tuple[int, int, str]
"""Width, height, and how colors are stored, if the picture says so."""

_VP8_START = b"\x9d\x01\x2a"
_VP9_SYNC, _VP9_RGB = 0x498342, 7
# The frame headers among JPEG's markers.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def is_uniform(codec: str, packets: Iterable[bytes], *, width: int, height: int) -> bool:
    """Whether all pictures have one layout, of the size that the file's header tells.

    Pictures whose headers are damaged have not. Of codecs other than VP8, VP9 and MJPEG nothing
    is read, and nothing is found amiss.
    """
    read = {"vp8": _read_vp8, "vp9": _read_vp9, "mjpeg": _read_jpeg}.get(codec)
    if read is None:
        return True
    try:
        layouts = {layout for packet in packets for layout in read(packet)}
    except (IndexError, ValueError):
        return False
    sizes = {(wide, high) for wide, high, _ in layouts}
    colors = {colors for _, _, colors in layouts if colors}
    return sizes == {(width, height)} and len(colors) == 1


def _read_vp8(packet: bytes) -> Iterator[Layout]:
    # RFC 6386, section 9.1; only key frames say it.
    if packet[0] & 1 == 0:
        if packet[3:6] != _VP8_START:
            raise ValueError("no key frame of VP8")
        # Above them stand two bits for scaling, which decoders leave alone.
        sizes = (int.from_bytes(packet[i : i + 2], "little") & 0x3FFF for i in (6, 8))
        yield next(sizes), next(sizes), "4:2:0"


def _read_vp9(packet: bytes) -> Iterator[Layout]:
    for picture in _split_superframe(packet):
        layout = _read_vp9_header(_bits_of(picture))
        if layout is not None:
            yield layout


def _split_superframe(packet: bytes) -> Iterator[bytes]:
    """A packet's pictures, of which one is shown (VP9 bitstream, annex B)."""
    mark = packet[-1]
    bytes_per_size, count = (mark >> 3 & 3) + 1, (mark & 7) + 1
    index = packet[-2 - bytes_per_size * count :]
    if mark >> 5 != 0b110 or index[0] != mark:
        yield packet
        return
    begin = 0
    for place in range(1, 1 + bytes_per_size * count, bytes_per_size):
        size = int.from_bytes(index[place : place + bytes_per_size], "little")
        yield packet[begin : begin + size]
        begin += size


def _bits_of(data: bytes) -> Callable[[int], int]:
    """A function that reads so many bits more, the highest first; headers are short."""
    bits = iter("".join(f"{byte:08b}" for byte in data[:32]))

    def read(count: int) -> int:
        # A ValueError where nothing is left.
        return int("".join(islice(bits, count)), 2)

    return read


def _read_vp9_header(read: Callable[[int], int]) -> Layout | None:
    """What the uncompressed header says (VP9 bitstream, 6.2); None: as other pictures before."""
    if read(2) != 2:
        raise ValueError("no picture of VP9")
    profile = read(1) + 2 * read(1)
    if profile == 3:
        read(1)
    if read(1):
        # An earlier picture is shown again.
        return None
    is_key, is_shown, is_resilient = not read(1), read(1), read(1)
    colors = ""
    if is_key:
        colors = _read_vp9_colors(read, profile)
    else:
        is_intra = not is_shown and read(1)
        if not is_resilient:
            read(2)
        if is_intra and profile == 0:
            _check_sync(read)
        elif is_intra:
            colors = _read_vp9_colors(read, profile)
        # Which pictures this one replaces.
        read(8)
        if not is_intra:
            read(12)
            # One of the three pictures that it refers to has its size.
            if read(1) or read(1) or read(1):
                return None
    return read(16) + 1, read(16) + 1, colors


def _read_vp9_colors(read: Callable[[int], int], profile: int) -> str:
    _check_sync(read)
    depth = read(1) if profile >= 2 else 0
    space = read(3)
    if space == _VP9_RGB:
        sampling = read(1) if profile in (1, 3) else 0
    else:
        read(1)
        sampling = read(3) if profile in (1, 3) else 0
    return f"profile {profile}, {depth}, {space == _VP9_RGB}, {sampling}"


def _check_sync(read: Callable[[int], int]) -> None:
    if read(24) != _VP9_SYNC:
        raise ValueError("no picture of VP9 that decodes by itself")


def _read_jpeg(packet: bytes) -> Iterator[Layout]:
    place = 2
    while packet[place + 1] not in _JPEG_FRAMES:
        if packet[place] != 0xFF:
            raise ValueError("no JPEG")
        place += 2 + int.from_bytes(packet[place + 2 : place + 4], "big")
    # Marker, length and precision, then the size, then each color's name and sampling.
    height, width = (int.from_bytes(packet[place + i : place + i + 2], "big") for i in (5, 7))
    count = packet[place + 9]
    sampling = packet[place + 11 : place + 10 + 3 * count : 3]
    yield width, height, f"{packet[place + 4]} bits, {sampling.hex()}"

"""What white is in grey of 16 bits: cameras and microscopes write 10, 12 or 14 bits into those."""

import struct
from collections.abc import Sequence
from contextlib import suppress

from PIL import Image

from vgg.data.decoding import greatest_apart, wants_worker
from vgg.data.formats import USUAL_PIXELS, ImageError, kind_of
from vgg.data.png import MAGIC
from vgg.data.readers import open_picture
from vgg.data.tiff import directory

WHITE = 65535  # of 16 bits
FEWER = tuple(2**bits - 1 for bits in (8, 10, 12, 14))
_SIGNIFICANT = b"sBIT"  # a PNG's chunk
_BITS, _MAX_SAMPLE = 258, 281  # a TIFF's tags
_SIXTEEN_GREY = ((16, 0), (16, 4))  # bits and colour type of a PNG


def is_deep(head: bytes) -> bool:
    """Whether a file, by its first bytes, may hold grey of 16 bits."""
    try:
        kind = kind_of(head)
    except ImageError:
        return False
    return kind == "TIFF" or (kind == "PNG" and tuple(head[24:26]) in _SIXTEEN_GREY)


def said_white(data: bytes) -> int | None:
    """The greatest value that a file says to hold, where it says so."""
    with suppress(KeyError, IndexError, struct.error, ValueError):
        if data.startswith(MAGIC):
            at = data.index(_SIGNIFICANT, 33, 33 + 4096)
            bits = data[at + 4]
            return 2**bits - 1 if 8 <= bits < 16 else None
        order, _, entries = directory(data)
        bits = struct.unpack_from(order + "H", entries[_BITS][3])[0]
        value = 2**bits - 1
        if _MAX_SAMPLE in entries:
            value = struct.unpack_from(order + "H", entries[_MAX_SAMPLE][3])[0]
        return int(value) if value in FEWER else None
    return None


def white_of(data: bytes, image: Image.Image, white: int) -> int:
    """What is white in a decoded picture: as its file says, else `white`, where it holds no more;
    else all that 16 bits can be."""
    if not image.mode.startswith("I;16") or (white == WHITE and said_white(data) is None):
        return WHITE
    high = image.getextrema()[1]
    assert isinstance(high, int)
    return next((top for top in (said_white(data), white) if top and high <= top), WHITE)


def greatest_value(data: bytes) -> int | None:
    """Of a picture that is grey of 16 bits; None of others, and of what can't be read."""
    if not is_deep(data):
        return None
    try:
        if wants_worker(data, None):
            return greatest_apart(data)
        image, _ = open_picture(data, USUAL_PIXELS)
        if not image.mode.startswith("I;16") or image.width * image.height > USUAL_PIXELS:
            return None
        image.load()
        high = image.getextrema()[1]
    except Exception:  # readers raise nearly anything; it is said where the picture is read
        return None
    return high if isinstance(high, int) else None


def agreed_white(tops: Sequence[int]) -> int:
    """What is white in pictures whose greatest values are these: what so many bits can be, where
    all agree in them, and some make use of them."""
    most = max(tops, default=WHITE)
    return next((white for white in FEWER if white / 4 <= most <= white), WHITE)

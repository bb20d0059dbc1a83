"""PBM, PGM, PPM and PFM. Pillow reads most kinds of them value by value, for minutes.

P1 to P3 hold numbers as text, P4 to P6 as bytes; Pf is grey in 32-bit numbers with a fraction.
"""

import math
import re
from typing import TYPE_CHECKING

from PIL import Image

from vgg.data.formats import ImageError, check_size

if TYPE_CHECKING:
    import numpy as np

MAX_TEXT_BYTES = 32_000_000  # of numbers as text: half a second
MAX_COMMENTS = 1000  # among numbers as text, where hardly anybody writes one
_HEADER_BYTES = 64 * 1024
_SPACE = rb"(?:\s|#[^\n\r]*[\n\r])+"
_SIZE = re.compile(rb"P([1-6f])" + 2 * (_SPACE + rb"([0-9]{1,10})"))
_TOP = re.compile(_SPACE + rb"(-?[0-9.eE+-]{1,20})")


def pnm_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height, checked."""
    size = _SIZE.match(data[:_HEADER_BYTES])
    if not size:
        raise ImageError("data.damaged")
    width, height = int(size[2]), int(size[3])
    check_size(width, height, max_pixels)
    return width, height


def open_pnm(data: bytes, max_pixels: int) -> Image.Image:
    """The decoded picture, of mode 1, L, I;16 (white is 65535), RGB or F."""
    import numpy as np  # takes a tenth of a second, for a rare format

    width, height = pnm_size(data, max_pixels)
    head = data[:_HEADER_BYTES]
    size = _SIZE.match(head)
    assert size
    kind = size[1]
    top, end = 1.0, size.end()
    if kind not in b"14":
        found = _TOP.match(head, end)
        if not found:
            raise ImageError("data.damaged")
        top, end = float(found[1]), found.end()
    body = memoryview(data)[end + 1 :]  # behind one blank
    if kind == b"f":
        if not math.isfinite(top) or not top:
            raise ImageError("data.damaged")
        stored = _taken(body, "<f4" if top < 0 else ">f4", width * height)
        return Image.fromarray(stored.reshape(height, width)[::-1].astype(np.float32))
    if kind == b"4":
        rows = _taken(body, "u1", height * -(-width // 8))
        return Image.frombytes("1", (width, height), rows.tobytes(), "raw", "1;I")
    if not 0 < top < 65536:
        raise ImageError("data.damaged")
    shape = (height, width, 3) if kind in b"36" else (height, width)
    if kind in b"123":
        values = _numbers(bytes(body), math.prod(shape), apart=kind != b"1")
        if values.max(initial=0) > top:
            raise ImageError("data.damaged")
    else:
        values = _taken(body, "u1" if top < 256 else ">u2", math.prod(shape))
    if kind == b"1":
        values = 1 - values  # 0 is white
    white, dtype = (65535, np.uint16) if top > 255 and kind in b"25" else (255, np.uint8)
    scaled = np.minimum(np.rint(np.arange(65536) * white / top), white).astype(dtype)
    return Image.fromarray(scaled[values].reshape(shape))


def _taken(body: memoryview, dtype: str, count: int) -> "np.ndarray":
    """The first `count` numbers of the body."""
    import numpy as np

    if len(body) < count * np.dtype(dtype).itemsize:
        raise EOFError
    return np.frombuffer(body, dtype, count)


def _numbers(text: bytes, count: int, *, apart: bool) -> "np.ndarray":
    """The first `count` numbers of a text, int64; single digits, where they need not stand apart
    (P1)."""
    import numpy as np

    if len(text) > MAX_TEXT_BYTES or text.count(b"#") > MAX_COMMENTS:
        raise ImageError("data.long_text", megabytes=MAX_TEXT_BYTES // 1_000_000)
    text = re.sub(rb"#[^\n\r]*", b"", text)
    if re.search(rb"[^0-9\s]" if apart else rb"[^01\s]", text):
        raise ImageError("data.damaged")
    if apart:
        values = np.fromstring(text, np.int64, sep=" ")
    else:
        digits = np.frombuffer(text, np.uint8)
        values = digits[digits >= ord("0")].astype(np.int64) - ord("0")
    if len(values) < count:
        raise EOFError
    return values[:count]

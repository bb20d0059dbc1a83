"""JPEG: a bounded walk to its pixels, and how much smaller it may be decoded.

Whatever a stranger's file makes costly is counted before the decoder starts: segments, passes, and
the memory of a file that is built of several passes, whose coefficients are all held at once.
"""

import re
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from typing import Any

from PIL import JpegImagePlugin

from vgg.data.formats import ImageError, check_size, scale_for

MAX_JPEG_PIXELS = 1_000_000_000  # even at an eighth of the size, more would take seconds
MAX_BUFFERED_PIXELS = 100_000_000  # in several passes: 3 to 8 bytes of memory each
MAX_PASSES = 50  # a progressive JPEG has about 10; each costs time but hardly any bytes
MAX_PASS_PIXELS = 1_500_000_000  # pixels times passes
MAX_SEGMENTS = 8192  # before the pixels; long notes come in pieces of 64 kB
MAX_TABLE_BYTES = 256 * 1024  # 3 kB in most files
# A marker with a length behind it, or the end. Whatever else stands there, the decoder skips, too.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_IN_ORDER = frozenset({0xC0, 0xC1})  # baseline and extended
_PLAIN = _IN_ORDER | {0xC2}  # and progressive: cosine blocks in Huffman's code
_SAMPLINGS = frozenset({0x11, 0x12, 0x14, 0x21, 0x22, 0x24, 0x41, 0x42, 0x44})
_NOTES = (("exif", b"Exif\0\0"), ("xmp", b"http://ns.adobe.com/xap/1.0/\0"))


@dataclass(frozen=True)
class _Header:
    """What stands before the pixels: tables, notes, and the frame, the segment with the size.
    `pixels` is where those begin."""

    tables: list[bytes]
    notes: dict[str | tuple[int, int], bytes]
    frame: bytes  # from its marker on: FF, kind, length (2), bits, height (2), width (2), colours
    pixels: int

    @property
    def plain(self) -> bool:
        """Whether it is as cameras write: 8 bits a colour, cosine blocks, usual sampling.

        What else there is the decoder can't reduce: it writes beyond its memory.
        """
        samplings = set(self.frame[11 : 10 + 3 * self.frame[9] : 3])
        return self.frame[1] in _PLAIN and self.frame[4] == 8 and samplings <= _SAMPLINGS


def is_plain_jpeg(data: bytes) -> bool:
    """Whether a JPEG is of the kinds that cameras write. `ImageError` where it is damaged."""
    return _walk(data).plain


def open_jpeg(
    data: bytes, min_side: int | None, max_pixels: int
) -> tuple[JpegImagePlugin.JpegImageFile, tuple[int, int]]:
    """A JPEG without its notes, set to the size at which it will be decoded; and its whole size.

    It is reduced to a half, a quarter or an eighth as long as its shorter side stays at least
    `min_side`, and as far as `max_pixels` asks for. `ImageError` where that is not enough.
    """
    header = _walk(data)
    pixels = memoryview(data)[header.pixels :]
    parts = BufferedReader(_Joined(b"".join(header.tables), pixels))
    image = JpegImagePlugin.JpegImageFile(parts)
    width, height = image.size
    in_order = header.frame[1] in _IN_ORDER and header.frame[9] == pixels[4]
    check_size(width, height, MAX_JPEG_PIXELS)
    if not in_order:
        _check_passes(width, height, data.count(b"\xff\xda", header.pixels))
    scale = min(8, scale_for(width, height, min_side, max_pixels)) if header.plain else 1
    check_size(width, height, max_pixels * scale**2)
    if scale > 1:
        image.draft(None, (width // scale, height // scale))
    image.info |= header.notes
    return image, (width, height)


class _Joined(RawIOBase):
    """Two pieces of memory as one file, without a copy of them."""

    def __init__(self, first: bytes, second: memoryview) -> None:
        self._pieces, self._at, self._length = (first, second), 0, len(first) + len(second)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._length)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        first, second = self._pieces
        piece = first[self._at :] or second[self._at - len(first) :]
        count = min(len(piece), len(buffer))
        buffer[:count] = piece[:count]
        self._at += count
        return count


def _walk(data: bytes) -> _Header:
    """Goes from segment to segment up to the pixels."""
    tables, frame, position, table_bytes = [data[:2]], b"", 2, 0
    notes: dict[str | tuple[int, int], bytes] = {}
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, position)
        if not found:
            raise EOFError
        position, marker = found.start(), data[found.start() + 1]
        if marker in (0xD9, 0xDA):  # the end, or the first pass over the pixels
            break
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xE1:
            body = data[position + 4 : end]
            for name, label in _NOTES:
                if body.startswith(label):
                    notes.setdefault(name, body.removeprefix(label))
        elif marker not in (*range(0xE0, 0xF0), 0xFE) or data[position + 4 : position + 9] in (
            b"JFIF\0",
            b"Adobe",
        ):
            tables.append(data[position:end])
            table_bytes += end - position
        if marker in _FRAMES:
            if frame:
                raise ImageError("data.damaged")
            frame = tables[-1]
        if end < position + 4 or table_bytes > MAX_TABLE_BYTES:
            raise ImageError("data.damaged")
        position = end
    else:
        raise ImageError("data.jpeg_segments", most=MAX_SEGMENTS)
    if len(frame) < 10:
        raise ImageError("data.damaged")
    return _Header(tables, notes, frame, position)


def _check_passes(width: int, height: int, passes: int) -> None:
    if width * height > MAX_BUFFERED_PIXELS:
        millions = MAX_BUFFERED_PIXELS // 1_000_000
        raise ImageError("data.progressive", width=width, height=height, millions=millions)
    most = min(MAX_PASSES, MAX_PASS_PIXELS // max(1, width * height))
    if passes > most:
        raise ImageError("data.jpeg_passes", most=most)

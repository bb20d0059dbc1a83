"""PNG: a bounded walk through its chunks, of which the reader gets those of the pixels only."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image, PngImagePlugin

from vgg.data.formats import ImageError

MAX_CHUNKS = 250_000  # 8 kB of pixels in each, as libpng writes them, make 2 GB
MAX_NOTE_BYTES = 1024 * 1024  # of one note; EXIF has less
MAX_NOTES_BYTES = 16 * 1024 * 1024  # of all together
_PIECE_BYTES = 256 * 1024
MAGIC = b"\x89PNG\r\n\x1a\n"
_KEPT = (b"IHDR", b"PLTE", b"tRNS")
_EXIF_AS_TEXT = b"Raw profile type exif"  # ImageMagick's way, in hexadecimal
_XMP = b"XML:com.adobe.xmp"


@dataclass
class PngParts:
    """The chunks of a PNG that matter. `pixels` are the pieces of one zlib stream; `cut` where the
    file ends inside of them."""

    chunks: dict[bytes, bytes] = field(default_factory=dict)  # of `_KEPT`: their content
    pixels: list[memoryview] = field(default_factory=list)
    notes: dict[str | tuple[int, int], bytes | str] = field(default_factory=dict)
    cut: bool = False

    @property
    def header(self) -> tuple[int, int, int, int, int, int, int]:
        """Width, height, bits, colour type, packing, filtering, interlacing."""
        return struct.unpack(">2I5B", self.chunks[b"IHDR"])


def open_png(data: bytes, *, header_only: bool = False) -> PngImagePlugin.PngImageFile:
    """A PNG without what stands around its pixels; its see-through colour, if any, is put in
    numbers of the decoded pixels."""
    parts = walk(data)
    if parts.cut and not header_only:
        raise EOFError
    pixels = [] if header_only else parts.pixels
    image = PngImagePlugin.PngImageFile(BytesIO(packed(parts.chunks, pixels)))
    bits, key = parts.header[2], image.info.get("transparency")
    if image.mode == "L" and key is not None:  # Pillow spreads 2 and 4 bits over 0 to 255
        image.info["transparency"] = key * 255 // (2**bits - 1)
    elif image.mode == "RGB" and key is not None and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    image.info |= parts.notes
    return image


def walk(data: bytes) -> PngParts:
    """Goes from chunk to chunk to the end, or to where the file is cut off."""
    parts, position, view = PngParts(), len(MAGIC), memoryview(data)
    unpacked = 0
    ended = False  # the run of pixels; what comes after another chunk is not theirs
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            parts.cut = position > len(data)
            break
        length, name = struct.unpack_from(">I4s", data, position)
        start, position = position + 8, position + 12 + length
        if not name.isalpha():
            raise ImageError("data.damaged")
        if name == b"IDAT":
            if not ended:
                parts.pixels.append(view[start : start + length])
            continue
        if name == b"IEND":
            break
        if position > len(data):
            raise EOFError
        ended = bool(parts.pixels)
        if name in _KEPT and not ended:
            content = data[start : start + length]
            checksum = data[start + length : position]
            if zlib.crc32(name + content) != int.from_bytes(checksum, "big"):
                raise ImageError("data.damaged")
            parts.chunks.setdefault(name, content)
        elif length <= MAX_NOTE_BYTES:
            unpacked += _read_note(name, data[start : start + length], parts.notes)
            if unpacked > MAX_NOTES_BYTES:
                raise ImageError("data.png_notes")
    else:
        raise ImageError("data.png_chunks", most=MAX_CHUNKS)
    if len(parts.chunks.get(b"IHDR", b"")) != 13:
        raise ImageError("data.damaged")
    return parts


def _read_note(name: bytes, content: bytes, notes: dict[str | tuple[int, int], bytes | str]) -> int:
    """Keeps what may say which way up the picture is: EXIF and XMP. Returns how many bytes the
    note had, unpacked."""
    if name == b"eXIf":
        notes["exif"] = content
    if name not in (b"zTXt", b"tEXt", b"iTXt", b"iCCP"):
        return 0
    label, _, text = content.partition(b"\0")
    is_packed = name in (b"zTXt", b"iCCP")
    if is_packed:
        text = text[1:]
    elif name == b"iTXt":
        is_packed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[-1]
    if is_packed:
        try:
            text = zlib.decompressobj().decompress(text, MAX_NOTE_BYTES + 1)
        except zlib.error:
            return 0
        if len(text) > MAX_NOTE_BYTES:
            raise ImageError("data.png_notes")
    if label == _XMP:
        notes["xmp"] = text
    elif label == _EXIF_AS_TEXT:
        notes[_EXIF_AS_TEXT.decode()] = text.decode("latin-1")
    return len(text)


def png_strips(data: bytes, rows: int) -> Iterator[Image.Image] | None:
    """The picture from top to bottom, in strips of `rows`; None where it is interlaced.

    Each strip is made a small PNG, so that Pillow undoes the filters and reads all modes as always.
    A filter looks at the row above: it goes in front, as it came out.
    """
    parts = walk(data)
    if parts.cut:
        raise EOFError
    return None if parts.header[6] else _strips(parts, rows)


def _strips(parts: PngParts, rows: int) -> Iterator[Image.Image]:
    width, height, bits, colour, *_ = parts.header
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    length = -(-width * bits * samples // 8)  # bytes of a row
    unpacked = _Unpacked(parts.pixels)
    chunks = dict(parts.chunks)
    # Filters work on bytes. Pillow has 8 bits for each in the end, but for deep grey.
    high_only = bits == 16 and colour != 0
    if high_only and colour == 2 and b"tRNS" in chunks:
        key = struct.unpack(">3H", chunks[b"tRNS"])
        chunks[b"tRNS"] = struct.pack(">3H", *(value >> 8 for value in key))
    as_bytes = bits == 8 or high_only
    above = bytes(length // 2 if high_only else length)
    for top in range(0, height, rows):
        count = min(rows, height - top)
        filtered = unpacked.take(count * (length + 1))
        if high_only:
            filtered = _high_bytes(filtered, count)
        stored = b"\0" + above + filtered
        if as_bytes:
            strip = _small(width, count + 1, 8, colour, chunks, stored)
            above = strip.crop((0, count, width, count + 1)).tobytes()
            yield strip.crop((0, 1, width, count + 1))
            continue
        # Two grey bytes are filtered as a pixel of two colours is, pixels of a few bits as bytes.
        two = bits == 16
        plain = _small(width if two else length, count + 1, 8, 4 if two else 0, {}, stored)
        raw = plain.tobytes()
        above = raw[-length:]
        lines = (raw[k : k + length] for k in range(length, len(raw), length))
        yield _small(width, count, bits, colour, chunks, b"".join(b"\0" + line for line in lines))


def _small(
    width: int, height: int, bits: int, colour: int, chunks: dict[bytes, bytes], rows: bytes
) -> Image.Image:
    header = struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0)
    image = open_png(packed(chunks | {b"IHDR": header}, [zlib.compress(rows, 0)]))
    image.load()
    return image


def _high_bytes(filtered: bytes, count: int) -> bytes:
    """Rows of 16-bit values, each behind the byte that names its filter, as 8-bit ones."""
    length = len(filtered) // count
    rows = (filtered[k : k + length] for k in range(0, len(filtered), length))
    return b"".join(row[:1] + row[1::2] for row in rows)


class _Unpacked:
    """What a zlib stream in pieces holds, so many bytes at a time."""

    def __init__(self, pieces: Sequence[bytes | memoryview]) -> None:
        # Small ones: what is left of one is copied each time.
        self._pieces = (
            piece[k : k + _PIECE_BYTES]
            for piece in pieces
            for k in range(0, len(piece), _PIECE_BYTES)
        )
        self._zlib = zlib.decompressobj()

    def take(self, count: int) -> bytes:
        taken, left = [], count
        while left:
            given = self._zlib.unconsumed_tail or next(self._pieces, b"")
            part = self._zlib.decompress(given, left)
            if not part and not given:
                raise EOFError
            taken.append(part)
            left -= len(part)
        return b"".join(taken)


def packed(chunks: dict[bytes, bytes], pixels: Sequence[bytes | memoryview]) -> bytes:
    """A PNG of these chunks and one of all pixels, whose checksum nobody looks at: zlib has its
    own."""
    written: list[bytes | memoryview] = [MAGIC]
    for name in _KEPT:
        if name in chunks:
            checksum = zlib.crc32(name + chunks[name])
            written += [_start(name, len(chunks[name])), chunks[name], struct.pack(">I", checksum)]
    if pixels:
        written += [_start(b"IDAT", sum(map(len, pixels))), *pixels, bytes(4)]
    return b"".join((*written, _start(b"IEND", 0), struct.pack(">I", zlib.crc32(b"IEND"))))


def _start(name: bytes, length: int) -> bytes:
    return struct.pack(">I4s", length, name)

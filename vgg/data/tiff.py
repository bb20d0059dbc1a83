"""TIFF: its list of tags, a file whose list holds those of the pixels only, and its strips."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, TiffImagePlugin

from vgg.data.formats import ImageError

MAX_PLACES = 200_000  # of strips or tiles, and colours of a palette
MAX_VALUES = 70_000  # of any other tag, such as the tables for its JPEG strips

# The TIFF tags that say how pixels are stored (strips, tiles, JPEG, YCbCr) and which way up.
_TIFF_TAGS = {256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320}
_TIFF_TAGS |= {322, 323, 324, 325, 332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532}
_MANY = {273, 279, 320, 324, 325}  # places and lengths of strips and tiles; the palette
_VALUE_BYTES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8), start=1))

_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of whole numbers, as `struct` names them


def directory(data: bytes) -> tuple[str, bool, dict[int, tuple[int, int, int, bytes]]]:
    """The list of tags that a TIFF file, or EXIF, begins with.

    Returns the byte order ("<" or ">"), whether it is a BigTIFF (of 64-bit numbers), and for
    each tag (tag, type, count of values, the values or where they stand).
    """
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = b"+" in data[2:4]
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    start += 8 if big else 2
    count = min(count, 65535, (len(data) - start) // entry.size)
    rows = entry.iter_unpack(data[start : start + count * entry.size])
    return order, big, {row[0]: row for row in rows}


def open_tiff(data: bytes, max_pixels: int) -> TiffImagePlugin.TiffImageFile:
    """A TIFF; without its pixels, where it has more than `max_pixels`: see `tiff_strips`."""
    tags = _Tags.of(data)
    many = tags.numbers(256)[0] * tags.numbers(257)[0] > max_pixels
    return TiffImagePlugin.TiffImageFile(
        BytesIO(tags.file({}, [b"\0"]) if many else pixels_of_tiff(data))
    )


def pixels_of_tiff(data: bytes) -> bytes:
    """The TIFF's first page, with a new list of tags at the end: those of the pixels only."""
    order, big, entries = directory(data)
    number, at = ("Q", 8) if big else ("I", 4)
    row = struct.Struct(f"{order}HH{number}{8 if big else 4}s")
    rows = [row.pack(*entries[tag]) for tag in sorted(_Tags.of(data).values)]
    padding = bytes(-len(data) % 8)
    return b"".join(
        (
            data[:at],
            struct.pack(order + number, len(data) + len(padding)),  # where the list stands now
            data[at + struct.calcsize(number) :],
            padding,
            struct.pack(order + ("Q" if big else "H"), len(rows)),
            *rows,
            struct.pack(order + number, 0),  # no further page
        )
    )


@dataclass(frozen=True)
class TiffStrips:
    """The picture from top to bottom, lying as `orientation` tells (1 to 8), which is EXIF's."""

    size: tuple[int, int]
    orientation: int
    strips: Iterator[Image.Image]


def tiff_strips(data: bytes, rows: int) -> TiffStrips | None:
    """Strips of about `rows` rows; None where the file is not cut into strips or tiles so small."""
    tags = _Tags.of(data)
    width, height = tags.numbers(256)[0], tags.numbers(257)[0]
    tiled = 324 in tags.values
    if tiled:
        across, unit = -(-width // tags.numbers(322)[0]), tags.numbers(323)[0]
    else:
        across, unit = 1, min(tags.numbers(278, height)[0], height)
    places, lengths = (tags.numbers(tag) for tag in ((324, 325) if tiled else (273, 279)))
    compression, planes = tags.numbers(259, 1)[0], 1
    if tags.numbers(284, 1)[0] == 2:  # each colour in strips of its own
        planes = tags.numbers(277, 1)[0]
    if len(places) == 1 and compression == 1 and not tiled:  # in one piece that can be cut
        length = -(-width * sum(tags.numbers(258, 1)) // 8)  # of a row
        unit = rows
        places = tuple(range(places[0], places[0] + length * height, length * rows))
        lengths = (length * rows,) * (len(places) - 1)
        lengths += (length * (height - rows * len(lengths)),)
    down = -(-height // unit)
    whole = {len(places), len(lengths)} != {across * down * planes}
    if whole or compression == 6 or unit > 4 * rows:
        return None

    def strips() -> Iterator[Image.Image]:
        step = max(1, rows // unit)
        for first in range(0, down, step):
            units = range(first, min(first + step, down))
            wanted = [
                (plane * down + one) * across + column
                for plane in range(planes)
                for one in units
                for column in range(across)
            ]
            parts = [data[places[k] : places[k] + lengths[k]] for k in wanted]
            if any(len(part) < lengths[k] for k, part in zip(wanted, parts, strict=True)):
                raise EOFError
            count = min(len(units) * unit, height - first * unit)
            changed = {257: count, 274: 1} | ({} if tiled else {278: unit})
            image = TiffImagePlugin.TiffImageFile(BytesIO(tags.file(changed, parts)))
            image.load()
            yield image

    return TiffStrips((width, height), tags.numbers(274, 1)[0], strips())


@dataclass(frozen=True)
class _Tags:
    """The tags of the pixels: of each its type, the count of its values and their bytes."""

    order: str  # of bytes, as `struct` names it
    big: bool  # of 64-bit numbers
    values: dict[int, tuple[int, int, bytes]]

    @classmethod
    def of(cls, data: bytes) -> "_Tags":
        order, big, entries = directory(data)
        values = {}
        for tag, kind, count, value in entries.values():
            if tag in _TIFF_TAGS:
                if count > (MAX_PLACES if tag in _MANY else MAX_VALUES):
                    raise ImageError("data.tiff_strips")
                size = count * _VALUE_BYTES.get(kind, 0)
                place = int.from_bytes(value, "little" if order == "<" else "big")
                raw = value[:size] if size <= len(value) else data[place : place + size]
                if len(raw) < size:
                    raise EOFError
                values[tag] = kind, count, raw
        return cls(order, big, values)

    def numbers(self, tag: int, *otherwise: int) -> tuple[int, ...]:
        """The whole numbers of a tag; `otherwise` where it is not there."""
        if tag not in self.values and otherwise:
            return otherwise
        kind, count, raw = self.values[tag]
        return struct.unpack(f"{self.order}{count}{_NUMBERS[kind]}", raw)

    def file(self, changed: dict[int, int], parts: list[bytes]) -> bytes:
        """A TIFF of these tags, some with another value, and of these strips or tiles."""
        number = "Q" if self.big else "I"
        width = struct.calcsize(number)
        numbers = {tag: (4, 1, struct.pack(self.order + "I", n)) for tag, n in changed.items()}
        values = self.values | numbers
        written, place = [b""], 16 if self.big else 8
        places = []
        for part in parts:
            places.append(place)
            written.append(part)
            place += len(part)
        kind = 16 if self.big else 4
        tags = (324, 325) if 324 in values else (273, 279)
        for tag, wanted in zip(tags, (places, map(len, parts)), strict=True):
            raw = struct.pack(f"{self.order}{len(parts)}{number}", *wanted)
            values[tag] = kind, len(parts), raw
        rows = []
        for tag, (kind, count, raw) in sorted(values.items()):
            if len(raw) > width:
                written.append(raw)
                raw, place = struct.pack(self.order + number, place), place + len(raw)
            rows.append(struct.pack(f"{self.order}HH{number}{width}s", tag, kind, count, raw))
        written[0] = (b"II" if self.order == "<" else b"MM") + struct.pack(
            *(
                (self.order + "HHHQ", 43, 8, 0, place)
                if self.big
                else (self.order + "HI", 42, place)
            )
        )
        count_and_rows = struct.pack(self.order + ("Q" if self.big else "H"), len(rows))
        return b"".join((*written, count_and_rows, *rows, bytes(width)))

"""TIFF: its list of tags, and a file whose list holds those of the pixels only."""

import struct

from vgg.data.formats import ImageError

MAX_PLACES = 200_000  # of strips or tiles, and colours of a palette
MAX_VALUES = 70_000  # of any other tag, such as the tables for its JPEG strips

# The TIFF tags that say how pixels are stored (strips, tiles, JPEG, YCbCr) and which way up.
_TIFF_TAGS = {256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320}
_TIFF_TAGS |= {322, 323, 324, 325, 332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532}
_MANY = {273, 279, 320, 324, 325}  # places and lengths of strips and tiles; the palette
_TIFF_VALUE_BYTES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8), start=1))


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


def pixels_of_tiff(data: bytes) -> bytes:
    """The TIFF's first page, with a new list of tags at the end: those of the pixels only."""
    order, big, entries = directory(data)
    rows = []
    for tag, kind, count, value in sorted(entries.values()):
        if tag not in _TIFF_TAGS:
            continue
        if count > (MAX_PLACES if tag in _MANY else MAX_VALUES):
            raise ImageError("data.tiff_strips")
        size = count * _TIFF_VALUE_BYTES.get(kind, 0)
        place = int.from_bytes(value, "little" if order == "<" else "big")
        if size > len(value) and place + size > len(data):
            raise EOFError
        rows.append(struct.pack(order + ("HHQ8s" if big else "HHI4s"), tag, kind, count, value))
    number, at = ("Q", 8) if big else ("I", 4)
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

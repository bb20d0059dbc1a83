"""Picture formats: which one the bytes are, and each one's own reader, which meets pixels only.

What stands around the pixels is cut off before a reader sees it: see `vgg.data.images`.
"""

import codecs
import re
import struct
from contextlib import suppress
from io import BytesIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from vgg.errors import UserError

MAX_ASPECT = 100  # long side over short side; beyond it, scaling the short side up explodes
MAX_JPEG_PASSES = 50  # a progressive JPEG has about 10; each costs time but hardly any bytes
MAX_TIFF_VALUES = 200_000  # of one tag, such as the positions of all strips

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
# The TIFF tags that say how pixels are stored (strips, tiles, JPEG, YCbCr) and which way up.
_TIFF_TAGS = {256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320}
_TIFF_TAGS |= {322, 323, 324, 325, 332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532}
_TIFF_VALUE_BYTES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8), start=1))


class ImageError(UserError):
    """A picture that is refused; one sentence says what is wrong and how to mend it."""


_FOREIGN_MAGIC = {
    b"%PDF": ImageError("data.pdf"),
    b"%!PS": ImageError("data.postscript"),
    b"\xc5\xd0\xd3\xc6": ImageError("data.postscript"),
    b"8BPS": ImageError("data.photoshop"),
    b"PK\x03\x04": ImageError("data.zip_archive"),
    b"\0\0\x01\0": ImageError("data.icon"),
    b"\0\0\0\x0cjP  ": ImageError("data.jpeg_2000"),
    b"\0\0\0\x0cJXL ": ImageError("data.jpeg_xl"),
    b"\xff\x0a": ImageError("data.jpeg_xl"),
}


def open_picture(data: bytes, max_pixels: int) -> Image.Image:
    """The picture, its size checked and its pixels not yet decoded."""
    match _kind(data):
        case "JPEG":
            image = _open_jpeg(data)
        case "PNG":
            image = _open_png(data)
        case "GIF":
            image = _open_gif(data, max_pixels)
        case "TIFF":
            image = TiffImagePlugin.TiffImageFile(BytesIO(_pixels_of_tiff(data)))
        case "WEBP":
            image = WebPImagePlugin.WebPImageFile(BytesIO(data))
        case "BMP":
            image = BmpImagePlugin.BmpImageFile(BytesIO(data))
        case "PPM":
            image = PpmImagePlugin.PpmImageFile(BytesIO(data))
        case "AVIF":
            image = _open_avif(data)
        case _:
            image = _open_heif(data)
    _check_size(*image.size, max_pixels)
    return image


def _kind(data: bytes) -> str:
    """The format, by the first bytes; what is no picture to us is named as well as can be."""
    if not data:
        raise ImageError("data.empty")
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if re.match(rb"P[1-6f][\s#]", data):
        return "PPM"
    what = next((what for magic, what in _FOREIGN_MAGIC.items() if data.startswith(magic)), None)
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), 256)
        brands = {data[i : i + 4] for i in range(8, end, 4)}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
        what = ImageError("data.film")
    head = data[:4096]
    with suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(head)  # lets the last letter be cut in two
        if re.search(rb"<svg[\s>]", head):
            what = ImageError("data.svg")
        elif b"\0" not in head:
            what = what or ImageError("data.text")
    raise ImageError("data.foreign", what=what or ImageError("data.unknown"))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if not width or not height:
        raise ImageError("data.no_pixels")
    if width * height > max_pixels:
        millions = max_pixels / 1e6
        raise ImageError("data.many_pixels", width=width, height=height, millions=millions)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError("data.narrow", width=width, height=height, most=MAX_ASPECT)


def _open_jpeg(data: bytes) -> Image.Image:
    """A JPEG without its application and comment segments, but for those that tell the colours."""
    kept, frame, position = [data[:2]], b"", 2
    notes: dict[str | tuple[int, int], bytes] = {}
    while True:
        position = data.index(b"\xff", position)  # libjpeg skips other bytes here, too
        marker = data[position + 1]
        if marker in (0xD9, 0xDA):  # the end, or the first pass over the pixels
            break
        if marker <= 0x01 or 0xD0 <= marker <= 0xD8 or marker == 0xFF:  # not a segment
            position += 1
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        segment, body = data[position:end], data[position + 4 : end]
        if marker == 0xE1:
            for name, label in (("exif", b"Exif\0\0"), ("xmp", b"http://ns.adobe.com/xap/1.0/\0")):
                if body.startswith(label):
                    notes.setdefault(name, body.removeprefix(label))
        elif marker not in (*range(0xE0, 0xF0), 0xFE) or body[:5] in (b"JFIF\0", b"Adobe"):
            kept.append(segment)
        if marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC):
            frame = segment
        position = end
    rest = data[position:]
    in_one_pass = frame[1:2] in (b"\xc0", b"\xc1") and frame[9:10] == rest[4:5]
    if not in_one_pass and rest.count(b"\xff\xda") > MAX_JPEG_PASSES:
        raise ImageError("data.jpeg_passes", most=MAX_JPEG_PASSES)
    image = JpegImagePlugin.JpegImageFile(BytesIO(b"".join((*kept, rest))))
    image.info |= notes
    return image


def _open_png(data: bytes) -> Image.Image:
    """A PNG; its see-through colour, if any, is put in numbers of the decoded pixels."""
    image = PngImagePlugin.PngImageFile(BytesIO(data))
    bits, key = data[24], image.info.get("transparency")
    if image.mode == "L" and key is not None:  # Pillow spreads 2 and 4 bits over 0 to 255
        image.info["transparency"] = key * 255 // (2**bits - 1)
    elif image.mode == "RGB" and key is not None and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    return image


def _open_gif(data: bytes, max_pixels: int) -> Image.Image:
    """A GIF without what stands before its first frame, but for the frame's see-through colour.

    Pillow's time goes with the square of a comment's length, and it takes the memory for a frame
    before a size can be asked for.
    """
    position = 13 + (6 << (data[10] & 7) if data[10] & 0x80 else 0)  # behind the palette
    head, control = data[:position], b""
    while data[position] != 0x2C:  # a frame
        start, position = position, position + 1
        if data[start] == 0x3B:  # the end
            raise ImageError("data.no_frame")
        if data[start] == 0x21:  # an extension, in blocks that begin with their length
            position += 1
            while data[position]:
                position += data[position] + 1
            position += 1
            if data[start + 1] == 0xF9:
                control = data[start:position]
    canvas_width, canvas_height = struct.unpack_from("<2H", data, 6)
    x, y, width, height = struct.unpack_from("<4H", data, position + 1)
    _check_size(max(canvas_width, x + width), max(canvas_height, y + height), max_pixels)
    return GifImagePlugin.GifImageFile(BytesIO(b"".join((head, control, data[position:]))))


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


def _pixels_of_tiff(data: bytes) -> bytes:
    """The TIFF's first page, with a new list of tags at the end: those of the pixels only."""
    order, big, entries = directory(data)
    rows = []
    for tag, kind, count, value in sorted(entries.values()):
        if tag not in _TIFF_TAGS:
            continue
        if count > MAX_TIFF_VALUES:
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


def _open_avif(data: bytes) -> Image.Image:
    if not AvifImagePlugin.SUPPORTED:
        raise ImageError("data.old_pillow")
    without_exif = _hide_items(data, b"Exif")  # an AVIF says its turn outside of EXIF, too
    image = AvifImagePlugin.AvifImageFile(BytesIO(without_exif))
    if without_exif != data:  # XMP counts only where there is no EXIF
        image.info.pop("xmp", None)
    return image


def _open_heif(data: bytes) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile  # slow to import, and seldom needed
    except ImportError:
        raise ImageError("data.no_heic") from None
    return HeifImageFile(BytesIO(_hide_items(data, b"Exif", b"mime")))  # comes upright


def _hide_items(data: bytes, *kinds: bytes) -> bytes:
    """An AVIF or HEIC file whose items of these kinds are renamed, so that no reader sees them."""
    boxes, position = [], 0
    while position + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, position + 8)
        size = max(size, 8) if size else len(data)  # 0: up to the end
        box = data[position : position + size]
        for kind in kinds if name != b"mdat" else ():  # mdat holds the pixels
            box = box.replace(kind, b"skip")
        boxes.append(box)
        position += size
    return b"".join((*boxes, data[position:]))

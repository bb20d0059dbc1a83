"""Each format's own reader, which meets pixels only, and work that is bounded before it starts.

What stands around the pixels is cut off before a reader sees it: see `vgg.data.images`.
"""

import struct
from io import BytesIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    WebPImagePlugin,
)

from vgg.data.formats import LARGE_PIXELS, USUAL_PIXELS, ImageError, check_size, kind_of
from vgg.data.jpeg import open_jpeg
from vgg.data.png import open_png
from vgg.data.pnm import open_pnm, pnm_size
from vgg.data.tiff import open_tiff

MAX_BLOCKS = 250_000  # of the notes in a GIF, 255 bytes each
MAX_BOXES = 10_000  # of an AVIF or HEIC, side by side; a handful in most
PIXELS_A_BYTE = 8300  # what zlib packs into a byte of a white sheet
_REDUCED = ("PNG", "TIFF", "HEIF", "AVIF")  # kinds that are read with more pixels than come out
MAX_RLE_PIXELS = 4_000_000  # of a packed BMP, which is unpacked in Python


def open_picture(
    data: bytes, max_pixels: int, min_side: int | None = None, *, header_only: bool = False
) -> tuple[Image.Image, tuple[int, int]]:
    """The picture, set to be decoded smaller where it can be, and its size as stored, checked.

    Its pixels are decoded later, but for those of a PNM, which come now or, `header_only`, never.
    """
    kind = kind_of(data)
    match kind:
        case "JPEG":
            return open_jpeg(data, min_side, max_pixels)
        case "PNG":
            image: Image.Image = open_png(data, header_only=header_only)
        case "GIF":
            image = _open_gif(data, max_pixels)
        case "TIFF":
            image = open_tiff(data, max_pixels)
        case "WEBP":
            image = _open_webp(data, max_pixels)
        case "BMP":
            image = _open_bmp(data)
        case "PPM":
            if header_only:
                return Image.Image(), pnm_size(data, max_pixels)
            image = open_pnm(data, max_pixels)
        case "AVIF":
            image = _open_avif(data)
        case _:
            image = _open_heif(data)
    large = kind in _REDUCED and max_pixels >= USUAL_PIXELS
    # A small file can't hold so much; what it claims is for its reader's memory.
    most = max(max_pixels, min(LARGE_PIXELS, PIXELS_A_BYTE * len(data))) if large else max_pixels
    check_size(*image.size, most)
    return image, image.size


def _open_bmp(data: bytes) -> Image.Image:
    image = BmpImagePlugin.BmpImageFile(BytesIO(data))
    is_packed = bool(image.tile) and image.tile[0].codec_name == "bmp_rle"
    if is_packed and max(image.width * image.height, len(data) // 3) > MAX_RLE_PIXELS:
        raise ImageError("data.packed_bmp", millions=MAX_RLE_PIXELS // 1_000_000)
    return image


def _open_webp(data: bytes, max_pixels: int) -> Image.Image:
    """A WebP, its size looked at first: Pillow takes the memory for two frames on opening."""
    name, content = data[12:16], data[20:30]
    if name == b"VP8X":
        width, height = (1 + int.from_bytes(content[k : k + 3], "little") for k in (4, 7))
    elif name == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<2H", content, 6))
    check_size(width, height, max_pixels)
    return WebPImagePlugin.WebPImageFile(BytesIO(data))


def _open_gif(data: bytes, max_pixels: int) -> Image.Image:
    """A GIF without what stands before its first frame, but for the frame's see-through colour.

    Pillow's time goes with the square of a comment's length, and it takes the memory for a frame
    before a size can be asked for.
    """
    position = 13 + (6 << (data[10] & 7) if data[10] & 0x80 else 0)  # behind the palette
    head, control, blocks = data[:position], b"", 0
    while data[position] != 0x2C:  # a frame
        start, position = position, position + 1
        if data[start] == 0x3B:  # the end
            raise ImageError("data.no_frame")
        if data[start] == 0x21:  # an extension, in blocks that begin with their length
            position += 1
            while data[position]:
                position += data[position] + 1
                blocks += 1
                if blocks > MAX_BLOCKS:
                    raise ImageError("data.gif_notes")
            position += 1
            if data[start + 1] == 0xF9:
                control = data[start:position]
    canvas_width, canvas_height = struct.unpack_from("<2H", data, 6)
    x, y, width, height = struct.unpack_from("<4H", data, position + 1)
    check_size(max(canvas_width, x + width), max(canvas_height, y + height), max_pixels)
    return GifImagePlugin.GifImageFile(BytesIO(b"".join((head, control, data[position:]))))


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
        if len(boxes) > MAX_BOXES:
            raise ImageError("data.damaged")
    return b"".join((*boxes, data[position:]))

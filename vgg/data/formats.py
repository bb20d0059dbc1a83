"""Picture formats: which one the bytes are, and what sizes are let in."""

import codecs
import math
import re
from contextlib import suppress

from vgg.errors import UserError

USUAL_PIXELS = 64_000_000  # 256 MB once decoded
LARGE_PIXELS = 256_000_000  # of a picture that is reduced while it is read
MAX_ASPECT = 100  # long side over short side; beyond it, scaling the short side up explodes

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


def kind_of(data: bytes) -> str:
    """The format, by the first bytes; what is no picture to us is named as well as can be."""
    if not data:
        raise ImageError("data.empty")
    data = data[:4096]
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
    with suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(data)  # lets the last letter be cut in two
        if re.search(rb"<svg[\s>]", data):
            what = ImageError("data.svg")
        elif b"\0" not in data:
            what = what or ImageError("data.text")
    raise ImageError("data.foreign", what=what or ImageError("data.unknown"))


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises `ImageError` for a picture of no, of too many or of too narrow rows of pixels."""
    if not width or not height:
        raise ImageError("data.no_pixels")
    if width * height > max_pixels:
        shrink = math.sqrt(max_pixels / (width * height))
        raise ImageError(
            "data.many_pixels",
            width=width,
            height=height,
            millions=max_pixels / 1e6,
            fits_width=int(width * shrink),
            fits_height=int(height * shrink),
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError("data.narrow", width=width, height=height, most=MAX_ASPECT)


def scale_for(width: int, height: int, min_side: int | None, max_pixels: int) -> int:
    """The power of two that a picture may be reduced by: at least as far as `max_pixels` asks for,
    then as long as its shorter side stays at least `min_side`."""
    scale = 1
    while -(-width // scale) * -(-height // scale) > max(1, max_pixels):
        scale *= 2
    while min_side and min(width, height) // (2 * scale) >= min_side:
        scale *= 2
    return scale

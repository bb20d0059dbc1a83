"""Pictures too large to be held whole: reduced while they are read, in strips where they have them.

A reduced pixel is the mean of the pixels that it stands for.
"""

import math
from collections.abc import Iterator
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import cast

from PIL import Image, TiffImagePlugin

from vgg.data.colours import to_rgb, upright
from vgg.data.formats import LARGE_PIXELS, USUAL_PIXELS, ImageError, check_size, scale_for
from vgg.data.png import png_strips
from vgg.data.room import memory_available
from vgg.data.tiff import open_tiff, pixels_of_tiff, tiff_strips

STRIP_PIXELS = 4_000_000  # at a time
MEMORY_SHARE = 0.6  # of what is free, for a picture that must be decoded whole
DECODER_BYTES = 10  # that a decoder takes for a pixel, as libheif (7), libavif and Pillow (4) do


def read_reduced(data: bytes, image: Image.Image, scale: int, white: int) -> Image.Image:
    """The picture at one `scale`th of its width and height, RGB; `image` is what its reader has
    opened. `ImageError` where it can only be decoded whole, and the memory is not there."""
    if image.format == "TIFF":
        if read := _from_tiff(data, image, scale, white):
            return read
        image = TiffImagePlugin.TiffImageFile(BytesIO(pixels_of_tiff(data)))
    rows = _rows(image, scale)
    strips = png_strips(data, rows) if image.format == "PNG" else None
    return _shrunk(strips or _whole(image, rows), image.size, rows, scale, white)


def read_mapped_tiff(path: Path, min_side: int | None, max_pixels: int, white: int) -> Image.Image:
    """A TIFF that is too large to be read into memory: strip by strip, from the disk."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
        data = cast(bytes, mapped)  # of which parts are taken, which are bytes
        image = open_tiff(data, 0)
        check_size(*image.size, LARGE_PIXELS)
        read = _from_tiff(data, image, scale_for(*image.size, min_side, max_pixels), white)
        if not read:
            raise ImageError("data.one_strip", megabytes=len(mapped) >> 20)
        return read


def _from_tiff(data: bytes, image: Image.Image, scale: int, white: int) -> Image.Image | None:
    if image.mode in ("I", "F"):  # what is white shows when all is read
        check_size(*image.size, USUAL_PIXELS)
    rows = _rows(image, scale)
    if tiff := tiff_strips(data, rows):
        return upright(_shrunk(tiff.strips, tiff.size, rows, scale, white), tiff.orientation)
    return None


def _rows(image: Image.Image, scale: int) -> int:
    """How many rows to take at a time, whichever way up the picture is stored."""
    return scale * max(1, STRIP_PIXELS // (scale * max(image.size)))


def _whole(image: Image.Image, rows: int) -> Iterator[Image.Image]:
    """Strips of a picture that has none of its own."""
    width, height = image.size
    free = memory_available()
    if free is not None and width * height * DECODER_BYTES > MEMORY_SHARE * free:
        shrink = math.sqrt(MEMORY_SHARE * free / (width * height * DECODER_BYTES))
        raise ImageError(
            "data.whole_memory",
            width=width,
            height=height,
            fits_width=int(width * shrink),
            fits_height=int(height * shrink),
        )
    image.load()
    for top in range(0, height, rows):
        yield image.crop((0, top, width, min(top + rows, height)))


def _shrunk(
    strips: Iterator[Image.Image], size: tuple[int, int], rows: int, scale: int, white: int
) -> Image.Image:
    """Strips of any height, from top to bottom, reduced and put together. `rows` is a multiple of
    `scale`."""
    width, height = size
    small = Image.new("RGB", (-(-width // scale), -(-height // scale)))
    held, filled, done = Image.new("RGB", (width, rows)), 0, 0
    for strip in strips:
        rgb, top = to_rgb(strip, white), 0
        while top < rgb.height:
            count = min(rows - filled, rgb.height - top)
            part = rgb.crop((0, top, width, top + count))
            top, filled = top + count, filled + count
            if count < rows:
                held.paste(part, (0, filled - count))
                part = held
            if filled == rows or done + filled == height:
                small.paste(part.reduce(scale, (0, 0, width, filled)), (0, done // scale))
                done, filled = done + filled, 0
    if done < height:
        raise EOFError
    return small

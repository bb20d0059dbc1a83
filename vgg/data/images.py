"""The one door for untrusted image bytes: an upright RGB picture comes out, or an `ImageError`.

Every picture of the page, the command line and the library passes `read_image`. Three rules:

- Only known formats are opened, each by its own reader, after a look at the first bytes.
  Formats that run other programs (EPS) or that no photograph comes in are named and refused.
- The size stands in the header, so it is checked before anything is decoded.
- Readers meet pixels only (see `vgg.data.formats`). Notes (EXIF, comments, profiles) can claim to
  be far larger than their file, and Pillow believes them: a JPEG of 1 MB can cost gigabytes. So
  they are cut off first. The one thing wanted from them, which way up the picture is, is read here.

Colour profiles are dropped, not applied: the networks learned from pictures read in that way.
No global setting of Pillow is used or changed, so many threads may read at once. This module
never imports torch.
"""

import re
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from vgg.data.colours import to_rgb as to_rgb
from vgg.data.colours import upright
from vgg.data.decoding import decoded_apart, size_apart, wants_worker
from vgg.data.depth import WHITE, white_of
from vgg.data.formats import USUAL_PIXELS, kind_of, scale_for
from vgg.data.formats import ImageError as ImageError  # handed on: this is the door
from vgg.data.large import read_mapped_tiff, read_reduced
from vgg.data.readers import open_picture
from vgg.data.tiff import directory

# What the intake of a folder takes for pictures; `read_image` itself goes by the bytes.
# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp",
    ".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".avif", ".heic", ".heif", ".hif",
})
# fmt: on
MAX_FILE_BYTES = 256 * 1024 * 1024
HEADER_BYTES = 64 * 1024  # what `probe_size` reads first

_ORIENTATION = 274  # the tag's number in EXIF and TIFF


def read_image(
    source: str | Path | bytes | BinaryIO,
    *,
    min_side: int | None = None,
    max_pixels: int = USUAL_PIXELS,
    white: int = WHITE,
    apart: bool | None = None,
) -> Image.Image:
    """Reads the first frame of a picture: RGB, uint8, upright, without notes, clear parts white.

    With `min_side` (pixels) a JPEG is decoded at a half, quarter or eighth of its size, as small
    as its shorter side stays at least `min_side`: several times faster. Other formats come whole.

    A picture of more than `max_pixels` comes reduced, as little as it takes: a JPEG by the decoder,
    a PNG, TIFF, HEIC or AVIF of up to 256 million strip by strip, or else where memory allows. With
    fewer `max_pixels` than usual only a JPEG does.

    16-bit grey is scaled by its full range; where it holds fewer bits, and its file or `white` says
    so, by that value. Grey of 32-bit numbers (TIFF, PFM) is taken as 0 to 1 (fractions only), 0 to
    255 or 0 to 65535, the first that holds all values; else its lowest value becomes black and its
    highest white.

    A file object is read from where it stands, and not closed. Many threads may call at once. With
    `apart` a process of its own decodes all but plain JPEGs and PNGs: see `vgg.data.decoding`,
    which also says it for all calls at once.

    Raises `ImageError` for whatever cannot be read or is over a limit, and for cut-off files: a
    half-grey picture would get a false answer.
    """
    with _plain_errors(source):
        if isinstance(source, str | Path) and _is_large_tiff(Path(source), apart):
            return read_mapped_tiff(Path(source), min_side, max_pixels, white)
        data = _read(source)
        if wants_worker(data, apart):
            return decoded_apart(data, min_side, max_pixels, white)
        return decoded(data, min_side, max_pixels, white)


def decoded(data: bytes, min_side: int | None, max_pixels: int, white: int = WHITE) -> Image.Image:
    """The picture for `read_image`. Raises nearly anything: see `reason`."""
    image, _ = open_picture(data, max_pixels, min_side)
    if image.width * image.height > max_pixels:
        rgb = read_reduced(data, image, scale_for(*image.size, min_side, max_pixels), white)
    else:
        image.load()
        rgb = to_rgb(image, white_of(data, image, white))
    rgb = upright(rgb, _orientation(image.info))
    rgb.info.clear()
    return rgb


def _is_large_tiff(path: Path, apart: bool | None) -> bool:
    """Whether a file is a TIFF that must be read from the disk, on a machine of one's own."""
    try:
        if path.stat().st_size <= MAX_FILE_BYTES or not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            head = file.read(4)
        return kind_of(head) == "TIFF" and not wants_worker(head, apart)
    except (OSError, ValueError):  # which is said when it is read
        return False


def probe_size(
    source: str | Path | bytes | BinaryIO, *, max_pixels: int = USUAL_PIXELS
) -> tuple[int, int]:
    """Width and height in pixels, upright, from the header: quick enough for 100,000 files.

    Decodes nothing, so a file that passes may still be refused by `read_image`, for instance a
    cut-off one. Reads 64 kB of a file, and all of it where the header goes on (WebP, AVIF, HEIC,
    many TIFFs). A turn noted behind the pixels, which only a PNG may do, is missed.

    Raises `ImageError` as `read_image` does.
    """
    with _plain_errors(source):
        if isinstance(source, str | Path):
            with suppress(Exception):  # whatever is wrong, the whole file says it better
                return _probed(_read(source, HEADER_BYTES), max_pixels)
        return _probed(_read(source), max_pixels)


def _probed(data: bytes, max_pixels: int) -> tuple[int, int]:
    if wants_worker(data, None):
        return size_apart(data, max_pixels)
    return upright_size(data, max_pixels)


def read_file(path: Path) -> bytes:
    """The bytes of a picture's file; what stands in the way is an `ImageError`, as of
    `read_image`."""
    with _plain_errors(path):
        return _read(path)


@contextmanager
def _plain_errors(source: object) -> Iterator[None]:
    """Turns every failure into an `ImageError` that begins with the file's name, not its folder.

    Inside, an `ImageError` holds the rest of the sentence only: "is empty; …".
    """
    path = source if isinstance(source, str) else getattr(source, "name", None)
    name = (Path(path).name or path) if isinstance(path, str) else ""

    def refused(why: ImageError) -> ImageError:
        if name:
            return ImageError("data.picture", name=name, why=why)
        return ImageError("data.unnamed_picture", why=why)

    try:
        yield
    except ImageError as error:
        raise refused(error) from None
    except Exception as error:
        raise refused(reason(error)) from error


def reason(error: Exception) -> ImageError:
    """What a reader means by an error: they raise nearly anything on hostile bytes."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, MemoryError):
        return ImageError("data.memory")
    if isinstance(error, EOFError) or re.search("(?i)truncated|end of file", str(error)):
        return ImageError("data.cut_off")
    return ImageError("data.damaged")


def _read(source: str | Path | bytes | BinaryIO, limit: int = MAX_FILE_BYTES) -> bytes:
    """The first `limit` bytes of a file, or all that another source holds."""
    if isinstance(source, str | Path):
        try:
            status = Path(source).stat()
            if stat.S_ISDIR(status.st_mode):
                raise ImageError("data.is_folder")
            if not stat.S_ISREG(status.st_mode):  # to open a pipe could mean to wait for ever
                raise ImageError("data.is_pipe")
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError("data.large_file", megabytes=MAX_FILE_BYTES >> 20)
            with Path(source).open("rb") as file:
                return file.read(limit)
        except FileNotFoundError:
            raise ImageError("data.missing") from None
        except PermissionError:
            raise ImageError("data.not_allowed") from None
        except OSError as error:
            raise ImageError("data.not_opened") from error
    data = source if isinstance(source, bytes) else source.read(MAX_FILE_BYTES + 1)
    if not isinstance(data, bytes):
        raise ImageError("data.as_text")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError("data.large_file", megabytes=MAX_FILE_BYTES >> 20)
    return data


def upright_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """The size for `probe_size`. Raises nearly anything: see `reason`."""
    image, (width, height) = open_picture(data, max_pixels, header_only=True)
    return (height, width) if _orientation(image.info) in (5, 6, 7, 8) else (width, height)


def _orientation(info: Mapping[str | tuple[int, int], Any]) -> int:
    """Which way the stored picture lies, 1 (upright) to 8, by the EXIF or XMP in a reader's info.

    Damaged notes may give any other number, which means nothing.

    Pillow's own way decodes a PNG to find out, warns, and believes the sizes that EXIF claims.
    """
    exif = info.get("exif") or b""
    with suppress(ValueError, KeyError, IndexError, struct.error):  # damaged EXIF says nothing
        if not exif and (profile := info.get("Raw profile type exif")):  # ImageMagick, in a PNG
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
        order, _, entries = directory(exif.removeprefix(b"Exif\0\0"))
        _, kind, _, value = entries[_ORIENTATION]
        return int(struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], value)[0])
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    xmp = xmp.encode(errors="replace") if isinstance(xmp, str) else xmp
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
    return int(found[1]) if found else 1

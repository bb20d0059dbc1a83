"""Pictures as many tests want them, and copies of a picture."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance


def scene(seed: int, size: tuple[int, int] = (200, 160)) -> Image.Image:
    """A picture like no other: blotches of colour with some figures on them."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (5, 6, 3), np.uint8)
    image = Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y = rng.uniform(0.1, 0.9, 2) * size
        radius = rng.uniform(0.05, 0.2) * size[1]
        box = (x - radius, y - radius, x + radius, y + radius)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour)
    return image


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)))


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def cropped(
    image: Image.Image, left: float, top: float, right: float, bottom: float
) -> Image.Image:
    """Parts of the sides are cut off."""
    w, h = image.size
    return image.crop(
        (round(w * left), round(h * top), round(w - w * right), round(h - h * bottom))
    )


def brightened(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


COPIES = {
    "half as large": lambda image: resized(image, 0.5),
    "twice as large": lambda image: resized(image, 2),
    "stretched": lambda image: image.resize((180, 180)),
    "JPEG at 30": lambda image: recompressed(image, 30),
    "4 % off each side": lambda image: cropped(image, 0.04, 0.04, 0.04, 0.04),
    "5 % off two sides": lambda image: cropped(image, 0.05, 0.05, 0, 0),
    "5 % off one side": lambda image: cropped(image, 0, 0, 0, 0.05),
    "brighter": lambda image: brightened(image, 1.2),
    "darker": lambda image: brightened(image, 0.8),
    "all of it": lambda image: recompressed(
        brightened(resized(cropped(image, 0.03, 0, 0.01, 0.04), 0.7), 1.15), 60
    ),
}


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """Four flat colours and a corner: no turn or mirror image of it looks the same."""
    image = Image.new("RGB", (width, height), (200, 40, 40))
    draw = ImageDraw.Draw(image)
    draw.rectangle((width // 2, 0, width, height // 2), fill=(40, 160, 40))
    draw.rectangle((0, height // 2, width // 2, height), fill=(40, 40, 200))
    draw.rectangle((0, 0, width // 8, height // 8), fill="white")
    return image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, *chunks: tuple[bytes, bytes], bits: int = 8, colour: int = 2):
    header = struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, body in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        checksum = zlib.crc32(name + body)
        parts.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum))
    return b"".join(parts)


def lossless_jpeg() -> bytes:
    """Grey, 2048 x 2048, all differences 0. Where it is asked for smaller, libjpeg-turbo 3 writes
    beyond its memory."""
    frame = b"\xff\xd8\xff\xc3\0\x0b\x08\x08\0\x08\0\x01\x01\x11\0"
    code = b"\xff\xc4\0\x14\0\1" + bytes(16) + b"\xff\xda\0\x08\1\1\0\1\0\0"
    return frame + code + bytes(2048 * 2048 // 8) + b"\xff\xd9"

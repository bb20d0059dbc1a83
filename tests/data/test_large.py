"""Pictures too large to be held whole: what comes of their strips is what the whole would give."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, png
from PIL import Image

from vgg.data import images, large, readers
from vgg.data.images import ImageError, probe_size, read_image

LIMIT = 3000  # pixels, in place of 64 million
SIZE = (130, 97)


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "USUAL_PIXELS", LIMIT)
    monkeypatch.setattr(large, "USUAL_PIXELS", LIMIT)
    monkeypatch.setattr(large, "STRIP_PIXELS", 1100)


def scene(mode: str) -> Image.Image:
    rows = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 4), np.uint8)
    image = Image.fromarray(rows)
    if mode == "I;16":
        return Image.fromarray(rows[..., 0] * np.uint16(257))
    if mode == "P":
        return image.convert("RGB").quantize(16)
    return image.convert("RGB").convert(mode) if mode == "1" else image.convert(mode)


def assert_reduced(data: bytes, source: bytes | Path | None = None) -> None:
    """What is read is the mean of four by four pixels of the whole, lying as in the file."""
    whole = read_image(data, max_pixels=SIZE[0] * SIZE[1])
    read = read_image(source or data, max_pixels=LIMIT)
    assert read.size == tuple(-(-side // 4) for side in whole.size)
    inside = (0, 0, read.width - 1, read.height - 1)
    wanted = np.asarray(whole.reduce(4).crop(inside), int)
    assert np.abs(np.asarray(read.crop(inside), int) - wanted).max() == 0
    assert probe_size(data) == whole.size
    smaller = read_image(source or data, max_pixels=LIMIT, min_side=12)
    assert smaller.size == tuple(-(-side // 8) for side in whole.size)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_png_is_read_in_strips(mode: str) -> None:
    assert_reduced(encoded(scene(mode), "PNG", **({"bits": 4} if mode == "P" else {})))


def test_a_png_of_16_bits_a_colour_or_with_a_see_through_colour_is_read_in_strips() -> None:
    rows = np.random.default_rng(0).integers(0, 3, (SIZE[1], 6 * SIZE[0]), np.uint8) * 100
    filtered = b"".join(bytes([k % 5]) + row.tobytes() for k, row in enumerate(rows))
    chunks = ((b"tRNS", bytes(6)), (b"IDAT", zlib.compress(filtered)))
    assert_reduced(png(*SIZE, *chunks, bits=16))
    assert_reduced(encoded(scene("P"), "PNG", transparency=3))
    assert_reduced(encoded(scene("L"), "PNG", transparency=100))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("packing", ["raw", "tiff_lzw", "tiff_deflate", "jpeg"])
def test_a_tiff_is_read_in_strips(mode: str, packing: str) -> None:
    if packing == "jpeg" and mode not in ("L", "RGB"):
        pytest.skip("is never packed so")
    strips = {} if packing == "raw" else {"strip_size": 2000}
    for big in (False, True):
        assert_reduced(encoded(scene(mode), "TIFF", compression=packing, big_tiff=big, **strips))


@pytest.mark.parametrize("orientation", [3, 4])
def test_a_large_tiff_is_turned_upright(orientation: int) -> None:
    stored = scene("RGB").crop((0, 0, 128, 96))
    data = encoded(stored, "TIFF", compression="tiff_lzw", tiffinfo={274: orientation})
    whole = read_image(data, max_pixels=SIZE[0] * SIZE[1]).reduce(4)
    assert read_image(data, max_pixels=LIMIT).tobytes() == whole.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [1, 3])
def test_tiles_and_planes_of_a_tiff_are_put_together(order: str, planes: int) -> None:
    values = np.asarray(scene("RGB"))
    padded = np.pad(values, ((0, 112 - SIZE[1]), (0, 144 - SIZE[0]), (0, 0)))
    layers = [padded] if planes == 1 else [padded[..., k] for k in range(3)]
    tiles = [
        layer[y : y + 16, x : x + 16].tobytes()
        for layer in layers
        for y in range(0, 112, 16)
        for x in range(0, 144, 16)
    ]
    ends = np.cumsum([8, *map(len, tiles)]).tolist()
    shorts = {256: SIZE[0], 257: SIZE[1], 258: 8, 259: 1, 262: 2, 277: 3, 322: 16, 323: 16}
    rows = [(tag, 3, 1, struct.pack(order + "H2x", value)) for tag, value in shorts.items()]
    rows[2] = (258, 3, 3, struct.pack(order + "I", ends[-1]))
    rows.append((284, 3, 1, struct.pack(order + "H2x", 1 if planes == 1 else 2)))
    lists = struct.pack(order + "3H", 8, 8, 8)
    for tag, numbers in ((324, ends[:-1]), (325, list(map(len, tiles)))):
        rows.append((tag, 4, len(tiles), struct.pack(order + "I", ends[-1] + len(lists))))
        lists += struct.pack(f"{order}{len(tiles)}I", *numbers)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, ends[-1] + len(lists))
    entries = b"".join(struct.pack(order + "HHI4s", *row) for row in sorted(rows))
    data = head + b"".join(tiles) + lists + struct.pack(order + "H", len(rows)) + entries + bytes(4)
    whole = np.asarray(read_image(data, max_pixels=SIZE[0] * SIZE[1]))
    assert (whole == values).all()
    assert_reduced(data)


def test_what_has_no_strips_is_decoded_whole_where_the_memory_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one_piece = encoded(scene("RGB"), "TIFF", compression="tiff_lzw", strip_size=10**6)
    for data in (one_piece, encoded(scene("RGB"), "AVIF")):
        assert_reduced(data)
    monkeypatch.setattr(large, "memory_available", lambda: 100_000)
    for data in (one_piece, encoded(scene("RGB"), "AVIF")):
        with pytest.raises(ImageError, match=r"130 x 97 pixels, .* such as 89 x 66, or .* JPEG"):
            read_image(data, max_pixels=LIMIT)


def test_a_tiff_larger_than_other_files_may_be_is_read_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(scene("RGB"), "TIFF")
    (tmp_path / "large.tif").write_bytes(data)
    one_piece = encoded(scene("RGB"), "TIFF", compression="tiff_lzw", strip_size=10**6)
    (tmp_path / "piece.tif").write_bytes(one_piece)
    with monkeypatch.context() as context:
        context.setattr(images, "MAX_FILE_BYTES", 1000)
        read = read_image(tmp_path / "large.tif", max_pixels=LIMIT)
        with pytest.raises(ImageError, match=r"'piece.tif' .* in one piece"):
            read_image(tmp_path / "piece.tif", max_pixels=LIMIT)
        for path in (tmp_path / "large.tif", tmp_path / "piece.tif"):
            with pytest.raises(ImageError, match="is larger than"):
                read_image(path, max_pixels=LIMIT, apart=True)
    assert read.tobytes() == read_image(data, max_pixels=LIMIT).tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_large_file_that_is_cut_off_or_claims_too_much_is_refused(kind: str) -> None:
    options = {"compression": "tiff_lzw", "strip_size": 2000} if kind == "TIFF" else {}
    data = encoded(scene("RGB"), kind, **options)
    for share in (0.3, 0.9):
        with pytest.raises(ImageError, match=r"cut off|damaged"):
            read_image(data[: int(len(data) * share)], max_pixels=LIMIT)
    with pytest.raises(ImageError, match=r"more than 0[.]83 million"):
        read_image(png(10_000, 10_000, (b"IDAT", bytes(43))), max_pixels=LIMIT)
    with pytest.raises(ImageError, match="130 x 97"):  # fewer than usual are the caller's limit
        read_image(data, max_pixels=LIMIT - 1)

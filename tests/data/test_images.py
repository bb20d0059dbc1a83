"""What the door for images lets in, how it looks then, and what is refused in which words."""

import io
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, lossless_jpeg, picture, png
from PIL import Image, ImageOps

from vgg.data.formats import MAX_ASPECT
from vgg.data.images import IMAGE_SUFFIXES, ImageError, probe_size, read_image

WHITE = (255, 255, 255)


def difference(image: Image.Image, other: Image.Image) -> int:
    """The largest difference of any value, 0 to 255."""
    assert image.size == other.size
    a, b = (np.asarray(each.convert("RGB")).astype(int) for each in (image, other))
    return int(np.abs(a - b).max())


def mean_difference(image: Image.Image, other: Image.Image) -> float:
    assert image.size == other.size
    a, b = (np.asarray(each.convert("RGB")).astype(float) for each in (image, other))
    return float(np.abs(a - b).mean())


def bmp(width: int, height: int, bits: int = 24, packing: int = 0) -> bytes:
    header = struct.pack("<I2i2H6I", 40, width, height, 1, bits, packing, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<I2HI", 57, 0, 0, 54) + header + b"abc"


def gif(width: int, height: int, frame: tuple[int, int, int, int]) -> bytes:
    screen = b"GIF89a" + struct.pack("<2H3B", width, height, 0x80, 0, 0) + bytes(6)
    disposal = b"!\xf9\x04\x08\0\0\0\0"  # Pillow fills the frame's area on opening
    return screen + disposal + b"," + struct.pack("<4HB", *frame, 0) + b"\x02\x02\x4c\x01\0;"


def greedy_tags(count: int, claimed: int) -> bytes:
    """EXIF (or a TIFF's list of tags) in which each tag claims the same `claimed` bytes."""
    tags = (struct.pack("<HHII", 1000 + number, 7, claimed, 8) for number in range(count))
    body = b"II*\0" + struct.pack("<IH", 8, count) + b"".join(tags) + bytes(4)
    return body.ljust(claimed + 8, b"x")


def peak_memory_mb(code: str, *arguments: str) -> tuple[float, str]:
    """Runs `code` in a fresh process; the growth of its resident memory in MB, and its output."""
    pytest.importorskip("resource")
    unit = 1024**2 if sys.platform == "darwin" else 1024
    wrapped = (
        "import resource, sys\n"
        "from vgg.data.images import ImageError, read_image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"before = peak()\n{code}\nprint((peak() - before) / {unit})"
    )
    command = [sys.executable, "-c", wrapped, *arguments]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    output, _, growth = done.stdout.rstrip().rpartition("\n")
    return float(growth), output


def test_importing_the_door_imports_no_torch():
    code = "from vgg.data.images import read_image; import sys; assert 'torch' not in sys.modules"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_path_text_bytes_and_file_give_the_same_picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture(), "PNG"))
    with path.open("rb") as file:
        read = [read_image(source) for source in (path, str(path), path.read_bytes(), file)]
    assert all(difference(image, picture()) == 0 for image in read)
    assert {image.mode for image in read} == {"RGB"}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_picture_stored_turned_comes_out_upright(kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    stored = picture()
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encoded(stored, kind, exif=exif, **options)
    stored.getexif()[274] = orientation
    upright = ImageOps.exif_transpose(stored)
    read = read_image(data)
    assert mean_difference(read, upright) < 6  # another turn differs by 50 and more
    assert read.size == probe_size(data) == upright.size
    assert not read.getexif()
    assert not read.info


def test_a_turn_written_by_imagemagick_or_in_xmp_is_heeded():
    exif = Image.Exif()
    exif[274] = 6
    profile = "\nexif\n      26\n" + exif.tobytes().hex()
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(picture())))
    text = (b"tEXt", b"Raw profile type exif\0" + profile.encode("latin-1"))
    data = png(48, 32, text, (b"IDAT", pixels))
    upright = picture().transpose(Image.Transpose.ROTATE_270)
    assert difference(read_image(data), upright) == 0
    xmp = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='1' tiff:Orientation=\"6\"/>")
    assert difference(read_image(png(48, 32, xmp, (b"IDAT", pixels))), upright) == 0


def test_a_turn_noted_behind_the_pixels_of_a_png_is_heeded():
    exif = Image.Exif()
    exif[274] = 8
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(picture())))
    data = png(48, 32, (b"IDAT", pixels), (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    upright = picture().transpose(Image.Transpose.ROTATE_90)
    assert difference(read_image(data), upright) == 0


def test_damaged_exif_does_not_stop_a_good_picture():
    turn_600 = struct.pack("<IHHHIII", 8, 1, 274, 3, 1, 600, 0)
    for exif in (b"", b"II*\0\xff\xff\xff\xff", b"XX*\0\x08\0\0\0", b"II*\0" + turn_600):
        data = encoded(picture(), "JPEG", exif=b"Exif\0\0" + exif, quality=95)
        assert mean_difference(read_image(data), picture()) < 6
        assert probe_size(data) == picture().size


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_ramp(kind, mode):
    ramp = np.linspace(0, 65535, 256).astype("<u2" if mode == "I;16" else ">u2")
    stored = Image.frombytes(mode, (16, 16), ramp.tobytes())
    if kind == "PNG":
        stored = stored.convert("I").convert("I;16")
    grey = np.asarray(read_image(encoded(stored, kind)))[..., 0].ravel()
    assert np.abs(grey.astype(int) - np.arange(256)).max() <= 1
    assert (grey[0], grey[-1]) == (0, 255)


def test_a_16_bit_pgm_keeps_its_ramp_and_a_dark_one_stays_dark():
    ramp = np.linspace(0, 65535, 256).astype(">u2").tobytes()
    grey = np.asarray(read_image(b"P5 16 16 65535\n" + ramp))[..., 0].ravel()
    assert np.abs(grey.astype(int) - np.arange(256)).max() <= 1
    assert read_image(b"P5 1 1 65535\n\0\xff").getpixel((0, 0)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),  # fractions
        ([0.0, 128.0, 255.0], [0, 128, 255]),  # bytes, as floats
        ([0.0, 257.0, 65535.0], [0, 1, 255]),  # 16 bits, as floats
        ([-10.0, 0.0, 10.0], [0, 128, 255]),  # anything else is stretched
        ([7.0, 7.0, 7.0], [7, 7, 7]),
    ],
)
def test_grey_of_fractions_is_scaled_by_its_range(values, expected):
    stored = Image.fromarray(np.array([values], dtype=np.float32))
    grey = np.asarray(read_image(encoded(stored, "TIFF")))[0, :, 0]
    assert np.abs(grey.astype(int) - expected).max() <= 1


def test_grey_without_a_range_is_refused():
    stored = Image.fromarray(np.array([[np.inf, 1.0]], dtype=np.float32))
    with pytest.raises(ImageError, match="infinite"):
        read_image(encoded(stored, "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_clear_parts_become_white_and_half_clear_ones_pale(kind):
    stored = picture().convert("RGBA")
    stored.putpixel((20, 10), (0, 0, 0, 0))
    stored.putpixel((21, 10), (0, 0, 0, 127))
    read = read_image(encoded(stored, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert read.getpixel((20, 10)) == WHITE
    assert read.getpixel((21, 10)) == pytest.approx((128, 128, 128), abs=1)
    assert read.getpixel((22, 10)) == (200, 40, 40)


def test_clear_grey_and_clear_palette_entries_become_white():
    grey = Image.new("LA", (4, 4), (90, 255))
    grey.putpixel((1, 1), (0, 0))
    palette = picture().quantize(8)
    clear = palette.getpixel((20, 10))
    levels = bytes(0 if index == clear else 255 for index in range(8))
    for data, point in (
        (encoded(grey, "PNG"), (1, 1)),
        (encoded(palette, "PNG", transparency=clear), (20, 10)),
        (encoded(palette, "PNG", transparency=levels), (20, 10)),
        (encoded(palette, "GIF", transparency=clear), (20, 10)),
    ):
        assert read_image(data).getpixel(point) == WHITE
    assert read_image(encoded(grey, "PNG")).getpixel((0, 0)) == (90, 90, 90)


@pytest.mark.parametrize(
    ("bits", "colour", "pixels", "key", "other"),
    [
        (8, 0, b"\x10\x20", b"\0\x10", (32, 32, 32)),
        (4, 0, b"\x5a", b"\0\x05", (170, 170, 170)),  # Pillow spreads 4 bits over 0 to 255
        (2, 0, b"\x60", b"\0\x01", (170, 170, 170)),
        (1, 0, b"\x80", b"\0\x01", (0, 0, 0)),
        (16, 0, b"\x12\x34\x80\x80", b"\x12\x34", (128, 128, 128)),
        (8, 2, b"\x01\x02\x03\x04\x05\x06", b"\0\x01\0\x02\0\x03", (4, 5, 6)),
        (16, 2, b"\x12\x34" * 3 + b"\x80\x80" * 3, b"\x12\x34" * 3, (128, 128, 128)),
    ],
)
def test_a_see_through_colour_of_any_depth_becomes_white(bits, colour, pixels, key, other):
    chunks = ((b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + pixels)))
    read = read_image(png(2, 1, *chunks, bits=bits, colour=colour))
    assert read.getpixel((0, 0)) == WHITE
    assert read.getpixel((1, 0)) == other


def test_print_and_other_colour_spaces_come_out_as_rgb():
    for mode, kind, tolerance in (
        ("CMYK", "JPEG", 6),
        ("CMYK", "TIFF", 2),
        ("1", "PNG", 0),
        ("L", "BMP", 0),
        ("P", "BMP", 0),
    ):
        stored = picture().convert(mode)
        assert mean_difference(read_image(encoded(stored, kind)), stored) <= tolerance
    lab = Image.new("LAB", (8, 8), (255, 128, 128))  # the lightest grey
    assert read_image(encoded(lab, "TIFF")).getpixel((0, 0)) == pytest.approx(WHITE, abs=3)


def test_heic_is_read_upright_and_without_notes():
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[271] = "a maker"
    exif[274] = 6
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture(128, 96)).save(buffer, quality=95, exif=exif.tobytes())
    read = read_image(buffer.getvalue())
    upright = picture(128, 96).transpose(Image.Transpose.ROTATE_270)
    assert mean_difference(read, upright) < 6
    assert probe_size(buffer.getvalue()) == read.size
    assert not read.info


def test_a_missing_heic_reader_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match="pip install pillow-heif"):
        read_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


def test_only_the_first_frame_is_read(tmp_path):
    frames = [picture(), Image.new("RGB", (48, 32), "black")]
    for kind in ("GIF", "PNG", "TIFF", "WEBP", "AVIF", "MPO"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert mean_difference(read_image(data), frames[0]) < 10


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("min_side", [1, 30, 100, 101, 256, 10_000])
def test_a_jpeg_is_decoded_smaller_but_never_below_min_side(min_side, progressive, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(picture(1203, 805), "JPEG", exif=exif, quality=90, progressive=progressive)
    full, small = read_image(data), read_image(data, min_side=min_side)
    scale = next(scale for scale in (8, 4, 2, 1) if scale == 1 or 805 // min_side >= scale)
    assert min(small.size) >= min(min_side, 805)
    assert small.size == tuple(-(-side // scale) for side in full.size)
    assert mean_difference(small, full.resize(small.size, Image.Resampling.BOX)) < 3
    assert probe_size(data) == full.size


@pytest.mark.parametrize(("share", "scale"), [(1, 1), (0.9, 2), (0.25, 2), (0.24, 4), (0.016, 8)])
def test_a_jpeg_over_the_limit_comes_at_the_least_reduction_that_fits(share, scale):
    data = encoded(picture(1600, 800), "JPEG", quality=90)
    read = read_image(data, max_pixels=int(1600 * 800 * share))
    assert read.size == (1600 // scale, 800 // scale)
    assert mean_difference(read, picture(1600, 800).reduce(scale)) < 3
    with pytest.raises(ImageError, match=r"1600 x 800 .* 0.64 million; .* 1131 x 565"):
        read_image(data, max_pixels=10_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "height", "min_side"), [(12000, 9000, 256), (16320, 12240, None)]
)
def test_large_photographs_are_read_in_little_memory(width, height, min_side, tmp_path):
    picture(width, height).save(tmp_path / "large.jpg")
    code = f"print(read_image(sys.argv[1], min_side={min_side}).size)"
    growth, size = peak_memory_mb(code, str(tmp_path / "large.jpg"))
    assert size == str((width // 8, height // 8) if min_side else (width // 2, height // 2))
    assert growth < 400


def test_a_progressive_jpeg_over_100_million_pixels_is_refused_before_it_takes_memory():
    data = bytearray(encoded(picture(), "JPEG", progressive=True))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">2H", 9000, 12000)
    with pytest.raises(ImageError, match=r"progressive JPEG of 12000 x 9000 .* \(baseline\)"):
        read_image(bytes(data))


def test_a_lossless_jpeg_is_read_whole_whatever_size_was_asked_for(tmp_path):
    (tmp_path / "grey.jpg").write_bytes(lossless_jpeg())
    code = "print(read_image(sys.argv[1], min_side=256).size)"
    assert peak_memory_mb(code, str(tmp_path / "grey.jpg"))[1] == "(2048, 2048)"


@pytest.mark.parametrize("read", [read_image, probe_size])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png(10_000, 10_000, (b"IDAT", zlib.compress(b""))), "10000 x 10000 pixels"),
        (bmp(50_000, 40_000), "50000 x 40000 pixels"),
        (gif(65_535, 65_535, (0, 0, 1, 1)), "65535 x 65535 pixels"),
        (gif(8, 8, (60_000, 60_000, 5_000, 5_000)), "65000 x 65000 pixels"),
        (b"P6 100000 100000 255\n", "100000 x 100000 pixels"),
        (png(1, 84_000_000, (b"IDAT", zlib.compress(b""))), "1 x 84000000 pixels"),
        (png(1, MAX_ASPECT + 1, (b"IDAT", zlib.compress(b""))), "times as long as wide"),
    ],
)
def test_a_small_file_that_claims_a_huge_canvas_is_refused(read, data, words):
    with pytest.raises(ImageError, match=words):
        read(data)


def test_the_limit_on_pixels_can_be_set():
    data = encoded(picture(), "PNG")
    assert read_image(data, max_pixels=48 * 32).size == (48, 32)
    with pytest.raises(ImageError, match="make it smaller"):
        read_image(data, max_pixels=48 * 32 - 1)
    with pytest.raises(ImageError, match="make it smaller"):
        probe_size(data, max_pixels=48 * 32 - 1)


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP", b"iTXt"])
def test_200_mb_of_packed_zeros_in_a_png_take_no_memory(name, tmp_path):
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    label = b"a\0\1\0\0\0" if name == b"iTXt" else b"a\0\0"
    path = tmp_path / "bomb.png"
    path.write_bytes(png(1, 1, (name, label + packed), (b"IDAT", zlib.compress(bytes(4)))))
    code = "try: read_image(sys.argv[1])\nexcept ImageError as error: print(error)"
    growth, message = peak_memory_mb(code, str(path))
    assert "'bomb.png'" in message
    assert growth < 50


def test_tags_that_claim_more_than_the_file_holds_take_no_memory(tmp_path):
    exif = b"Exif\0\0" + greedy_tags(5000, 60_008)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    jpeg = encoded(picture(), "JPEG")
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + segment * 10 + jpeg[20:])  # without JFIF's part
    tiff = encoded(picture(), "TIFF")
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    greedy = greedy_tags(20_000, 1 << 20)[10 : 10 + 12 * 20_000]
    tags = tiff[start + 2 : start + 2 + 12 * count] + greedy
    body = tiff[:4] + struct.pack("<I", 1 << 20) + tiff[8:].ljust((1 << 20) - 8, b"\0")
    (tmp_path / "a.tif").write_bytes(body + struct.pack("<H", count + 20_000) + tags + bytes(4))
    (tmp_path / "a.webp").write_bytes(encoded(picture(), "WEBP", exif=greedy_tags(9000, 1 << 17)))
    maker = Image.Exif()
    maker[271] = "x" * (1 << 18)
    avif = encoded(picture(), "AVIF", exif=maker.tobytes())
    start = avif.index(b"MM\0*" if b"MM\0*" in avif else b"II*\0")
    greedy = greedy_tags(9000, 1 << 17)
    (tmp_path / "a.avif").write_bytes(avif[:start] + greedy + avif[start + len(greedy) :])
    for path in sorted(tmp_path.iterdir()):
        growth, _ = peak_memory_mb("read_image(sys.argv[1])", str(path))
        assert growth < 50, path.name


def test_a_jpeg_of_endless_passes_is_refused():
    data = encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    last_pass = data[data.rindex(b"\xff\xda") : -2]
    assert read_image(data[:-2] + last_pass * 10 + b"\xff\xd9").size == (64, 64)
    with pytest.raises(ImageError, match="passes"):
        read_image(data[:-2] + last_pass * 1000 + b"\xff\xd9")


@pytest.mark.parametrize("read", [read_image, probe_size])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xd8" + b"\xff\xe0\0\2" * 10_000, "8192 notes"),
        (b"\xff\xd8" + b"\xff\xdb\0\x43" + bytes(65), "cut off"),
        (b"\xff\xd8" + (b"\xff\xdb\0\x43" + bytes(65)) * 8000, "damaged"),
        (png(8, 8, *[(b"tEXt", b"")] * 300_000), "250000 pieces"),
        (b"GIF89a" + bytes(7) + b"!\xfe" + b"\1x" * 300_000, "notes of an unusual length"),
        (bmp(2001, 2000, 8, 1), "packed .RLE. BMP of over 4 million"),
        (bmp(20, 20, 8, 1) + bytes(13_000_000), "packed .RLE. BMP of over 4 million"),
        (b"P2 8 8 255 " + b"#\n1 " * 2000, "with many comments; save it as PNG"),
        (b"P5 #" + b"x" * 100_000 + b"\n8 8 255 " + bytes(64), "damaged"),
        (b"\0\0\0\x18ftypheic" + bytes(12) + b"\0\0\0\x08free" * 20_000, "damaged"),
    ],
)
def test_a_header_without_end_is_left_early(read, data, words):
    if read is probe_size and data.startswith(b"P2"):
        pytest.skip("numbers are looked at when they are read")
    with pytest.raises(ImageError, match=words):
        read(data)


@pytest.mark.parametrize("top", [1, 100, 255, 4095, 65535])
def test_numbers_as_text_are_read_as_numbers_in_bytes(top):
    values = np.random.default_rng(0).integers(0, top + 1, (4, 6, 3))
    stored = values.astype(">u2" if top > 255 else "u1")
    text = " # a comment\n".join(map(str, values.ravel()))
    plain = np.asarray(read_image(f"P3 6 4\n{top}\n{text}".encode()))
    assert np.abs(plain - values * 255 / top).max() <= 0.5
    assert (plain == read_image(b"P6 6 4 %d\n" % top + stored.tobytes())).all()
    grey = np.asarray(read_image(b"P5 6 4 %d\n" % top + stored[..., 0].tobytes()))
    assert np.abs(grey - plain[..., :1].astype(int)).max() <= 1


def test_black_and_white_as_text_needs_no_blanks():
    assert np.asarray(read_image(b"P1 3 2\n010\n1 0 1"))[..., 0].tolist() == [
        [255, 0, 255],
        [0, 255, 0],
    ]


def test_a_long_comment_in_a_gif_takes_no_time():
    data = encoded(picture().quantize(8), "GIF")
    frame = data.index(b",\0\0\0\0")
    comment = (
        b"!\xfe" + (b"\xff" + b"x" * 255) * 80_000 + b"\0"
    )  # 20 MB; Pillow takes half a minute
    start = time.perf_counter()
    assert difference(read_image(data[:frame] + comment + data[frame:]), picture()) < 3
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_cut_off_file_is_refused(kind, share):
    noise = Image.effect_noise((64, 48), 80).convert("RGB")
    data = encoded(noise, kind)
    with pytest.raises(ImageError, match=r"cut off|damaged"):
        read_image(data[: int(len(data) * share)])


def test_every_byte_of_a_header_may_be_wrong():
    """Whatever is changed, the answer is a picture or an `ImageError`."""
    random = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        good = encoded(picture(16, 12).quantize(8) if kind == "GIF" else picture(16, 12), kind)
        for position in range(min(len(good), 120)):
            bad = bytearray(good)
            bad[position] = random.integers(256)
            with suppress(ImageError):
                assert read_image(bytes(bad)).mode == "RGB"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.png", b"", "'empty.png' is empty"),
        ("notes.png", "Grüße aus Köln\n".encode() * 400, "'notes.png' is text, not a picture"),
        ("a.svg", b"<?xml version='1.0'?>\n<svg width='9'></svg>", "is an SVG drawing; save it as"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", "is a PostScript drawing"),
        ("a.pdf", b"%PDF-1.7\n\xff\xfe", "is a PDF document"),
        ("a.psd", b"8BPS\0\1", "is a Photoshop document"),
        ("a.mp4", b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "is a film"),
        ("noise.jpg", bytes(range(128, 256)) * 9, "is not a picture of a known kind"),
        ("zeros.jpg", bytes(4000), "is not a picture of a known kind"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    for read in (read_image, probe_size):
        with pytest.raises(ImageError, match=words) as caught:
            read(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


def test_what_is_no_file_is_named(tmp_path):
    for path, words in (
        (tmp_path / "none.png", "'none.png' does not exist"),
        (tmp_path, f"'{tmp_path.name}' is a folder"),
        (tmp_path / ("long" * 200), "cannot be opened"),
        (str(tmp_path / "nul\0.png"), "nul"),
    ):
        for read in (read_image, probe_size):
            with pytest.raises(ImageError, match=words):
                read(path)
    with pytest.raises(ImageError, match="opened as text"):
        read_image(io.StringIO("text"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(ImageError, match="pipe or a device"):
            read_image(path)


def test_a_large_file_is_refused_before_it_is_read_into_memory(tmp_path):
    with (tmp_path / "large.bmp").open("wb") as file:
        file.write(bmp(4, 4))
        file.truncate(300 * 1024 * 1024)  # sparse: takes no room
    with pytest.raises(ImageError, match="larger than 256 MB"):
        read_image(tmp_path / "large.bmp")


def test_probe_reads_on_where_the_header_is_long(tmp_path):
    data = encoded(picture(), "JPEG")
    filler = b"\xff\xe5" + struct.pack(">H", 60_002) + bytes(60_000)
    (tmp_path / "a.jpg").write_bytes(data[:2] + filler * 3 + data[2:])
    assert probe_size(tmp_path / "a.jpg") == (48, 32)
    (tmp_path / "a.tif").write_bytes(encoded(picture(300, 200), "TIFF"))
    assert probe_size(tmp_path / "a.tif") == (300, 200)


def test_eight_threads_read_what_one_reads():
    exif = Image.Exif()
    exif[274] = 6
    files = [encoded(picture(300, 200), kind) for kind in ("PNG", "GIF", "WEBP", "TIFF", "AVIF")]
    files += [encoded(picture(300, 200), "JPEG", exif=exif), png(10_000, 10_000), b"text"]

    def outcome(data: bytes) -> bytes | str:
        try:
            return read_image(data).tobytes()
        except ImageError as error:
            return str(error)

    limit = Image.MAX_IMAGE_PIXELS
    alone = [outcome(data) for data in files] * 8
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, files * 8)) == alone
    assert limit == Image.MAX_IMAGE_PIXELS


def test_suffixes_are_lower_case_and_hold_what_phones_and_scanners_write():
    assert {".jpg", ".jpeg", ".png", ".webp", ".heic", ".avif", ".tif", ".bmp"} <= IMAGE_SUFFIXES
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in IMAGE_SUFFIXES)


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("VGG_STUDIO_ODD"), reason="needs VGG_STUDIO_ODD")
def test_every_odd_file_gives_a_picture_or_an_error_within_limits():
    code = """if True:
    import json, os, time, warnings
    from pathlib import Path
    warnings.simplefilter("ignore")
    for path in sorted(Path(sys.argv[1]).glob("*/*")):
        reading, writing = os.pipe()
        if os.fork():
            os.close(writing)
            print(json.dumps([path.name, os.read(reading, 999).decode()]))
            os.close(reading)
            os.wait()
            continue
        before, start = peak(), time.perf_counter()
        try:
            image = read_image(path)
            answer = f"{image.mode} {len(image.info)} {len(image.getexif())}"
        except ImageError:
            answer = "error"
        row = [answer, time.perf_counter() - start, (peak() - before) / 1024]
        os.write(writing, json.dumps(row).encode())
        os._exit(0)
    """
    folder = os.environ["VGG_STUDIO_ODD"]
    _, output = peak_memory_mb(code, folder)
    rows = [json.loads(line) for line in output.splitlines()]
    assert len(rows) > 200
    for name, row in rows:
        answer, seconds, megabytes = json.loads(row)
        assert answer in ("RGB 0 0", "error"), name
        assert seconds < 2, name
        assert megabytes < 500, name
    turned = [read_image(path) for path in sorted(Path(folder, "exif-orientation").glob("*.jpg"))]
    assert len(turned) == 4
    assert all(mean_difference(image, turned[0]) < 5 for image in turned)

"""Property tests: of any bytes `read_image` makes a picture or an `ImageError`, and `open_zip`
makes pictures in one new folder or a `UserError`; a sentence each, and nothing over its limits."""

import io
import os
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_images import encoded, picture

from vgg.data.formats import kind_of
from vgg.data.images import IMAGE_SUFFIXES, ImageError, probe_size, read_image
from vgg.data.labels import by_table
from vgg.data.zips import ZipLimits, open_zip
from vgg.errors import UserError

PIXELS = 10_000
LIMITS = ZipLimits(max_entries=50, max_bytes=100_000, max_file_bytes=20_000)
SETTINGS = settings(
    max_examples=int(os.environ.get("VGG_STUDIO_EXAMPLES", "150")),
    deadline=None,
    derandomize="VGG_STUDIO_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SMALL = picture(24, 16)
GOOD = {
    kind: encoded(SMALL.quantize(8) if kind == "GIF" else SMALL, kind)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM")
}
GOOD["progressive"] = encoded(SMALL, "JPEG", progressive=True)
GOOD["deep"] = encoded(SMALL.convert("I;16"), "PNG")
GOOD["packed"] = encoded(SMALL, "TIFF", compression="tiff_lzw")
GOOD["text"] = b"P3 2 2 255\n1 2 3 4 5 6 7 8 9 10 11 12\n"


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("cat/1.png", "개/2.png", "notes.txt", "dog/"):
            archive.writestr(name, GOOD["PNG"] if name[-1] == "g" else b"notes")
    return buffer.getvalue()


ZIP = zipped()
# What to do to good bytes: where (as a share of them), and what to put there for how many.
CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80"]),
        ),
        st.integers(0, 16),
    ),
    min_size=1,
    max_size=4,
)


def changed(data: bytes, changes: list[tuple[float, bytes, int]], kept: float = 1.0) -> bytes:
    for share, put, count in changes:
        place = int(share * len(data))
        data = data[:place] + put + data[place + count :]
    return data[: round(kept * len(data))]


def check_sentence(error: UserError) -> None:
    text = str(error)
    assert "\n" not in text
    assert 10 < len(text) < 500


@pytest.mark.parametrize("kind", GOOD)
@given(changes=CHANGES, kept=st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.9]))
@SETTINGS
def test_changed_pictures(kind: str, changes: list[tuple[float, bytes, int]], kept: float) -> None:
    data = changed(GOOD[kind], changes, kept)
    try:
        read = read_image(data, max_pixels=PIXELS, min_side=8)
        assert read.mode == "RGB"
        assert 0 < read.width * read.height <= PIXELS
        assert not read.info
        assert probe_size(data, max_pixels=PIXELS * 64)
    except ImageError as error:
        check_sentence(error)


@given(data=st.binary(max_size=64), magic=st.sampled_from([GOOD[kind][:12] for kind in GOOD]))
@SETTINGS
def test_any_bytes_behind_the_first_of_a_format(data: bytes, magic: bytes) -> None:
    for start in (4, 8, 12):
        with pytest.raises(ImageError) as caught:
            read_image(magic[:start] + data, max_pixels=1)
        check_sentence(caught.value)


@given(changes=CHANGES, kept=st.sampled_from([1.0, 1.0, 0.5]))
@SETTINGS
def test_changed_zips(changes: list[tuple[float, bytes, int]], kept: float) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "new"
        try:
            source = io.BytesIO(changed(ZIP, changes, kept))
            folder, skipped = open_zip(source, place, limits=LIMITS)
        except UserError as error:
            check_sentence(error)
            assert list(Path(scratch).iterdir()) == []
            return
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert list(Path(scratch).iterdir()) == [folder]
        for path in files:
            assert path.suffix.lower() in IMAGE_SUFFIXES or kind_of(path.read_bytes())
        assert sum(path.stat().st_size for path in files) <= LIMITS.max_bytes
        assert all("\n" not in entry.reason for entry in skipped)


def test_a_table_of_a_million_columns_is_refused_at_once(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(f"a.png{',' * 1_000_000}\nb.png{',' * 1_000_000}\n")
    with pytest.raises(UserError, match="1000001 columns, more than 10000"):
        by_table(table, [Path("a.png"), Path("b.png")], lambda file: file.name)

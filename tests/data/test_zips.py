"""What a zip from anybody can do here: nothing but bring pictures into one new folder."""

import io
import stat
import struct
import sys
import unicodedata
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from vgg.data.folder import scan_folder
from vgg.data.zips import ZipLimits, open_zip
from vgg.errors import StoppedError


def png(k: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (k * 37 % 256, k * 91 % 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


PETS = {f"{name}/{k}.png": png(k) for name in ("cat", "dog") for k in range(2)}


def packed(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer


def renamed(archive: io.BytesIO, old: str, new: str) -> io.BytesIO:
    """A zip with one name replaced by another of the same length, which `zipfile` would mend."""
    assert len(old.encode()) == len(new.encode())
    return io.BytesIO(archive.getvalue().replace(old.encode(), new.encode()))


def with_mode(name: str, mode: int, content: bytes) -> io.BytesIO:
    buffer = packed(PETS)
    with zipfile.ZipFile(buffer, "a") as archive:
        entry = zipfile.ZipInfo(name)
        entry.create_system = 3  # Unix
        entry.external_attr = mode << 16
        archive.writestr(entry, content)
    return buffer


def assert_refused(archive: io.BytesIO, tmp_path: Path, words: str, **limits: float) -> None:
    with pytest.raises(ValueError, match=words):
        open_zip(archive, tmp_path / "new", limits=ZipLimits(**limits))
    assert list(tmp_path.iterdir()) == []


def test_a_stop_is_heard_between_two_files_of_a_zip(tmp_path: Path) -> None:
    asked = iter([False, True])
    with pytest.raises(StoppedError, match="not unpacked to its end"):
        open_zip(packed(PETS), tmp_path / "new", should_stop=lambda: next(asked))
    assert list(tmp_path.iterdir()) == []


def test_a_zip_of_class_folders_is_ready_to_scan(tmp_path: Path) -> None:
    archive = packed({f"my pets/{name}": content for name, content in PETS.items()})
    (tmp_path / "pets.zip").write_bytes(archive.getvalue())
    folder, skipped = open_zip(tmp_path / "pets.zip", tmp_path / "new")
    assert folder == tmp_path / "new"
    assert skipped == ()
    assert scan_folder(folder).counts == {"cat": 2, "dog": 2}
    assert (folder / "my pets" / "cat" / "1.png").read_bytes() == png(1)
    assert {path.name for path in tmp_path.iterdir()} == {"pets.zip", "new"}


def test_only_pictures_are_written_and_the_rest_is_named(tmp_path: Path) -> None:
    others = {"run.sh": b"#!", "cat/.a.png": png(), "__MACOSX/cat/0.png": png(), "inner.zip": b"P"}
    folder, skipped = open_zip(packed(PETS | others | {"owl/": b""}), tmp_path / "new")
    assert {entry.file for entry in skipped} == {"run.sh", "cat/.a.png", "__MACOSX", "inner.zip"}
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == PETS.keys()
    assert (folder / "owl").is_dir()  # so that the scan says that this class is empty


@pytest.mark.parametrize("name", ["../evil.png", "cat/../../evil.png", "cat/..", "..\\evil.png"])
def test_a_name_that_leads_out_refuses_the_whole_zip(tmp_path: Path, name: str) -> None:
    assert_refused(packed(PETS | {name: png()}), tmp_path, "leads out of it")


@pytest.mark.parametrize("name", ["/etc/evil.png", "C:/evil.png", "c:evil.png", "\\\\host\\a.png"])
def test_an_absolute_name_refuses_the_whole_zip(tmp_path: Path, name: str) -> None:
    assert_refused(packed(PETS | {name: png()}), tmp_path, "leads out of it")


def test_a_name_with_a_zero_byte_is_refused(tmp_path: Path) -> None:
    archive = renamed(packed(PETS | {"cat/a.png_.txt": png()}), "a.png_.txt", "a.png\0.txt")
    assert_refused(archive, tmp_path, "leads out of it")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_refuse_the_whole_zip(tmp_path: Path, kind: int) -> None:
    assert_refused(with_mode("cat/9.png", kind | 0o777, b"/etc/passwd"), tmp_path, "a link")


def test_ordinary_unix_modes_are_fine(tmp_path: Path) -> None:
    folder, skipped = open_zip(with_mode("cat/9.png", stat.S_IFREG | 0o644, png(9)), tmp_path / "a")
    assert (folder / "cat" / "9.png").exists()
    assert not skipped


def test_a_hundred_megabytes_of_zeros_are_refused(tmp_path: Path) -> None:
    archive = packed(PETS | {"cat/zeros.png": bytes(100_000_000)})
    assert len(archive.getvalue()) < 110_000
    assert_refused(archive, tmp_path, "more than 10 MB when unpacked")


def test_bytes_are_counted_whatever_the_header_says(tmp_path: Path) -> None:
    archive = packed(PETS | {"cat/big.png": bytes(20_000_000)}).getvalue()
    size = struct.pack("<I", 20_000_000)
    assert archive.count(size) == 2
    folder, skipped = open_zip(
        io.BytesIO(archive.replace(size, struct.pack("<I", 500))), tmp_path / "new"
    )
    assert [(entry.file, entry.reason) for entry in skipped] == [
        ("cat/big.png", "is damaged in the zip")
    ]
    assert not (folder / "cat" / "big.png").exists()


def test_one_huge_picture_is_skipped(tmp_path: Path) -> None:
    archive = packed(PETS | {"cat/big.png": bytes(3_000_000)}, zipfile.ZIP_STORED)
    folder, skipped = open_zip(
        archive, tmp_path / "new", limits=ZipLimits(max_file_bytes=2 * 1024**2)
    )
    assert [(entry.file, entry.reason) for entry in skipped] == [
        ("cat/big.png", "is larger than 2 MB")
    ]
    assert not (folder / "cat" / "big.png").exists()


def test_too_many_bytes_in_all_are_refused(tmp_path: Path) -> None:
    entries = {f"cat/{k}.png": bytes(1_000_000) for k in range(5)}
    assert_refused(packed(entries, zipfile.ZIP_STORED), tmp_path, "4 MB", max_bytes=4_000_000)


def test_ten_thousand_tiny_files_are_refused_where_the_limit_is_lower(tmp_path: Path) -> None:
    archive = packed({f"{k % 7}/{k}.png": b"" for k in range(10_000)}, zipfile.ZIP_STORED)
    assert_refused(archive, tmp_path, "more than 2000 files", max_entries=2000)


def test_many_tiny_files_are_fine(tmp_path: Path) -> None:
    tiny = png()
    archive = packed({f"{k % 7}/{k}.png": tiny for k in range(1000)}, zipfile.ZIP_STORED)
    folder, skipped = open_zip(archive, tmp_path / "new")
    assert not skipped
    assert sum(1 for _ in folder.rglob("*.png")) == 1000


def test_a_directory_far_too_long_is_not_even_read(tmp_path: Path) -> None:
    archive = packed({f"{k:0100}.txt": b"" for k in range(20_000)}, zipfile.ZIP_STORED)
    assert_refused(archive, tmp_path, "too many files", max_entries=100)


def test_folders_in_folders_have_an_end(tmp_path: Path) -> None:
    assert_refused(packed({"a/" * 30 + "0.png": png()}), tmp_path, "more than 16 folders")


def test_a_locked_zip_is_refused(tmp_path: Path) -> None:
    archive = bytearray(packed(PETS).getvalue())
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        archive[archive.index(magic) + offset] |= 1
    assert_refused(io.BytesIO(archive), tmp_path, "password")


def test_rare_packing_is_refused(tmp_path: Path) -> None:
    assert_refused(packed(PETS, zipfile.ZIP_LZMA), tmp_path, "ordinary zip")


@pytest.mark.parametrize("kept", [0, 10, 300, -30, -1])
def test_a_part_of_a_zip_is_refused(tmp_path: Path, kept: int) -> None:
    archive = packed(PETS).getvalue()[:kept]
    assert_refused(io.BytesIO(archive), tmp_path, "is no zip, or a part of it is missing")


def test_damaged_directories_end_in_a_sentence(tmp_path: Path) -> None:
    whole = packed(PETS).getvalue()
    start = whole.index(b"PK\1\2")
    for position in range(start, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        with suppress(ValueError):  # any other error is ours
            open_zip(io.BytesIO(damaged), tmp_path / str(position))
    assert not list(tmp_path.glob(".*"))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".png"}


def test_a_damaged_picture_is_skipped(tmp_path: Path) -> None:
    archive = packed(PETS, zipfile.ZIP_STORED).getvalue()
    damaged = archive.replace(png(1), png(1)[:-1] + b"?", 1)
    folder, skipped = open_zip(io.BytesIO(damaged), tmp_path / "new")
    assert [(entry.file, entry.reason) for entry in skipped] == [
        ("cat/1.png", "is damaged in the zip")
    ]
    assert not (folder / "cat" / "1.png").exists()


def test_the_second_of_two_equal_names_is_skipped(tmp_path: Path) -> None:
    archive = renamed(packed(PETS | {"cat/x.png": png(5)}), "cat/x.png", "cat/0.png")
    folder, (skipped,) = open_zip(archive, tmp_path / "new")
    assert (skipped.file, skipped.reason) == (
        "cat/0.png",
        "has the name of another file in the zip",
    )
    assert (folder / "cat" / "0.png").read_bytes() == png(0)


def test_a_damaged_file_takes_no_other_of_its_name_along(tmp_path: Path) -> None:
    archive = renamed(
        packed(PETS | {"cat/x.png": png(5)}, zipfile.ZIP_STORED), "cat/x.png", "cat/0.png"
    )
    damaged = archive.getvalue().replace(png(5), png(5)[:-1] + b"?", 1)
    folder, skipped = open_zip(io.BytesIO(damaged), tmp_path / "new")
    assert [entry.file for entry in skipped] == ["cat/0.png"]
    assert (folder / "cat" / "0.png").read_bytes() == png(0)


def test_an_entry_without_a_name_is_skipped(tmp_path: Path) -> None:
    archive = packed(PETS | {"xxxxxx": png(5)}).getvalue()
    place = archive.rindex(b"PK\1\2")  # of the directory, where the name's length stands
    nameless = archive[: place + 28] + b"\0\0" + archive[place + 30 :]
    cut = nameless[: place + 46] + nameless[place + 52 :]
    end = cut.rindex(b"PK\5\6")
    (size,) = struct.unpack_from("<I", cut, end + 12)
    whole = cut[: end + 12] + struct.pack("<I", size - 6) + cut[end + 16 :]
    folder, skipped = open_zip(io.BytesIO(whole), tmp_path / "new")
    assert len(skipped) == 1
    assert sum(path.is_file() for path in folder.rglob("*")) == len(PETS)


def test_a_file_where_a_folder_is_needed_is_skipped(tmp_path: Path) -> None:
    archive = packed({"cat.png": png(), "cat.png/1.png": png(1)} | PETS)
    _, (skipped,) = open_zip(archive, tmp_path / "new")
    assert skipped.file == "cat.png/1.png"


@pytest.mark.parametrize("name", ["カタツムリ", "Übergröße", 'the "best" one', "n" * 200])
def test_names_come_out_as_they_went_in(tmp_path: Path, name: str) -> None:
    if sys.platform == "win32" and '"' in name:
        pytest.skip("Windows has no such name")
    folder, skipped = open_zip(packed(PETS | {f"{name}/{name}.png": png()}), tmp_path / "new")
    assert not skipped
    assert (folder / name / f"{name}.png").is_file()


def test_on_windows_a_name_that_it_would_change_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vgg.data.zips.ON_WINDOWS", True)
    odd = {"nul/1.png": png(), "cat./1.png": png(), "cat/a:b.png": png()}
    folder, skipped = open_zip(packed(PETS | odd), tmp_path / "new")
    assert [entry.file for entry in skipped] == list(odd)
    assert sorted(path.name for path in folder.iterdir()) == ["cat", "dog"]


def test_utf_8_names_without_the_flag_are_read_as_utf_8(tmp_path: Path) -> None:
    archive = renamed(packed(PETS | {"cat/4444.png": png()}), "cat/4444.png", "cat/éé.png")
    folder, _ = open_zip(archive, tmp_path / "new")
    assert (folder / "cat" / "éé.png").is_file()


class AsOthersWrite(zipfile.ZipInfo):
    """An entry whose name is written as these bytes, without the UTF-8 flag."""

    raw = b""

    def _encodeFilenameFlags(self):  # noqa: N802
        return self.raw, 0


def in_page(page: str, words: str, unicode_path: str = "") -> io.BytesIO:
    """A zip of one picture in each of these folders, with names in a code page; with a Unicode
    path field of other folders, where they are given."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for word, told in zip(words.split(), (unicode_path or words).split(), strict=True):
            entry = AsOthersWrite(told)
            entry.raw = f"{word}/{word}.png".encode(page)
            if unicode_path:
                field = struct.pack("<BI", 1, zlib.crc32(entry.raw)) + f"{told}/1.png".encode()
                entry.extra = struct.pack("<2H", 0x7075, len(field)) + field
            archive.writestr(entry, png())
    return buffer


def folders_of(archive: io.BytesIO, into: Path) -> str:
    folder, _ = open_zip(archive, into)
    return " ".join(sorted(path.name for path in folder.iterdir()))


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("cp949", "고양이 강아지 토끼"),
        ("cp949", "정상 불량"),
        ("cp949", "훈련 검증 시험"),
        ("cp949", "해바라기 민들레 튤립 장미"),
        ("cp949", "개"),
        ("cp932", "猫 犬 鳥"),
        ("cp932", "りんご バナナ いちご"),
        ("cp932", "表示 機能 予測 ソース"),  # in which 0x5C is half of a letter
        ("cp932", "犬"),
        ("gb18030", "猫 狗 鸟"),
        ("gb18030", "正常 缺陷 划痕"),
        ("gb18030", "向日葵 玫瑰 郁金香 蒲公英"),
        ("cp950", "貓 狗 兔子"),
        ("cp950", "功能 許可 蓋"),  # again
        ("cp950", "蘋果 香蕉 草莓"),
        ("cp437", "Äpfel Löwen Bücher"),
        ("cp437", "chèvre forêt hérisson"),
        ("cp850", "Éléphant château garçon"),
        ("cp850", "São maçã limão"),
        ("latin-1", "Äpfel Löwen Bücher"),
        ("latin-1", "chèvre forêt hérisson"),
        ("cp866", "кошка собака лошадь"),
        ("cp1251", "кошка собака лошадь"),
        ("utf-8", "고양이 강아지"),
        ("utf-8", "é ü"),
        ("utf-8", "קוף כלב"),
        ("utf-8", unicodedata.normalize("NFD", "고양이 Äpfel")),  # as macOS writes
    ],
)
def test_names_in_any_code_page_come_out_as_they_were_meant(
    tmp_path: Path, page: str, words: str
) -> None:
    meant = sorted(unicodedata.normalize("NFC", words).split())
    assert folders_of(in_page(page, words), tmp_path / "new").split() == meant
    scanned = scan_folder(tmp_path / "new", least=1)
    assert sorted(scanned.class_names) == meant


def test_a_unicode_path_counts_where_it_belongs_to_the_name(tmp_path: Path) -> None:
    archive = in_page("cp949", "고양이 강아지", "gato perro")
    assert folders_of(archive, tmp_path / "told") == "gato perro"
    renamed_since = archive.getvalue().replace(
        "강아지".encode("cp949"), "토끼".encode("cp949") + b"xy"
    )
    assert folders_of(io.BytesIO(renamed_since), tmp_path / "old") == "gato 토끼xy"


@pytest.mark.parametrize("page", ["cp932", "cp950", "cp949", "gb18030"])
def test_no_code_page_leads_out_of_the_folder(tmp_path: Path, page: str) -> None:
    for name in ("\u6a5f\\..\\..\\x", "../\u6a5f", "\\\u6a5f"):
        assert_refused(in_page(page, name), tmp_path, "leads out of it")


def test_backslashes_part_folders(tmp_path: Path) -> None:
    archive = renamed(packed(PETS | {"owl/7.png": png()}), "owl/7.png", "owl\\7.png")
    folder, _ = open_zip(archive, tmp_path / "new")
    assert (folder / "owl" / "7.png").is_file()


def test_a_name_too_long_for_the_disk_is_skipped(tmp_path: Path) -> None:
    _, (skipped,) = open_zip(packed(PETS | {"cat/" + "n" * 300 + ".png": png()}), tmp_path / "new")
    assert "shorten" in skipped.reason


def test_a_zip_without_pictures_is_refused(tmp_path: Path) -> None:
    assert_refused(packed({"notes.txt": b"nothing", "cat/": b""}), tmp_path, "holds no pictures")


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        open_zip(packed(PETS), tmp_path)
    with pytest.raises(ValueError, match="can't be unpacked here"):
        open_zip(packed(PETS), tmp_path / "mine.txt" / "new")
    with pytest.raises(ValueError, match=r"'gone.zip' can't be unpacked here: No such file"):
        open_zip(tmp_path / "gone.zip", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_table_and_pictures_with_odd_names_come_out_of_a_zip(tmp_path: Path) -> None:
    table = b"file,class\na,owl\nb.png,owl\nc,yak\nd,yak\n"
    entries = {f"all/{name}": png() for name in ("a.png", "b.tmp", "c", "d.webp_large")}
    folder, skipped = open_zip(packed(entries | {"all/labels.csv": table}), tmp_path / "new")
    assert not skipped
    assert scan_folder(folder).counts == {"owl": 2, "yak": 2}

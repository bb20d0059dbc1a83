"""How a folder is read: what counts as a class, what is skipped and in which words."""

import os
import sys
import time
import unicodedata
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from vgg.data.files import FileBytes
from vgg.data.folder import scan_folder
from vgg.data.index import FolderIndex
from vgg.data.walk import pictures_below
from vgg.errors import StoppedError

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")


def put(root: Path, *names: str) -> None:
    """Writes a small picture of its own colour under each name."""
    for k, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = (k * 37 % 256, k * 91 % 256, k * 53 % 256)
        Image.new("RGB", (8, 8), colour).save(path, "PNG")


def pets(root: Path) -> Path:
    put(root, "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "dog/3.png")
    return root


def reasons(index: FolderIndex) -> dict[str, str]:
    return {skipped.file: skipped.reason for skipped in index.skipped}


def names(index: FolderIndex) -> list[str]:
    return [sample.name for sample in index.samples]


def test_each_sub_folder_is_a_class(tmp_path: Path) -> None:
    index = scan_folder(pets(tmp_path))
    assert index.class_names == ("cat", "dog")
    assert index.counts == {"cat": 2, "dog": 3}
    assert names(index) == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "dog/3.png"]
    assert index.labels.tolist() == [0, 0, 1, 1, 1]
    assert all(sample.path.is_file() and sample.part is None for sample in index.samples)
    assert not index.skipped


def test_classes_may_lie_further_down(tmp_path: Path) -> None:
    pets(tmp_path / "download" / "my pets")
    index = scan_folder(tmp_path)
    assert index.class_names == ("cat", "dog")
    assert names(index)[0] == "download/my pets/cat/1.png"


def test_pictures_may_lie_below_their_class(tmp_path: Path) -> None:
    pets(tmp_path)
    put(tmp_path, "cat/2024/summer/9.png", "cat/10.png")
    index = scan_folder(tmp_path)
    assert names(index)[:4] == ["cat/1.png", "cat/2.png", "cat/10.png", "cat/2024/summer/9.png"]


def test_pictures_too_far_below_are_skipped(tmp_path: Path) -> None:
    pets(tmp_path)
    put(tmp_path, "cat/" + "deeper/" * 9 + "9.png")
    (skipped,) = scan_folder(tmp_path).skipped
    assert skipped.file == "cat/" + "/".join(["deeper"] * 9)
    assert "folders below" in skipped.reason


def test_one_class_with_folders_inside_is_not_taken_for_several(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "cat/old/2.png", "cat/older/3.png")
    with pytest.raises(ValueError, match=r"holds one class, 'cat', with 3 pictures"):
        scan_folder(tmp_path)


def test_classes_are_sorted_as_people_sort(tmp_path: Path) -> None:
    for name in ("class 10", "class 2", "Bird", "apple", "7", "x1y", "x", "²"):
        put(tmp_path / name, "a.png", "b.png")
    expected = ("7", "apple", "Bird", "class 2", "class 10", "x", "x1y", "²")
    assert scan_folder(tmp_path).class_names == expected


@pytest.mark.parametrize(
    "name",
    ["red squirrel", "l'oiseau", 'the "best"', "カタツムリ", "Übergröße", "n" * 200, "train", "🐌"],
)
def test_any_name_of_a_class_and_a_file_works(tmp_path: Path, name: str) -> None:
    if sys.platform == "win32" and '"' in name:
        pytest.skip("Windows has no such name")
    pets(tmp_path)
    put(tmp_path, f"{name}/{name}.png", f"{name}/other.png")
    index = scan_folder(tmp_path)
    assert name in index.class_names
    assert f"{name}/{name}.png" in names(index)
    assert not index.skipped


def test_the_two_ways_to_write_an_accent_are_one_class(tmp_path: Path) -> None:
    for part, form in (("train", "NFC"), ("val", "NFD")):
        name = unicodedata.normalize(form, "café")
        put(tmp_path, f"{part}/{name}/1.png", f"{part}/{name}/2.png")
        put(tmp_path, f"{part}/dog/1.png", f"{part}/dog/2.png")
    assert scan_folder(tmp_path).counts == {"café": 4, "dog": 4}


def test_hidden_and_stray_files_are_skipped_with_the_reason(tmp_path: Path) -> None:
    pets(tmp_path)
    put(tmp_path, ".ipynb_checkpoints/1.png", "cat/.1.png", "__MACOSX/cat/1.png", "cover.png")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"\0")
    (tmp_path / "cat" / "notes.txt").write_text("a cat")
    (tmp_path / "dog" / "4.jpg").write_text("no picture at all")
    (tmp_path / "dog" / "5.png").write_bytes(b"")
    index = scan_folder(tmp_path)
    assert index.counts == {"cat": 2, "dog": 3}
    assert reasons(index) == {
        ".ipynb_checkpoints": "is left behind by Jupyter",
        "cat/.1.png": "is left behind by a program (hidden)",
        ".DS_Store": "is left behind by macOS, as is 1 more",
        "cat/Thumbs.db": "is left behind by Windows",
        "cat/notes.txt": "is not a picture",
        "cover.png": "lies outside of the class folders",
        "dog/4.jpg": "is text, not a picture; save it as PNG or JPEG",
        "dog/5.png": "is empty; download or copy it again",
    }
    assert asdict(index.skipped[0]).keys() == {"file", "reason"}


@pytest.mark.parametrize(
    ("who", "names"),
    [
        ("macOS", [".DS_Store", "._1.png", "__MACOSX/cat/1.png", "Icon\r"]),
        ("Windows", ["Thumbs.db", "desktop.ini", "$RECYCLE.BIN/1.png", "~$notes.docx"]),
        ("Synology", ["@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/2.png"]),
        ("Linux", [".Trash-1000/1.png", "lost+found/1.png", ".directory", "1.png~"]),
        ("Jupyter", [".ipynb_checkpoints/1-checkpoint.png"]),
    ],
)
def test_what_a_system_leaves_is_named_once_with_its_count(
    who: str, names: list[str], tmp_path: Path
) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no such names")
    pets(tmp_path)
    for name in names:
        put(tmp_path, f"cat/{name}")
    index = scan_folder(tmp_path)
    assert index.counts == {"cat": 2, "dog": 3}
    (skipped,) = index.skipped
    more = len(names) - 1
    counted = {0: "", 1: ", as is 1 more"}.get(more, f", as are {more} more")
    assert skipped.reason == f"is left behind by {who}{counted}"


def test_a_class_without_a_readable_picture_is_left_out(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.jpg").write_bytes(b"\xff\xd8\xff")
    index = scan_folder(tmp_path)
    assert index.class_names == ("cat", "dog")
    assert "not used as a class" in reasons(index)["empty"]
    assert "not used as a class" in reasons(index)["broken"]


@needs_links
def test_links_are_followed_loops_end_and_each_file_counts_once(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    root = pets(tmp_path / "pets")
    put(outside, "owl/1.png", "owl/2.png", "other.png")
    (root / "owl").symlink_to(outside / "owl")
    (root / "uhu").symlink_to(outside / "owl")
    (outside / "owl" / "round").symlink_to(outside / "owl")
    (root / "cat" / "other.png").symlink_to(outside / "other.png")
    (root / "dog" / "again.png").symlink_to(outside / "other.png")
    (root / "cat" / "loop").symlink_to(root)
    (root / "cat" / "up").symlink_to(tmp_path)
    (root / "cat" / "dogs").symlink_to(root / "dog")
    (root / "cat" / "gone.png").symlink_to(root / "nothing.png")
    (root / "cat" / "itself.png").symlink_to(root / "cat" / "itself.png")
    (root / "cat" / "0 same.png").symlink_to(root / "cat" / "1.png")
    index = scan_folder(root)
    assert index.counts == {"cat": 3, "dog": 3, "owl": 2}
    assert reasons(index) == {
        "uhu": "is a link to a folder that another link leads to",
        "owl/round": "is a link to a folder that another link leads to",
        "cat/loop": "is a link to a folder that holds this one",
        "cat/up": "is a link to a folder that holds this one",
        "cat/dogs": "is a link to a folder that is looked through anyway",
        "cat/gone.png": "is a link to nothing",
        "cat/itself.png": "is a link to nothing",
        "cat/0 same.png": "is a link to the same file as cat/1.png",
        "dog/again.png": "is a link to the same file as cat/other.png",
    }
    strict = scan_folder(root, links=False)
    assert strict.counts == {"cat": 2, "dog": 3}
    assert reasons(strict)["owl"] == "is a link, which is not followed here"


@needs_links
def test_a_folder_made_of_links_is_a_folder_of_pictures(tmp_path: Path) -> None:
    """As the Hub's cache has it: names lead to blobs, whose names end in nothing."""
    pets(tmp_path / "pets")
    snapshot = tmp_path / "cache" / "snapshots" / "1a2b"
    for number, file in enumerate(sorted((tmp_path / "pets").rglob("*.png"))):
        blob = tmp_path / "cache" / "blobs" / f"{number:040x}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        file.rename(blob)
        link = snapshot / file.relative_to(tmp_path / "pets")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    assert scan_folder(snapshot).counts == {"cat": 2, "dog": 3}
    assert scan_folder(tmp_path / "cache" / "snapshots").counts == {"cat": 2, "dog": 3}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such names")
def test_a_name_that_is_not_text_is_skipped(tmp_path: Path) -> None:
    pets(tmp_path)
    path = os.fsdecode(os.fsencode(tmp_path / "cat") + b"/\xff.png")
    Path(path).write_bytes((tmp_path / "cat" / "1.png").read_bytes())
    (skipped,) = scan_folder(tmp_path).skipped
    assert skipped.file == "cat/?.png"
    assert "not valid text" in skipped.reason


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_is_skipped_and_not_waited_for(tmp_path: Path) -> None:
    pets(tmp_path)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    assert "pipe" in reasons(scan_folder(tmp_path))["cat/pipe.png"]


# Split folders.


def test_val_is_measured_on_and_test_left_alone(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        pets(tmp_path / part)
    index = scan_folder(tmp_path)
    assert index.class_names == ("cat", "dog")
    parts = [(sample.name.split("/")[0], sample.part) for sample in index.samples]
    assert set(parts) == {("train", "train"), ("val", "held_out")}
    assert {sample.name.split("/")[0] for sample in index.unused} == {"test"}
    assert "5 pictures in test left" in " ".join(index.hints)


def test_test_is_measured_on_where_there_is_no_val(tmp_path: Path) -> None:
    pets(tmp_path / "Train")
    pets(tmp_path / "TEST")
    index = scan_folder(tmp_path)
    assert {(s.name.split("/")[0], s.part) for s in index.samples} == {
        ("Train", "train"),
        ("TEST", "held_out"),
    }
    assert not index.unused


def test_an_empty_val_leaves_train_to_be_split(tmp_path: Path) -> None:
    pets(tmp_path / "train")
    (tmp_path / "valid").mkdir()
    index = scan_folder(tmp_path)
    assert index.class_names == ("cat", "dog")
    assert {sample.part for sample in index.samples} == {None}


def test_classes_that_train_lacks_are_skipped(tmp_path: Path) -> None:
    pets(tmp_path / "train")
    pets(tmp_path / "val")
    put(tmp_path, "val/owl/1.png", "val/owl/2.png")
    index = scan_folder(tmp_path)
    assert index.class_names == ("cat", "dog")
    assert "train has no picture" in reasons(index)["val/owl/1.png"]


def test_without_train_there_is_nothing_to_learn(tmp_path: Path) -> None:
    pets(tmp_path / "val")
    pets(tmp_path / "test")
    with pytest.raises(ValueError, match="no train folder"):
        scan_folder(tmp_path)


# Too little, or not a folder.


def test_one_class_is_too_few(tmp_path: Path) -> None:
    put(tmp_path, "photos/cat/1.png", "photos/cat/2.png")
    with pytest.raises(ValueError, match=r"one class, 'cat', with 2 pictures; at least 2"):
        scan_folder(tmp_path)


def test_one_picture_of_a_class_is_too_few_but_for_an_evaluation(tmp_path: Path) -> None:
    pets(tmp_path)
    put(tmp_path, "owl/1.png")
    (tmp_path / "owl" / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"but 'owl' has 1 \(1 skipped.*empty"):
        scan_folder(tmp_path)
    assert scan_folder(tmp_path, least=1).counts == {"cat": 2, "dog": 3, "owl": 1}


def test_pictures_right_in_the_folder_are_no_class(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png")
    with pytest.raises(ValueError, match=r"not sorted into classes.*sub-folder"):
        scan_folder(tmp_path)


def test_an_empty_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no pictures in sub-folders; put"):
        scan_folder(tmp_path)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        scan_folder(tmp_path / "nothing")
    (tmp_path / "list.txt").write_text("cat")
    with pytest.raises(ValueError, match=r"'list.txt' is neither a folder nor a zip"):
        scan_folder(tmp_path / "list.txt")
    (tmp_path / "pets.zip").write_bytes(b"PK\5\6" + bytes(18))
    with pytest.raises(ValueError, match="open_zip"):
        scan_folder(tmp_path / "pets.zip")


def test_far_too_many_files_end_soon(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 4 files"):
        scan_folder(pets(tmp_path), max_files=4)


# What comes after.


def test_uneven_classes_are_pointed_out(tmp_path: Path) -> None:
    put(tmp_path, *(f"cat/{k}.png" for k in range(20)), *(f"dog/{k}.png" for k in range(12)))
    assert scan_folder(tmp_path).hints == []
    put(tmp_path, *(f"owl/{k}.png" for k in range(4)))
    expected = "'owl' has 4 pictures, 'cat' 20: results for 'owl' will be rough"
    assert scan_folder(tmp_path).hints == [expected]
    put(tmp_path, *(f"{name}/{k}.png" for name in "abcd" for k in range(3)))
    hints = scan_folder(tmp_path).hints
    assert len(hints) == 4
    assert "2 more classes" in hints[-1]


def test_pictures_that_fail_later_are_taken_out(tmp_path: Path) -> None:
    pets(tmp_path)
    put(tmp_path, "ant/1.png", "ant/2.png")
    index = scan_folder(tmp_path)
    left = index.without({"ant/1.png": "went away", "ant/2.png": "went away", "dog/1.png": "broke"})
    assert left.class_names == ("cat", "dog")
    assert names(left) == ["cat/1.png", "cat/2.png", "dog/2.png", "dog/3.png"]
    assert left.labels.tolist() == [0, 0, 1, 1]
    assert reasons(left)["dog/1.png"] == "broke"
    assert len(index.samples) == 7
    with pytest.raises(ValueError, match="'cat' has 1"):
        left.without({"cat/1.png": "went away"})


def test_pictures_are_not_read_whole(tmp_path: Path) -> None:
    pets(tmp_path)
    file = tmp_path / "cat" / "1.png"
    whole = file.read_bytes()
    file.write_bytes(whole[:60])  # the header is there, the pixels are not
    assert scan_folder(tmp_path).counts["cat"] == 2


def test_a_scan_tells_how_far_it_is_and_stops_when_it_is_asked(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    index = scan_folder(pets(tmp_path), on_progress=lambda *step: told.append(step))
    assert told == [(done, 5) for done in range(1, 6)]
    assert not any(sample.digest for sample in index.samples)
    with pytest.raises(StoppedError, match="was stopped"):
        scan_folder(tmp_path, should_stop=lambda: len(told) >= 5)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_a_scan_of_20000_files_stops_within_a_second(whole: bool, tmp_path: Path) -> None:
    put(tmp_path, "cat/0.png", "dog/0.png")
    for name in ("cat", "dog"):
        for k in range(1, 10_000):
            os.link(tmp_path / name / "0.png", tmp_path / name / f"{k}.png")
    for asked_at in (0, 1, 5000):
        asked = [] if asked_at else [time.monotonic()]

        def on_progress(
            done: int, total: int, asked: list[float] = asked, asked_at: int = asked_at
        ) -> None:
            assert total == 20_000
            if done == asked_at:
                asked.append(time.monotonic())

        with pytest.raises(StoppedError):
            scan_folder(
                tmp_path,
                contents=FileBytes() if whole else None,
                on_progress=on_progress,
                should_stop=lambda asked=asked: bool(asked),
            )
        assert time.monotonic() - asked[0] < 1


@needs_links
def test_pictures_of_a_folder_to_answer_are_found_as_those_to_learn_from(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    put(root, "@eaDir/1.png", "cat/.2.png", "n9151jpg", "a/" * 12 + "deep.png")
    (root / "notes.txt").write_text("pets")
    (root / "loop").symlink_to(root)
    (root / "again.png").symlink_to(root / "n9151jpg")
    found = [file.relative_to(root).as_posix() for file in pictures_below(root)]
    deep = "a/" * 12 + "deep.png"
    assert found == [
        deep,
        "cat/1.png",
        "cat/2.png",
        *(f"dog/{k}.png" for k in (1, 2, 3)),
        "n9151jpg",
    ]

"""Folders as people have them: what is a class, a part, without a label, and what is said.

A tree is written as `folder: pictures`, several with `;`. A folder's pictures are 1.png, 2.png, …
"""

from pathlib import Path

import pytest
from PIL import Image

from vgg.data.folder import scan_folder
from vgg.data.index import FolderIndex


def grow(root: Path, tree: str) -> Path:
    colour = 0
    for branch in tree.split(";"):
        folder, _, count = branch.strip().rpartition(":")
        (root / folder).mkdir(parents=True, exist_ok=True)
        for k in range(int(count)):
            colour += 1
            Image.new("RGB", (8, 8), (colour, 255 - colour, 0)).save(root / folder / f"{k}.png")
    return root


def write(root: Path, *names: str) -> Path:
    for k, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (k, 2 * k, 99)).save(root / name, "PNG")
    return root


def parts(index: FolderIndex) -> tuple[int, int, int]:
    """How many pictures are learned from, held out, and left for an evaluation."""
    roles = [sample.part for sample in index.samples]
    return roles.count("train"), roles.count("held_out"), len(index.unused)


def both(a: int, b: int, *folders: str) -> str:
    return ";".join(f"{folder}/cat: {a}; {folder}/dog: {b}" for folder in folders)


@pytest.mark.parametrize(
    ("learned", "held_out"),
    [
        ("train", "validation"),
        ("Training", "Testing"),
        ("TRAIN", "val"),
        ("seg_train", "seg_test"),
        ("train_set", "test_set"),
        ("training_data", "testing_data"),
        ("TrainImages", "TestImages"),
        ("trainset", "holdout"),
        ("train2017", "dev"),
        ("01_train", "02-hold-out"),
        ("flowers_train", "flowers_eval"),
        ("train/train", "test/test"),
        ("archive/seg_train/seg_train", "archive/seg_test/seg_test"),
        ("archive/archive/train/images", "archive/archive/valid/images"),
        ("training", "evaluation"),
        ("Training", "PublicTest"),
        ("train_labeled", "test"),
        ("tr", "te"),
    ],
)
def test_split_folders_by_any_usual_name(learned: str, held_out: str, tmp_path: Path) -> None:
    index = scan_folder(grow(tmp_path, both(3, 2, learned, held_out)))
    assert index.counts == {"cat": 6, "dog": 4}
    assert parts(index) == (5, 5, 0)
    names = [path.split("/")[-2 if path.count("/") > 1 else 0] for path in (learned, held_out)]
    assert not index.skipped
    assert any("is learned from (5 pictures)" in note for note in index.notes), names


def test_with_val_and_test_val_chooses_and_test_is_left(tmp_path: Path) -> None:
    index = scan_folder(grow(tmp_path, both(3, 2, "Training", "dev", "holdout")))
    assert parts(index) == (5, 5, 5)
    assert index.notes == (
        "'Training' is learned from (5 pictures), 'dev' is held out (5)",
        "5 pictures in test left for an evaluation: val is there to measure on",
    )


@pytest.mark.parametrize(
    ("tree", "counts", "said"),
    [
        (both(3, 2, "train") + "; test: 7", {"cat": 3, "dog": 2}, "'test' holds 7 pictures"),
        (both(3, 2, "train") + "; test/test: 7", {"cat": 3, "dog": 2}, "'test' holds 7 pictures"),
        (
            both(3, 2, "seg_train/seg_train", "seg_test/seg_test") + "; seg_pred/seg_pred: 7",
            {"cat": 6, "dog": 4},
            "'seg_pred' holds 7 pictures beside 'seg_test' and 'seg_train': they are not used",
        ),
        (
            both(3, 2, "train") + "; single_prediction: 2",
            {"cat": 3, "dog": 2},
            "'single_prediction' holds 2 pictures beside 'train'",
        ),
        ("cat: 3; dog: 2; test: 9", {"cat": 3, "dog": 2}, "'test' holds 9 pictures without"),
        ("train: 3; bus: 2", {"bus": 2, "train": 3}, "'train' is taken for a class"),
        (
            "train/steam: 2; train/diesel: 2; bus: 2; car: 2",
            {"bus": 2, "car": 2, "train": 4},
            "'train' is taken for a class",
        ),
        ("valid: 3; invalid: 2", {"invalid": 2, "valid": 3}, "'valid' is taken for a class"),
        ("test tube: 3; flask: 2", {"flask": 2, "test tube": 3}, ""),
        ("cat: 3; dog: 2; test/cat: 2; test/dog: 2", {"cat": 5, "dog": 4}, "is held out (4)"),
        (
            "cat/train: 3; cat/test: 2; dog/train: 3; dog/test: 2",
            {"cat": 5, "dog": 5},
            "'train' is learned from (6 pictures), 'test' is held out (4)",
        ),
        ("Cat: 3; dog: 2; cat : 1", {"Cat": 4, "dog": 2}, "'Cat' and 'cat' are taken for one"),
        ("a: 3; A: 2", {"A": 2, "a": 3}, ""),
        (
            both(2, 2, "train") + "; val/CAT: 1; val/Dog : 1",
            {"cat": 3, "dog": 3},
            "one class, 'cat'",
        ),
        (
            "Fruit/Apple/Gala: 2; Fruit/Apple/Fuji: 1; Fruit/Pear/Nashi: 3",
            {"Apple": 3, "Pear": 3},
            "2 classes hold 3 folders; --classes leaves makes each a class",
        ),
        (
            "color/cat: 2; color/dog: 2; grey/cat: 2; grey/dog: 2",
            {"color": 4, "grey": 4},
            "hold the same folders, 'cat' and 'dog', …: where those are the classes, name one",
        ),
        (
            both(2, 2, "train") + "; test/unknown: 5",
            {"cat": 2, "dog": 2},
            "5 pictures of 'unknown' are not used: train has none of those",
        ),
        ("Images/cat: 3; Images/dog: 2; Annotation/cat: 0", {"cat": 3, "dog": 2}, ""),
        (
            "train/images/cat: 2; train/images/dog: 2; train/labels: 0; "
            "val/images/cat: 1; val/images/dog: 1; val/labels: 0",
            {"cat": 3, "dog": 3},
            "'train' is learned from (4 pictures), 'val' is held out (2)",
        ),
    ],
)
def test_what_is_a_class_and_what_is_said(
    tree: str, counts: dict[str, int], said: str, tmp_path: Path
) -> None:
    index = scan_folder(grow(tmp_path, tree))
    assert index.counts == counts
    assert said in "; ".join(index.hints)


def test_leaves_are_classes_where_that_is_asked_for(tmp_path: Path) -> None:
    grow(tmp_path, "Fruit/Apple/Gala: 2; Fruit/Apple/Red: 2; Fruit/Pear/Red: 3; Fruit/Pear: 2")
    index = scan_folder(tmp_path, classes="leaves")
    assert index.counts == {"Apple - Red": 2, "Gala": 2, "Pear": 2, "Pear - Red": 3}
    with pytest.raises(ValueError, match="unknown classes 'deepest'"):
        scan_folder(tmp_path, classes="deepest")


# The public folders, small: their layout is what they are for.


@pytest.mark.parametrize(
    ("tree", "counts", "divided", "said"),
    [
        (
            "training/bed: 3; training/cup: 2; training/key: 2; test: 5",
            {"bed": 3, "cup": 2, "key": 2},
            (0, 0, 0),
            "'test' holds 5 pictures without class folders: they have no labels",
        ),
        (
            "training_set/cats: 4; training_set/dogs: 4; test_set/cats: 1; test_set/dogs: 1; "
            "single_prediction: 3",
            {"cats": 5, "dogs": 5},
            (8, 2, 0),
            "'single_prediction' holds 3 pictures beside",
        ),
        (
            "train/with_mask: 6; train/without_mask: 6; val/with_mask: 2; val/without_mask: 2; "
            "test/with_mask: 3; test/without_mask: 3",
            {"with_mask": 8, "without_mask": 8},
            (12, 4, 6),
            "'val' is held out (4)",
        ),
        ("daisy: 4; rose: 3; tulip: 2", {"daisy": 4, "rose": 3, "tulip": 2}, (0, 0, 0), ""),
        (
            "train/Covid: 5; train/Normal: 3; train/Viral Pneumonia: 3; test/Covid: 2; "
            "test/Normal: 2; test/Viral Pneumonia: 2",
            {"Covid": 7, "Normal": 5, "Viral Pneumonia": 5},
            (11, 6, 0),
            "'test' is held out (6)",
        ),
    ],
    ids=["things", "cats and dogs", "masks", "flowers", "X-rays"],
)
def test_public_folders_as_they_come(
    tree: str,
    counts: dict[str, int],
    divided: tuple[int, int, int],
    said: str,
    tmp_path: Path,
) -> None:
    index = scan_folder(grow(tmp_path / "Dataset", tree).parent)
    assert index.counts == counts
    assert parts(index) == divided
    assert said in "; ".join(index.hints)


# Labels that are not folders.

PETS = [*(f"cat.{k}.jpg" for k in range(7)), *(f"dog_{k:04}.png" for k in range(5))]


def test_names_that_tell_classes_are_proposed_and_taken_where_confirmed(tmp_path: Path) -> None:
    write(tmp_path, *PETS)
    with pytest.raises(ValueError, match=r"12 files look like 2 classes, cat and dog, by "):
        scan_folder(tmp_path)
    index = scan_folder(tmp_path, labels="names")
    assert index.counts == {"cat": 7, "dog": 5}
    write(tmp_path, "portrait.png")
    index = scan_folder(tmp_path, labels="names")
    assert [s.reason for s in index.skipped] == ["has a name that tells no class"]


def test_names_in_a_flat_train_folder(tmp_path: Path) -> None:
    write(tmp_path, *(f"train/{name}" for name in PETS), "test1/1.jpg", "test1/2.jpg")
    with pytest.raises(ValueError, match="--labels names"):
        scan_folder(tmp_path)
    index = scan_folder(tmp_path, labels="names")
    assert index.counts == {"cat": 7, "dog": 5}
    assert len(index.skipped) == 2


@pytest.mark.parametrize(
    "names",
    [
        ["IMG_1.jpg", "IMG_2.jpg", "DSC_1.jpg", "DSC_2.jpg"],
        ["IMG_20230101_1.jpg", "IMG_20230101_2.jpg", "IMG_20230102_1.jpg", "IMG_20230102_2.jpg"],
        ["train_1.jpg", "train_2.jpg", "test_1.jpg", "test_2.jpg"],
        ["1.jpg", "2.jpg"],
        ["a.jpg", "b.jpg"],
    ],
)
def test_names_that_tell_nothing_are_not_proposed(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not sorted into classes; put the pictures"):
        scan_folder(write(tmp_path, *names))


TABLES = {
    "a header and endings": "file,class\na.png,owl\nb.png,owl\nc.png,yak\nd.png,yak\n",
    "no header": "a.png,owl\nb.png,owl\nc.png,yak\nd.png,yak\n",
    "no endings": "id,breed\na,owl\nb,owl\nc,yak\nd,yak\n",
    "other endings": "image;label\na.jpg;owl\nb.jpg;owl\nc.jpg;yak\nd.jpg;yak\n",
    "class first": "owl\ta.png\nowl\tb.png\nyak\tc.png\nyak\td.png\n",
    "a number and a name": "n,f,y,name\n1,a,0,owl\n2,b,0,owl\n3,c,1,yak\n4,d,1,yak\n",
    "measures": "f,x,label\na,0.1,owl\nb,0.1,owl\nc,3.25,yak\nd,3.25,yak\n",
    "columns of 0 and 1": "image,owl,yak\na,1,0\nb,1,0\nc,0,1\nd,0,1\n",
    "columns of yes and no": "image,owl,yak\na,True,False\nb,True,False\nc,False,True\n"
    "d,False,True\n",
    "type and sex": "id,cell_type,sex\na,owl,m\nb,owl,f\nc,yak,m\nd,yak,f\n",
    "numbers and sex": "id,sex,label,kind\na,m,0,owl\nb,f,0,owl\nc,m,1,yak\nd,f,1,yak\n",
    "class in a compound": "Width,Height,ClassId,Kind,Path\n8,8,0,owl,a\n8,9,0,owl,b\n8,8,1,yak,c\n"
    "8,9,1,yak,d\n",
    "several rows each": "a.png,owl\na.png,owl\nb.png,owl\nc.png,yak\nd.png,yak\nd.png,yak\n",
    "folders that are not here": "/data/x/a.png,owl\n/data/x/b.png,owl\n/data/x/c.png,yak\n"
    "/data/x/d.png,yak\n",
    "Windows": '\ufefffile,class\r\n"A.PNG","owl"\r\n"B.PNG","owl"\r\nc.png,yak\r\nd.png,yak\r\n',
}


@pytest.mark.parametrize("told", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("where", ["", "images/"])
def test_a_table_beside_the_pictures_tells_their_classes(
    told: str, where: str, tmp_path: Path
) -> None:
    write(tmp_path, *(f"{where}{name}.png" for name in "abcd"))
    (tmp_path / "labels.csv").write_text(told, encoding="utf-8")
    for labels in (None, "labels.csv", tmp_path / "labels.csv"):
        index = scan_folder(tmp_path, labels=labels)
        assert index.counts == {"owl": 2, "yak": 2}
        assert {s.name[len(where)] for s in index.samples if s.label == 0} == set("ab")
        assert any("'labels.csv'" in note for note in index.notes)
        assert not [s for s in index.skipped if s.file != "labels.csv"]


@pytest.mark.parametrize(
    "told",
    [
        ",filename,label\n0,3.png,yak\n1,2.png,yak\n2,1.png,owl\n3,0.png,owl\n",
        ",id,label\n0,3,yak\n1,2,yak\n2,1,owl\n3,0,owl\n",
        "class,id\n1,3\n1,2\n0,1\n0,0\n",
    ],
)
@pytest.mark.parametrize("digits", [1, 4])
def test_running_numbers_and_classes_are_not_files(told: str, digits: int, tmp_path: Path) -> None:
    told = told.replace(".png", ".png" * (digits == 1))
    write(tmp_path, *(f"{k:0{digits}}.png" for k in range(4)))
    (tmp_path / "labels.csv").write_text(told)
    index = scan_folder(tmp_path)
    assert {int(s.name[:digits]) for s in index.samples if s.label == 0} == {0, 1}


@pytest.mark.parametrize("other", ["sample_submission.csv", "a_test.csv"])
def test_a_contests_table_to_learn_from_goes_before_its_others(other: str, tmp_path: Path) -> None:
    write(tmp_path, *(f"{part}/{k}.png" for part in ("train", "test") for k in range(4)))
    (tmp_path / "train.csv").write_text("id,label\n0,owl\n1,owl\n2,yak\n3,yak\n")
    (tmp_path / other).write_text("id,label\n0,owl\n1,yak\n2,owl\n3,yak\n")
    index = scan_folder(tmp_path)
    assert {s.name for s in index.samples if s.label == 0} == {"train/0.png", "train/1.png"}


def test_a_table_tells_classes_in_all_parts_that_it_names(tmp_path: Path) -> None:
    write(tmp_path, *(f"train/{k}.png" for k in range(4)), "val/0.png", "val/1.png", "test/0.png")
    rows = ["train/0,owl", "train/1,owl", "train/2,yak", "train/3,yak", "val/0,owl", "val/1,yak"]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    index = scan_folder(tmp_path)
    assert (index.counts, parts(index)) == ({"owl": 3, "yak": 3}, (4, 2, 0))
    assert [s.file for s in index.skipped] == ["test"]
    assert not any("not there" in note for note in index.notes)


@pytest.mark.parametrize("page", ["cp949", "utf-8-sig", "utf-16"])
def test_a_table_in_any_code_page(page: str, tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}.png" for name in "abcd"))
    table = "파일,분류\na.png,개\nb.png,개\nc.png,새\nd.png,새\n"
    (tmp_path / "labels.csv").write_bytes(table.encode(page))
    assert scan_folder(tmp_path).counts == {"개": 2, "새": 2}


def test_what_a_table_leaves_out_is_said(tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}.png" for name in "abcdefg"))
    (tmp_path / "t.csv").write_text(
        "file,y,split\na,owl,train\nb,owl,train\nc,yak,training\nd,yak,train\n"
        "e,owl,test\ng,yak,test\ng,owl,test\nz,owl,train\n"
    )
    index = scan_folder(tmp_path, labels="t.csv")
    assert {s.file: s.reason for s in index.skipped} == {
        "f.png": "has no row in t.csv",
        "g.png": "has two classes in t.csv",
    }
    assert parts(index) == (4, 1, 0)
    assert "1 rows of 't.csv' name files that are not there" in index.notes


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("f,y\nx,owl\ny,yak\n", "no column that names the pictures"),
        ("f,y\na,1.5\nb,2.5\nc,3.25\nd,7.75\n", "no column of classes"),
        ("", "no column that names the pictures"),
    ],
)
def test_a_table_that_does_not_do_says_why(told: str, why: str, tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}.png" for name in "abcd"))
    (tmp_path / "t.csv").write_text(told)
    with pytest.raises(ValueError, match=why):
        scan_folder(tmp_path, labels="t.csv")
    with pytest.raises(ValueError, match=f"not sorted into classes; 't.csv' has {why}"):
        scan_folder(tmp_path)
    with pytest.raises(ValueError, match="can't be read"):
        scan_folder(tmp_path, labels="missing.csv")


def test_a_hostile_table_takes_neither_long_nor_much(tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}.png" for name in "abcd"))
    rows = "a,owl\nb,owl\nc,yak\nd,yak\n" + "x,y\n" * 50_000
    (tmp_path / "t.csv").write_text("q" + "," * 1_000_000 + "\n" + rows)
    index = scan_folder(tmp_path)
    assert index.counts == {"owl": 2, "yak": 2}
    assert "50000 rows of 't.csv' name files that are not there" in index.notes
    (tmp_path / "t.csv").write_text("a" * 17_000_000)
    with pytest.raises(ValueError, match="larger than 16 MB"):
        scan_folder(tmp_path, labels="t.csv")


@pytest.mark.parametrize("name", ["n9151jpg", "a.jfif", "a.webp_large", "a.tmp", "picture"])
def test_pictures_are_known_by_their_content(name: str, tmp_path: Path) -> None:
    write(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", f"dog/{name}")
    (tmp_path / "dog" / "notes").write_text("two dogs")
    index = scan_folder(tmp_path)
    assert index.counts == {"cat": 2, "dog": 2}
    assert {s.file: s.reason for s in index.skipped} == {"dog/notes": "is not a picture"}

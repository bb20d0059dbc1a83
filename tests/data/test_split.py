"""The honest split: copies on one side, every class on both, a fifth held out, repeatable."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import fingerprinted
from pictures import COPIES, cropped, resized, scene

from vgg.data.folder import scan_folder
from vgg.data.images import read_image
from vgg.data.index import FolderIndex
from vgg.data.split import Split, _held_out, folds, split


def draw(root: Path, counts: dict[str, int], *, first: int = 0) -> Path:
    """Writes so many different pictures of each class: cat/0.png, …"""
    seed = first
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            scene(seed, (60, 48)).save(root / name / f"{k}.png", compress_level=1)
            seed += 1
    return root


def held_counts(index: FolderIndex, parts: Split) -> dict[str, int]:
    labels = index.labels[parts.held_out]
    return {name: int((labels == k).sum()) for k, name in enumerate(index.class_names)}


def assert_honest(index: FolderIndex, parts: Split) -> None:
    assert not set(parts.train) & set(parts.held_out)
    assert not set(parts.groups[parts.train]) & set(parts.groups[parts.held_out])
    assert {index.samples[k].label for k in parts.train} == set(range(len(index.class_names)))


def test_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    index = scan_folder(draw(tmp_path, {"cat": 40, "dog": 15, "owl": 5, "yak": 2}))
    parts = split(*fingerprinted(index))
    assert held_counts(index, parts) == {"cat": 8, "dog": 3, "owl": 1, "yak": 1}
    assert sorted(parts.train + parts.held_out) == list(range(62))
    assert_honest(index, parts)
    assert parts.hints == ()


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    index = scan_folder(draw(tmp_path, {"cat": 20, "dog": 20}))
    index, prints = fingerprinted(index)
    first = split(index, prints, seed=1)
    again = split(scan_folder(tmp_path), prints, seed=1)
    other = split(index, prints, seed=2)
    assert first.train == again.train
    assert first.held_out == again.held_out
    assert first.held_out != other.held_out


def test_planted_copies_never_stand_on_both_sides(tmp_path: Path) -> None:
    draw(tmp_path, {"cat": 16, "dog": 16})
    changes = list(COPIES.values())
    for k in range(16):
        for name in ("cat", "dog"):
            image = read_image(tmp_path / name / f"{k}.png")
            for n in range(k % 4):
                change = changes[(k + 3 * n) % len(changes)]
                change(image).save(tmp_path / name / f"{k} copy {n}.png")
    index, prints = fingerprinted(scan_folder(tmp_path))
    for seed in range(4):
        parts = split(index, prints, seed=seed)
        assert_honest(index, parts)
        side = {index.samples[k].name: "held out" for k in parts.held_out}
        for sample in index.samples:
            original = sample.name.split(" copy ")[0].removesuffix(".png") + ".png"
            assert side.get(sample.name) == side.get(original), sample.name
        for count in held_counts(index, parts).values():
            assert 6 <= count <= 10  # of 40


def test_a_class_of_copies_only_is_learned_and_not_measured(tmp_path: Path) -> None:
    draw(tmp_path, {"cat": 10, "dog": 10, "mug": 1})
    for k in range(1, 6):
        resized(read_image(tmp_path / "mug" / "0.png"), 1 + k / 5).save(tmp_path / f"mug/{k}.png")
    index = scan_folder(tmp_path)
    parts = split(*fingerprinted(index))
    assert held_counts(index, parts) == {"cat": 2, "dog": 2, "mug": 0}
    assert_honest(index, parts)
    assert "'mug' is held out" in parts.hints[0]


def test_one_picture_in_two_classes_is_pointed_out(tmp_path: Path) -> None:
    draw(tmp_path, {"cat": 10, "dog": 10})
    read_image(tmp_path / "cat" / "3.png").save(tmp_path / "dog" / "same.png")
    parts = split(*fingerprinted(scan_folder(tmp_path)))
    assert parts.hints == (
        "pictures of two classes look the same, once: check cat/3.png and dog/same.png",
    )


def test_split_folders_decide_and_copies_leave_train(tmp_path: Path) -> None:
    draw(tmp_path / "train", {"cat": 6, "dog": 6})
    draw(tmp_path / "val", {"cat": 3, "dog": 2}, first=100)
    draw(tmp_path / "test", {"cat": 3, "dog": 2}, first=200)
    copy = cropped(read_image(tmp_path / "val" / "dog" / "0.png"), 0.04, 0.04, 0.04, 0.04)
    copy.save(tmp_path / "train" / "dog" / "twin.png")
    index = scan_folder(tmp_path)
    parts = split(*fingerprinted(index))
    names = parts.names(index)
    assert len(names["train"]) == 12
    assert {name.split("/")[0] for name in names["train"]} == {"train"}
    assert {name.split("/")[0] for name in names["held_out"]} == {"val"}
    assert len(names["held_out"]) == 5
    (skipped,) = parts.skipped
    assert skipped.file == "train/dog/twin.png"
    assert skipped.reason == "is a copy of val/dog/0.png, which is held out"
    assert_honest(index, parts)


def test_a_class_whose_pictures_are_all_held_out_too_can_not_be_learned(tmp_path: Path) -> None:
    for part in ("train", "val"):
        draw(tmp_path / part, {"cat": 2})
        draw(tmp_path / part, {"dog": 2}, first=10 if part == "train" else 20)
    with pytest.raises(ValueError, match="no picture of 'cat' is left to learn from"):
        split(*fingerprinted(scan_folder(tmp_path)))


@pytest.mark.parametrize("share", [0, -0.1, 0.6, 1])
def test_a_share_that_makes_no_sense_is_refused(tmp_path: Path, share: float) -> None:
    index = scan_folder(draw(tmp_path, {"cat": 2, "dog": 2}))
    with pytest.raises(ValueError, match="held_out"):
        split(*fingerprinted(index), held_out=share)


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("VGG_STUDIO_ODD"), reason="needs VGG_STUDIO_ODD")
def test_hostile_files_among_the_pictures_are_read_or_skipped(tmp_path: Path) -> None:
    odd = sorted(path for path in Path(os.environ["VGG_STUDIO_ODD"]).rglob("*.*") if path.is_file())
    root = draw(tmp_path, {"cat": 10, "dog": 10})
    for k, path in enumerate(odd):
        shutil.copy(path, root / ("cat", "dog")[k % 2] / f"odd {k}{path.suffix}")
    index = scan_folder(root)
    assert len(index.samples) + len(index.skipped) == len(odd) + 20
    index, prints = fingerprinted(index)
    parts = split(index, prints)
    assert len(parts.train) + len(parts.held_out) + len(parts.skipped) == len(index.samples)
    assert all(skipped.reason for skipped in index.skipped + parts.skipped)
    assert_honest(index, parts)


def random_classes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups of a few classes, some tiny, with groups of any size."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), rng.integers(2, 40, 4))
    groups = np.arange(len(labels))
    for _ in range(rng.integers(len(labels))):
        one, other = rng.integers(len(labels), size=2)
        if labels[one] == labels[other] or rng.random() < 0.1:
            groups[groups == groups[one]] = groups[other]
    return labels, groups


def shares_of(labels: np.ndarray, held: np.ndarray) -> list[float]:
    return [held[labels == c].mean() for c in np.unique(labels)]


@pytest.mark.parametrize("seed", range(40))
def test_each_class_stands_on_both_sides_where_it_can(seed: int) -> None:
    labels, groups = random_classes(seed)
    held = _held_out(labels, groups, 0.2, seed)
    assert not set(groups[held]) & set(groups[~held])
    for c, share in zip(np.unique(labels), shares_of(labels, held), strict=True):
        own = groups[labels == c]
        assert share < 1
        assert share > 0 or len(set(own)) == 1
        sizes = np.unique(own, return_counts=True)[1]
        if (sizes == 1).sum() > len(own) / 2:  # enough pictures without copies to even it out
            assert abs(share - 0.2) * len(own) < 1


@pytest.mark.parametrize("seed", range(10))
def test_folds_cover_each_picture_once_and_keep_groups_whole(seed: int) -> None:
    labels, groups = random_classes(seed)
    parts = folds(labels, groups, k=5, seed=seed)
    assert 2 <= len(parts) <= 5
    assert sorted(np.concatenate([held for _, held in parts])) == list(range(len(labels)))
    for train, held in parts:
        assert sorted([*train, *held]) == list(range(len(labels)))
        assert not set(groups[train]) & set(groups[held])
    again = folds(labels, groups, k=5, seed=seed)
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(parts, again, strict=True))


def test_folds_spread_each_class_evenly() -> None:
    labels = np.repeat([0, 1, 2], [103, 20, 5])
    for _, held in folds(labels, np.arange(128)):
        counts = np.bincount(labels[held], minlength=3)
        assert counts[0] in (20, 21)
        assert counts[1:].tolist() == [4, 1]


def test_folds_are_fewer_where_there_is_too_little() -> None:
    assert len(folds([0, 0, 1, 1], [0, 1, 2, 3])) == 2
    with pytest.raises(ValueError, match="all pictures show the same"):
        folds([0, 0, 1], [5, 5, 5])


def test_neither_torch_nor_scikit_learn_is_loaded_for_a_scan() -> None:
    code = "import sys, vgg.data.split; print({'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr

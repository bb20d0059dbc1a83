from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageChops, ImageFilter, ImageStat

from vgg.data import shapes
from vgg.data.shapes import SHAPES, draw_folder, draw_shape


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")
    }


def many(name: str, count: int, size: int) -> list[tuple[Image.Image, Image.Image]]:
    return [shapes._draw(name, Random(f"test/{name}/{k}"), size) for k in range(count)]


def test_there_are_eight_shapes_in_alphabetical_order():
    assert len(set(SHAPES)) == 8
    assert list(SHAPES) == sorted(SHAPES)


def test_a_folder_holds_the_asked_number_of_pictures_of_each_shape(tmp_path):
    out, steps = tmp_path / "new" / "shapes", []
    draw_folder(out, count=3, size=48, on_progress=lambda *step: steps.append(step))
    assert sorted(path.name for path in out.iterdir()) == list(SHAPES)
    for name in SHAPES:
        files = sorted((out / name).iterdir())
        assert [file.name for file in files] == ["0000.png", "0001.png", "0002.png"]
        for file in files:
            with Image.open(file) as picture:
                assert (picture.mode, picture.size) == ("RGB", (48, 48))
    assert steps == [(done, 24) for done in range(1, 25)]
    assert [path.name for path in out.parent.iterdir()] == ["shapes"]


def test_the_same_seed_gives_the_same_bytes_whatever_the_count(tmp_path):
    draw_folder(tmp_path / "few", count=2, seed=5)
    draw_folder(tmp_path / "more", count=4, seed=5)
    few, more = contents(tmp_path / "few"), contents(tmp_path / "more")
    assert len(few) == 16
    assert len(more) == 32
    assert few.items() <= more.items()


def test_two_seeds_share_no_picture(tmp_path):
    draw_folder(tmp_path / "a", count=12, seed=0)
    draw_folder(tmp_path / "b", count=12, seed=1)
    first, second = (contents(tmp_path / name).values() for name in "ab")
    assert len({*first, *second}) == 2 * 12 * 8


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_lies_wholly_inside_and_is_neither_tiny_nor_cut(name):
    size = 96
    for picture, mask in many(name, 60, size):
        assert picture.mode == "RGB"
        assert picture.size == mask.size == (size, size)
        left, top, right, bottom = mask.getbbox()
        assert min(left, top) >= 1
        assert max(right, bottom) <= size - 1
        assert 0.27 * size <= max(right - left, bottom - top) <= 0.98 * size


@pytest.mark.parametrize("name", SHAPES)
def test_the_edge_of_a_shape_stands_out_from_the_ground_around_it(name):
    for picture, mask in many(name, 60, 96):
        grey = picture.convert("L")
        rim = ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(3)))
        rim = rim.point(lambda part: 255 * (part > 160))
        near, far = (mask.filter(ImageFilter.MaxFilter(width)) for width in (3, 7))
        around = ImageChops.subtract(far, near).point(lambda part: 255 * (part > 160))
        inside, outside = (ImageStat.Stat(grey, where).mean[0] for where in (rim, around))
        assert abs(inside - outside) > 40


def test_filled_and_outlined_shapes_both_occur():
    covered = [
        ImageStat.Stat(mask.crop(mask.getbbox())).mean[0] / 255
        for _, mask in many("square", 80, 64)
    ]
    assert sum(part > 0.5 for part in covered) >= 20
    assert sum(part < 0.4 for part in covered) >= 20


def test_about_a_fifth_stand_on_plain_white_as_on_a_drawing_pad():
    pictures = [picture for name in SHAPES for picture, _ in many(name, 50, 48)]
    white = sum(picture.convert("L").histogram()[255] > 48 * 48 / 3 for picture in pictures)
    assert 0.12 <= white / len(pictures) <= 0.35


def test_a_random_state_gives_the_same_figure_at_any_size():
    for name in SHAPES:
        for (_, small), (_, large) in zip(many(name, 6, 64), many(name, 6, 128), strict=True):
            assert ImageStat.Stat(ImageChops.difference(small, large.reduce(2))).mean[0] < 6


def test_an_empty_folder_is_filled(tmp_path):
    draw_folder(tmp_path, count=1, size=32)
    assert sorted(path.name for path in tmp_path.iterdir()) == list(SHAPES)


@pytest.mark.parametrize("there", [True, False])
def test_a_drawing_that_is_broken_off_leaves_nothing(tmp_path, there):
    def break_off(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    out = tmp_path / "shapes"
    if there:
        out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        draw_folder(out, count=2, size=32, on_progress=break_off)
    assert list(tmp_path.rglob("*")) == ([out] if there else [])


def test_what_is_there_is_never_overwritten(tmp_path):
    kept = tmp_path / "mine.txt"
    kept.write_text("mine")
    with pytest.raises(ValueError, match="is not empty; name a new one"):
        draw_folder(tmp_path, count=1)
    with pytest.raises(ValueError, match=r"mine\.txt is a file; name a new folder"):
        draw_folder(kept, count=1)
    with pytest.raises(ValueError, match="can't write to"):
        draw_folder(kept / "below", count=1)
    assert list(tmp_path.iterdir()) == [kept]


def test_wrong_wishes_are_refused_before_anything_is_written(tmp_path):
    out = tmp_path / "shapes"
    with pytest.raises(ValueError, match="count is 0; ask for at least 1"):
        draw_folder(out, count=0)
    with pytest.raises(ValueError, match="size is 31; choose from 32 to 1024 pixels"):
        draw_folder(out, size=31)
    assert not out.exists()
    with pytest.raises(ValueError, match="unknown shape 'hexagon'; choose from arrow, circle"):
        draw_shape("hexagon", Random(0))
    with pytest.raises(ValueError, match="size is 1025"):
        draw_shape("heart", Random(0), size=1025)

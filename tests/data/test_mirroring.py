"""Which classes are mirror images of each other is found by measurement."""

from random import Random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from vgg.data.mirroring import mirrored_pairs
from vgg.data.shapes import SHAPES, draw_shape


def letters(text: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Thumbnails of so many drawings of each letter, somewhere, slightly turned, in any colour."""
    pictures, labels = [], []
    for label, letter in enumerate(text):
        for k in range(count):
            rng = Random(f"{letter}{k}")
            ground = tuple(rng.randrange(170, 256) for _ in range(3))
            picture = Image.new("RGB", (96, 96), ground)
            where, font = (rng.uniform(5, 50), rng.uniform(0, 30)), rng.choice((30, 40, 50))
            ink = tuple(rng.randrange(0, 120) for _ in range(3))
            draw = ImageDraw.Draw(picture)
            draw.text(where, letter, fill=ink, font=ImageFont.load_default(size=font))
            pictures.append(picture.rotate(rng.uniform(-12, 12), fillcolor=ground))
            labels.append(label)
    return thumbnails(pictures), np.array(labels)


def thumbnails(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(p.resize((24, 24), Image.Resampling.BILINEAR)) for p in pictures])


@pytest.mark.parametrize(
    ("text", "pairs"),
    [("bd", [(0, 1)]), ("xbod", [(1, 3)]), ("pqbd", [(0, 1), (2, 3)]), ("xo", []), ("ef", [])],
)
def test_letters_that_are_each_others_mirror_image(text: str, pairs: list[tuple[int, int]]) -> None:
    assert mirrored_pairs(*letters(text, 20)) == pairs


def test_shapes_that_point_anywhere_may_be_mirrored() -> None:
    drawn = [draw_shape(name, Random(f"{name}{k}")) for name in SHAPES for k in range(30)]
    assert mirrored_pairs(thumbnails(drawn), np.repeat(np.arange(8), 30)) == []


def test_of_a_few_pictures_nothing_is_said() -> None:
    assert mirrored_pairs(*letters("bd", 7)) == []
    assert mirrored_pairs(np.zeros((0, 24, 24, 3), np.uint8), np.zeros(0, np.int64)) == []

"""Copies of a picture are found, other pictures are not taken for copies."""

import numpy as np
import pytest
from pictures import COPIES, cropped, scene
from PIL import Image, ImageDraw

from vgg.data.duplicates import FINGERPRINT, fingerprint, group


def prints_of(images: list[Image.Image]) -> np.ndarray:
    return np.stack([fingerprint(image, f"{k:032}") for k, image in enumerate(images)])


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES.keys())
def test_a_copy_is_in_the_group_of_its_picture_and_of_no_other(change) -> None:
    images = [scene(seed) for seed in range(30)]
    groups = group(prints_of(images + [change(image) for image in images]))
    assert groups[:30].tolist() == groups[30:].tolist()
    assert len(set(groups.tolist())) == 30


def test_two_different_crops_of_a_picture_are_copies_of_each_other() -> None:
    images = [scene(seed) for seed in range(30)]
    one = [cropped(image, 0.05, 0, 0, 0.03) for image in images]
    other = [cropped(image, 0, 0.03, 0.04, 0) for image in images]
    groups = group(prints_of(one + other))
    assert groups[:30].tolist() == groups[30:].tolist()


def test_other_pictures_of_a_kind_are_no_copies() -> None:
    """Same figure in the same place, in another colour or on another ground."""
    images = []
    for k in range(24):
        rng = np.random.default_rng(k)
        image = Image.new("RGB", (96, 96), tuple(rng.integers(0, 256, 3).tolist()))
        box = (20 + k % 3 * 8, 20, 70 + k % 4 * 5, 70)
        ImageDraw.Draw(image).ellipse(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
        images.append(image)
    assert len(set(group(prints_of(images)).tolist())) == 24


def test_equal_files_are_one_group_whatever_they_show() -> None:
    flat = [Image.new("RGB", (64, 64), colour) for colour in ("red", "red", "blue")]
    prints = np.stack(
        [fingerprint(image, digest) for image, digest in zip(flat, "aab", strict=True)]
    )
    groups = group(prints)
    assert groups[0] == groups[1]


def test_a_chain_is_cut_where_its_ends_have_nothing_in_common() -> None:
    """Each picture agrees with the next one, but not with the one after many steps."""
    images = [Image.blend(scene(1), scene(2), k / 19) for k in range(20)]
    groups = group(prints_of(images))
    assert groups[0] != groups[-1]


def test_features_join_what_the_network_sees_as_one() -> None:
    first = scene(3)
    other = first.copy()  # the same drawing in other colours
    other = Image.merge("RGB", [other.getchannel(c) for c in "BRG"])
    images = [first, other, scene(4), scene(5)]
    prints = prints_of(images)
    prints["hashes"][1] = prints["hashes"][0]  # the shapes are the same, so the grey picture is
    assert len(set(group(prints).tolist())) == 4
    features = np.eye(4, dtype=np.float32)
    assert len(set(group(prints, features).tolist())) == 4
    features[1] = features[0] + 0.01
    groups = group(prints, features)
    assert groups[0] == groups[1]
    assert len(set(groups.tolist())) == 3


def test_groups_do_not_depend_on_the_order_of_the_pictures() -> None:
    images = [scene(seed) for seed in range(20)]
    prints = prints_of(images + [cropped(image, 0.04, 0.02, 0, 0) for image in images])
    order = np.random.default_rng(0).permutation(40)
    straight, shuffled = group(prints), group(prints[order])
    for number in range(20):
        assert len(set(shuffled[np.isin(order, np.flatnonzero(straight == number))].tolist())) == 1


def test_no_pictures_and_one_picture_work() -> None:
    assert group(np.zeros(0, FINGERPRINT)).shape == (0,)
    assert group(prints_of([scene(0)])).tolist() == [0]

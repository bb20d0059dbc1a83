"""Preprocessing is torchvision's and timm's own, pixel for pixel, at any shape of picture."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import timm.data
import torch
import torchvision
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from vgg.data.transforms import needed_side, normalise, sampled, to_input_square, to_uint8
from vgg.network.config import CROP_MODES, Preprocessing

SIZES = [
    (224, 224),
    (256, 256),
    (500, 375),
    (375, 500),
    (641, 427),
    (223, 300),
    (225, 257),
    (64, 64),
    (33, 47),
    (1, 1),
    (2, 3),
    (1000, 130),
    (130, 1000),
]
SHAPES = [(1, 20_000), (20_000, 1), (100, 50_000), (50_000, 100), (3, 900)]


def noise(size: tuple[int, int]) -> Image.Image:
    """A picture in which every pixel counts."""
    rng = np.random.default_rng(size[0])
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Within it, this process can take so many bytes more than it has."""
    resource = pytest.importorskip("resource")
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        pytest.skip("this system does not tell how much memory a process has")
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_become_what_torchvisions_imagenet_preset_makes_of_them(
    size: tuple[int, int],
) -> None:
    image, cfg = noise(size), Preprocessing()
    resized = tv.resize(image, [256], antialias=True)
    assert torch.equal(to_uint8(image, cfg), tv.pil_to_tensor(tv.center_crop(resized, [224])))
    preset = torchvision.models.VGG16_Weights.IMAGENET1K_V1.transforms()
    ours = normalise(to_uint8(image, cfg)[None], cfg)[0]
    torch.testing.assert_close(ours, preset(image), atol=1e-6, rtol=0)


def test_the_preset_of_the_features_weights_is_met_by_their_own_numbers() -> None:
    preset = torchvision.models.VGG16_Weights.IMAGENET1K_FEATURES.transforms()
    cfg = Preprocessing(mean=tuple(preset.mean), std=tuple(preset.std))
    image = noise((300, 200))
    ours = normalise(to_uint8(image, cfg)[None], cfg)[0]
    torch.testing.assert_close(ours, preset(image), atol=1e-4, rtol=1e-6)  # values reach 130


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("crop_pct", [0.875, 1.0, 0.9])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_every_crop_mode_is_timms(crop_mode: str, crop_pct: float, interpolation: str) -> None:
    cfg = Preprocessing(
        input_size=(3, 112, 112),
        crop_mode=crop_mode,
        crop_pct=crop_pct,
        interpolation=interpolation,
    )
    theirs = timm.data.create_transform(
        cfg.input_size,
        is_training=False,
        interpolation=interpolation,
        mean=cfg.mean,
        std=cfg.std,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        normalize=False,
    )
    for size in SIZES:
        image = noise(size)
        difference = to_uint8(image, cfg).int() - theirs(image).int()
        assert difference.abs().max() <= 1, size


def test_border_shows_the_whole_picture_and_pads_with_the_mean_colour() -> None:
    image = noise((400, 150))
    cfg = Preprocessing(input_size=(3, 200, 200), crop_mode="border", crop_pct=1.0)
    fitted = to_input_square(image, cfg)
    assert fitted.size == (200, 200)
    whole = image.resize((200, 75), Image.Resampling.BILINEAR)
    assert np.array_equal(np.array(fitted)[62:137], np.array(whole))
    margins = np.concatenate([np.array(fitted)[:62], np.array(fitted)[137:]])
    assert (margins == (124, 116, 104)).all()
    # In the network's input the mean colour is 0, as far as whole grey levels go.
    edge = normalise(to_uint8(image, cfg)[None], cfg)[0, :, 0, 0]
    assert edge.abs().max() < 0.5 / 255 / min(cfg.std) + 1e-6


def test_center_cuts_the_ends_off_and_squash_keeps_them() -> None:
    stripes = np.zeros((100, 400, 3), np.uint8)
    stripes[:, :50], stripes[:, 350:] = (255, 0, 0), (0, 0, 255)
    image = Image.fromarray(stripes)
    for crop_mode, coloured in (("center", 0), ("squash", 50 / 400 * 64)):
        cfg = Preprocessing(input_size=(3, 64, 64), crop_mode=crop_mode, crop_pct=1.0)
        row = np.array(to_input_square(image, cfg))[32]
        assert (row[:, 0] > 200).sum() == pytest.approx(coloured, abs=1)
        assert (row[:, 2] > 200).sum() == pytest.approx(coloured, abs=1)


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("size", SHAPES)
def test_very_long_pictures_are_quick_and_take_little_memory(
    crop_mode: str, size: tuple[int, int]
) -> None:
    image = Image.new("RGB", size, (10, 200, 30))
    cfg = Preprocessing(crop_mode=crop_mode)
    started = time.perf_counter()
    with memory_limit(200_000_000):
        fitted = to_input_square(image, cfg)
    assert time.perf_counter() - started < 2
    assert fitted.size == (224, 224)
    assert fitted.getpixel((111, 111)) == (10, 200, 30)


def test_the_middle_of_a_long_strip_is_what_torchvision_shows() -> None:
    image = Image.fromarray(np.linspace(0, 255, 3000 * 3, dtype=np.uint8).reshape(1, 3000, 3))
    image = image.resize((3000, 100))
    theirs = tv.pil_to_tensor(tv.center_crop(tv.resize(image, [256], antialias=True), [224]))
    difference = to_uint8(image, Preprocessing()).int() - theirs.int()
    assert difference.abs().max() <= 1


def test_a_picture_no_smaller_than_needed_is_never_enlarged() -> None:
    assert needed_side(Preprocessing()) == 256
    assert needed_side(Preprocessing(input_size=(3, 64, 64), crop_pct=1.0)) == 64


def test_the_network_reads_rgb_planes_centred_and_scaled_channels_last() -> None:
    cfg = Preprocessing(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25), input_size=(3, 32, 32))
    pixels = to_uint8(Image.new("RGB", (50, 40), (255, 0, 51)), cfg)[None]
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (1, 3, 32, 32)
    x = normalise(pixels, cfg)
    assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x[0, :, 5, 5], torch.tensor([1.0, -1.0, -3.2]))
    assert normalise(pixels, cfg, torch.bfloat16).dtype == torch.bfloat16


def test_fitting_leaves_the_given_picture_alone() -> None:
    image = noise((64, 64))
    before = image.tobytes()
    cfg = Preprocessing(input_size=(3, 64, 64), crop_pct=1.0)
    to_uint8(image, cfg).zero_()
    to_input_square(image, cfg)
    assert image.tobytes() == before


def test_values_on_a_grid_are_those_of_grid_sample_with_edges_that_go_on() -> None:
    x = torch.randn(3, 2, 9, 7)
    rows, columns = 12 * torch.rand(3, 20) - 2, 10 * torch.rand(3, 11) - 2
    grid = torch.stack(
        [
            ((2 * columns + 1) / 7 - 1)[:, None, :].expand(3, 20, 11),
            ((2 * rows + 1) / 9 - 1)[:, :, None].expand(3, 20, 11),
        ],
        dim=-1,
    )
    expected = torch.nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(sampled(x, columns, rows), expected, atol=1e-5, rtol=0)

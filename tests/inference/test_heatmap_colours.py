"""Heat lies on the picture where the network saw it, in colours that everyone can tell apart."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vgg.data.transforms import placement, to_uint8
from vgg.inference.heatmap import UNSEEN, colours, legend, on_picture, overlay
from vgg.network.config import CROP_MODES, Preprocessing

SIZES = [(96, 96), (200, 90), (90, 200), (301, 64), (1200, 40), (40, 1201), (20, 33)]


def ramp(size: tuple[int, int]) -> Image.Image:
    """A picture whose red tells the column and whose green tells the row, from 0 to 255."""
    width, height = size
    across = np.linspace(0, 255, width)[None].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([across, down, 0 * down], -1).round().astype(np.uint8))


def preprocessing(mode: str, crop_pct: float = 1.0) -> Preprocessing:
    return Preprocessing(input_size=(3, 64, 64), crop_mode=mode, crop_pct=crop_pct)


@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.6])
@pytest.mark.parametrize("mode", CROP_MODES)
def test_what_the_network_sees_goes_back_to_where_it_was_on_the_picture(
    mode: str, crop_pct: float
) -> None:
    cfg = preprocessing(mode, crop_pct)
    for size in SIZES:
        image = ramp(size)
        place = placement(size, cfg)
        seen = to_uint8(image, cfg)[:2].float()
        original = torch.from_numpy(np.array(image)).permute(2, 0, 1)[:2].float()
        for channel in range(2):
            back = on_picture(seen[channel], place, size)
            assert back.shape == (size[1], size[0])
            there = away_from_edges(back)
            # One pixel of the input is this many steps of the ramp.
            step = 255 / (place[2 + channel] - place[channel])
            assert there.any()
            assert (back - original[channel])[there].abs().max() <= max(2.0, step), (size, channel)


def away_from_edges(back: Tensor) -> Tensor:
    """Where a map (H, W) is not NaN, less the outermost twentieth, which resizing mixes."""
    seen = ~back.isnan()
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    inner = torch.zeros_like(seen)
    cut = [max(1, len(at) // 20) if len(at) > 2 else 0 for at in (rows, columns)]
    inner[
        rows[0] + cut[0] : rows[-1] + 1 - cut[0], columns[0] + cut[1] : columns[-1] + 1 - cut[1]
    ] = True
    return inner


@pytest.mark.parametrize("size", SIZES)
def test_only_what_the_crop_cuts_off_is_unseen(size: tuple[int, int]) -> None:
    heat = torch.rand(64, 64)
    for mode in ("squash", "border"):
        cfg = preprocessing(mode)
        assert not on_picture(heat, placement(size, cfg), size).isnan().any()
    cfg = preprocessing("center")
    seen = ~on_picture(heat, placement(size, cfg), size).isnan()
    assert abs(int(seen.sum()) - min(size) ** 2) <= 2 * max(min(size), 1)


def test_the_border_is_not_on_the_picture() -> None:
    cfg = preprocessing("border")
    place = placement((200, 100), cfg)
    assert place == (0, 16, 64, 48)
    heat = torch.zeros(64, 64)
    heat[:16], heat[48:] = 1, 1
    on_it = on_picture(heat, place, (40, 20))
    assert on_it.shape == (20, 40)
    assert not on_it[1:-1].any()


def test_the_colours_grow_lighter_with_the_heat_and_grey_is_unseen() -> None:
    row = torch.linspace(0, 1, 101)
    painted = np.array(colours(row[None]).convert("L"))[0].astype(int)
    assert (np.diff(painted) >= 0).all()
    assert painted[-1] - painted[0] > 180
    assert colours(torch.tensor([[torch.nan, 1.0]])).getpixel((0, 0)) == UNSEEN


def test_the_legend_names_the_colours_that_are_drawn() -> None:
    stops = legend()
    assert stops[0] == (0.0, "#440154")
    assert stops[-1] == (1.0, "#fde725")
    for value, colour in stops:
        drawn = colours(torch.tensor([[value]])).getpixel((0, 0))
        assert "#{:02x}{:02x}{:02x}".format(*drawn) == colour


def test_opacity_goes_from_the_picture_to_the_map() -> None:
    image, heat = ramp((30, 20)), torch.rand(20, 30)
    assert overlay(image, heat, opacity=0) == image
    assert overlay(image, heat, opacity=1) == colours(heat)
    grey = np.array(image.convert("L"))[..., None]
    half = np.array(overlay(image, heat)).astype(float)
    assert np.abs(half - (grey / 2 + np.array(colours(heat)) / 2)).max() <= 1
    assert overlay(image, torch.rand(40, 60)).size == (60, 40)
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            overlay(image, heat, opacity=wrong)


def test_a_placement_is_where_the_picture_was_pasted() -> None:
    for mode, size in itertools.product(("squash", "border"), SIZES):
        cfg = preprocessing(mode)
        white = to_uint8(Image.new("RGB", size, "white"), cfg)[0] == 255
        rows, columns = white.any(1).nonzero().flatten(), white.any(0).nonzero().flatten()
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert placement(size, cfg) == tuple(map(int, found))

"""Preprocessing, made from a model's config: picture → uint8 tensor → the network's input."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vgg.network.config import Preprocessing

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# A strip this much longer than wide is cut before it is resized: only its middle is seen, and
# resizing all of a 100 x 50,000 picture would cost gigabytes.
LONG_STRIP = 8

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


def needed_side(cfg: Preprocessing) -> int:
    """The shorter side, in pixels, from which on a picture loses nothing that the network sees."""
    return _resized_side(cfg)


def to_input_square(image: Image.Image, cfg: Preprocessing) -> Image.Image:
    """Resize, crop or pad an RGB picture to the network's square input, as `cfg.crop_mode` says.

    - `center`: the shorter side to size / crop_pct, then the middle square (torchvision's preset).
    - `squash`: both sides to size / crop_pct, whatever the shape, then the middle square.
    - `border`: the longest side to size / crop_pct, the rest filled with the mean colour.
    """
    box, target = _resizing(image.size, cfg)
    return _crop_or_pad(image.resize(target, _FILTERS[cfg.interpolation], box), cfg)


def placement(size: tuple[int, int], cfg: Preprocessing) -> tuple[float, float, float, float]:
    """Where `to_input_square` puts a picture of `size` (width, height): its (left, top, right,
    bottom) in pixels of the network's input.

    What lies outside of 0 to `cfg.size` is not seen; inside, what lies beside it is border.
    """
    box, target = _resizing(size, cfg)
    begins, ends = [], []
    for side, begin, end, resized in zip(size, box[:2], box[2:], target, strict=True):
        scale = resized / (end - begin)
        begins.append(-begin * scale - _offset(resized, cfg.size))
        ends.append(begins[-1] + side * scale)
    return begins[0], begins[1], ends[0], ends[1]


def to_uint8(image: Image.Image, cfg: Preprocessing) -> Tensor:
    """`to_input_square` as a uint8 tensor (3, size, size), RGB, [0, 255]."""
    return torch.from_numpy(np.array(to_input_square(image, cfg))).permute(2, 0, 1)


def normalise(pixels: Tensor, cfg: Preprocessing, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (N, 3, H, W) → the network's input of the same shape, on the same device, laid out
    channels last."""
    mean = torch.tensor(cfg.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(cfg.std, device=pixels.device).view(1, 3, 1, 1)
    x = (pixels.float() / 255 - mean) / std
    return x.to(dtype, memory_format=torch.channels_last)


def sampled(x: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Bilinear values of maps (N, C, H, W), float, on a grid: (N, C, h, w).

    `columns` (N, w) and `rows` (N, h) are places in pixels, 0 the middle of the first; beyond an
    edge the edge goes on. As two products: `grid_sample` does the same, but not on every device.
    """
    down, across = (  # what each pixel adds to each value: (N, 1, values, pixels)
        (1 - (places.clamp(0, side - 1)[:, None, :, None] - torch.arange(side).to(x.device)).abs())
        for places, side in ((rows, x.shape[2]), (columns, x.shape[3]))
    )
    return down.clamp_min(0).to(x.dtype) @ x @ across.clamp_min(0).to(x.dtype).mT


def _resized_side(cfg: Preprocessing) -> int:
    return max(cfg.size, math.floor(cfg.size / cfg.crop_pct))


def _resizing(size: tuple[int, int], cfg: Preprocessing) -> tuple[Box, tuple[int, int]]:
    """Which part of a picture of `size` (width, height) is resized, and to what size."""
    width, height = size
    side = _resized_side(cfg)
    if cfg.crop_mode == "squash":
        return (0, 0, width, height), (side, side)
    if cfg.crop_mode == "border":
        scale = side / max(size)
        return (0, 0, width, height), (max(1, round(width * scale)), max(1, round(height * scale)))
    longest = LONG_STRIP * min(size)
    left, top = (max(0, length - longest) // 2 for length in size)
    width, height = min(width, longest), min(height, longest)
    box = (left, top, left + width, top + height)
    # torchvision cuts the longer side's fraction off where timm rounds it.
    if width <= height:
        return box, (side, max(cfg.size, int(side * height / width)))
    return box, (max(cfg.size, int(side * width / height)), side)


def _crop_or_pad(image: Image.Image, cfg: Preprocessing) -> Image.Image:
    size = cfg.size
    if image.size == (size, size):
        return image
    left, top = (_offset(side, size) for side in image.size)
    if min(image.size) >= size:
        return image.crop((left, top, left + size, top + size))
    fill = tuple(min(255, max(0, round(255 * value))) for value in cfg.mean)
    canvas = Image.new("RGB", (size, size), fill)
    canvas.paste(image, (-left, -top))
    return canvas


def _offset(side: int, size: int) -> int:
    """Where the middle `size` pixels of a side begin; below 0 where it is shorter. An odd pixel
    goes where torchvision's crop and timm's padding put it."""
    return round((side - size) / 2) if side >= size else -((size - side) // 2)

"""Preprocessing, made from a model's config: picture → uint8 tensor → the network's input."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vgg.options import Preprocessing

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# A strip this much longer than wide is cut before it is resized: only its middle is seen, and
# resizing all of a 100 x 50,000 picture would cost gigabytes.
_LONG_STRIP = 8


def needed_side(cfg: Preprocessing) -> int:
    """The shorter side, in pixels, from which on a picture loses nothing that the network sees."""
    return _resized_side(cfg)


def fit(image: Image.Image, cfg: Preprocessing) -> Image.Image:
    """Resize, crop or pad an RGB picture to the network's square input, as `cfg.crop_mode` says.

    - `center`: the shorter side to size / crop_pct, then the middle square (torchvision's preset).
    - `squash`: both sides to size / crop_pct, whatever the shape, then the middle square.
    - `border`: the longest side to size / crop_pct, the rest filled with the mean colour.
    """
    size, side = cfg.size, _resized_side(cfg)
    width, height = image.size
    resample = _FILTERS[cfg.interpolation]
    if cfg.crop_mode == "squash":
        return _crop_or_pad(image.resize((side, side), resample), cfg)
    if cfg.crop_mode == "border":
        scale = side / max(width, height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
        return _crop_or_pad(image.resize(target, resample), cfg)
    image = _cut_long_strip(image)
    width, height = image.size
    # torchvision cuts the longer side's fraction off where timm rounds it.
    if width <= height:
        target = (side, max(size, int(side * height / width)))
    else:
        target = (max(size, int(side * width / height)), side)
    return _crop_or_pad(image.resize(target, resample), cfg)


def to_uint8(image: Image.Image, cfg: Preprocessing) -> Tensor:
    """`fit` as a uint8 tensor (3, size, size), RGB, [0, 255]."""
    return torch.from_numpy(np.array(fit(image, cfg))).permute(2, 0, 1)


def normalise(pixels: Tensor, cfg: Preprocessing, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (N, 3, H, W) → the network's input of the same shape, on the same device, laid out
    channels last."""
    mean = torch.tensor(cfg.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(cfg.std, device=pixels.device).view(1, 3, 1, 1)
    x = (pixels.float() / 255 - mean) / std
    return x.to(dtype, memory_format=torch.channels_last)


def _resized_side(cfg: Preprocessing) -> int:
    return max(cfg.size, math.floor(cfg.size / cfg.crop_pct))


def _crop_or_pad(image: Image.Image, cfg: Preprocessing) -> Image.Image:
    size = cfg.size
    width, height = image.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    if left == top == 0 and image.size == (size, size):
        return image
    if min(left, top) >= 0:
        return image.crop((left, top, left + size, top + size))
    fill = tuple(min(255, max(0, round(255 * value))) for value in cfg.mean)
    canvas = Image.new("RGB", (size, size), fill)
    canvas.paste(image, (-left, -top))
    return canvas


def _cut_long_strip(image: Image.Image) -> Image.Image:
    """The middle of a very long picture, longer than any square crop of it needs."""
    width, height = image.size
    longest = _LONG_STRIP * min(width, height)
    if max(width, height) <= longest:
        return image
    if width > height:
        left = (width - longest) // 2
        return image.crop((left, 0, left + longest, height))
    top = (height - longest) // 2
    return image.crop((0, top, width, top + longest))

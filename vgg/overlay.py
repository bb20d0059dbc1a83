"""Heat maps made visible: back on the picture, in colours that everyone can tell apart."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

# Nine equally spaced colours of matplotlib's viridis (CC0): lightness grows evenly from 0 to 1, so
# the order is seen on a grey print and by colour-blind eyes, too.
COLOURS = (
    (68, 1, 84),
    (71, 45, 123),
    (59, 82, 139),
    (44, 114, 142),
    (33, 145, 140),
    (40, 174, 128),
    (94, 201, 98),
    (173, 220, 48),
    (253, 231, 37),
)
UNSEEN = (128, 128, 128)  # where the network saw nothing


def on_picture(
    heat: Tensor, place: tuple[float, float, float, float], size: tuple[int, int]
) -> Tensor:
    """A heat map (S, S) of the network's input, brought back onto the picture.

    `place`: where the picture lies in the input, as `transforms.placement` gives it; `size`:
    (width, height) of the result, of any scale. Returns (height, width); NaN where the picture
    was cut off and not seen. Borders beside the picture are gone.
    """
    side = len(heat)
    x, y = (
        begin + (torch.arange(count) + 0.5) * ((end - begin) / count)
        for begin, end, count in zip(place[:2], place[2:], size, strict=True)
    )
    seen = ((y >= 0) & (y <= side))[:, None] & ((x >= 0) & (x <= side))
    # Half a pixel from the edge no border beside the picture is mixed in.
    x, y = x.clamp(place[0] + 0.5, place[2] - 0.5), y.clamp(place[1] + 0.5, place[3] - 0.5)
    grid = torch.stack(torch.meshgrid(2 * x / side - 1, 2 * y / side - 1, indexing="xy"), dim=-1)
    found = F.grid_sample(
        heat.float().cpu()[None, None], grid[None], padding_mode="border", align_corners=False
    )
    return found[0, 0].where(seen, torch.nan)


def colours(heat: Tensor) -> Image.Image:
    """A map (H, W) of numbers from 0 to 1 in the colours of `legend`; NaN is grey."""
    values = heat.detach().float().cpu().numpy()
    stops = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(values, stops, channel) for channel in zip(*COLOURS, strict=True)]
    painted = np.stack(channels, axis=-1)
    painted[np.isnan(values)] = UNSEEN
    return Image.fromarray(painted.round().astype(np.uint8))


def overlay(image: Image.Image, heat: Tensor, *, opacity: float = 0.5) -> Image.Image:
    """`colours` of a map (H, W) laid over the picture, which is brought to the map's size.

    `heat` is what `on_picture` returns. `opacity` 0 leaves the picture, 1 shows the map alone. The
    picture loses its colours from 0 to a half, so that none of them is taken for heat.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie between 0 and 1, not {opacity}")
    painted = colours(heat)
    picture = image.convert("RGB").resize(painted.size)
    grey = picture.convert("L").convert("RGB")
    return Image.blend(Image.blend(picture, grey, min(1, 2 * opacity)), painted, opacity)


def legend() -> list[tuple[float, str]]:
    """What the colours mean: (heat from 0 to 1, colour such as `#440154`). Between them they are
    mixed evenly, as a CSS gradient does."""
    steps = len(COLOURS) - 1
    return [(k / steps, "#{:02x}{:02x}{:02x}".format(*c)) for k, c in enumerate(COLOURS)]

"""Pictures changed a little at random, so that a network from scratch sees more than there are."""

import torch
from torch import Tensor

SHIFT = 0.08  # of the side, at most, each way
CUTOUT = 0.25  # of the side: a square of the mean colour hides part of the picture


def augment(
    pixels: Tensor,
    generator: torch.Generator,
    *,
    fill: tuple[float, float, float],
    mirror: bool = True,
    shift: float = SHIFT,
    cutout: float = CUTOUT,
) -> Tensor:
    """Mirrored (one in two, where `mirror` allows it), shifted with reflected edges, a square cut
    out: uint8 (N, 3, S, S).

    `fill` is the colour of the square, RGB in [0, 1]. All chance comes from `generator`, which
    lives on the CPU, so every device sees the same pictures. Cutout: DeVries and Taylor 2017.
    """
    count, _, side, _ = pixels.shape
    most = max(1, round(shift * side))
    device = pixels.device  # little is drawn on the CPU; what it means is worked out there
    offsets = torch.randint(-most, most + 1, (2, count, 1), generator=generator).to(device)
    flips = (torch.rand(count, 1, generator=generator) < 0.5 * mirror).to(device)
    middle = torch.randint(0, side, (2, count, 1), generator=generator).to(device)
    places = torch.arange(side, device=device)
    lines = _reflected(places + offsets[0], side)  # (N, S): which line comes where
    columns = _reflected(places + offsets[1], side)
    columns = torch.where(flips, columns.flip(1), columns)
    near = (2 * (places - middle)).abs() < round(cutout * side)  # (2, N, S)
    hidden = near[0][:, None, :, None] & near[1][:, None, None, :]
    changed = pixels[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(3, device=device)[None, :, None, None],
        lines[:, None, :, None],
        columns[:, None, None, :],
    ]
    colour = [round(255 * min(1, max(0, c))) for c in fill]
    square = torch.tensor(colour, dtype=torch.uint8, device=device).view(1, 3, 1, 1)
    return torch.where(hidden, square, changed)


def _reflected(positions: Tensor, side: int) -> Tensor:
    """-1 → 1, side → side - 2: what lies beyond an edge is its mirror image."""
    return (side - 1) - ((side - 1) - positions.abs()).abs()

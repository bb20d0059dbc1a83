"""Layers that make a few numbers of a channel's map."""

import torch
from torch import Tensor, nn

# Where torch's own layer takes maps of every size. On an Apple GPU it raises for a map whose side
# is no multiple of what comes out.
WITH_ADAPTIVE_POOLING = ("cpu", "cuda")


class GlobalAverage(nn.Module):
    """The mean over all places: (N, C, H, W) → (N, C)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3))


class AverageGrid(nn.AdaptiveAvgPool2d):
    """Means over `pool` x `pool` parts of a map, equally large as far as that goes:
    (N, C, H, W) → (N, C, pool, pool). A smaller map's places are repeated."""

    def __init__(self, pool: int) -> None:
        super().__init__((pool, pool))
        self.pool = pool

    def forward(self, maps: Tensor) -> Tensor:
        if maps.device.type in WITH_ADAPTIVE_POOLING:
            return super().forward(maps)
        rows, columns = (
            averages(side, self.pool).to(maps.device, maps.dtype) for side in maps.shape[2:]
        )
        return rows @ maps @ columns.T


def averages(side: int, pool: int) -> Tensor:
    """What each place of a row adds to each mean, float32 (pool, side): part i of `pool` goes from
    place floor(i * side / pool) to ceil((i + 1) * side / pool), as torch divides it."""
    matrix = torch.zeros(pool, side)
    for part in range(pool):
        begin, end = part * side // pool, -(-(part + 1) * side // pool)
        matrix[part, begin:end] = 1 / (end - begin)
    return matrix

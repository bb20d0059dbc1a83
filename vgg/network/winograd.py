"""3x3 convolutions with fewer multiplications, for processors whose fastest precision is fp32.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4: a tile of 4x4
outputs is made from 6x6 inputs with 36 multiplications a pair of channels, not 144. The price is
more adding and copying, so it pays where there are many channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgg.network.vgg import VGG

TILE = 4  # outputs a side
PATCH = 6  # inputs a side that they are made from
# Measured with AVX2, 2 cores: below these the copying costs more than the multiplications.
LEAST_INPUTS = 128
LEAST_OUTPUTS = 256
LEAST_SIDE = 14
CHUNK_BYTES = 16e6  # pictures at once so that their patches stay in the processor's cache

# Y = A [(G w G^T) * (B x B^T)] A^T, with the points 0, ±1, ±2: ibid.
_B = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_A = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


class WinogradConv2d(nn.Module):
    """The same answers as a 3x3 `nn.Conv2d` with padding 1 and bias, to 1e-5 of the largest.

    Takes and gives float32 (N, C, H, W), best laid out channels last. For predicting: the weights
    are kept in the transformed form, four times as many numbers.
    """

    weight: Tensor  # (36, C, K)
    bias: Tensor
    into_patch: Tensor  # (36, 36)
    out_of_patch: Tensor  # (16, 36)

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        outputs, inputs = conv.weight.shape[:2]
        into = torch.kron(torch.tensor(_G), torch.tensor(_G))  # (36, 9)
        weight = into @ conv.weight.detach().permute(2, 3, 1, 0).reshape(9, -1)
        self.register_buffer("weight", weight.view(PATCH**2, inputs, outputs))
        self.register_buffer("bias", conv.bias.detach())
        self.register_buffer("into_patch", torch.kron(torch.tensor(_B), torch.tensor(_B)).float())
        self.register_buffer("out_of_patch", torch.kron(torch.tensor(_A), torch.tensor(_A)).float())

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        patches = PATCH**2 * -(-height // TILE) * -(-width // TILE)
        chunk = max(1, int(CHUNK_BYTES / (patches * channels * x.element_size())))
        if len(x) <= chunk:
            return self._convolve(x)
        return torch.cat([self._convolve(part) for part in x.split(chunk)])

    def _convolve(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        outputs = self.weight.shape[2]
        rows, columns = -(-height // TILE), -(-width // TILE)
        below, right = rows * TILE + 1 - height, columns * TILE + 1 - width
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, right, 1, below))  # (N, H', W', C)
        patches = x.unfold(1, PATCH, TILE).unfold(2, PATCH, TILE)  # (N, rows, columns, C, 6, 6)
        patches = patches.permute(4, 5, 0, 1, 2, 3).reshape(PATCH**2, -1)
        products = (self.into_patch @ patches).view(PATCH**2, -1, channels) @ self.weight
        tiles = self.out_of_patch @ products.view(PATCH**2, -1)  # (16, N * rows * columns * K)
        tiles = tiles.view(TILE, TILE, count, rows, columns, outputs).permute(2, 3, 0, 4, 1, 5)
        y = tiles.reshape(count, rows * TILE, columns * TILE, outputs).add_(self.bias)
        return y[:, :height, :width].permute(0, 3, 1, 2)


def use_winograd(model: VGG, size: int) -> None:
    """Replace, in place, the convolutions that are faster so, for pictures of `size` pixels."""
    side = size
    for index, layer in enumerate(model.features):
        if isinstance(layer, nn.MaxPool2d):
            side //= 2
        elif (
            isinstance(layer, nn.Conv2d)
            and layer.in_channels >= LEAST_INPUTS
            and layer.out_channels >= LEAST_OUTPUTS
            and side >= LEAST_SIDE
        ):
            model.features[index] = WinogradConv2d(layer)

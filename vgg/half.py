"""Wide fully connected layers with their weights in half precision, for processors.

For one picture such a layer takes as long as its weights are large: VGG's first has 103 million,
which each answer reads from memory. In half precision they are half as many bytes. FBGEMM,
PyTorch's library for it, widens them as they come, so inputs and sums stay fp32; for more pictures
it is the faster product, too.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST_WEIGHTS = 4_000_000  # below these there is little to gain
# Rows whose largest weight is in this range lose nothing but digits: 2^-11 of a weight.
ROW_PEAKS = (2.0**-10, 2.0**15)


class HalfLinear(nn.Module):
    """The answers of an `nn.Linear` whose weights were rounded to fp16: about 2e-4 of the largest
    away. Takes and gives float32 (N, D). For predicting: only the input has a gradient, made with
    the weights as they were, which stay where they are and are not copied.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight.detach()  # no buffer: what moves the module leaves it alone
        self.bias = linear.bias.detach().clone()
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads) as pool:  # one thread takes over a second for VGG's first
            self.packed = list(pool.map(_pack, self.weight.chunk(threads)))

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: HalfLinear) -> Tensor:
        ctx.layer = layer
        parts = [torch.ops.quantized.linear_dynamic_fp16(x, packed) for packed in layer.packed]
        return torch.cat(parts, dim=1).add_(layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.weight, None


def halved(layer: nn.Module) -> HalfLinear | None:
    """The layer with weights in half precision; None where that gains nothing, would lose more than
    the last digits, or can't be had on this processor."""
    if not isinstance(layer, nn.Linear) or layer.weight.numel() < LEAST_WEIGHTS:
        return None
    if layer.weight.dtype != torch.float32 or layer.weight.device.type != "cpu":
        return None
    least, most = ROW_PEAKS
    weight = layer.weight.detach()
    peaks = torch.maximum(weight.amax(1), -weight.amin(1))  # aminmax takes four times as long
    if not ((peaks == 0) | ((peaks >= least) & (peaks <= most))).all():  # NaN is neither
        return None
    try:
        return HalfLinear(layer)
    except RuntimeError:  # a processor, or a build of torch, without FBGEMM
        return None


def _pack(weight: Tensor) -> Any:
    return torch.ops.quantized.linear_prepack_fp16(weight, None)

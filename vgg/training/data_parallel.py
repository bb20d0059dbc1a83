"""One network in several processes, each with its share of every batch: they learn what one would.

Gradients are torch's `DistributedDataParallel`'s. Batch norm counts the pictures of all processes.
"""

import copy
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vgg import distributed
from vgg.network.vgg import VGG
from vgg.training.recipe import TooLittleMemoryError

SUMMED = (0, 2, 3)  # dimensions of (N, C, H, W) that batch norm sums over


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, for a CPU, where `torch.nn.SyncBatchNorm`
    raises. The batch of a process may be empty."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        wide = x.to(self.weight.dtype)
        # In double precision: the difference below would lose digits that one process keeps.
        count = x.new_tensor([x.numel() // x.shape[1]], dtype=torch.float64)
        sums = [power.sum(SUMMED, dtype=torch.float64) for power in (wide, wide.square())]
        total = cast(Tensor, _SumOverProcesses.apply(torch.cat([*sums, count])))
        count = total[-1].detach()
        mean, square = total[:-1].view(2, -1) / count
        variance = (square - mean.square()).clamp_min(0)
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp_min(1))
            for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
                cast(Tensor, running).lerp_(new.to(wide.dtype), cast(float, self.momentum))
            cast(Tensor, self.num_batches_tracked).add_(1)
        scale = (variance + self.eps).rsqrt() * self.weight
        shift = self.bias - mean * scale
        scale, shift = (factor.to(wide.dtype).view(1, -1, 1, 1) for factor in (scale, shift))
        return torch.addcmul(shift, wide, scale).to(x.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce_sum(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.forward(ctx, gradient)


def data_parallel(model: VGG) -> nn.Module:
    """A network with the weights of `model` itself, which first become those of the first process.

    Its `backward` leaves in every process the mean of the gradients of all, so that a loss must be
    summed over the pictures of a process, divided by how many there are in all processes, and
    multiplied by `distributed.world()`. Every process must take part in every step.
    """
    _check_room(model)
    own = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    network: nn.Module = copy.deepcopy(model, own)  # its layers, but no copy of these
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    if any(layer.training for layer in norms):
        if next(model.parameters()).is_cuda:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        else:
            for layer in norms:
                layer.__class__ = SyncedBatchNorm2d  # the same layer, that counts in all processes
    with distributed.or_lost():
        # Gradients lie in what is sent: no copy of them.
        return DistributedDataParallel(network, gradient_as_bucket_view=True)


def _check_room(model: VGG) -> None:
    """Whether all processes have memory for what is as large as the weights: gradients, average
    and the optimizer's two. Where one alone failed later, the others would wait for it."""
    room: list[Tensor] = []
    try:
        room = [torch.empty_like(p) for p in model.parameters() for _ in range(4)]
    except torch.OutOfMemoryError:
        room = []
    lacking = not room
    del room
    if distributed.any_of(lacking):
        raise TooLittleMemoryError("training.memory")

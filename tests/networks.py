"""Networks as many tests want them."""

import math
from pathlib import Path

import torch
from torch import Tensor

from vgg.checkpoints.loading import load_model
from vgg.network.vgg import VGG


def random_values(like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values of these shapes that keep a signal's size and leave no bias, mean or variance at its
    default."""
    block = torch.randn(1_000_003)  # prime, so that no two rows get the same numbers
    values = {}
    for name, tensor in like.items():
        if tensor.ndim > 1:
            fan_in = math.prod(tensor.shape[1:])
            numbers = block.repeat(tensor.numel() // len(block) + 1)[: tensor.numel()]
            values[name] = numbers.view(tensor.shape) * math.sqrt(2 / fan_in)
        elif name.endswith("running_var"):
            values[name] = torch.rand(tensor.shape) + 0.5
        elif name.endswith("num_batches_tracked"):
            values[name] = torch.tensor(7)
        else:
            around = 1.0 if name.endswith("weight") else 0.0
            values[name] = torch.empty(tensor.shape).normal_(around, 0.1)
    return values


def with_values(model: VGG) -> VGG:
    """The model in eval mode with random values everywhere."""
    model.load_state_dict(random_values(model.state_dict()))
    return model.eval()


def same_weights(a: Path | VGG, b: Path | VGG) -> bool:
    """Whether two models, or the models in two folders, have the same weights to the last bit."""
    one, other = (
        (model if isinstance(model, VGG) else load_model(model)).state_dict() for model in (a, b)
    )
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)

"""How a network is trained by stochastic gradient descent: the recipe and its parts.

A short modern recipe (Page 2018, "How to train your ResNet"; He et al. 2019, "Bag of tricks"):
Nesterov momentum, one cycle of the learning rate, label smoothing, small changes to pictures that
lie decoded in memory, and a running average of the weights, which is what gets measured and kept.
"""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vgg.data.augment import augment
from vgg.data.transforms import normalise
from vgg.errors import UserError
from vgg.network.config import Preprocessing
from vgg.network.vgg import VGG

LoopState = dict[str, Any]

LAST_LR = 0.001  # share of the highest learning rate that is left at the end


class TooLittleMemoryError(UserError):
    """Not even two pictures at once fit into the device's memory."""


@dataclass(frozen=True)
class Recipe:
    """`lr` is the highest learning rate. `warmup` is the share of the training over which the rate
    rises to it; it falls in a line, or as a `cosine`. `average` is how many epochs the running
    average of the weights looks back."""

    lr: float = 0.1
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    warmup: float = 0.2
    average: float = 1.0
    augment: bool = True
    cosine: bool = False


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures with their classes: `pixels` uint8 (M, 3, S, S), RGB; `targets` int64 (M,).

    `rows` says which of the M belong to this part, so that the parts share one tensor. With
    `mirror` one in two is mirrored where pictures are changed.
    """

    pixels: Tensor
    targets: Tensor
    rows: Tensor
    mirror: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    def take(
        self,
        rows: Tensor,
        device: torch.device,
        cfg: Preprocessing,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The network's input for these rows, and their targets, on `device`. With a `generator`
        each picture is a little changed."""
        pixels = self.pixels[rows.to(self.pixels.device)].to(device)
        if generator:
            pixels = augment(pixels, generator, fill=cfg.mean, mirror=self.mirror)
        return normalise(pixels, cfg), self.targets[rows].to(device)


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave. Losses are in nats (`loss` with label smoothing), shares from 0 to 1.

    `epochs` is the number planned now; the last may be a part of one.
    """

    number: int
    epochs: int
    loss: float
    accuracy: float
    held_out_loss: float
    held_out: float
    pictures_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Fitted:
    """How a training ended. `accuracy` is that of the weights kept, on the held-out part;
    `best_of` says that they were chosen by it, as they are where the training broke off."""

    epochs: int
    accuracy: float
    stopped: bool
    best_of: bool


def learning_rate(progress: float, warmup: float, *, cosine: bool = False) -> float:
    """Share of the highest rate at this share of the training: up in a line, down in a line
    (Smith and Topin 2018, "Super-convergence") or as a cosine (Loshchilov and Hutter 2016,
    "SGDR")."""
    rise = progress / warmup if warmup else 1.0
    fall = (1 - progress) / (1 - warmup)
    if cosine:
        fall = (1 - math.cos(math.pi * min(1.0, fall))) / 2
    return max(LAST_LR, min(rise, fall))


def new_optimizer(model: VGG, recipe: Recipe, lr: float) -> torch.optim.SGD:
    """Weights are pulled to 0; biases and norms are not, they need no holding back."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [
            {"params": weights, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=True,  # one pass over the numbers instead of five
    )
    if recipe.momentum:
        # Where the first step is left out, because fp16 overflowed, PyTorch would go on from memory
        # that nobody wrote.
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


@torch.no_grad()
def ema_update(average: VGG, model: VGG, weight: float) -> None:
    """Move all numbers of `average` by this part of the way towards those of `model`."""
    ours, theirs = average.state_dict(), model.state_dict()
    floats = [key for key, value in ours.items() if value.is_floating_point()]
    torch._foreach_lerp_([ours[key] for key in floats], [theirs[key] for key in floats], weight)


def copy_of(model: VGG) -> LoopState:
    """Its weights, on the CPU, apart from what happens to the model later."""
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def seed_of(seed: int, epoch: int) -> int:
    """One seed an epoch, far from its neighbours'."""
    return random.Random(f"{seed}/{epoch}").getrandbits(63)


@contextmanager
def dropout_from(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from torch's own source of chance: seed it, and put it back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield

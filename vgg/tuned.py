"""A VGG of which only the upper stages learn, and what it is shown: pictures, or cached maps."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vgg.model import VGG
from vgg.pixels import empty_tensor
from vgg.recipe import Recipe

FALL = 3.0  # the rate falls so many times with each stage down (Howard and Ruder 2018)
LEAST_SIZE = 1e-3  # of a weight, for its rate: those that begin at 0 must learn, too
AREAS = (0.35, 1.0)  # share of the picture that a zoom shows
RATIOS = (3 / 4, 4 / 3)  # its width over its height


class Tuned(VGG):
    """A VGG of which the stages below `first` (0 to 4) and all batch norm statistics stay.

    `forward` takes pictures as `VGG` does; or, where only stage 5 learns, a pair: what the fourth
    pool gave, (N, C, H, W), and what the head reads of the stages before it, (N, E).
    """

    first = 4

    @classmethod
    def of(cls, network: VGG, first: int) -> "Tuned":
        """A copy of `network`, in fp32."""
        tuned = cls.from_config(network.config, init_weights=False)
        tuned.load_state_dict(network.state_dict())
        tuned.first = first
        for layers in tuned.stages[:first]:
            layers.requires_grad_(False)
        if network.config.head == "fc":  # 120 million weights learn nothing from a small folder
            tuned.classifier[:-1].requires_grad_(False)
        return tuned

    @property
    def stages(self) -> list[nn.Sequential]:
        """The layers of each stage, its pool with it."""
        ends = [0, *(end + 2 for end in self.stage_ends)]
        return [self.features[a:b] for a, b in zip(ends, ends[1:], strict=False)]

    def train(self, mode: bool = True) -> "Tuned":
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d | nn.Dropout):
                layer.eval()
        return self

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        if isinstance(x, Tensor):
            return super().forward(x)
        maps, early = x
        last = self.stages[-1]
        maps = last[:-1](maps)
        if self.config.head == "fc":
            return self.classifier(torch.flatten(self.avgpool(last[-1](maps)), 1))
        return self.classifier(torch.cat([early, self.pool_maps([maps])], dim=1))

    def whole(self, network: VGG) -> VGG:
        """`network`, with these weights."""
        network.load_state_dict(self.state_dict())
        return network.eval()


def new_optimizer(network: Tuned, recipe: Recipe, lr: float) -> torch.optim.AdamW:
    """Each weight moves in steps in proportion to its tensor's size, so that one rate suits any
    trunk (Shazeer and Stern 2018, "Adafactor", section 8); lower stages move less."""
    groups: list[dict[str, Any]] = []
    for stage, layers in enumerate([*network.stages, network.classifier]):
        share = FALL ** min(0, stage - 4)
        for parameter in layers.parameters():
            if parameter.requires_grad:
                size = parameter.detach().square().mean().sqrt().item()
                groups.append({"params": [parameter], "rate": share * max(size, LEAST_SIZE)})
    return torch.optim.AdamW(
        groups, lr=lr, betas=(recipe.momentum, 0.99), weight_decay=recipe.weight_decay
    )


class Shelf:
    """Room for what the fourth pool gave of each picture: float16, in memory or, where that would
    take much of it, in a temporary file. `views` is 2 where there is room for mirror images."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.maps: Tensor | None = None  # (2 * count, C, H, W); mirror images in the second half
        self.filled = np.zeros(2 * count, bool)

    def put(self, place: int, maps: Tensor) -> None:
        """Keep `maps` (C, H, W). Those of another size, from before, are given up."""
        if self.maps is None or self.maps.shape[1:] != maps.shape:
            self.maps = empty_tensor((2 * self.count, *maps.shape), np.float16)
            self.filled[:] = False
        self.maps[place] = maps
        self.filled[place] = True

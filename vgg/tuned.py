"""A VGG of which only the upper stages learn, and what they learn from: pictures or cached maps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgg.model import VGG
from vgg.options import Preprocessing
from vgg.pixels import empty_tensor
from vgg.recipe import Pictures, Recipe

FALL = 3.0  # with each stage down the rate is so many times smaller (Howard and Ruder 2018)
LEAST_SIZE = 1e-3  # of a tensor, for its rate: what begins at 0 must learn, too
MEMORY = 0.99  # of the squared gradients that set the length of a step
AREAS = (0.35, 1.0)  # share of the picture that a zoom shows
RATIOS = (3 / 4, 4 / 3)  # width over height of what it shows


class Tuned(VGG):
    """A VGG whose lower stages and batch norm statistics stay as they are.

    `forward` takes pictures, as `VGG` does, or what a `Shelf` keeps of them, as a pair: what the
    fourth pool gives, (N, C, H, W), and what the head reads of the stages below it, (N, E).
    """

    @classmethod
    def of(cls, network: VGG, frozen: int) -> "Tuned":
        """A copy of `network`, of which the first `frozen` of the five stages do not learn.

        Neither do the hidden layers of the head `fc`: a small folder is too little for them.
        Logits are divided by the temperature beforehand, so that learning starts from honest
        probabilities, not from answers that are far too sure.
        """
        tuned = cls.from_config(network.config, init_weights=False)
        tuned.load_state_dict(network.state_dict())
        for layers in [*tuned.stages[:frozen], tuned.classifier[:-1]]:
            layers.requires_grad_(False)
        for parameter in tuned.classifier[-1].parameters():
            parameter.data /= network.config.temperature
        return tuned

    @property
    def stages(self) -> list[nn.Sequential]:
        """The layers of each stage, its pool among them."""
        begins = [0, *(end + 2 for end in self.stage_ends)]
        return [self.features[a:b] for a, b in zip(begins, begins[1:], strict=False)]

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
        *layers, pool = self.stages[-1]
        for layer in layers:
            maps = layer(maps)
        if self.config.head == "fc":
            return self.classifier(torch.flatten(self.avgpool(pool(maps)), 1))
        return self.classifier(torch.cat([early, self.pool_maps([maps])], dim=1))

    def plain(self) -> VGG:
        """A VGG with these weights, on the CPU."""
        network = VGG.from_config(self.config, init_weights=False)
        network.load_state_dict(self.state_dict())
        return network.eval()


def new_optimizer(network: Tuned, recipe: Recipe, lr: float) -> torch.optim.AdamW:
    """Each tensor moves in steps in proportion to its size, so that one rate suits every trunk
    (Shazeer and Stern 2018, "Adafactor", section 8); lower stages move less."""
    groups: list[dict[str, Any]] = []
    for number, layers in enumerate([*network.stages, network.classifier]):
        share = FALL ** min(0, number - 4)
        for parameter in layers.parameters():
            if parameter.requires_grad:
                size = parameter.detach().square().mean().sqrt().item()
                groups.append({"params": [parameter], "rate": share * max(size, LEAST_SIZE)})
    return torch.optim.AdamW(
        groups, lr=lr, betas=(recipe.momentum, MEMORY), weight_decay=recipe.weight_decay
    )


class Shelf:
    """What the frozen stages gave of each picture, by its name, and perhaps of its mirror image.

    In memory, or in a temporary file where that would take much of it. Of n pictures the mirror
    images have the rows n to 2n. `read` of the features belong to the stages below the last.
    """

    def __init__(self, names: Sequence[str], read: int) -> None:
        self.rows = {name: row for row, name in enumerate(names)}
        self.filled = torch.zeros(2 * len(names), dtype=torch.bool)
        self.early = torch.zeros(2 * len(names), read, dtype=torch.float16)
        self.maps = torch.empty(0, dtype=torch.float16)

    def put(self, name: str, features: np.ndarray, maps: Tensor, *, mirrored: bool = False) -> None:
        """Keep `maps` (C, H, W), float16. Those of another size, from before, are given up."""
        if self.maps.shape[1:] != maps.shape:
            self.maps = empty_tensor((len(self.filled), *maps.shape), np.float16)
            self.filled[:] = False
        row = self.rows[name] + mirrored * len(self.rows)
        self.maps[row] = maps
        self.early[row] = torch.from_numpy(features[: self.early.shape[1]])
        self.filled[row] = True


@dataclass(frozen=True)
class Shelved:
    """Pictures as a `Shelf` keeps them: what `Pictures` is, for a `Tuned` network."""

    shelf: Shelf
    targets: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def take(
        self,
        rows: Tensor,
        device: torch.device,
        cfg: Preprocessing,
        generator: torch.Generator | None = None,
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The network's input for these rows, and their targets, on `device`. With a `generator`
        one in two is the mirror image, where that is there."""
        targets = self.targets[rows].to(device)
        if generator:
            mirrored = rows + len(self.shelf.rows)
            turned = (torch.rand(len(rows), generator=generator) < 0.5) & self.shelf.filled[mirrored]
            rows = torch.where(turned, mirrored, rows)
        maps, early = self.shelf.maps[rows].to(device), self.shelf.early[rows].to(device)
        return (maps.float(), early.float()), targets


class Zoomed(Pictures):
    """Pictures of which a network in training sees parts, larger, one in two mirrored."""

    def take(
        self,
        rows: Tensor,
        device: torch.device,
        cfg: Preprocessing,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        x, targets = super().take(rows, device, cfg)
        return (zoom(x, generator) if generator else x), targets


def zoom(x: Tensor, generator: torch.Generator) -> Tensor:
    """A part of each picture, blown up to the full size, one in two mirrored: (N, C, S, S).

    Szegedy et al. 2015, "Going deeper with convolutions", section 6. All chance comes from
    `generator`, which lives on the CPU.
    """
    chance = torch.rand(5, len(x), generator=generator)
    area = AREAS[0] + (AREAS[1] - AREAS[0]) * chance[0]
    ratio = (math.log(RATIOS[0]) + math.log(RATIOS[1] / RATIOS[0]) * chance[1]).exp()
    width, height = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
    where = torch.zeros(len(x), 2, 3)  # from places in the result to places in the picture
    where[:, 0, 0] = torch.where(chance[4] < 0.5, -width, width)
    where[:, 1, 1] = height
    where[:, 0, 2] = (2 * chance[2] - 1) * (1 - width)
    where[:, 1, 2] = (2 * chance[3] - 1) * (1 - height)
    grid = F.affine_grid(where.to(x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)

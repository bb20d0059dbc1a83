"""A VGG of which only the upper stages learn, and the optimiser for that."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from vgg.network.config import CHANNELS, ModelConfig, pooled_sizes, scaled
from vgg.network.vgg import VGG
from vgg.training.recipe import Recipe

LR_DECAY_PER_STAGE = 3.0  # with each stage down (Howard and Ruder 2018)
LEAST_SIZE = 1e-3  # of a tensor, for its rate: what begins at 0 must learn, too
ADAM_BETA2 = 0.99  # of the squared gradients that set the length of a step


class PartlyFrozenVGG(VGG):
    """A VGG whose lower stages, batch norm statistics and classifier stay as they are.

    `forward` takes pictures, as `VGG` does, or rows as `vgg.training.cached_maps` keeps them,
    (N, E + C * S * S): what the head reads of the stages below the last, and what the fourth pool
    gave.
    """

    @classmethod
    def of(cls, network: VGG, frozen: int) -> "PartlyFrozenVGG":
        """A copy of `network`, of which the first `frozen` of the five stages do not learn.

        The classifier has converged, and does not learn either: with it, more is learned by heart.
        Its logits are divided by the temperature, so that learning starts from honest
        probabilities, not from answers that are far too sure.
        """
        tuned = cls.from_config(network.config, init_weights=False)
        tuned.load_state_dict(network.state_dict())
        for layers in [*tuned.stages[:frozen], tuned.classifier]:
            layers.requires_grad_(False)
        for parameter in tuned.classifier[-1:].parameters():
            parameter.data /= network.config.temperature
        return tuned.train()

    @property
    def stages(self) -> list[nn.Sequential]:
        """The layers of each stage, its pool among them."""
        begins = [0, *(end + 2 for end in self.stage_ends)]
        return [self.features[a:b] for a, b in pairwise(begins)]

    def train(self, mode: bool = True) -> "PartlyFrozenVGG":
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d | nn.Dropout):
                layer.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return super().forward(x)
        channels, size = scaled(CHANNELS[3], self.config.width), early_size(self.config)
        early, maps = x[:, :size], x[:, size:]
        side = math.isqrt(maps.shape[1] // channels)
        maps = maps.reshape(len(x), channels, side, side)
        for layer in self.stages[-1][:-1]:  # its max-pool belongs to the head
            maps = layer(maps)
        read = torch.cat([early, self.pool_maps([maps])], dim=1)
        logits: Tensor = self.classifier(read)
        return logits

    def plain(self) -> VGG:
        """A VGG with these weights, on the CPU."""
        network = VGG.from_config(self.config, init_weights=False)
        network.load_state_dict(self.state_dict())
        return network.eval()


def early_size(config: ModelConfig) -> int:
    """How many numbers the head reads of the stages below the last."""
    return sum(pooled_sizes(config)[:-1])


def row_size(config: ModelConfig, size: int | None = None) -> int:
    """How many numbers a picture of `size` pixels has in an `ActivationCache`."""
    side = (size or config.pretrained_cfg.size) // 16  # four pools
    return early_size(config) + scaled(CHANNELS[3], config.width) * side**2


def new_optimizer(network: PartlyFrozenVGG, recipe: Recipe, lr: float) -> torch.optim.AdamW:
    """Each tensor moves in steps in proportion to its size, so that one rate suits every trunk
    (Shazeer and Stern 2018, "Adafactor", section 8); lower stages move less."""
    groups: list[dict[str, Any]] = []
    for number, layers in enumerate(network.stages, start=1):
        share = LR_DECAY_PER_STAGE ** (number - 5)
        for parameter in layers.parameters():
            if parameter.requires_grad:
                size = parameter.detach().square().mean().sqrt().item()
                lr_scale = share * max(size, LEAST_SIZE)
                groups.append({"params": [parameter], "lr_scale": lr_scale})
    optimizer = torch.optim.AdamW(
        groups,
        lr=lr,
        betas=(recipe.momentum, ADAM_BETA2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    # At once, so that it is known before the first step whether there is memory for it.
    for group in groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimizer

"""The network: VGG (Simonyan and Zisserman 2014, "Very Deep Convolutional Networks…")."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vgg.errors import UserError
from vgg.network.config import (
    CHANNELS,
    MIN_SIDE,
    STAGES,
    ModelConfig,
    architecture_name,
    check_network,
    classifier_sizes,
    head_of,
    scaled,
)
from vgg.network.heads import HIDDEN, POOLED, ROOT_FLOOR, Head


class VGG(nn.Module):
    """VGG with 11, 13, 16 or 19 weight layers (`config.STAGES`), plain or with batch norm.

    `forward` takes a float tensor (N, 3, H, W), H and W from 32 up, normalised as
    `config.pretrained_cfg` says, and returns logits (N, num_classes).

    `head` chooses what reads the feature maps, an entry of `heads.HEADS`:

    - `fc`: fully connected layers on a `pool` x `pool` map, before the last `hidden` ones with a
      ReLU and dropout each; by default those of the paper.
    - `gap`: global average pooling of the last ReLU's output, then one linear layer.
    - `stages`: the same for the last ReLU of stages 3, 4 and 5, each square-rooted and scaled to
      length 1, side by side, then one linear layer.

    `width` scales every channel count and the hidden layers. `num_classes` 0 leaves the classifier
    away: `forward` then returns what a classifier would read. Parameter names are torchvision's.
    """

    def __init__(
        self,
        num_layers: int = 16,
        num_classes: int = 2,
        init_weights: bool = True,
        *,
        batch_norm: bool = True,
        head: str = "fc",
        width: float = 1.0,
        dropout: float = 0.5,
        hidden: tuple[int, ...] = HIDDEN,
        pool: int = POOLED,
    ) -> None:
        hidden = tuple(hidden) if isinstance(hidden, list) else hidden
        check_network(num_layers, num_classes, head, width, dropout, hidden, pool)
        super().__init__()
        self.config = ModelConfig(
            architecture=architecture_name(num_layers, batch_norm),
            num_classes=num_classes,
            head=head,
            width=width,
            dropout=dropout,
            hidden=hidden,
            pool=pool,
        )
        self.features = self._make_layers(num_layers, batch_norm, width)
        self.avgpool = self.head.pooling(pool)
        self.classifier = self._make_classifier()
        if init_weights:
            self.initialize()

    @classmethod
    def from_config(cls, config: ModelConfig, *, init_weights: bool = True) -> Self:
        """The network that a config describes."""
        model = cls(
            config.depth,
            config.num_classes,
            init_weights,
            batch_norm=config.batch_norm,
            head=config.head,
            width=config.width,
            dropout=config.dropout,
            hidden=config.hidden,
            pool=config.pool,
        )
        model.config = config
        return model

    @staticmethod
    def _make_layers(num_layers: int, batch_norm: bool, width: float) -> nn.Sequential:
        layers: list[nn.Module] = []
        inputs = 3
        for stage, count in enumerate(STAGES[num_layers]):
            outputs = scaled(CHANNELS[stage], width)
            for _ in range(count):
                layers.append(nn.Conv2d(inputs, outputs, kernel_size=3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(outputs))
                layers.append(nn.ReLU(inplace=True))
                inputs = outputs
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        return nn.Sequential(*layers)

    def _make_classifier(self) -> nn.Sequential:
        config = self.config
        layers: list[nn.Module] = []
        for inputs, outputs in classifier_sizes(config):
            if layers:  # between two fully connected layers
                layers += [nn.ReLU(inplace=True), nn.Dropout(config.dropout)]
            layers.append(nn.Linear(inputs, outputs))
        return nn.Sequential(*layers)

    def initialize(self) -> None:
        """He initialisation (He et al. 2015, section 2.2, fan-out) of the convolutions; 1 and 0
        for batch norm; N(0, 0.01) and 0 for fully connected layers."""
        self.apply(_initialize_layer)

    @property
    def stage_ends(self) -> list[int]:
        """Index in `features` of the last ReLU of each of the five stages."""
        pools = [i for i, layer in enumerate(self.features) if isinstance(layer, nn.MaxPool2d)]
        return [index - 1 for index in pools]

    @property
    def head(self) -> Head:
        """Its entry in the table of heads."""
        return head_of(self.config)

    @property
    def read_ends(self) -> list[int]:
        """Those of `stage_ends` whose outputs the head reads."""
        return [self.stage_ends[stage - 1] for stage in self.head.stages]

    def forward(self, x: Tensor) -> Tensor:
        maps, classifier = self.maps_at(_checked(x), self.read_ends), self.classifier
        if not self.head.grid or not isinstance(next(iter(classifier), None), nn.Linear):
            read = self.pool_maps(maps)
        else:
            last = self._last_maps(maps)[-1]
            positions = last.shape[2] * last.shape[3]
            if positions >= self.config.pool**2 or len(last) < 4 * positions:  # no gain, or a loss
                read = torch.flatten(self.avgpool(last), 1)
            else:
                read, classifier = self._first_layer(last), classifier[1:]
        logits: Tensor = classifier(read)
        return logits

    def _first_layer(self, maps: Tensor) -> Tensor:
        """The first fully connected layer on maps with fewer numbers than the grid that it reads.

        Pooling repeats them then. The same repetition of the weights, added up, gives the same
        answer, and a small product instead of a large one: at 32 pixels 1/49 of the work.
        """
        first = self.classifier[0]
        assert isinstance(first, nn.Linear)
        channels, *sides = maps.shape[1:]
        one_each = torch.eye(sides[0] * sides[1], device=maps.device, dtype=first.weight.dtype)
        spread = self.avgpool(one_each.view(-1, 1, *sides)).flatten(1)  # (positions, pool²)
        weight = first.weight.view(-1, self.config.pool**2) @ spread.T
        weight = weight.view(-1, channels * len(spread))
        return F.linear(torch.flatten(maps, 1), weight, first.bias)

    def pool(self, x: Tensor) -> Tensor:
        """What the classifier reads: (N, 3, H, W) → (N, D)."""
        return self.pool_maps(self.maps_at(_checked(x), self.read_ends))

    def maps_at(self, x: Tensor, ends: list[int]) -> list[Tensor]:
        """Outputs of the layers with these indices in `features`, (N, C, H', W') each."""
        maps = []
        for index, layer in enumerate(self.features[: ends[-1] + 1]):
            x = layer(x)
            if index in ends:
                maps.append(x)
        return maps

    def _last_maps(self, maps: list[Tensor]) -> list[Tensor]:
        if not self.head.after_last_pool:
            return maps
        return [*maps[:-1], self.features[-1](maps[-1])]

    def pool_maps(self, maps: list[Tensor]) -> Tensor:
        """Outputs of the last ReLUs of the stages that the head reads, or of the last of these
        stages alone → the classifier's input (N, D), or the end of it."""
        return self.join(self.pool_each(maps))

    def pool_each(self, maps: list[Tensor]) -> list[Tensor]:
        """The same maps → what the head reads of each stage by itself, (N, D') each."""
        return [torch.flatten(self.avgpool(m), 1) for m in self._last_maps(maps)]

    def join(self, pooled: list[Tensor]) -> Tensor:
        """What `pool_each` gives → the classifier's input."""
        if self.head.rooted:
            dtype = pooled[0].dtype
            rooted = (torch.sqrt(p.float() + ROOT_FLOOR) for p in pooled)
            pooled = [F.normalize(root, dim=1).to(dtype) for root in rooted]
        return torch.cat(pooled, dim=1) if len(pooled) > 1 else pooled[0]

    def fold_batch_norm(self) -> "VGG":
        """Merge every batch norm into the convolution before it, in place: same answers in eval
        mode, fewer steps (Jacob et al. 2017, section 3.2). Layer indices stay as they were; the
        result is for predicting only, a checkpoint keeps batch norm."""
        if self.training:
            raise UserError("network.fold")
        for index, layer in enumerate(self.features):
            if isinstance(layer, nn.BatchNorm2d):
                convolution = self.features[index - 1]
                assert isinstance(convolution, nn.Conv2d)
                self.features[index - 1] = fuse_conv_bn_eval(convolution, layer)
                self.features[index] = nn.Identity()
        return self


def _checked(x: Tensor) -> Tensor:
    if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < MIN_SIDE:
        raise UserError("network.input", least=MIN_SIDE, shape=tuple(x.shape))
    return x


def _initialize_layer(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        assert layer.bias is not None
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, 0, 0.01)
        nn.init.zeros_(layer.bias)

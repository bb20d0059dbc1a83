"""A network's size: parameters, multiplications and layers as rows, by formula (no torch)."""

from dataclasses import dataclass
from itertools import count

from vgg.network.config import (
    CHANNELS,
    STAGES,
    ModelConfig,
    channels_of,
    classifier_sizes,
    convolution_sizes,
    head_of,
    pooled_sizes,
    scaled,
)


@dataclass(frozen=True)
class Layer:
    """One layer. `shape` is what comes out: (height, width, channels), or (numbers,).

    `index` counts in `VGG.features`; None for the layers after it. `gloss` says what it does
    where `name` alone does not tell.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int = 0
    index: int | None = None
    gloss: str = ""


@dataclass(frozen=True)
class Stage:
    """Layers in a row: up to a max-pool and with it, or the classifier's."""

    name: str
    layers: tuple[Layer, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layers[-1].shape

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)


def stages_of(config: ModelConfig, size: int | None = None) -> list[Stage]:
    """The five stages and the classifier, in the order that a picture passes them.

    `size` is the input's side in pixels, by default the config's own. The last max-pool is left
    out with the heads that do not read it.
    """
    side = size or config.pretrained_cfg.size
    stages, index, inputs = [], count(), 3
    for number, convolutions in enumerate(STAGES[config.depth]):
        outputs = scaled(CHANNELS[number], config.width)
        shape = (side, side, outputs)
        layers = []
        for _ in range(convolutions):
            name = f"convolution 3 x 3, {inputs} → {outputs} channels"
            layers.append(Layer(name, shape, 9 * inputs * outputs + outputs, next(index)))
            if config.batch_norm:
                layers.append(Layer("batch norm", shape, 2 * outputs, next(index)))
            layers.append(Layer("ReLU", shape, 0, next(index)))
            inputs = outputs
        side //= 2
        pool = Layer("max pooling 2 x 2", (side, side, outputs), 0, next(index))
        if number < len(CHANNELS) - 1 or head_of(config).after_last_pool:
            layers.append(pool)
        stages.append(Stage(f"Stage {number + 1}", tuple(layers)))
    return [*stages, Stage("Classifier", _classifier(config))]


def _classifier(config: ModelConfig) -> tuple[Layer, ...]:
    layers = [_pooling(config)]
    for number, (inputs, outputs) in enumerate(classifier_sizes(config)):
        if number:
            layers += [Layer("ReLU", (inputs,)), Layer("dropout", (inputs,))]
        name = f"fully connected, {inputs} → {outputs}"
        layers.append(Layer(name, (outputs,), inputs * outputs + outputs))
    return tuple(layers)


def _pooling(config: ModelConfig) -> Layer:
    head = head_of(config)
    shape: tuple[int, ...] = (sum(pooled_sizes(config)),)
    if head.grid:
        shape = (config.pool, config.pool, channels_of(config.width)[-1])
    return Layer(head.row.format(pool=config.pool), shape, gloss=head.row_gloss)


def count_parameters(config: ModelConfig) -> int:
    """Weights and biases that training changes, by formula; no network is built."""
    total = 0
    for _, inputs, outputs in convolution_sizes(config.depth, config.width):
        total += 9 * inputs * outputs + outputs + (2 * outputs if config.batch_norm else 0)
    for inputs, outputs in classifier_sizes(config):
        total += inputs * outputs + outputs
    return total


def count_macs(config: ModelConfig, size: int | None = None) -> int:
    """Multiply-accumulate operations for one picture of `size` x `size` pixels, by formula.

    Convolutions and fully connected layers only, as the papers count; `size` defaults to the
    config's own.
    """
    side = size or config.pretrained_cfg.size
    total = 0
    for stage, inputs, outputs in convolution_sizes(config.depth, config.width):
        total += 9 * inputs * outputs * (side >> stage) ** 2
    for inputs, outputs in classifier_sizes(config):
        total += inputs * outputs
    return total


@dataclass(frozen=True)
class Cost:
    """What one answer takes: bytes of weights and of maps, in 32 bits, and multiplications."""

    bytes: int
    macs: int


def cost_of(config: ModelConfig, size: int | None = None) -> Cost:
    """The cost of one picture of `size` x `size` pixels, by formula: of the maps those of the layer
    that holds most. `size` defaults to the config's own."""
    side = size or config.pretrained_cfg.size
    maps = [
        (inputs + outputs) * (side >> stage) ** 2
        for stage, inputs, outputs in convolution_sizes(config.depth, config.width)
    ]
    return Cost(4 * (count_parameters(config) + max(maps)), count_macs(config, size))


def describe_count(count: float) -> str:
    """138357544 → `138 M`; 7634 → `7.63 k`: three digits at most, for people."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * limit:  # below it, three digits of the smaller unit do
            value = count / limit
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{count:.0f}"

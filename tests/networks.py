"""Networks as many tests want them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vgg.checkpoints.loading import load_model
from vgg.inference.predictor import Predictor
from vgg.network.config import Preprocessing
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


NAMES = ("ant", "bee", "cat", "dog", "elk")


SIZES = [(64, 64), (200, 70), (33, 90), (64, 65), (500, 400), (1, 3), (70, 70)]


def small(head: str = "gap", **extra: Any) -> VGG:
    """A narrow VGG for 64 x 64 pixels with five classes that it is not sure of."""
    model = VGG(11, len(NAMES), head=head, width=0.1).eval()
    state = random_values(model.state_dict())
    if head == "fc":  # random layers amplify: give the logits the spread of a trained network
        state["classifier.6.weight"] *= 0.2
    model.load_state_dict(state)
    model.config = replace(
        model.config,
        label_names=NAMES,
        pretrained_cfg=Preprocessing(input_size=(3, 64, 64)),
        extra=extra,
    )
    return model


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    ]


def predictor(model: VGG | None = None, **options: Any) -> Predictor:
    return Predictor(model or small(), "cpu", **({"precision": "fp32"} | options))


def table(answers: list[Any]) -> Tensor:
    """Predictions of all classes → probabilities (N, classes) in the order of the classes."""
    rows = [dict(zip(answer.indices, answer.probs, strict=True)) for answer in answers]
    return torch.tensor([[row[index] for index in range(len(NAMES))] for row in rows])

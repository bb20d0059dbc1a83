"""The rows of the Inside tab are the network's own layers, shapes and parameters."""

import pytest
import torch
from torch import nn

from vgg.network.config import IMAGENET_NAMES, ModelConfig
from vgg.network.heads import HEADS
from vgg.network.summary import Layer, count_parameters, stages_of
from vgg.network.vgg import VGG

KINDS = {
    "convolution": nn.Conv2d,
    "batch": nn.BatchNorm2d,
    "ReLU": nn.ReLU,
    "max": nn.MaxPool2d,
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("architecture", IMAGENET_NAMES)
def test_the_rows_are_the_networks_layers(architecture: str, head: str) -> None:
    config = ModelConfig(architecture, num_classes=10, head=head, width=0.5)
    stages = stages_of(config, 96)
    assert [stage.name for stage in stages[:5]] == [f"Stage {k}" for k in (1, 2, 3, 4, 5)]
    assert sum(stage.parameters for stage in stages) == count_parameters(config)
    with torch.device("meta"):
        model, out = VGG.from_config(config, init_weights=False).eval(), torch.zeros(1, 3, 96, 96)
    rows = [layer for stage in stages[:5] for layer in stage.layers]
    assert [row.index for row in rows] == list(range(len(model.features)))[: len(rows)]
    assert len(rows) == len(model.features) - (head != "fc")
    for row, layer in zip(rows, model.features, strict=False):
        out = layer(out)
        assert isinstance(layer, KINDS[row.name.split()[0]])
        assert (*out.shape[2:], out.shape[1]) == row.shape
        assert sum(values.numel() for values in layer.parameters()) == row.parameters
    dense = [layer for layer in model.classifier if isinstance(layer, nn.Linear)]
    said = [row for row in stages[5].layers if row.name.startswith("fully connected")]
    assert [row.shape for row in said] == [(layer.out_features,) for layer in dense]


def test_vgg16_reads_as_in_the_paper() -> None:
    stages = stages_of(ModelConfig("vgg16", num_classes=1000))
    assert [stage.shape for stage in stages] == [
        (112, 112, 64),
        (56, 56, 128),
        (28, 28, 256),
        (14, 14, 512),
        (7, 7, 512),
        (1000,),
    ]
    assert stages[0].layers[0] == Layer(
        "convolution 3 x 3, 3 → 64 channels", (224, 224, 64), 1792, 0
    )
    assert stages[5].layers[1].name == "fully connected, 25088 → 4096"


def test_a_trunk_ends_with_what_a_classifier_would_read() -> None:
    config = ModelConfig("vgg11_bn", num_classes=0, head="stages", width=0.25)
    assert stages_of(config)[-1].shape == (64 + 128 + 128,)
    assert sum(stage.parameters for stage in stages_of(config)) == count_parameters(config)

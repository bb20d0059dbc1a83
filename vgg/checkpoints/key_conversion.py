"""Parameter names: other people's turned into ours (torchvision's), ours into timm's."""

from vgg.checkpoints.head_layers import StateDict
from vgg.checkpoints.layers import recognise
from vgg.errors import UserError
from vgg.network.config import ModelConfig
from vgg.network.heads import POOLED

_TIMMS = {
    "classifier.0": "pre_logits.fc1",
    "classifier.3": "pre_logits.fc2",
    "classifier.6": "head.fc",
}


def to_ours(state: StateDict) -> StateDict:
    """A VGG's state dict, whatever its names, under ours; values are not copied where they need
    not be. Of what is no VGG the names stay, so that the check against a config can say them."""
    try:
        return recognise(state).state
    except UserError:
        return state


def infer_config(state: StateDict) -> ModelConfig:
    """Depth, batch norm, head, width and class count, read off the layers."""
    return recognise(state).config


def to_timm(state: StateDict, *, temperature: float = 1.0) -> StateDict:
    """Our names of a whole network with head `fc` → those of timm's VGG, whose fully connected
    layers are convolutions: (4096, C * 49) becomes (4096, C, 7, 7).

    timm knows no temperature, so the last layer is divided by it: the same probabilities.
    """
    named = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        if layer == "classifier.6":
            value = (value.float() / temperature).to(value.dtype)
        elif layer.startswith("classifier.") and value.ndim == 2:
            side = POOLED if layer == "classifier.0" else 1
            value = value.unflatten(1, (-1, side, side))
        named[f"{_TIMMS.get(layer, layer)}.{kind}"] = value.contiguous()
    return named

"""What a layer gives for a picture: its strongest channels, and the first layer's filters."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from vgg.errors import UserError
from vgg.inference.gradcam import eval_mode
from vgg.network.vgg import VGG


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """Channels of one layer, strongest first: their numbers, and their maps (count, H', W') in
    float32, as the layer gave them, on the CPU."""

    channels: tuple[int, ...]
    maps: Tensor


def feature_maps(model: VGG, x: Tensor, layer_index: int, *, count: int = 16) -> FeatureMaps:
    """The `count` channels that answer most to one picture (1, 3, H, W), normalised.

    `layer_index` counts in `model.features`. A channel's strength is the mean of its positive part.
    """
    if x.ndim != 4 or len(x) != 1:
        raise UserError("inference.one_picture", shape=tuple(x.shape))
    if not 0 <= layer_index < len(model.features):
        raise UserError("inference.layer_index", last=len(model.features) - 1, value=layer_index)
    if count < 1:
        raise UserError("inference.count", value=count)
    like = next(model.features.parameters())
    with torch.inference_mode(), eval_mode(model):
        maps = model.maps_at(x.to(like.device, like.dtype), [layer_index])[0][0].float()
        strengths = maps.clamp_min(0).mean((1, 2))
        strongest = strengths.argsort(descending=True, stable=True)[:count]
        return FeatureMaps(tuple(strongest.tolist()), maps[strongest].cpu())


def first_filters(model: VGG) -> list[Image.Image]:
    """The first convolution's filters as RGB pictures of 3 x 3 pixels, in the order of channels.

    Grey is 0; each filter's largest weight, whatever its sign, gets the full range.
    """
    weights = next(model.features.parameters()).detach().float().cpu()  # (channels, RGB, 3, 3)
    peaks = weights.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo().tiny)
    pixels = (127.5 * (1 + weights / peaks)).round().byte().permute(0, 2, 3, 1)
    return [Image.fromarray(picture) for picture in pixels.numpy()]

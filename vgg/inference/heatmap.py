"""A class explained: its heat map, where it lies on the picture, its colours, and its check."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vgg.data.images import to_rgb
from vgg.data.transforms import placement, sampled, to_uint8
from vgg.errors import UserError
from vgg.inference.faithfulness import Faithfulness, deletion_test
from vgg.inference.gradcam import problem_with
from vgg.inference.options import PredictOptions
from vgg.inference.predictor import Predictor
from vgg.network.config import ModelConfig

SHOWN_SIDE = 448  # pixels of the longer side of an overlay


@dataclass(frozen=True, eq=False)
class SeenPicture:
    """A picture as a network sees it: `pixels`, uint8 (3, S, S), and where in them it lies.
    `shown` is a copy of the picture, RGB, in the size that `shown_size` gives."""

    pixels: Tensor
    place: tuple[float, float, float, float]
    shown: Image.Image


@dataclass(frozen=True, eq=False)
class Explanation:
    """A picture's answer, and what speaks for one class, of one pass of a network with this config.

    `probs` (K,), float32, are those of all classes. `heat` (S, S), float32 in [0, 1], is of the
    network's input.
    """

    config: ModelConfig
    seen: SeenPicture
    index: int
    probs: Tensor
    heat: Tensor

    @property
    def name(self) -> str:
        """The class."""
        return self.config.label_names[self.index]

    @property
    def probability(self) -> float:
        """Of the class, in [0, 1]."""
        return float(self.probs[self.index])

    @property
    def problem(self) -> str | None:
        """Why there is nothing to draw, as a sentence."""
        problem = problem_with(self.heat)
        return str(problem) if problem else None


def see(image: Image.Image, config: ModelConfig) -> SeenPicture:
    """The picture as a network with this config sees it."""
    image = to_rgb(image)
    pixels = to_uint8(image, config.pretrained_cfg)
    shown = image.resize(shown_size(image), reducing_gap=3.0)
    return SeenPicture(pixels, placement(image.size, config.pretrained_cfg), shown)


def explain(
    predictor: Predictor, picture: Image.Image | SeenPicture, class_index: int | None = None
) -> Explanation:
    """The answer for a picture, and the heat map of a class, by default of the most likely one.
    `UserError` for no class."""
    config = predictor.config
    if class_index is not None and not 0 <= class_index < config.num_classes:
        raise UserError("inference.no_class", index=class_index, count=config.num_classes)
    seen = see(picture, config) if isinstance(picture, Image.Image) else picture
    heat, logits = predictor.explain(seen.pixels[None], class_index)
    index = int(logits.argmax()) if class_index is None else class_index
    return Explanation(config, seen, index, predictor.to_probabilities(logits)[0], heat[0])


def check(predictor: Predictor, found: Explanation) -> Faithfulness | None:
    """How far the class's probability falls when the marked area is hidden; None without a map."""
    if found.problem:
        return None
    try:
        return deletion_test(
            predictor, found.seen.pixels, found.heat, found.index, area=found.seen.place
        )
    except UserError:  # all heat lies beside the picture
        return None


def shown_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) in which a picture and its map are shown."""
    scale = SHOWN_SIDE / max(image.size)
    width, height = image.size
    return max(1, round(width * scale)), max(1, round(height * scale))


def overlaid(found: Explanation, *, opacity: float = PredictOptions.opacity) -> Image.Image:
    """The map over the picture, in the size that `shown_size` gives."""
    heat = on_picture(found.heat, found.seen.place, found.seen.shown.size)
    return overlay(found.seen.shown, heat, opacity=opacity)


def write_heatmap(found: Explanation, stem: str, folder: Path) -> Path | None:
    """Write the map over its picture into `folder`, as a PNG.

    Returns the new file, named `stem` and the class; None where there is no map.
    """
    if found.problem:
        return None
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in found.name)[:40]
    number, target = 1, folder / f"{stem[:100]} ({plain}).png"
    while target.exists():
        number += 1
        target = folder / f"{stem[:100]} ({plain}) {number}.png"
    part = target.with_name(f"{target.name}.part")
    overlaid(found).save(part, "PNG")
    part.replace(target)
    return target


# Nine equally spaced colours of matplotlib's viridis (CC0): lightness grows evenly from 0 to 1, so
# the order is seen on a grey print and by colour-blind eyes, too.
COLOURS = (
    (68, 1, 84),
    (71, 45, 123),
    (59, 82, 139),
    (44, 114, 142),
    (33, 145, 140),
    (40, 174, 128),
    (94, 201, 98),
    (173, 220, 48),
    (253, 231, 37),
)
UNSEEN = (128, 128, 128)  # where the network saw nothing


def on_picture(
    heat: Tensor, place: tuple[float, float, float, float], size: tuple[int, int]
) -> Tensor:
    """A heat map (S, S) of the network's input, brought back onto the picture.

    `place`: where the picture lies in the input, as `transforms.placement` gives it; `size`:
    (width, height) of the result, of any scale. Returns (height, width); NaN where the picture
    was cut off and not seen. Borders beside the picture are gone.
    """
    side = len(heat)
    x, y = (
        begin + (torch.arange(count) + 0.5) * ((end - begin) / count)
        for begin, end, count in zip(place[:2], place[2:], size, strict=True)
    )
    seen = ((y >= 0) & (y <= side))[:, None] & ((x >= 0) & (x <= side))
    # Half a pixel from the edge no border beside the picture is mixed in.
    x, y = x.clamp(place[0] + 0.5, place[2] - 0.5), y.clamp(place[1] + 0.5, place[3] - 0.5)
    found = sampled(heat.float().cpu()[None, None], x[None] - 0.5, y[None] - 0.5)
    return found[0, 0].where(seen, torch.nan)


def colours(heat: Tensor) -> Image.Image:
    """A map (H, W) of numbers from 0 to 1 in the colours of `legend`; NaN is grey."""
    values = heat.detach().float().cpu().numpy()
    stops = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(values, stops, channel) for channel in zip(*COLOURS, strict=True)]
    painted = np.stack(channels, axis=-1)
    painted[np.isnan(values)] = UNSEEN
    return Image.fromarray(painted.round().astype(np.uint8))


def overlay(
    image: Image.Image, heat: Tensor, *, opacity: float = PredictOptions.opacity
) -> Image.Image:
    """`colours` of a map (H, W) laid over the picture, which is brought to the map's size.

    `heat` is what `on_picture` returns. `opacity` 0 leaves the picture, 1 shows the map alone. The
    picture loses its colours from 0 to a half, so that none of them is taken for heat.
    """
    PredictOptions(opacity=opacity)
    painted = colours(heat)
    picture = image.convert("RGB").resize(painted.size)
    grey = picture.convert("L").convert("RGB")
    return Image.blend(Image.blend(picture, grey, min(1, 2 * opacity)), painted, opacity)


def legend() -> list[tuple[float, str]]:
    """What the colours mean: (heat from 0 to 1, colour such as `#440154`). Between them they are
    mixed evenly, as a CSS gradient does."""
    steps = len(COLOURS) - 1
    return [(k / steps, "#{:02x}{:02x}{:02x}".format(*c)) for k, c in enumerate(COLOURS)]

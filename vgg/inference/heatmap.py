"""A class explained: its heat map, where it lies on the picture, its colours, and its check."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vgg.data.images import read_image
from vgg.data.transforms import placement, sampled
from vgg.errors import UserError
from vgg.inference.faithfulness import Faithfulness, deletion_test
from vgg.inference.gradcam import heat_maps, problem_with
from vgg.inference.predictor import Predictor

SHOWN_SIDE = 448  # pixels of the longer side of an overlay


@dataclass(frozen=True, eq=False)
class Explanation:
    """What speaks for one class in one picture.

    `probability` is in [0, 1]. `heat` (S, S), float32 in [0, 1], and `pixels` (3, S, S), uint8, are
    of the network's input; `place` is where the picture lies in it. `problem` says, in a sentence,
    why there is nothing to draw.
    """

    name: str
    index: int
    probability: float
    heat: Tensor
    pixels: Tensor
    place: tuple[float, float, float, float]
    problem: str | None


def explain(
    predictor: Predictor, image: Image.Image, class_index: int | None = None
) -> Explanation:
    """The heat map of a class, by default of the most likely one. `ValueError` for no class."""
    pixels = predictor.prepare([image])
    probs = predictor.probabilities(pixels)[0]
    index = int(probs.argmax()) if class_index is None else class_index
    if not 0 <= index < len(probs):
        raise UserError("inference.no_class", index=index, count=len(probs))
    heat = heat_maps(predictor, pixels, index)[0]
    problem = problem_with(heat)
    return Explanation(
        name=predictor.config.label_names[index],
        index=index,
        probability=float(probs[index]),
        heat=heat,
        pixels=pixels[0],
        place=placement(image.size, predictor.config.pretrained_cfg),
        problem=str(problem) if problem else None,
    )


def check(predictor: Predictor, found: Explanation) -> Faithfulness | None:
    """How far the class's probability falls when the marked area is hidden; None without a map."""
    if found.problem:
        return None
    try:
        return deletion_test(predictor, found.pixels, found.heat, found.index, area=found.place)
    except UserError:  # all heat lies beside the picture
        return None


def shown_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) in which a picture and its map are shown."""
    scale = SHOWN_SIDE / max(image.size)
    width, height = image.size
    return max(1, round(width * scale)), max(1, round(height * scale))


def overlaid(image: Image.Image, found: Explanation, *, opacity: float = 0.5) -> Image.Image:
    """The map over the picture, in the size that `shown_size` gives."""
    size = shown_size(image)
    return overlay(image.resize(size), on_picture(found.heat, found.place, size), opacity=opacity)


def write_heatmap(predictor: Predictor, file: Path, folder: Path) -> Path | None:
    """Write the map of a file's top answer over its picture into `folder`, as a PNG.

    Returns the new file, named as the picture and its answer; None where there is no map.
    """
    image = read_image(file, min_side=SHOWN_SIDE)
    found = explain(predictor, image)
    if found.problem:
        return None
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in found.name)[:40]
    number, target = 1, folder / f"{file.stem[:100]} ({plain}).png"
    while target.exists():
        number += 1
        target = folder / f"{file.stem[:100]} ({plain}) {number}.png"
    part = target.with_name(f"{target.name}.part")
    overlaid(image, found).save(part, "PNG")
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


def overlay(image: Image.Image, heat: Tensor, *, opacity: float = 0.5) -> Image.Image:
    """`colours` of a map (H, W) laid over the picture, which is brought to the map's size.

    `heat` is what `on_picture` returns. `opacity` 0 leaves the picture, 1 shows the map alone. The
    picture loses its colours from 0 to a half, so that none of them is taken for heat.
    """
    if not 0 <= opacity <= 1:
        raise UserError("inference.opacity", value=opacity)
    painted = colours(heat)
    picture = image.convert("RGB").resize(painted.size)
    grey = picture.convert("L").convert("RGB")
    return Image.blend(Image.blend(picture, grey, min(1, 2 * opacity)), painted, opacity)


def legend() -> list[tuple[float, str]]:
    """What the colours mean: (heat from 0 to 1, colour such as `#440154`). Between them they are
    mixed evenly, as a CSS gradient does."""
    steps = len(COLOURS) - 1
    return [(k / steps, "#{:02x}{:02x}{:02x}".format(*c)) for k, c in enumerate(COLOURS)]

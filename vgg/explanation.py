"""One answer explained: the heat map of a class, where it lies on the picture, and its check."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from vgg.gradcam import Truth, heat_maps, problem_with, truth_score
from vgg.images import read_image
from vgg.overlay import on_picture, overlay
from vgg.predictor import Predictor
from vgg.transforms import placement

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
        raise ValueError(f"class {index} is not one of this model's {len(probs)} classes")
    heat = heat_maps(predictor, pixels, index)[0]
    return Explanation(
        name=predictor.config.label_names[index],
        index=index,
        probability=float(probs[index]),
        heat=heat,
        pixels=pixels[0],
        place=placement(image.size, predictor.config.pretrained_cfg),
        problem=problem_with(heat),
    )


def check(predictor: Predictor, found: Explanation) -> Truth | None:
    """How far the class's probability falls when the marked area is hidden; None without a map."""
    if found.problem:
        return None
    try:
        return truth_score(predictor, found.pixels, found.heat, found.index, area=found.place)
    except ValueError:  # all heat lies beside the picture
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

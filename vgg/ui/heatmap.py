"""The heat map beside a prediction: where the network looked, and whether that is true."""

import base64
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

import gradio as gr
from PIL import Image

from vgg.ui.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from vgg.gradcam import Truth
    from vgg.predictor import Predictor

SHOWN_SIDE = 448  # pixels of the longer side on the page


@dataclass(frozen=True)
class Explained:
    """One class's heat map of one picture. `heat` is (S, S), of the network's input, `pixels` the
    input itself; `problem` says why there is nothing to draw."""

    name: str
    index: int
    probability: float
    heat: "Tensor"
    pixels: "Tensor"
    place: tuple[float, float, float, float]
    problem: str | None


def explain(
    store: Store, predictor: "Predictor", image: Image.Image, class_index: int | None = None
) -> Explained:
    """The heat map of a class, by default of the most likely one. `ValueError` for no class."""
    from vgg.gradcam import heat_maps, problem_with
    from vgg.transforms import placement

    pixels = predictor.prepare([image])
    with store.device_lock:
        probs = predictor.probabilities(pixels)[0]
        index = int(probs.argmax()) if class_index is None else class_index
        if not 0 <= index < len(probs):
            raise ValueError(f"class {index} is not one of this model's {len(probs)} classes")
        heat = heat_maps(predictor, pixels, index)[0]
    return Explained(
        name=predictor.config.label_names[index],
        index=index,
        probability=float(probs[index]),
        heat=heat,
        pixels=pixels[0],
        place=placement(image.size, predictor.config.pretrained_cfg),
        problem=problem_with(heat),
    )


def check(store: Store, predictor: "Predictor", explained: Explained) -> "Truth | None":
    """The check of a heat map; None where there is none to check."""
    from vgg.gradcam import truth_score

    if explained.problem:
        return None
    try:
        with store.device_lock:
            return truth_score(
                predictor,
                explained.pixels,
                explained.heat,
                explained.index,
                area=explained.place,
            )
    except ValueError:  # all heat lies beside the picture
        return None


def overlaid(image: Image.Image, explained: Explained, *, opacity: float = 0.5) -> Image.Image:
    """The map over the picture."""
    from vgg.overlay import on_picture, overlay

    size = _shown_size(image)
    heat = on_picture(explained.heat, explained.place, size)
    return overlay(image.resize(size), heat, opacity=opacity)


def show(image: Image.Image, explained: Explained) -> str:
    """Picture and map as HTML; the opacity is the browser's work."""
    from vgg.overlay import colours, legend, on_picture

    title = f"What speaks for <b>{escape(explained.name)}</b>"
    if explained.problem:
        return f"<p class='quiet'>{title}: {escape(explained.problem)}</p>"
    size = _shown_size(image)
    heat = on_picture(explained.heat, explained.place, size)
    stops = ", ".join(f"{colour} {100 * at:.0f}%" for at, colour in legend())
    alt = f"heat map for {explained.name}"
    return (
        f"<figure class='heat'><figcaption>{title}</figcaption>"
        f"<div class='heat-pair'><div class='heat-stack'><img alt='' src='{data_url(image, size)}'>"
        f"<img class='heat-layer' alt='{escape(alt)}' src='{data_url(colours(heat), size)}'></div>"
        f"<img class='heat-plain' alt='the picture alone' src='{data_url(image, size)}'></div>"
        f"<div class='heat-tools'><label>Opacity <input type='range' name='opacity' min='0' "
        f"max='100' value='55'></label><label><input type='checkbox' name='beside'> "
        f"Side by side</label><span class='heat-legend'>little <i style='background:"
        f"linear-gradient(90deg, {stops})'></i> much</span></div></figure>"
    )


def show_truth(truth: "Truth | None") -> str:
    """The check in a sentence."""
    if truth is None:
        return ""
    verdict = "the map points at what counts"
    if truth.score < 0.05:
        verdict = "this map says little: other places matter as much"
    return f"<p class='truth'>Check: {escape(truth.sentence)}. So {verdict}.</p>"


def data_url(image: Image.Image, size: tuple[int, int] | None = None) -> str:
    """A picture inside the page itself."""
    if size is not None and image.size != size:
        image = image.resize(size)
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _shown_size(image: Image.Image) -> tuple[int, int]:
    scale = SHOWN_SIDE / max(image.size)
    width, height = image.size
    return max(1, round(width * scale)), max(1, round(height * scale))


def layout() -> tuple[gr.HTML, gr.HTML, gr.State]:
    """Places for the map and for its check, and the map itself, kept for the check."""
    heat = gr.HTML("", js_on_load=SCRIPT, elem_id="heatmap")
    return heat, gr.HTML("", elem_id="truth"), gr.State(None)


# The opacity and the second picture change without asking the server.
SCRIPT = """element.addEventListener("input", (event) => {
  const figure = event.target.closest(".heat");
  if (event.target.name === "opacity") figure.style.setProperty("--heat", event.target.value / 100);
  if (event.target.name === "beside") figure.classList.toggle("beside", event.target.checked);
});"""

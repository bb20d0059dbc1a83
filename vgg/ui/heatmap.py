"""The heat map beside a prediction: where the network looked, and whether that is true."""

from html import escape
from typing import TYPE_CHECKING

import gradio as gr
from PIL import Image

from vgg.inference.options import PredictOptions
from vgg.ui.pictures import data_url
from vgg.ui.server.model_store import ModelStore

if TYPE_CHECKING:
    from vgg.inference.faithfulness import Faithfulness
    from vgg.inference.heatmap import Explanation, SeenPicture
    from vgg.inference.predictor import Predictor


def explain(
    store: ModelStore,
    predictor: "Predictor",
    picture: "Image.Image | SeenPicture",
    class_index: int | None = None,
) -> "Explanation":
    """The answer and the heat map of a class, by default of the most likely one, while the device
    is ours."""
    from vgg.inference.heatmap import explain, see

    seen = see(picture, predictor.config) if isinstance(picture, Image.Image) else picture
    with store.device_turn():
        return explain(predictor, seen, class_index)


def check(store: ModelStore, predictor: "Predictor", found: "Explanation") -> "Faithfulness | None":
    """The check of a heat map, while the device is ours; None where there is none to check."""
    from vgg.inference.heatmap import check

    with store.device_turn():
        return check(predictor, found)


def show(found: "Explanation | None") -> str:
    """Picture and map as HTML; the opacity is the browser's work."""
    if found is None:
        return ""
    from vgg.inference.heatmap import colours, on_picture

    title = f"What speaks for <b>{escape(found.name)}</b>"
    if found.problem:
        return f"<p class='quiet'>{title}: {escape(found.problem)}</p>"
    picture = data_url(found.seen.shown)
    heat = data_url(colours(on_picture(found.heat, found.seen.place, found.seen.shown.size)))
    alt = f"heat map for {found.name}"
    opacity = PredictOptions.opacity
    return (
        f"<figure class='heat' style='--heat:{opacity}'><figcaption>{title}</figcaption>"
        f"<div class='heat-pair'><div class='heat-stack'><img alt='' src='{picture}'>"
        f"<img class='heat-layer' alt='{escape(alt)}' src='{heat}'></div>"
        f"<img class='heat-plain' alt='the picture alone' src='{picture}'></div>"
        f"<div class='heat-tools'><label>Opacity <input type='range' name='opacity' min='0' "
        f"max='100' value='{100 * opacity:.0f}'></label><label><input type='checkbox' "
        f"name='beside'> Side by side</label>{legend_line()}</div></figure>"
    )


def legend_line() -> str:
    """What the colours mean, as HTML."""
    from vgg.inference.heatmap import legend

    stops = ", ".join(f"{colour} {100 * at:.0f}%" for at, colour in legend())
    return (
        f"<span class='heat-legend'>little <i style='background:linear-gradient(90deg, {stops})'>"
        "</i> much</span>"
    )


def show_truth(truth: "Faithfulness | None") -> str:
    """The check in a sentence."""
    if truth is None:
        return ""
    verdict = "the map points at what counts"
    if truth.score < 0.05:
        verdict = "this map says little: other places matter as much"
    if truth.score < -0.05:
        verdict = "this map misleads: what it marks speaks against the class"
    return f"<p class='truth'>Check: {escape(truth.sentence)}. So {verdict}.</p>"


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

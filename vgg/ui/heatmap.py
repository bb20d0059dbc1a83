"""The heat map beside a prediction: where the network looked, and whether that is true."""

from html import escape
from typing import TYPE_CHECKING

import gradio as gr
from PIL import Image

from vgg.ui.pictures import data_url
from vgg.ui.server.model_store import ModelStore

if TYPE_CHECKING:
    from vgg.inference.faithfulness import Faithfulness
    from vgg.inference.heatmap import Explanation
    from vgg.inference.predictor import Predictor


def explain(
    store: ModelStore, predictor: "Predictor", image: Image.Image, class_index: int | None = None
) -> "Explanation":
    """The heat map of a class, by default of the most likely one, while the device is ours."""
    from vgg.inference.heatmap import explain

    if store.settings.borrowed_gpu:
        from vgg.ui.server.zerogpu import BorrowingPredictor

        assert isinstance(predictor, BorrowingPredictor)
        return predictor.explain(image, class_index)
    with store.device_lock:
        return explain(predictor, image, class_index)


def check(store: ModelStore, predictor: "Predictor", found: "Explanation") -> "Faithfulness | None":
    """The check of a heat map, while the device is ours; None where there is none to check."""
    from vgg.inference.heatmap import check

    with store.device_lock:
        return check(predictor, found)


def show(image: Image.Image, explained: "Explanation") -> str:
    """Picture and map as HTML; the opacity is the browser's work."""
    from vgg.inference.heatmap import colours, on_picture, shown_size

    title = f"What speaks for <b>{escape(explained.name)}</b>"
    if explained.problem:
        return f"<p class='quiet'>{title}: {escape(explained.problem)}</p>"
    size = shown_size(image)
    heat = on_picture(explained.heat, explained.place, size)
    alt = f"heat map for {explained.name}"
    return (
        f"<figure class='heat'><figcaption>{title}</figcaption>"
        f"<div class='heat-pair'><div class='heat-stack'><img alt='' src='{data_url(image, size)}'>"
        f"<img class='heat-layer' alt='{escape(alt)}' src='{data_url(colours(heat), size)}'></div>"
        f"<img class='heat-plain' alt='the picture alone' src='{data_url(image, size)}'></div>"
        f"<div class='heat-tools'><label>Opacity <input type='range' name='opacity' min='0' "
        f"max='100' value='55'></label><label><input type='checkbox' name='beside'> "
        f"Side by side</label>{legend_line()}</div></figure>"
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

"""The Inside tab: the network as a row of stages; what each sees in the current picture."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from vgg.network.config import IMAGENET_NAMES, ModelConfig
from vgg.network.summary import Layer, Stage, count_parameters, describe_count, stages_of
from vgg.ui.events import PRIVATE, QUIET, SEND_CLICKS
from vgg.ui.heatmap import explain
from vgg.ui.markup import quiet, table
from vgg.ui.page import Page, ShownPicture
from vgg.ui.pictures import data_url, size_within
from vgg.ui.server.choice import choice_from_inputs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.tabs import inside_film
from vgg.ui.tabs.predict_input import current_picture
from vgg.ui.words import told

if TYPE_CHECKING:
    from vgg.inference.predictor import Predictor

STRONGEST = 15  # feature maps of a stage; with the picture itself they fill four rows
CARD_SIDE = 112  # pixels of one map on the page
FILTER_SIDE = 44
RACE_SIDE = 128

ABOUT = (
    "A picture goes from left to right: each stage sees less detail and more meaning. The numbers "
    "are height x width x channels; a channel is what one filter answers, place by place. Choose a "
    "stage."
)
GLOSSES = {
    "convolution": "slides 3 x 3 weights over the picture: one new channel for each filter",
    "batch norm": "keeps each channel's numbers at the same mean and spread",
    "ReLU": "keeps what is above 0 and sets the rest to 0",
    "max pooling": "keeps the largest of each 2 x 2 numbers: half the width, half the height",
    "fully connected": "every number in, times a weight, into every number out",
    "dropout": "during training, sets half of the numbers to 0",
}
CLASSES = "class: one of the things it can answer; the one with the largest number is the answer"


def row_of_stages(config: ModelConfig, chosen: int | None = None) -> str:
    """The network as blocks, each a button, from the picture to the classes."""
    size = config.pretrained_cfg.size
    blocks = [
        f"<li class='block-in'><b>Picture</b><span>{size} x {size} x 3</span></li>",
        *[
            _block(number, stage, number == chosen)
            for number, stage in enumerate(stages_of(config))
        ],
    ]
    return f"<ol class='blocks'>{''.join(blocks)}</ol>"


def _block(number: int, stage: Stage, chosen: bool) -> str:
    shapes = dict.fromkeys(_shape(shape) for shape in (stage.layers[0].shape, stage.shape))
    arrow = " →<br>" if len(stage.shape) > 1 else " → "
    state = " aria-pressed='true'" if chosen else ""
    return (
        f"<li><button type='button' data-stage='{number}'{state}><b>{escape(stage.name)}</b>"
        f"<span>{arrow.join(shapes)}</span>"
        f"<small>{describe_count(stage.parameters)} weights</small></button></li>"
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def layer_table(config: ModelConfig, number: int) -> str:
    """The layers of one stage: what each does, what comes out, how many weights it has."""
    stage = stages_of(config)[number]
    rows = "".join(
        f"<tr><td title='{escape(_gloss(layer))}'>{escape(layer.name)}</td>"
        f"<td>{_shape(layer.shape)}</td>"
        f"<td>{describe_count(layer.parameters) if layer.parameters else '–'}</td></tr>"
        for layer in stage.layers
    )
    seen = [*dict.fromkeys(_gloss(layer) for layer in stage.layers)]
    seen += [CLASSES] if stage.name == "Classifier" else []
    glosses = "".join(f"<li>{escape(text)}</li>" for text in seen if text)
    columns = [("Layer", ""), ("Comes out", ""), ("Weights", "")]
    return f"<h3>{escape(stage.name)}</h3>{table(columns, rows)}<ul class='glosses'>{glosses}</ul>"


def _gloss(layer: Layer) -> str:
    kind = next((kind for kind in GLOSSES if layer.name.startswith(kind)), "")
    return layer.gloss or (f"{kind}: {GLOSSES[kind]}" if kind else "")


# The picture of the Predict tab, as a predictor reads it; None where there is none, or several.
Source = Callable[[Callable[[Path], Image.Image]], Image.Image | None]


def maps_of_stage(store: ModelStore, picture: Source, number: int, *inputs: Any) -> str:
    """The strongest feature maps of a stage's last ReLU on the current picture, as HTML; with the
    first stage its filters, too."""
    config = store.config(choice_from_inputs(*inputs))
    if number >= 5:
        return ""
    if not config.trained:
        return quiet("This network has not been trained: its feature maps would show chance.")
    predictor = store.predictor(store.name(choice_from_inputs(*inputs)))
    image = picture(predictor.read)
    if image is None:
        text = quiet("Add a picture in the Predict tab to see its feature maps here.")
    else:
        text = _strongest(store, predictor, image, number)
    return text + (_filters(predictor) if number == 0 else "")


def _strongest(store: ModelStore, predictor: "Predictor", image: Image.Image, number: int) -> str:
    from vgg.data.transforms import normalise, to_input_square
    from vgg.inference.feature_maps import feature_maps

    cfg = predictor.config.pretrained_cfg
    x = normalise(predictor.prepare([image]), cfg)
    with store.device_lock:
        ends = predictor.model.stage_ends
        found = feature_maps(predictor.model, x, ends[number], count=STRONGEST)
    cards = [_card(to_input_square(image, cfg), "your picture")]
    for channel, heat in zip(found.channels, found.maps, strict=True):
        cards.append(_card(_map_picture(heat), f"channel {channel}"))
    return (
        f"<h3>The {len(found.channels)} strongest channels on this picture</h3>"
        f"<p class='quiet'>What stage {number + 1} gives after its last ReLU. Yellow is where a "
        "channel answers most, each on a scale of its own; dark violet is where it does not "
        f"answer.</p><div class='cards maps'>{''.join(cards)}</div>"
    )


def _card(picture: Image.Image, caption: str) -> str:
    shown = _picture(picture, CARD_SIDE, caption)
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _filters(predictor: "Predictor") -> str:
    from vgg.inference.feature_maps import first_filters

    filters = "".join(
        _picture(picture, FILTER_SIDE, f"filter {index}")
        for index, picture in enumerate(first_filters(predictor.model))
    )
    return (
        "<h3>Filters of the first convolution</h3><p class='quiet'>The 3 x 3 weights of each for "
        f"red, green and blue, as colours; grey is 0.</p><div class='filters'>{filters}</div>"
    )


def race(store: ModelStore, picture: Source) -> Iterator[str]:
    """The same picture through every ImageNet depth whose weights are on this machine: the table so
    far, again after each."""
    networks = [name for name in IMAGENET_NAMES if store.is_here(name)]
    if not networks:
        yield quiet(
            "No ImageNet weights are on this machine. Choose ImageNet in the sidebar to download "
            "one, or put files such as vgg16.safetensors into weights/."
        )
        return
    rows = ""
    for number, name in enumerate(networks, start=1):
        yield _race_table(rows) + quiet(f"{name} is at the start: {number} of {len(networks)} …")
        predictor = store.predictor(name)
        image = picture(predictor.read)
        if image is None:
            yield quiet("Add a picture in the Predict tab first.")
            return
        rows += _race_row(store, name, predictor, image)
    more = "Others join once their weights are here." if len(networks) < len(IMAGENET_NAMES) else ""
    yield _race_table(rows) + (quiet(more) if more else "")


def _race_table(rows: str) -> str:
    columns = [
        ("Network", "its depth: how many layers have weights; bn: with batch norm"),
        ("Top answer", "the most likely class"),
        ("Probability", "how likely the network finds it"),
        ("Heat map", "what speaks for the top answer"),
        ("Time", "one picture, once it is read"),
        ("Weights", "numbers that training has set"),
        ("MB", "in memory, four bytes a weight"),
    ]
    return table(columns, rows, "race") if rows else ""


def _race_row(store: ModelStore, name: str, predictor: "Predictor", image: Image.Image) -> str:
    from vgg.inference.heatmap import overlaid

    found = explain(store, predictor, image)
    with store.device_turn():  # timed in a pass of its own: the first is slower
        predictor.measured(found.seen.pixels[None])
        run = predictor.last_run
    assert run is not None
    count = count_parameters(predictor.config)
    heat = "–" if found.problem else _picture(overlaid(found), RACE_SIDE, "heat map")
    return (
        f"<tr><td>{name}</td><td>{escape(found.name)}</td>"
        f"<td>{100 * found.probability:.1f} %</td><td>{heat}</td>"
        f"<td>{run.milliseconds:.0f} ms</td><td>{describe_count(count)}</td>"
        f"<td>{4 * count / 1e6:.0f}</td></tr>"
    )


def _map_picture(heat: Any) -> Image.Image:
    from vgg.inference.heatmap import colours

    top = heat.max()
    return colours(heat / top if top > 0 else heat)


def _picture(picture: Image.Image, side: int, alt: str) -> str:
    larger = side > max(picture.size)
    shown = picture.resize(size_within(picture, side), Image.Resampling.NEAREST if larger else None)
    return f"<img alt='{escape(alt)}' title='{escape(alt)}' src='{data_url(shown)}'>"


@dataclass(frozen=True)
class Handlers:
    """What the tab's events call. `inputs` are the sidebar's values everywhere, `shown` those of
    the Predict tab's picture."""

    store: ModelStore

    def look(self, number: float, *values: Any) -> tuple[str, str, str]:
        """The row of stages, and the layers and maps of the chosen one."""
        *inputs, opened, pictures, drawing = values
        try:
            config = self.store.config(choice_from_inputs(*inputs))
            place = int(number)
            return (
                row_of_stages(config, place),
                layer_table(config, place),
                maps_of_stage(
                    self.store, partial(current_picture, opened, pictures, drawing), place, *inputs
                ),
            )
        except (ValueError, TypeError) as error:
            return gr.skip(), "", quiet(told(error))

    def run_race(self, *shown: Any) -> Iterator[str]:
        try:
            yield from race(self.store, partial(current_picture, *shown))
        except ValueError as error:
            yield quiet(told(error))


def open_stage(event: gr.EventData) -> int:
    """The number of the stage that was clicked."""
    return min(5, max(0, int(event.stage)))


class InsideTab:
    """The tab's components; `wire` makes them work."""

    def __init__(self, page: Page) -> None:
        config = page.store.config(page.store.choice_of(page.store.first_name))
        with gr.Tab("Inside", id="inside-tab") as self.door:
            gr.HTML(quiet(ABOUT))
            stages = row_of_stages(config, 0)
            self.blocks = gr.HTML(stages, js_on_load=SEND_CLICKS, elem_id="blocks")
            self.stage = gr.Number(0, visible=False)
            with gr.Row(equal_height=False):
                with gr.Column(scale=1, min_width=300):
                    self.layers = gr.HTML("", elem_id="layers")
                with gr.Column(scale=1, min_width=300):
                    self.maps = gr.HTML("", elem_id="feature-maps")
            self.film = inside_film.FilmFold()
            with gr.Accordion("Depth race: the same picture through several depths", open=False):
                self.start_race = gr.Button("Start the race", elem_id="race")
                self.race_table = gr.HTML("", elem_id="race-table")


def wire(page: Page, tab: InsideTab, picture: ShownPicture) -> None:
    """The tab's events; `picture` is what the stages are shown on."""
    handlers = Handlers(page.store)
    inputs = [tab.stage, *page.sidebar.choice, *picture.values]
    shown = [tab.blocks, tab.layers, tab.maps]
    tab.blocks.click(open_stage, None, tab.stage, **QUIET).then(
        handlers.look, inputs, shown, show_progress_on=tab.maps, **PRIVATE
    )
    tab.start_race.click(handlers.run_race, picture.values, tab.race_table, **PRIVATE)
    tab.door.select(handlers.look, inputs, shown, **QUIET)
    for change in page.sidebar.changes:
        change.then(handlers.look, inputs, shown, **QUIET)
    inside_film.wire(page, tab.film)

"""The Predict tab: pictures in, the most likely classes out."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from vgg.checkpoints.loading import STARTER
from vgg.data.images import IMAGE_SUFFIXES
from vgg.ui import heatmap
from vgg.ui.events import PRIVATE, QUIET
from vgg.ui.page import Page, ShownPicture
from vgg.ui.server.model_store import ModelStore
from vgg.ui.tabs.predict_answers import (
    COLUMNS,
    empty_state,
    loaded,
    most_answers,
    no_table,
    obstacle,
    predict_drawing,
    predict_pictures,
)
from vgg.ui.tabs.predict_input import (
    Pictures,
    current_picture,
    example_file,
    show_examples,
    shown_copies,
)

TOP_K = 5


@dataclass(frozen=True)
class Handlers:
    """What the tab's events call. `inputs` are the sidebar's values everywhere."""

    store: ModelStore

    def answer_pictures(self, pictures: Pictures, k: float, *inputs: Any) -> tuple[str, Any, Any]:
        return predict_pictures(self.store, pictures, k, *inputs)

    def answer_drawing(self, drawing: str, k: float, *inputs: Any) -> tuple[str, Any, Any]:
        return predict_drawing(self.store, drawing, k, *inputs), *no_table()

    def answer(
        self, opened: str, pictures: Pictures, drawing: str, k: float, *inputs: Any
    ) -> tuple[str, Any, Any]:
        if opened == "draw":
            return self.answer_drawing(drawing, k, *inputs)
        return self.answer_pictures(pictures, k, *inputs)

    def answer_anew(
        self, opened: str, pictures: Pictures, drawing: str, k: float, *inputs: Any
    ) -> tuple[Any, ...]:
        """The answer of another model, its examples, and the slider that fits it."""
        most = most_answers(self.store, *inputs)
        # With the answer, not in an event of its own: Gradio refuses a value over the new end.
        slider = gr.Slider(maximum=most, value=min(k, most))
        fitting = gr.Column(visible=inputs[0] == STARTER), slider
        return *self.answer(opened, pictures, drawing, k, *inputs), *fitting

    def instead(self, *inputs: Any) -> tuple[Any, Any, Any]:
        """While weights come, no answer of another model stands there."""
        if refusal := obstacle(self.store, *inputs):
            return refusal, *no_table()
        return gr.skip(), gr.skip(), gr.skip()

    def open_place(self, opened: str, *inputs: Any) -> tuple[Any, ...]:
        return opened, *self.answer(opened, *inputs)

    def choose_example(self, k: float, event: gr.EventData, *inputs: Any) -> tuple[Any, ...]:
        pictures: Pictures = [(example_file(event.name), None)]
        return pictures, gr.Tabs(selected="picture"), *self.answer_pictures(pictures, k, *inputs)

    def explain(
        self,
        opened: str,
        pictures: Pictures,
        drawing: str,
        *inputs: Any,
        index: int | None = None,
    ) -> tuple[str, Any]:
        """The heat map as HTML, and the map itself for its check."""
        if obstacle(self.store, *inputs):
            return "", None
        try:
            picture = current_picture(opened, pictures, drawing)
            if picture is None:
                return "", None
            found = heatmap.explain(self.store, loaded(self.store, *inputs), picture, index)
        except ValueError:  # the prediction says what is wrong
            return "", None
        return heatmap.show(picture, found), found

    def explain_class(
        self, opened: str, pictures: Pictures, drawing: str, event: gr.EventData, *inputs: Any
    ) -> tuple[str, Any]:
        return self.explain(opened, pictures, drawing, *inputs, index=int(event.index))

    def check(self, found: Any, *inputs: Any) -> str:
        if found is None or obstacle(self.store, *inputs):
            return ""
        return heatmap.show_truth(heatmap.check(self.store, loaded(self.store, *inputs), found))


def open_row(event: gr.SelectData) -> Any:
    """A row of the table opens its picture in the gallery."""
    return gr.Gallery(selected_index=int(event.row_value[0]) - 1)


@dataclass(frozen=True)
class PredictTab:
    """The tab's components."""

    picture: ShownPicture
    picture_tab: gr.Tab
    draw_tab: gr.Tab
    strip: gr.Column
    examples: gr.HTML
    prediction: gr.HTML
    table: gr.Dataframe
    download: gr.DownloadButton
    top_k: gr.Slider
    button: gr.Button
    heat: gr.HTML
    truth: gr.HTML
    explained: gr.State


def lay_out(page: Page) -> PredictTab:
    """The tab's components; `wire` makes them work."""
    store = page.store
    values = [component.value for component in page.sidebar.choice]
    with gr.Tab("Predict", id="predict-tab"):
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300):
                with gr.Tabs() as places:
                    with gr.Tab("Picture", id="picture") as picture_tab:
                        image = _gallery()
                    with gr.Tab("Draw", id="draw-tab") as draw_tab:
                        draw = _drawing_pad()
                with gr.Column(visible=store.first_name == STARTER) as strip:
                    examples = gr.HTML(
                        show_examples(), js_on_load=_EXAMPLE_CLICK, elem_id="examples"
                    )
            with gr.Column(scale=1, min_width=300):
                prediction = gr.HTML(
                    empty_state(store, *values), js_on_load=_CLICKS, elem_id="prediction"
                )
                table = _table()
                download = gr.DownloadButton(
                    "Download as CSV", visible=False, elem_id="download-csv"
                )
                top_k = gr.Slider(
                    1,
                    most_answers(store, *values),
                    value=TOP_K,
                    step=1,
                    label="Answers to show (top k)",
                    elem_id="top-k",
                )
                button = gr.Button("Predict", variant="primary", elem_id="predict")
                heat, truth, explained = heatmap.layout()
        place = gr.Textbox("picture", visible=False)  # the open tab
    return PredictTab(
        ShownPicture(places, place, image, draw), picture_tab, draw_tab, strip, examples,
        prediction, table, download, top_k, button, heat, truth, explained,
    )  # fmt: skip


def _gallery() -> gr.Gallery:
    return gr.Gallery(
        [],  # the gallery adds a pasted picture to a list, not to None
        label="Pictures",
        sources=["upload", "webcam", "clipboard"],
        type="filepath",
        file_types=["image", *sorted(IMAGE_SUFFIXES)],
        columns=3,
        object_fit="contain",
        buttons=["fullscreen"],
        interactive=True,
        elem_id="image",
    )


def _drawing_pad() -> gr.HTML:
    here = Path(__file__)
    return gr.HTML(
        "",
        html_template=here.with_name("pad.html").read_text("utf-8"),
        js_on_load=here.with_name("pad.js").read_text("utf-8"),
        elem_id="draw",
    )


def _table() -> gr.Dataframe:
    return gr.Dataframe(
        headers=list(COLUMNS),
        datatype=["number", "html", "str", "str", "number", "str"],
        column_widths=["40px", "56px", "24%", "22%", "56px", "26%"],
        wrap=True,
        interactive=False,
        visible=False,
        show_label=False,
        elem_id="predictions",
    )


def wire(page: Page, tab: PredictTab) -> None:
    """The tab's events. Wired last: it answers anew after each of the sidebar's changes."""
    handlers, choice = Handlers(page.store), page.sidebar.choice
    shown = [tab.prediction, tab.table, tab.download]
    asked = [*tab.picture.values, tab.top_k, *choice]
    answered = [*_wire_answers(handlers, tab, shown, asked, choice)]
    for choosing in page.sidebar.choosing:
        choosing.then(handlers.instead, choice, shown, **QUIET)
    renewed = [*shown, tab.strip, tab.top_k]
    for change in page.sidebar.changes:
        answered.append(
            change.then(
                handlers.answer_anew, asked, renewed, show_progress_on=tab.prediction, **PRIVATE
            )
        )
    # The map follows the answer, and the check follows the map: neither is delayed.
    seen, mapped_to = [*tab.picture.values, *choice], [tab.heat, tab.explained]
    mapped = [tab.prediction.click(handlers.explain_class, seen, mapped_to, **PRIVATE)]
    mapped += [answer.then(handlers.explain, seen, mapped_to, **PRIVATE) for answer in answered]
    for done in mapped:
        done.then(handlers.check, [tab.explained, *choice], tab.truth, **QUIET)
    # The button under the words on an untrained network.
    tab.prediction.select(lambda: gr.Tabs(selected="train-tab"), None, page.tabs, **QUIET)


def _wire_answers(
    handlers: Handlers, tab: PredictTab, shown: list[Any], asked: list[Any], choice: list[Any]
) -> Iterator[gr.events.Dependency]:
    """Whatever asks for an answer; gives the events that a heat map follows."""
    image, draw, top_k = tab.picture.image, tab.picture.draw, tab.top_k
    image.upload(shown_copies, image, image, **QUIET)
    yield image.change(handlers.answer_pictures, [image, top_k, *choice], shown, **PRIVATE)
    yield draw.change(
        handlers.answer_drawing,
        [draw, top_k, *choice],
        shown,
        trigger_mode="always_last",
        **QUIET,
    )
    # The gallery's own change event follows what a person does to it, not what an event puts in.
    yield tab.examples.click(
        handlers.choose_example,
        [top_k, *choice],
        [image, tab.picture.places, *shown],
        show_progress_on=tab.prediction,
        **PRIVATE,
    )
    tab.table.select(open_row, None, image, **QUIET)
    for inner, name in ((tab.picture_tab, "picture"), (tab.draw_tab, "draw")):
        opening = partial(handlers.open_place, name)
        yield inner.select(opening, asked[1:], [tab.picture.place, *shown], **QUIET)
    yield tab.button.click(handlers.answer, asked, shown, **PRIVATE)
    top_k.input(
        handlers.answer,
        asked,
        shown,
        trigger_mode="always_last",
        show_progress="minimal",
        **PRIVATE,
    )


_CLICKS = """element.addEventListener("click", (event) => {
  const bar = event.target.closest("button[data-class]");
  if (bar) trigger("click", { index: bar.dataset.class });
  if (event.target.closest("button[data-tab]")) trigger("select");
});"""
_EXAMPLE_CLICK = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-example]");
  if (button) trigger("click", { name: button.dataset.example });
});"""

"""The Predict tab: pictures in, the most likely classes out."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from vgg.checkpoints.loading import STARTER
from vgg.data.images import IMAGE_SUFFIXES, ImageError
from vgg.inference.csv_table import ENCODING
from vgg.inference.options import PredictOptions
from vgg.ui import heatmap
from vgg.ui.events import PRIVATE, QUIET, SEND_CLICKS, said
from vgg.ui.markup import note
from vgg.ui.page import Page, ShownPicture
from vgg.ui.pictures import served_file
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.uploads import uploaded
from vgg.ui.sidebar import chosen
from vgg.ui.tabs.predict_answers import (
    COLUMNS,
    Answer,
    csv_text,
    empty_state,
    most_answers,
    obstacle,
    rows,
    run_line,
    show_answer,
    thumbnail,
)
from vgg.ui.tabs.predict_input import (
    MAX_PICTURES,
    Pictures,
    example_file,
    read_drawing,
    show_examples,
    shown_copies,
)

if TYPE_CHECKING:
    from vgg.inference.heatmap import Explanation
    from vgg.inference.predictor import Predictor

# The answer as HTML, updates of the table and of its CSV's button, and what speaks for one class.
Shown = tuple[Any, Any, Any, Any]


@dataclass(frozen=True)
class Handlers:
    """What the tab's events call. `inputs` are the sidebar's values everywhere."""

    store: ModelStore

    def answer_pictures(self, pictures: Pictures, top_k: float, *inputs: Any) -> Shown:
        """Answer for the gallery's pictures: bars and a heat map for one, a table for several."""
        if not pictures:
            return without_table(empty_state(self.store, *inputs))
        if refusal := obstacle(self.store, *inputs):
            return without_table(refusal)
        asked = [(path, caption or Path(path).name) for path, caption in pictures[:MAX_PICTURES]]
        with said():
            files = [uploaded(path) for path, _ in asked]
        predictor = self._loaded(*inputs)
        if len(asked) == 1:
            try:
                image = predictor.read(files[0])
            except ImageError as error:
                return without_table(show_answer(Answer(asked[0][1], error=str(error)), None))
            return self._answer_one(predictor, image, asked[0][1], int(top_k))
        answers, run, progress = [], None, gr.Progress()
        for done, (file, (_, name)) in enumerate(zip(files, asked, strict=True)):
            progress((done, len(asked)), desc="Asking the network", unit="pictures")
            try:
                image = predictor.read(file)
            except ImageError as error:
                answers.append(Answer(name, error=str(error)))
                continue
            # Others get their turn in between.
            prediction, run = self.store.predict(predictor, image, int(top_k))
            answers.append(Answer(name, prediction, thumbnail=thumbnail(image)))
        if len(pictures) > MAX_PICTURES:
            gr.Warning(
                f"Only the first {MAX_PICTURES} of {len(pictures)} pictures were answered; for "
                "more, use `python -m vgg predict FOLDER --csv answers.csv`."
            )
        text = note("summary", f"{len(answers)} pictures") + run_line(run)
        table = gr.Dataframe(rows(answers), visible=True)
        csv_file = served_file("predictions.csv", csv_text(answers, int(top_k)).encode(ENCODING))
        return text, table, gr.DownloadButton(value=csv_file, visible=True), None

    def answer_drawing(self, drawing: str | None, top_k: float, *inputs: Any) -> Shown:
        """Answer for the drawing pad; `drawing` is a PNG data URL, or nothing."""
        if not drawing:
            return without_table(empty_state(self.store, *inputs))
        if refusal := obstacle(self.store, *inputs):
            return without_table(refusal)
        with said():
            image = read_drawing(drawing)
        return self._answer_one(self._loaded(*inputs), image, "drawing", int(top_k))

    def _answer_one(
        self, predictor: "Predictor", image: Image.Image, name: str, top_k: int
    ) -> Shown:
        """The answer and, of the same pass, what speaks for it."""
        found = heatmap.explain(self.store, predictor, image)
        answer = Answer(name, predictor.top(found.probs[None], top_k)[0])
        return without_table(show_answer(answer, predictor.last_run), found)

    def _loaded(self, *inputs: Any) -> "Predictor":
        with said():
            return self.store.predictor(self.store.name(chosen(*inputs)))

    def answer(
        self, opened: str, pictures: Pictures, drawing: str, k: float, *inputs: Any
    ) -> Shown:
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

    def instead(self, *inputs: Any) -> Shown:
        """While weights come, no answer of another model stands there."""
        if refusal := obstacle(self.store, *inputs):
            return without_table(refusal)
        return gr.skip(), gr.skip(), gr.skip(), gr.skip()

    def open_place(self, opened: str, *inputs: Any) -> tuple[Any, ...]:
        return opened, *self.answer(opened, *inputs)

    def choose_example(self, k: float, event: gr.EventData, *inputs: Any) -> tuple[Any, ...]:
        pictures: Pictures = [(example_file(event.example), None)]
        return pictures, gr.Tabs(selected="picture"), *self.answer_pictures(pictures, k, *inputs)

    def explain_class(self, found: Any, event: gr.EventData, *inputs: Any) -> Any:
        """What speaks for another class, in the pixels that were answered."""
        predictor = self._asked(found, *inputs)
        if predictor is None:
            return None
        with said():
            return heatmap.explain(self.store, predictor, found.seen, int(event.index))

    def check(self, found: Any, *inputs: Any) -> str:
        predictor = self._asked(found, *inputs)
        if predictor is None:
            return ""
        return heatmap.show_truth(heatmap.check(self.store, predictor, found))

    def _asked(self, found: Any, *inputs: Any) -> "Predictor | None":
        """The chosen model, where this explanation is of it."""
        if found is None or obstacle(self.store, *inputs):
            return None
        predictor = self._loaded(*inputs)
        return predictor if predictor.config == found.config else None


def without_table(answer: str, found: "Explanation | None" = None) -> Shown:
    """An answer as HTML where there is no table, and so no CSV of it."""
    return answer, gr.Dataframe(visible=False), gr.DownloadButton(visible=False), found


def open_row(event: gr.SelectData) -> Any:
    """A row of the table opens its picture in the gallery."""
    return gr.Gallery(selected_index=int(event.row_value[0]) - 1)


class PredictTab:
    """The tab's components; `wire` makes them work."""

    def __init__(self, page: Page) -> None:
        store, values = page.store, [component.value for component in page.sidebar.choice]
        with gr.Tab("Predict", id="predict-tab"):
            with gr.Row(equal_height=False):
                with gr.Column(scale=1, min_width=300):
                    with gr.Tabs() as places:
                        with gr.Tab("Picture", id="picture") as self.picture_tab:
                            image = _gallery()
                        with gr.Tab("Draw", id="draw-tab") as self.draw_tab:
                            draw = _drawing_pad()
                    with gr.Column(visible=store.first_name == STARTER) as self.strip:
                        self.examples = gr.HTML(
                            show_examples(), js_on_load=SEND_CLICKS, elem_id="examples"
                        )
                with gr.Column(scale=1, min_width=300):
                    self.prediction = gr.HTML(
                        empty_state(store, *values), js_on_load=_CLICKS, elem_id="prediction"
                    )
                    self.table = _table()
                    self.download = gr.DownloadButton(
                        "Download as CSV", visible=False, elem_id="download-csv"
                    )
                    self.top_k = gr.Slider(
                        1, most_answers(store, *values), value=PredictOptions.top_k, step=1,
                        label="Answers to show (top k)", elem_id="top-k",
                    )  # fmt: skip
                    self.button = gr.Button("Predict", variant="primary", elem_id="predict")
                    self.heat, self.truth, self.explained = heatmap.layout()
            place = gr.Textbox("picture", visible=False)  # the open tab
        self.picture = ShownPicture(places, place, image, draw)


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
    template, script = (Path(__file__).with_name(name) for name in ("pad.html", "pad.js"))
    return gr.HTML(
        "",
        html_template=template.read_text("utf-8"),
        js_on_load=script.read_text("utf-8"),
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
    shown = [tab.prediction, tab.table, tab.download, tab.explained]
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
    # The map is drawn after the answer, and checked after that: neither is delayed.
    of_class = tab.prediction.click(
        handlers.explain_class, [tab.explained, *choice], tab.explained, **PRIVATE
    )
    for done in (*answered, of_class):
        done.then(heatmap.show, tab.explained, tab.heat, **PRIVATE).then(
            handlers.check, [tab.explained, *choice], tab.truth, **QUIET
        )
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

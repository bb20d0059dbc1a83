"""The Predict tab: pictures in, the most likely classes out."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from vgg.checkpoints.loading import STARTER
from vgg.data.images import IMAGE_SUFFIXES, ImageError
from vgg.ui import heatmap
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.uploads import uploaded
from vgg.ui.sidebar import Sidebar
from vgg.ui.tabs.predict_answers import (
    COLUMNS,
    Answer,
    chosen,
    csv_text,
    empty_state,
    obstacle,
    rows,
    run_line,
    show_answer,
    thumbnail,
)
from vgg.ui.tabs.predict_input import (
    Pictures,
    current_picture,
    example_file,
    read_drawing,
    served_file,
    show_examples,
    shown_copies,
)
from vgg.ui.tabs.train_pictures import sentence

TOP_K = 5
MOST_TOP_K = 20
MAX_PICTURES = 200  # at once on the page; more are work for the command line


@dataclass(frozen=True)
class PredictTab:
    """The tab's components."""

    places: gr.Tabs
    picture_tab: gr.Tab
    draw_tab: gr.Tab
    place: gr.Textbox  # which of the two is open: picture or draw
    image: gr.Gallery
    draw: gr.HTML
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

    @property
    def shown(self) -> list[gr.components.Component]:
        """What says which picture is shown; `current_picture` reads their values."""
        return [self.place, self.image, self.draw]


def predict_pictures(
    store: ModelStore, pictures: Pictures, top_k: float, *inputs: Any
) -> tuple[str, Any, Any]:
    """Answer for the gallery's pictures: bars for one, a table for several.

    Returns the prediction as HTML, an update of the table, an update of the CSV button.
    """
    hidden = gr.Dataframe(visible=False), gr.DownloadButton(visible=False)
    if not pictures:
        return empty_state(store, *inputs), *hidden
    if refusal := obstacle(store, *inputs):
        return refusal, *hidden
    asked = pictures[:MAX_PICTURES]
    try:
        files = [uploaded(path) for path, _ in asked]
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error
    predictor = loaded(store, *inputs)
    answers, run, progress = [], None, gr.Progress()
    for done, (path, (_, caption)) in enumerate(zip(files, asked, strict=True)):
        if len(asked) > 1:
            progress((done, len(asked)), desc="Asking the network", unit="pictures")
        name = caption or path.name
        answer, run = _answer(store, predictor, path, name, int(top_k), run)
        answers.append(answer)
    if len(pictures) > MAX_PICTURES:
        gr.Warning(
            f"Only the first {MAX_PICTURES} of {len(pictures)} pictures were answered; for more, "
            "use `python -m vgg predict FOLDER --csv answers.csv`."
        )
    if len(answers) == 1:
        return show_answer(answers[0], run), *hidden
    text = f"<p class='summary'>{len(answers)} pictures</p>{run_line(run)}"
    table = gr.Dataframe(rows(answers), visible=True)
    csv_file = served_file("predictions.csv", csv_text(answers, int(top_k)).encode())
    return text, table, gr.DownloadButton(value=csv_file, visible=True)


def predict_drawing(store: ModelStore, drawing: str | None, top_k: float, *inputs: Any) -> str:
    """Answer for the drawing pad; `drawing` is a PNG data URL, or nothing."""
    if not drawing:
        return empty_state(store, *inputs)
    if refusal := obstacle(store, *inputs):
        return refusal
    try:
        image = read_drawing(drawing)
    except ValueError as error:
        raise gr.Error(sentence(str(error)), print_exception=False) from error
    predictor = loaded(store, *inputs)
    prediction, run = store.predict(predictor, image, int(top_k))
    return show_answer(Answer("drawing", prediction), run)


def loaded(store: ModelStore, *inputs: Any) -> Any:
    """The chosen model, ready to predict."""
    try:
        return store.predictor(store.name(chosen(*inputs)))
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error


def most_answers(store: ModelStore, *inputs: Any) -> int:
    """Where the slider for the number of answers ends: at the class count, and not over 20."""
    try:
        num_classes = store.config(chosen(*inputs)).num_classes or MOST_TOP_K  # a trunk has 0
    except (ValueError, gr.Error):
        num_classes = MOST_TOP_K
    return max(2, min(MOST_TOP_K, num_classes))  # a slider needs two ends


def _answer(
    store: ModelStore, predictor: Any, path: Path, name: str, top_k: int, run: Any
) -> tuple[Answer, Any]:
    try:
        image = predictor.read(path)
    except ImageError as error:
        return Answer(name, error=str(error)), run
    prediction, run = store.predict(predictor, image, top_k)  # others get their turn in between
    return Answer(name, prediction, thumbnail=thumbnail(image)), run


def lay_out(store: ModelStore, sidebar: Sidebar) -> PredictTab:
    """The tab's components; `wire` makes them work."""
    values = [component.value for component in sidebar.choice]
    here = Path(__file__)
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            with gr.Tabs() as places:
                with gr.Tab("Picture", id="picture") as picture_tab:
                    image = gr.Gallery(
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
                with gr.Tab("Draw", id="draw-tab") as draw_tab:
                    draw = gr.HTML(
                        "",
                        html_template=here.with_name("pad.html").read_text("utf-8"),
                        js_on_load=here.with_name("pad.js").read_text("utf-8"),
                        elem_id="draw",
                    )
            with gr.Column(visible=store.first_name == STARTER) as strip:
                examples_set = gr.HTML(
                    show_examples(), js_on_load=_EXAMPLE_CLICK, elem_id="examples"
                )
        with gr.Column(scale=1, min_width=300):
            prediction = gr.HTML(
                empty_state(store, *values), js_on_load=_CLICKS, elem_id="prediction"
            )
            table = gr.Dataframe(
                headers=list(COLUMNS),
                datatype=["number", "html", "str", "str", "number", "str"],
                column_widths=["40px", "56px", "24%", "22%", "56px", "26%"],
                wrap=True,
                interactive=False,
                visible=False,
                show_label=False,
                elem_id="predictions",
            )
            download = gr.DownloadButton("Download as CSV", visible=False, elem_id="download-csv")
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
        places=places,
        picture_tab=picture_tab,
        draw_tab=draw_tab,
        place=place,
        image=image,
        draw=draw,
        strip=strip,
        examples=examples_set,
        prediction=prediction,
        table=table,
        download=download,
        top_k=top_k,
        button=button,
        heat=heat,
        truth=truth,
        explained=explained,
    )


def wire(store: ModelStore, sidebar: Sidebar, tab: PredictTab, tabs: gr.Tabs) -> None:
    """The tab's events. `tabs` are the page's: an untrained network leads to the Train tab."""
    place, image, draw, top_k = tab.place, tab.image, tab.draw, tab.top_k
    shown = [tab.prediction, tab.table, tab.download]
    mapped_to = [tab.heat, tab.explained]
    quiet: dict[str, Any] = {"api_visibility": "private"}

    def answer_pictures(pictures: Pictures, k: float, *inputs: Any) -> tuple[str, Any, Any]:
        return predict_pictures(store, pictures, k, *inputs)

    def answer_drawing(drawing: str, k: float, *inputs: Any) -> tuple[str, Any, Any]:
        text = predict_drawing(store, drawing, k, *inputs)
        return text, gr.Dataframe(visible=False), gr.DownloadButton(visible=False)

    def answer(
        opened: str, pictures: Pictures, drawing: str, k: float, *inputs: Any
    ) -> tuple[str, Any, Any]:
        if opened == "draw":
            return answer_drawing(drawing, k, *inputs)
        return answer_pictures(pictures, k, *inputs)

    def instead(*inputs: Any) -> tuple[Any, Any, Any]:
        if refusal := obstacle(store, *inputs):
            return refusal, gr.Dataframe(visible=False), gr.DownloadButton(visible=False)
        return gr.skip(), gr.skip(), gr.skip()

    def open_place(opened: str, *inputs: Any) -> tuple[Any, ...]:
        return opened, *answer(opened, *inputs)

    def choose_example(k: float, event: gr.EventData, *inputs: Any) -> tuple[Any, ...]:
        pictures: Pictures = [(example_file(event.name), None)]
        return pictures, gr.Tabs(selected="picture"), *answer_pictures(pictures, k, *inputs)

    def open_row(event: gr.SelectData) -> Any:
        return gr.Gallery(selected_index=int(event.row_value[0]) - 1)

    def answer_anew(
        opened: str, pictures: Pictures, drawing: str, k: float, *inputs: Any
    ) -> tuple[Any, ...]:
        most = most_answers(store, *inputs)
        # With the answer, not in an event of its own: Gradio refuses a value over the new end.
        slider = gr.Slider(maximum=most, value=min(k, most))
        fitting = gr.Column(visible=inputs[0] == STARTER), slider
        return *answer(opened, pictures, drawing, k, *inputs), *fitting

    def explain(
        opened: str, pictures: Pictures, drawing: str, *inputs: Any, index: int | None = None
    ) -> tuple[str, Any]:
        if obstacle(store, *inputs):
            return "", None
        try:
            picture = current_picture(opened, pictures, drawing)
            if picture is None:
                return "", None
            found = heatmap.explain(store, loaded(store, *inputs), picture, index)
        except ValueError:  # the prediction says what is wrong
            return "", None
        return heatmap.show(picture, found), found

    def explain_class(
        opened: str, pictures: Pictures, drawing: str, event: gr.EventData, *inputs: Any
    ) -> tuple[str, Any]:
        return explain(opened, pictures, drawing, *inputs, index=int(event.index))

    def check(found: Any, *inputs: Any) -> str:
        if found is None or obstacle(store, *inputs):
            return ""
        return heatmap.show_truth(heatmap.check(store, loaded(store, *inputs), found))

    everything = [*tab.shown, top_k, *sidebar.choice]
    seen = [*tab.shown, *sidebar.choice]
    image.upload(shown_copies, image, image, show_progress="hidden", **quiet)
    answered = [image.change(answer_pictures, [image, top_k, *sidebar.choice], shown, **quiet)]
    answered.append(
        draw.change(
            answer_drawing,
            [draw, top_k, *sidebar.choice],
            shown,
            trigger_mode="always_last",
            show_progress="hidden",
            **quiet,
        )
    )
    # The gallery's own change event follows what a person does to it, not what an event puts in.
    answered.append(
        tab.examples.click(
            choose_example,
            [top_k, *sidebar.choice],
            [image, tab.places, *shown],
            show_progress_on=tab.prediction,
            **quiet,
        )
    )
    tab.table.select(open_row, None, image, show_progress="hidden", **quiet)
    for inner, name in ((tab.picture_tab, "picture"), (tab.draw_tab, "draw")):
        opening = partial(open_place, name)
        answered.append(
            inner.select(opening, everything[1:], [place, *shown], show_progress="hidden", **quiet)
        )
    answered.append(tab.button.click(answer, everything, shown, **quiet))
    top_k.input(
        answer, everything, shown, trigger_mode="always_last", show_progress="minimal", **quiet
    )
    for choosing in sidebar.choosing:  # while weights come, no answer of another model stands here
        choosing.then(instead, sidebar.choice, shown, show_progress="hidden", **quiet)
    for change in sidebar.changes:
        renewed = [*shown, tab.strip, top_k]
        answered.append(
            change.then(answer_anew, everything, renewed, show_progress_on=tab.prediction, **quiet)
        )
    # The map follows the answer, and the check follows the map: neither is delayed.
    chosen_class = tab.prediction.click(explain_class, seen, mapped_to, **quiet)
    mapped = [answer.then(explain, seen, mapped_to, **quiet) for answer in answered]
    for done in (*mapped, chosen_class):
        done.then(
            check, [tab.explained, *sidebar.choice], tab.truth, show_progress="hidden", **quiet
        )
    # The button under the words on an untrained network.
    tab.prediction.select(
        lambda: gr.Tabs(selected="train-tab"), None, tabs, show_progress="hidden", **quiet
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

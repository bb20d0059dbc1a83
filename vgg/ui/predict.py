"""The Predict tab: pictures in, the most likely classes out."""

import atexit
import base64
import csv
import logging
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from html import escape
from io import BytesIO, StringIO
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from vgg.images import IMAGE_SUFFIXES, ImageError, read_image
from vgg.options import ModelConfig
from vgg.shapes import draw_shape
from vgg.table import csv_row, header
from vgg.ui import heatmap
from vgg.ui.pictures import sentence
from vgg.ui.sidebar import Sidebar, choice_from_inputs
from vgg.ui.store import Choice, Store
from vgg.weights import STARTER

if TYPE_CHECKING:
    from vgg.predictor import Prediction, RunInfo

log = logging.getLogger(__name__)

TOP_K = 5
MOST_TOP_K = 20
MAX_PICTURES = 200  # at once on the page; more are work for the command line
MAX_DRAWING = 4_000_000  # characters of a drawing's data URL
THUMBNAIL = 56  # pixels
EXAMPLE_SIZE = 256
SHOWN_SIDE = 448  # pixels of a picture under its heat map
# A state for each shape that draws a handsome one; found by looking.
EXAMPLES = {
    "arrow": 13,
    "circle": 2,
    "crescent": 3,
    "cross": 4,
    "heart": 0,
    "square": 5,
    "star": 13,
    "triangle": 7,
}
SHOWN_BY_BROWSERS = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".avif", ".bmp")

Pictures = list[tuple[str, str | None]] | None  # what gr.Gallery gives: (path, caption)


@dataclass(frozen=True)
class Answer:
    """One picture's outcome."""

    name: str
    prediction: "Prediction | None" = None
    error: str | None = None
    thumbnail: str = ""  # data URL


@dataclass(frozen=True)
class Shown:
    """The components that say which picture is shown; `current_picture` reads their values."""

    components: list[gr.components.Component]


def current_picture(opened: str, pictures: Pictures, drawing: str | None) -> Image.Image | None:
    """The one picture that is shown; None for none or several. `ValueError` for a broken one."""
    if opened == "draw":
        return read_drawing(drawing) if drawing else None
    if not pictures or len(pictures) > 1:
        return None
    return read_image(pictures[0][0], min_side=SHOWN_SIDE)


def read_drawing(drawing: str) -> Image.Image:
    """The drawing pad's data URL as a picture; `ValueError` for anything else."""
    head, _, data = drawing.partition("base64,")
    if not head.startswith("data:image/") or len(drawing) > MAX_DRAWING:
        raise ValueError("this drawing can't be read; clear the pad and draw again")
    return read_image(base64.b64decode(data))


def predict_pictures(
    store: Store, pictures: Pictures, top_k: float, *inputs: Any
) -> tuple[str, Any, Any]:
    """Answer for the gallery's pictures: bars for one, a table for several.

    Returns the prediction as HTML, an update of the table, an update of the CSV button.
    """
    hidden = gr.Dataframe(visible=False), gr.DownloadButton(visible=False)
    if not pictures:
        return empty_state(store, *inputs), *hidden
    if refusal := obstacle(store, *inputs):
        return refusal, *hidden
    predictor = loaded(store, *inputs)
    asked = pictures[:MAX_PICTURES]
    answers, run, progress = [], None, gr.Progress()
    for done, (path, caption) in enumerate(asked):
        if len(asked) > 1:
            progress((done, len(asked)), desc="Asking the network", unit="pictures")
        name = caption or Path(path).name
        answer, run = _answer(store, predictor, Path(path), name, int(top_k), run)
        answers.append(answer)
    if len(pictures) > MAX_PICTURES:
        gr.Warning(
            f"Only the first {MAX_PICTURES} of {len(pictures)} pictures were answered; for more, "
            "use `python -m vgg predict FOLDER --csv answers.csv`."
        )
    if len(answers) == 1:
        return show_answer(answers[0], run), *hidden
    text = f"<p class='summary'>{len(answers)} pictures</p>{_run_line(run)}"
    table = gr.Dataframe(_rows(answers), visible=True)
    return text, table, gr.DownloadButton(value=_csv_file(answers, int(top_k)), visible=True)


def predict_drawing(store: Store, drawing: str | None, top_k: float, *inputs: Any) -> str:
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
    with store.device_lock:
        prediction = predictor.predict([image], top_k=int(top_k))[0]
        run = predictor.last_run
    return show_answer(Answer("drawing", prediction), run)


def shown_copies(pictures: Pictures) -> Any:
    """A picture in a format that browsers do not show, such as HEIC, appears as our copy; one that
    can't be read leaves the gallery, and its reason is said."""
    if not pictures:
        return gr.skip()
    kept: list[Any] = []
    changed = False
    for path, caption in pictures:
        if path.lower().endswith(SHOWN_BY_BROWSERS):
            kept.append((path, caption))
            continue
        changed = True
        try:
            kept.append((_copy_for_browsers(read_image(path)), caption or Path(path).name))
        except ImageError as error:
            gr.Warning(str(error))
    return gr.Gallery(kept) if changed else gr.skip()


def _copy_for_browsers(image: Image.Image) -> str:
    """A file with the same pixels, so that the answer is the same as for the original."""
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # more takes seconds for a photograph
    return _served_file("picture.png", buffer.getvalue())


def _served_file(name: str, data: bytes) -> str:
    """Put a file where Gradio serves it, and deletes it when it is old."""
    return save_bytes_to_cache(data, name, get_upload_folder())


def obstacle(store: Store, *inputs: Any) -> str:
    """HTML that says why the chosen model gives no answer; empty where it can."""
    try:
        choice = _choice(*inputs)
        config = store.config(choice)
    except ValueError as error:
        return _notice(str(error))
    if config.num_classes == 0:
        return _notice("This model is a trunk without a classifier: it can be trained, not asked.")
    if not config.trained:
        return _notice("This network has not been trained, so its answer would be a guess.")
    if not store.is_here(store.name(choice)):
        return _notice(f"The weights of {store.name(choice)} are not here; the sidebar says more.")
    return ""


def _notice(text: str) -> str:
    return f"<div class='untrained' role='status'><p>{escape(text)}</p></div>"


def loaded(store: Store, *inputs: Any) -> Any:
    """The chosen model, ready to predict."""
    try:
        return store.predictor(store.name(_choice(*inputs)))
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error


def empty_state(store: Store, *inputs: Any) -> str:
    """What stands in the place of an answer before there is a picture."""
    if refusal := obstacle(store, *inputs):
        return refusal
    choice = _choice(*inputs)
    return f"<div class='empty'><p>{escape(invitation(choice, store.config(choice)))}</p></div>"


def invitation(choice: Choice, config: ModelConfig) -> str:
    """What to show this model."""
    if choice.model == STARTER:
        return "Add a picture, draw a shape, or click an example. The answer appears here."
    if choice.is_imagenet:
        return (
            "Add a photograph. ImageNet models know 1000 things: animals, dogs of 118 breeds, "
            "vehicles, tools, food, furniture. The answer appears here."
        )
    names = ", ".join(config.label_names[:4]) + (", …" if config.num_classes > 4 else "")
    return f"Add a picture of one of: {names}. The answer appears here."


def most_answers(store: Store, *inputs: Any) -> int:
    """Where the slider for the number of answers ends: at the class count, and not over 20."""
    try:
        num_classes = store.config(_choice(*inputs)).num_classes
    except (ValueError, gr.Error):
        num_classes = MOST_TOP_K
    return max(2, min(MOST_TOP_K, num_classes))  # a slider needs two ends


def show_answer(answer: Answer, run: "RunInfo | None") -> str:
    """The k best classes as bars, best first, and a quiet line on what it took."""
    if answer.prediction is None:
        return f"<p class='problem' role='alert'>{escape(answer.error or '')}</p>"
    top = answer.prediction
    bars = "".join(
        f"<li><button type='button' data-class='{index}' title='Show what speaks for it'>"
        f"<span class='bar' style='width:{100 * prob:.2f}%'></span>"
        f"<span class='name'>{escape(name)}</span>"
        f"<span class='percent'>{100 * prob:.1f} %</span></button></li>"
        for name, prob, index in zip(top.class_names, top.probs, top.indices, strict=True)
    )
    return f"<ol class='bars'>{bars}</ol>{_run_line(run)}"


def examples() -> list[list[str]]:
    """Paths of example pictures, one a shape, drawn into a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="vgg-studio-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return [[str(path)] for path in draw_examples(folder)]


def draw_examples(folder: Path) -> list[Path]:
    """Draw the examples as `arrow.png`, `circle.png`, …"""
    paths = [folder / f"{name}.png" for name in EXAMPLES]
    for path, state in zip(paths, EXAMPLES.values(), strict=True):
        draw_shape(path.stem, Random(f"{state}/{path.stem}"), size=EXAMPLE_SIZE).save(path)
    return paths


def _answer(
    store: Store, predictor: Any, path: Path, name: str, top_k: int, run: Any
) -> tuple[Answer, Any]:
    try:
        image = predictor.read(path)
    except ImageError as error:
        return Answer(name, error=str(error)), run
    with store.device_lock:  # one picture at a time, so that others get their turn
        prediction = predictor.predict([image], top_k=top_k)[0]
        run = predictor.last_run
    return Answer(name, prediction, thumbnail=_thumbnail(image)), run


def _thumbnail(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = BytesIO()
    small.save(buffer, "WEBP", quality=75)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _rows(answers: list[Answer]) -> list[list[Any]]:
    """Table rows: number, thumbnail, picture, answer, probability, second answer."""
    rows: list[list[Any]] = []
    for number, answer in enumerate(answers, start=1):
        picture = f"<img src='{answer.thumbnail}' alt=''>" if answer.thumbnail else ""
        if answer.prediction is None:
            rows.append([number, picture, answer.name, "not read", None, answer.error])
            continue
        names, probs = answer.prediction.class_names, answer.prediction.probs
        second = f"{names[1]} ({100 * probs[1]:.1f} %)" if len(names) > 1 else ""
        rows.append([number, picture, answer.name, names[0], round(100 * probs[0], 1), second])
    return rows


def _csv_file(answers: list[Answer], top_k: int) -> str:
    """The table as a file for download, in the columns of the command line's `--csv`."""
    places = max((len(a.prediction.probs) for a in answers if a.prediction), default=top_k)
    text = StringIO(newline="")
    table = csv.writer(text)
    table.writerow(header(places))
    for answer in answers:
        top = answer.prediction.to_json() if answer.prediction else []
        row = {"image": answer.name, "top": top, "error": answer.error}
        table.writerow(csv_row(row, places))
    return _served_file("predictions.csv", text.getvalue().encode())


def _run_line(run: "RunInfo | None") -> str:
    if run is None:
        return ""
    size = f"{run.image_size} × {run.image_size}"
    text = f"{run.milliseconds:.0f} ms on {run.device}, {run.precision}, {size} pixels"
    return f"<p class='quiet'>{escape(text)}</p>"


def _choice(*inputs: Any) -> Choice:
    try:
        return choice_from_inputs(*inputs)
    except (ValueError, TypeError) as error:
        raise gr.Error(str(error), print_exception=False) from error


def build(store: Store, sidebar: Sidebar) -> Shown:
    """Lay the tab out and wire it."""
    chosen = [component.value for component in sidebar.choice]
    start = empty_state(store, *chosen)
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
                        html_template=_PAD,
                        js_on_load=Path(__file__).with_name("pad.js").read_text("utf-8"),
                        elem_id="draw",
                    )
            with gr.Column(visible=store.first_name == STARTER) as strip:
                examples_set = gr.Dataset(
                    components=[gr.Image(render=False, height=72)],
                    samples=examples(),
                    sample_labels=None,
                    label="Examples",
                    samples_per_page=len(EXAMPLES),
                    elem_id="examples",
                )
        with gr.Column(scale=1, min_width=300):
            prediction = gr.HTML(start, js_on_load=_BAR_CLICK, elem_id="prediction")
            table = gr.Dataframe(
                headers=["#", "", "Picture", "Answer", "%", "Second answer"],
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
                most_answers(store, *chosen),
                value=TOP_K,
                step=1,
                label="Answers to show (top k)",
                elem_id="top-k",
            )
            button = gr.Button("Predict", variant="primary", elem_id="predict")
            heat, truth, explained = heatmap.layout()
    place = gr.Textbox("picture", visible=False)  # the open tab

    shown = [prediction, table, download]
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

    def choose_example(sample: list[str], k: float, *inputs: Any) -> tuple[Any, ...]:
        pictures: Pictures = [(sample[0], None)]
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

    everything = [place, image, draw, top_k, *sidebar.choice]
    seen = [place, image, draw, *sidebar.choice]
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
        examples_set.click(
            choose_example,
            [examples_set, top_k, *sidebar.choice],
            [image, places, *shown],
            show_progress_on=prediction,
            **quiet,
        )
    )
    table.select(open_row, None, image, show_progress="hidden", **quiet)
    for tab, name in ((picture_tab, "picture"), (draw_tab, "draw")):
        opening = partial(open_place, name)
        answered.append(
            tab.select(opening, everything[1:], [place, *shown], show_progress="hidden", **quiet)
        )
    answered.append(button.click(answer, everything, shown, **quiet))
    top_k.input(
        answer, everything, shown, trigger_mode="always_last", show_progress="minimal", **quiet
    )
    for choosing in sidebar.choosing:  # while weights come, no answer of another model stands here
        choosing.then(instead, sidebar.choice, shown, show_progress="hidden", **quiet)
    for change in sidebar.changes:
        renewed = [*shown, strip, top_k]
        answered.append(
            change.then(answer_anew, everything, renewed, show_progress_on=prediction, **quiet)
        )
    # The map follows the answer, and the check follows the map: neither is delayed.
    chosen_class = prediction.click(explain_class, seen, [heat, explained], **quiet)
    mapped = [answer.then(explain, seen, [heat, explained], **quiet) for answer in answered]
    for done in (*mapped, chosen_class):
        done.then(check, [explained, *sidebar.choice], truth, show_progress="hidden", **quiet)
    return Shown([place, image, draw])


_BAR_CLICK = """element.addEventListener("click", (event) => {
  const bar = event.target.closest("button[data-class]");
  if (bar) trigger("click", { index: bar.dataset.class });
});"""
_PAD = """<div class="pad">
  <div class="pad-paper">
    <canvas width="448" height="448" aria-label="Drawing pad" tabindex="0"></canvas>
    <p class="pad-hint">Draw one large shape here</p>
  </div>
  <div class="pad-tools">
    <label>Brush <input type="range" name="pad-width" min="6" max="36" value="14"></label>
    <label>Colour <input type="color" name="pad-colour" value="#111111"></label>
    <button type="button" class="pad-undo">Undo</button>
    <button type="button" class="pad-clear">Clear</button>
  </div>
</div>"""

"""The Evaluate tab: what the model gets wrong, and which pictures those are."""

import base64
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr

from vgg.images import ImageError, read_image
from vgg.ui import plots
from vgg.ui.pictures import PictureSet, forget, from_folder, from_zip, sentence
from vgg.ui.sidebar import Sidebar, choice_from_inputs
from vgg.ui.store import Store
from vgg.weights import local_weights

log = logging.getLogger(__name__)

SHOWN_PICTURES = 24  # of one cell
PICTURE_SIDE = 160  # pixels
HELD_OUT, OTHER = "Held-out pictures of its training", "Another folder"
LARGEST_MATRIX = 60  # classes; a larger matrix is no picture any more


@dataclass(frozen=True)
class Measured:
    """An evaluation ready to look at: its JSON document, and where its pictures are."""

    document: dict[str, Any]
    root: Path
    copies: dict[str, str] = field(default_factory=dict)  # from a picture's name to its copy

    def picture(self, name: str) -> Path:
        """Where a picture, or its copy, lies."""
        return self.root / self.copies.get(name, name)


def held_out(store: Store, *inputs: Any) -> Measured:
    """The evaluation that the model's own training made. `ValueError` where there is none."""
    choice = choice_from_inputs(*inputs)
    config = store.config(choice)
    if not config.trained:
        raise ValueError("this network has not been trained, so there is nothing to measure")
    path = local_weights(store.spec_of(store.name(choice)), weights_dir=store.settings.weights_dir)
    folder = path if path and path.is_dir() else None
    file = folder / "metrics.json" if folder else None
    if folder is None or file is None or not file.is_file():
        raise ValueError(
            "this model has no held-out pictures of its own: choose another folder to measure it on"
        )
    metrics = json.loads(file.read_text(encoding="utf-8"))
    return Measured(metrics["evaluation"], folder, metrics.get("copies", {}))


def measure(
    store: Store,
    predictor: Any,
    pictures: PictureSet,
    on_progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Evaluate a model on a folder of pictures."""
    from vgg.evaluation import evaluate

    found = evaluate(predictor, pictures.index, on_progress=on_progress)
    return Measured(found.to_json(), pictures.index.root)


def chosen(store: Store, *inputs: Any) -> Any:
    """The predictor of the sidebar's choice; `ValueError` for one that is not trained."""
    choice = choice_from_inputs(*inputs)
    if not store.config(choice).trained:
        raise ValueError("this network has not been trained, so there is nothing to measure")
    return store.predictor(store.name(choice))


def summary(document: dict[str, Any]) -> str:
    """The figures in words, then a line a class."""
    low, high = document["accuracy_interval"]
    rows = [
        ("Right", f"{_percent(document['accuracy'])} of {document['images']} pictures",
         "the answer with the highest probability is the true class"),
        ("95 % interval", f"{100 * low:.1f} to {100 * high:.1f} %",
         "where the true share lies; the more pictures, the narrower"),
        ("Among the best five", _percent(document["top5"]), "the true class is one of five"),
        ("Mean over classes", _percent(document["balanced_accuracy"]),
         "every class counts the same, however many pictures it has"),
        ("Calibration error", _percent(document["calibration_error"]),
         "how far the percentages are from how often they are right; 0 is best"),
    ]  # fmt: skip
    cells = "".join(
        f"<div title='{escape(gloss)}'><dt>{name}</dt><dd>{escape(value)}</dd></div>"
        for name, value, gloss in rows
    )
    notes = "".join(f"<p class='hint'>{escape(sentence(h))}</p>" for h in document["hints"])
    return f"<dl class='facts'>{cells}</dl>{notes}{_class_table(document['per_class'])}"


def _class_table(per_class: dict[str, dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{score['support']}</td>"
        f"<td>{_percent(score['precision'])}</td><td>{_percent(score['recall'])}</td>"
        f"<td>{_percent(score['f1'])}</td></tr>"
        for name, score in per_class.items()
    )
    return (
        "<div class='confusion-box'><table class='per-class'><thead><tr><th>Class</th>"
        "<th>Pictures</th>"
        "<th title='of the pictures answered so, how many are so'>Precision</th>"
        "<th title='of the pictures of this class, how many are answered so'>Recall</th>"
        "<th title='one number for both: their harmonic mean'>F1</th>"
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def matrix(document: dict[str, Any]) -> str:
    """The confusion matrix, or why it is not drawn."""
    if len(document["classes"]) > LARGEST_MATRIX:
        return (
            f"<p class='quiet'>A matrix of {len(document['classes'])} classes is too large to "
            "read; the table has every class.</p>"
        )
    return plots.confusion(document["confusion"], document["classes"])


def cell(measured: Measured, row: int, column: int) -> str:
    """The pictures of one cell, worst first: the surest of the wrong answer."""
    classes = measured.document["classes"]
    truth, answer = classes[row], classes[column]
    found = [
        p for p in measured.document["pictures"] if p["class"] == truth and p["answer"] == answer
    ]
    if truth == answer:
        found.sort(key=lambda p: p["probability"])  # the least sure first
        title = f"{len(found)} pictures of {truth}, answered right; the least sure first"
    else:
        found.sort(key=lambda p: -p["probability"])
        title = f"{len(found)} pictures of {truth}, answered {answer}; the surest first"
    cards = "".join(_card(measured, picture) for picture in found[:SHOWN_PICTURES])
    more = len(found) - SHOWN_PICTURES
    rest = f"<p class='quiet'>and {more} more</p>" if more > 0 else ""
    return f"<h3>{escape(title)}</h3><div class='cards'>{cards}</div>{rest}"


def _card(measured: Measured, picture: dict[str, Any]) -> str:
    lines = f"<b>{escape(picture['answer'])}</b> {_percent(picture['probability'])}"
    if picture["class"] != picture["answer"]:
        right = _percent(picture["class_probability"])
        lines += f"<br>{escape(picture['class'])} {right}"
    try:
        image = read_image(measured.picture(picture["image"]), min_side=PICTURE_SIDE)
        image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        buffer = BytesIO()
        image.save(buffer, "WEBP", quality=80)
        data = base64.b64encode(buffer.getvalue()).decode()
        shown = f"<img alt='{escape(picture['image'])}' src='data:image/webp;base64,{data}'>"
    except ImageError:
        shown = "<span class='gone'>the picture is gone</span>"
    name = escape(Path(picture["image"]).name)
    return f"<figure title='{name}'>{shown}<figcaption>{lines}</figcaption></figure>"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def build(store: Store, sidebar: Sidebar) -> None:
    """Lay the tab out and wire it."""
    quiet: dict[str, Any] = {"api_visibility": "private"}
    measured = gr.State(None)
    pictures = gr.State(None, delete_callback=forget)
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            source = gr.Radio([HELD_OUT, OTHER], value=HELD_OUT, label="Measured on")
            with gr.Group(visible=False) as other:
                zip_file = gr.File(
                    label="A zip with one folder a class",
                    file_types=[".zip"],
                    elem_id="evaluate-zip",
                )
                folder = gr.Textbox(
                    label="or a folder of this machine",
                    visible=not store.settings.public,
                    elem_id="evaluate-folder",
                )
            button = gr.Button("Evaluate", variant="primary", elem_id="evaluate")
            figures = gr.HTML(_EMPTY, elem_id="figures")
        with gr.Column(scale=1, min_width=300):
            table = gr.HTML("", js_on_load=_CELL_CLICK, elem_id="confusion")
            mistakes = gr.HTML("", elem_id="mistakes")

    shown = [measured, pictures, figures, table, mistakes]

    def run(
        where: str, file: str | None, path: str, old: PictureSet | None, *inputs: Any,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it by this default
    ) -> tuple[Any, ...]:  # fmt: skip
        taken = old
        try:
            if where == HELD_OUT:
                found = held_out(store, *inputs)
            else:
                taken = from_zip(store, file) if file else from_folder(store, path)
                if taken is None:
                    raise ValueError("choose a zip or a folder to measure on")
                if old is not None and old is not taken:
                    forget(old)

                def tell(done: int, total: int) -> None:
                    progress((done, total), desc="Measuring", unit="pictures")

                found = measure(store, chosen(store, *inputs), taken, tell)
        except (ValueError, KeyError) as error:
            text = f"<p class='problem' role='alert'>{escape(sentence(str(error)))}</p>"
            return None, taken, text, "", ""
        return found, taken, summary(found.document), matrix(found.document), ""

    def first(*inputs: Any) -> tuple[Any, ...]:
        """The held-out figures of the model that was just chosen, where it has some."""
        try:
            found = held_out(store, *inputs)
        except (ValueError, KeyError):
            return None, gr.skip(), _EMPTY, "", ""
        return found, gr.skip(), summary(found.document), matrix(found.document), ""

    def open_cell(found: Measured | None, event: gr.EventData) -> str:
        if found is None:
            return ""
        count = len(found.document["classes"])
        row, column = int(event.row), int(event.column)
        if not (0 <= row < count and 0 <= column < count):
            return ""
        return cell(found, row, column)

    source.change(lambda where: gr.Group(visible=where == OTHER), source, other, **quiet)
    inputs = [source, zip_file, folder, pictures, *sidebar.choice]
    button.click(run, inputs, shown, show_progress_on=figures, **quiet)
    table.click(open_cell, measured, mistakes, **quiet)
    for change in sidebar.changes:
        change.then(first, sidebar.choice, shown, show_progress="hidden", **quiet)


_EMPTY = (
    "<div class='empty'><p>A model that was trained here shows what it gets wrong on the pictures "
    "that were held out. Any model can be measured on another folder.</p></div>"
)
_CELL_CLICK = """element.addEventListener("click", (event) => {
  const cell = event.target.closest("button[data-row]");
  if (cell) trigger("click", { row: cell.dataset.row, column: cell.dataset.column });
});"""

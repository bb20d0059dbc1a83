"""Answers of the network as they are shown: bars for one picture, a table and a CSV for several."""

import csv
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from vgg.checkpoints.loading import STARTER
from vgg.inference.csv_table import csv_row, header
from vgg.network.config import ModelConfig
from vgg.ui.markup import note, quiet
from vgg.ui.pictures import data_url
from vgg.ui.server.choice import Choice
from vgg.ui.server.model_store import ModelStore
from vgg.ui.sidebar import chosen
from vgg.ui.words import told

if TYPE_CHECKING:
    from vgg.inference.predictor import Prediction, RunInfo


THUMBNAIL = 56  # pixels
MOST_TOP_K = 20
COLUMNS = ("#", "", "Picture", "Answer", "%", "Second answer")


@dataclass(frozen=True)
class Answer:
    """One picture's outcome."""

    name: str
    prediction: "Prediction | None" = None
    error: str | None = None
    thumbnail: str = ""  # data URL


def most_answers(store: ModelStore, *inputs: Any) -> int:
    """Where the slider for the number of answers ends: at the class count, and not over 20."""
    try:
        num_classes = store.config(chosen(*inputs)).num_classes or MOST_TOP_K  # a trunk has 0
    except (ValueError, gr.Error):
        num_classes = MOST_TOP_K
    return max(2, min(MOST_TOP_K, num_classes))  # a slider needs two ends


def show_answer(answer: Answer, run: "RunInfo | None") -> str:
    """The k best classes as bars, best first, and a quiet line on what it took."""
    if answer.prediction is None:
        return note("problem", answer.error or "")
    top = answer.prediction
    bars = "".join(
        f"<li><button type='button' data-class='{index}' title='Show what speaks for it'>"
        f"<span class='bar' style='width:{100 * prob:.2f}%'></span>"
        f"<span class='name'>{escape(name)}</span>"
        f"<span class='percent'>{100 * prob:.1f} %</span></button></li>"
        for name, prob, index in zip(top.class_names, top.probs, top.indices, strict=True)
    )
    return f"<ol class='bars'>{bars}</ol>{run_line(run)}"


def run_line(run: "RunInfo | None") -> str:
    """What one picture took, and on what."""
    if run is None:
        return ""
    size = f"{run.image_size} × {run.image_size}"
    return quiet(f"{run.milliseconds:.0f} ms on {run.device}, {run.precision}, {size} pixels")


def thumbnail(image: Image.Image) -> str:
    """A small copy as a data URL."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return data_url(small, quality=75)


def rows(answers: list[Answer]) -> list[list[Any]]:
    """Table rows, in the order of `COLUMNS`."""
    table: list[list[Any]] = []
    for number, answer in enumerate(answers, start=1):
        picture = f"<img src='{answer.thumbnail}' alt=''>" if answer.thumbnail else ""
        if answer.prediction is None:
            table.append([number, picture, answer.name, "not read", None, answer.error])
            continue
        names, probs = answer.prediction.class_names, answer.prediction.probs
        second = f"{names[1]} ({100 * probs[1]:.1f} %)" if len(names) > 1 else ""
        table.append([number, picture, answer.name, names[0], round(100 * probs[0], 1), second])
    return table


def csv_text(answers: list[Answer], top_k: int) -> str:
    """The table in the columns of the command line's `--csv`."""
    places = max((len(a.prediction.probs) for a in answers if a.prediction), default=top_k)
    text = StringIO(newline="")
    table = csv.writer(text)
    table.writerow(header(places))
    for answer in answers:
        top = answer.prediction.to_json() if answer.prediction else []
        row = {"image": answer.name, "top": top, "error": answer.error}
        table.writerow(csv_row(row, places))
    return text.getvalue()


TRUNK = "This model is a trunk without a classifier: it can be trained, not asked."
ONLY_A_GUESS = "This network has not been trained, so its answer would be a guess."
_TRAIN = "<button type='button' data-tab='train-tab'>Train it</button>"


def empty_state(store: ModelStore, *inputs: Any) -> str:
    """What stands in the place of an answer before there is a picture."""
    if refusal := obstacle(store, *inputs):
        return refusal
    choice = chosen(*inputs)
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


def obstacle(store: ModelStore, *inputs: Any) -> str:
    """HTML that says why the chosen model gives no answer; empty where it can."""
    try:
        choice = chosen(*inputs)
        config = store.config(choice)
    except ValueError as error:
        return _notice(told(error))
    if config.num_classes == 0:
        return _notice(TRUNK, _TRAIN)
    if not config.trained:
        return _notice(ONLY_A_GUESS, _TRAIN)
    if not store.is_here(store.name(choice)):
        return _notice(f"The weights of {store.name(choice)} are not here; the sidebar says more.")
    return ""


def _notice(text: str, way_on: str = "") -> str:
    return f"<div class='untrained' role='status'><p>{escape(text)}</p>{way_on}</div>"

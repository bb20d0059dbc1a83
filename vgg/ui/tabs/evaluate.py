"""The Evaluate tab: what the model gets wrong, and which pictures those are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from vgg.errors import UserError
from vgg.ui import markup, plots
from vgg.ui.events import PRIVATE, QUIET, SEND_CLICKS
from vgg.ui.markup import note, problem, quiet
from vgg.ui.page import Page
from vgg.ui.server.choice import choice_from_inputs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.picture_sets import PictureSet, forget, from_folder, from_zip
from vgg.ui.tabs import evaluate_cell
from vgg.ui.tabs.evaluate_cell import Cell, Measured
from vgg.ui.words import percent, sentence

HELD_OUT, OTHER = "Held-out pictures of its training", "Other pictures"
LARGEST_MATRIX = 60  # classes; a larger matrix is no picture any more


def held_out_of_choice(store: ModelStore, *inputs: Any) -> Measured:
    """The evaluation that the training of the sidebar's choice made. `ValueError` where there is
    none."""
    return evaluate_cell.held_out(store, trained_name(store, *inputs))


def trained_name(store: ModelStore, *inputs: Any) -> str:
    """The name of the sidebar's choice; `ValueError` for one that is not trained."""
    choice = choice_from_inputs(*inputs)
    if not store.config(choice).trained:
        raise UserError("ui.nothing_to_measure")
    return store.name(choice)


def measure(
    store: ModelStore,
    model: str,
    pictures: PictureSet,
    on_progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Evaluate a model on a folder of pictures."""
    from vgg.inference.evaluation import evaluate

    predictor, lock = store.predictor(model), store.device_turn()
    found = evaluate(
        predictor,
        pictures.index,
        on_progress=on_progress,
        should_stop=store.settings.clock(),
        lock=lock,
    )
    return Measured(found.to_json(), pictures.index.root, model)


def summary(document: dict[str, Any]) -> str:
    """The figures in words, then a line a class."""
    low, high = document["accuracy_interval"]
    facts = markup.facts([
        ("Right", f"{percent(document['accuracy'])} of {document['images']} pictures",
         "the answer with the highest probability is the true class"),
        ("95 % interval", f"{100 * low:.1f} to {100 * high:.1f} %",
         "where the true share lies; the more pictures, the narrower"),
        ("Among the best five", percent(document["top5"]), "the true class is one of five"),
        ("Mean over classes", percent(document["balanced_accuracy"]),
         "every class counts the same, however many pictures it has"),
        ("Calibration error", percent(document["calibration_error"]),
         "how far the percentages are from how often they are right; 0 is best"),
    ])  # fmt: skip
    notes = [*document["hints"]]
    if unknown := document.get("unknown"):
        count, names = sum(unknown.values()), ", ".join(unknown)
        notes.append(
            f"{count} pictures of classes that the model does not know are left out: {names}"
        )
    if skipped := document.get("skipped"):
        first = skipped[0]
        notes.append(
            f"{len(skipped)} files were skipped, such as {first['file']}: {first['reason']}"
        )
    hints = "".join(note("hint", sentence(text)) for text in notes)
    classes = _class_table(document["per_class"])
    return f"{facts}{hints}{classes}{plots.reliability(_answers(document))}"


def _answers(document: dict[str, Any]) -> list[tuple[float, bool]]:
    """(probability of the answer, whether it was right) of each picture."""
    return [(p["probability"], p["answer"] == p["class"]) for p in document["pictures"]]


def _class_table(per_class: dict[str, dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{score['support']}</td>"
        f"<td>{percent(score['precision'])}</td><td>{percent(score['recall'])}"
        f"<small>{_range(score['recall_interval'])}</small></td>"
        f"<td>{percent(score['f1'])}</td></tr>"
        for name, score in per_class.items()
    )
    columns = [
        ("Class", ""),
        ("Pictures", ""),
        ("Precision", "of the pictures answered so, how many are so"),
        ("Recall", "of the pictures of this class, how many are answered so; below it, the 95 % "
         "interval of this share"),
        ("F1", "one number for both: their harmonic mean"),
    ]  # fmt: skip
    return markup.table(columns, rows)


def _range(interval: list[float]) -> str:
    low, high = interval
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def matrix(document: dict[str, Any]) -> str:
    """The confusion matrix, or why it is not drawn."""
    if len(document["classes"]) > LARGEST_MATRIX:
        return quiet(
            f"A matrix of {len(document['classes'])} classes is too large to read; the table has "
            "every class."
        )
    return plots.confusion(document["confusion"], document["classes"])


@dataclass(frozen=True)
class Handlers:
    """What the tab's events call. `inputs` are the sidebar's values everywhere."""

    store: ModelStore

    def run(
        self,
        where: str,
        file: str | None,
        path: str,
        old: PictureSet | None,
        *inputs: Any,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it by this default
    ) -> tuple[Any, ...]:
        """The evaluation, the pictures it is of, and what shows it."""
        taken = old
        try:
            if where == HELD_OUT:
                found = held_out_of_choice(self.store, *inputs)
            else:
                settings = self.store.settings
                new = from_zip(settings, file) if file else from_folder(settings, path)
                if new is None:
                    raise UserError("ui.choose_pictures")
                forget(old)
                taken = new

                def tell(done: int, total: int) -> None:
                    progress((done, total), desc="Measuring", unit="pictures")

                found = measure(self.store, trained_name(self.store, *inputs), taken, tell)
        except (ValueError, KeyError) as error:
            return None, taken, "", problem(error), ""
        except BaseException:
            if taken is not old:
                forget(taken)
            raise
        return found, taken, summary(found.document), matrix(found.document), ""

    def first(self, *inputs: Any) -> tuple[Any, ...]:
        """The held-out figures of the model that was just chosen, where it has some."""
        try:
            found = held_out_of_choice(self.store, *inputs)
        except (ValueError, KeyError):
            return None, gr.skip(), "", _EMPTY, ""
        return found, gr.skip(), summary(found.document), matrix(found.document), ""

    def open_cell(self, found: Measured | None, event: gr.EventData) -> tuple[str, Cell | None]:
        """The pictures of a cell, still without heat maps, and what they are made of."""
        if found is None:
            return "", None
        count = len(found.document["classes"])
        row, column = int(event.row), int(event.column)
        if not (0 <= row < count and 0 <= column < count):
            return "", None
        cell = evaluate_cell.read_cell(self.store, found, row, column)
        return cell.html(), cell

    def add_maps(self, cell: Cell | None) -> Iterator[str]:
        if cell is not None:
            yield from evaluate_cell.add_maps(self.store, cell)


class EvaluateTab:
    """The tab's components; `wire` makes them work."""

    def __init__(self, page: Page) -> None:
        with gr.Tab("Evaluate", id="evaluate-tab"):
            self.measured, self.opened = gr.State(None), gr.State(None)  # the latter: a cell
            self.pictures = gr.State(None, delete_callback=forget)
            with gr.Row(equal_height=False, elem_id="measured-on"):
                self.source = gr.Radio(
                    [HELD_OUT, OTHER], value=HELD_OUT, label="Measured on", scale=3
                )
                self.button = gr.Button("Evaluate", variant="primary", elem_id="evaluate", scale=1)
            with gr.Row(visible=False, equal_height=False) as self.other:
                self.zip_file = gr.File(
                    label="A zip with one folder a class", file_types=[".zip"], height=140,
                    elem_id="evaluate-zip",
                )  # fmt: skip
                self.folder = gr.Textbox(
                    label="or a folder of this machine with one sub-folder a class",
                    placeholder="/home/me/photos_test",
                    visible=not page.store.settings.public,
                    elem_id="evaluate-folder",
                )
            with gr.Row(equal_height=False):
                with gr.Column(scale=5, min_width=320):
                    self.table = gr.HTML(_EMPTY, js_on_load=SEND_CLICKS, elem_id="confusion")
                    self.mistakes = gr.HTML("", elem_id="mistakes")
                with gr.Column(scale=4, min_width=320):
                    self.figures = gr.HTML("", elem_id="figures")


def wire(page: Page, tab: EvaluateTab) -> None:
    """The tab's events."""
    handlers, choice = Handlers(page.store), page.sidebar.choice
    shown = [tab.measured, tab.pictures, tab.figures, tab.table, tab.mistakes]
    tab.source.change(
        lambda where: gr.Row(visible=where == OTHER), tab.source, tab.other, **PRIVATE
    )
    inputs = [tab.source, tab.zip_file, tab.folder, tab.pictures, *choice]
    tab.button.click(handlers.run, inputs, shown, show_progress_on=tab.table, **PRIVATE)
    # The pictures first, then their heat maps, as long as no other cell is opened.
    cell = [tab.mistakes, tab.opened]
    opening = tab.table.click(
        handlers.open_cell, tab.measured, cell, show_progress_on=tab.mistakes, **PRIVATE
    )
    maps = opening.then(handlers.add_maps, tab.opened, tab.mistakes, **QUIET)
    gr.on([tab.table.click, tab.button.click], None, None, None, cancels=[maps])
    for change in page.sidebar.changes:
        change.then(handlers.first, choice, shown, **QUIET)


_EMPTY = (
    "<div class='empty'><p>A model that was trained here shows what it gets wrong on the pictures "
    "that were held out. Any model can be measured on another folder.</p></div>"
)

"""The Evaluate tab: what the model gets wrong, and which pictures those are."""

from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import gradio as gr

from vgg.ui import plots
from vgg.ui.server.model_store import ModelStore, choice_from_inputs
from vgg.ui.sidebar import Sidebar
from vgg.ui.tabs import evaluate_cell
from vgg.ui.tabs.evaluate_cell import Measured
from vgg.ui.tabs.train_pictures import PictureSet, forget, from_folder, from_zip, sentence

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
        raise ValueError("this network has not been trained, so there is nothing to measure")
    return store.name(choice)


def measure(
    store: ModelStore,
    model: str,
    pictures: PictureSet,
    on_progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Evaluate a model on a folder of pictures."""
    from vgg.inference.evaluation import evaluate

    found = evaluate(store.predictor(model), pictures.index, on_progress=on_progress)
    return Measured(found.to_json(), pictures.index.root, model)


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
    facts = "".join(
        f"<div title='{escape(gloss)}'><dt>{name}</dt><dd>{escape(value)}</dd></div>"
        for name, value, gloss in rows
    )
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
    hints = "".join(f"<p class='hint'>{escape(sentence(note))}</p>" for note in notes)
    return (
        f"<dl class='facts'>{facts}</dl>{hints}{_class_table(document['per_class'])}"
        f"{plots.reliability(_answers(document))}"
    )


def _answers(document: dict[str, Any]) -> list[tuple[float, bool]]:
    """(probability of the answer, whether it was right) of each picture."""
    return [(p["probability"], p["answer"] == p["class"]) for p in document["pictures"]]


def _class_table(per_class: dict[str, dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{score['support']}</td>"
        f"<td>{_percent(score['precision'])}</td><td>{_percent(score['recall'])}"
        f"<small>{_range(score['recall_interval'])}</small></td>"
        f"<td>{_percent(score['f1'])}</td></tr>"
        for name, score in per_class.items()
    )
    return (
        "<div class='confusion-box'><table class='per-class'><thead><tr><th>Class</th>"
        "<th>Pictures</th>"
        "<th title='of the pictures answered so, how many are so'>Precision</th>"
        "<th title='of the pictures of this class, how many are answered so; below it, the 95 % "
        "interval of this share'>Recall</th>"
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


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _range(interval: list[float]) -> str:
    low, high = interval
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def build(store: ModelStore, sidebar: Sidebar) -> None:
    """Lay the tab out and wire it."""
    quiet: dict[str, Any] = {"api_visibility": "private"}
    measured = gr.State(None)
    pictures = gr.State(None, delete_callback=forget)
    opened = gr.State(None)  # the cell: (row, column)
    with gr.Row(equal_height=False, elem_id="measured-on"):
        source = gr.Radio([HELD_OUT, OTHER], value=HELD_OUT, label="Measured on", scale=3)
        button = gr.Button("Evaluate", variant="primary", elem_id="evaluate", scale=1)
    with gr.Row(visible=False, equal_height=False) as other:
        zip_file = gr.File(
            label="A zip with one folder a class",
            file_types=[".zip"],
            height=140,
            elem_id="evaluate-zip",
        )
        folder = gr.Textbox(
            label="or a folder of this machine with one sub-folder a class",
            placeholder="/home/me/photos_test",
            visible=not store.settings.public,
            elem_id="evaluate-folder",
        )
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            table = gr.HTML(_EMPTY, js_on_load=_CELL_CLICK, elem_id="confusion")
            mistakes = gr.HTML("", elem_id="mistakes")
        with gr.Column(scale=4, min_width=320):
            figures = gr.HTML("", elem_id="figures")

    shown = [measured, pictures, figures, table, mistakes]

    def run(
        where: str, file: str | None, path: str, old: PictureSet | None, *inputs: Any,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it by this default
    ) -> tuple[Any, ...]:  # fmt: skip
        taken = old
        try:
            if where == HELD_OUT:
                found = held_out_of_choice(store, *inputs)
            else:
                taken = from_zip(store, file) if file else from_folder(store, path)
                if taken is None:
                    taken = old
                    raise ValueError("choose a zip or a folder to measure on")
                if old is not None:
                    forget(old)

                def tell(done: int, total: int) -> None:
                    progress((done, total), desc="Measuring", unit="pictures")

                found = measure(store, trained_name(store, *inputs), taken, tell)
        except (ValueError, KeyError) as error:
            text = f"<p class='problem' role='alert'>{escape(sentence(str(error)))}</p>"
            return None, taken, "", text, ""
        except BaseException:
            if taken is not None and taken is not old:
                forget(taken)
            raise
        return found, taken, summary(found.document), matrix(found.document), ""

    def first(*inputs: Any) -> tuple[Any, ...]:
        """The held-out figures of the model that was just chosen, where it has some."""
        try:
            found = held_out_of_choice(store, *inputs)
        except (ValueError, KeyError):
            return None, gr.skip(), "", _EMPTY, ""
        return found, gr.skip(), summary(found.document), matrix(found.document), ""

    def open_cell(found: Measured | None, event: gr.EventData) -> tuple[str, Any]:
        if found is None:
            return "", None
        count = len(found.document["classes"])
        row, column = int(event.row), int(event.column)
        if not (0 <= row < count and 0 <= column < count):
            return "", None
        return evaluate_cell.show_cell(found, row, column, []), (row, column)

    def add_maps(found: Measured | None, place: tuple[int, int] | None) -> Iterator[str]:
        if found is not None and place is not None:
            yield from evaluate_cell.add_maps(store, found, *place)

    source.change(lambda where: gr.Row(visible=where == OTHER), source, other, **quiet)
    inputs = [source, zip_file, folder, pictures, *sidebar.choice]
    button.click(run, inputs, shown, show_progress_on=table, **quiet)
    # The pictures first, then their heat maps, as long as no other cell is opened.
    opening = table.click(
        open_cell, measured, [mistakes, opened], show_progress_on=mistakes, **quiet
    )
    maps = opening.then(add_maps, [measured, opened], mistakes, show_progress="hidden", **quiet)
    gr.on([table.click, button.click], None, None, None, cancels=[maps])
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

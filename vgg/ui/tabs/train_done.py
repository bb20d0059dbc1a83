"""What a finished training leads to: its model in use, its mistakes, why it answers so."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from vgg.errors import UserError
from vgg.ui.events import QUIET, said
from vgg.ui.page import Page, ShownPicture
from vgg.ui.pictures import served_file
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.sidebar import choose
from vgg.ui.tabs import evaluate_cell
from vgg.ui.tabs.predict_input import Pictures

MODEL_GONE = "This model is not here any more; choose another in the sidebar."


class Buttons:
    """The buttons under a training that is over; they show where there is a model."""

    def __init__(self) -> None:
        size: dict[str, Any] = {"size": "md", "min_width": 120}
        with gr.Row(visible=False, elem_id="after") as self.row:
            self.use = gr.Button("Use it", variant="primary", elem_id="use-it", **size)
            self.mistakes = gr.Button("See its mistakes", elem_id="see-mistakes", **size)
            self.why = gr.Button("See why", elem_id="see-why", **size)
            self.take = gr.Button("Take it away", elem_id="take-away", **size)


def held_out_picture(store: ModelStore, model: str) -> Pictures:
    """One of the pictures that the model has not learned from, as the gallery takes it: the surest
    of its right answers, where there is one."""
    found = evaluate_cell.held_out(store, model)
    pictures = [p for p in found.document["pictures"] if found.picture(p["image"]).is_file()]
    if not pictures:
        raise UserError("ui.none_left")
    best = max(pictures, key=lambda p: (p["class"] == p["answer"], p["probability"]))
    file = found.picture(best["image"])
    return [(served_file(file.name, file.read_bytes()), f"held out: {best['class']}")]


@dataclass(frozen=True)
class Handlers:
    """What the buttons call; `handles` are the visitor's jobs, that which is shown first."""

    store: ModelStore
    jobs: Jobs

    def open_tab(self, name: str, handles: Any) -> tuple[Any, ...]:
        """Updates that choose the model and open a tab."""
        return gr.Tabs(selected=name), *choose(self.store, self._model(handles))

    def see_why(self, handles: Any) -> tuple[Any, ...]:
        """Updates that show a held-out picture in the Predict tab."""
        model = self._model(handles)
        with said():
            pictures = held_out_picture(self.store, model)
        opened = gr.Tabs(selected="picture"), "picture", pictures
        return *self.open_tab("predict-tab", handles), *opened

    def _model(self, handles: Any) -> str:
        job = next(iter(self.jobs.of(handles)), None)
        model = self.jobs.model(job) if job else ""
        if not model:
            raise gr.Error(MODEL_GONE, print_exception=False)
        return model


def wire(page: Page, done: Buttons, picture: ShownPicture) -> None:
    """Let each button choose the model and open its tab."""
    handlers, jobs = Handlers(page.store, page.jobs), page.session.jobs
    changes = page.sidebar.changes
    outputs = [page.tabs, *page.sidebar.shown]
    for button, tab in ((done.use, "predict"), (done.mistakes, "evaluate"), (done.take, "models")):
        opening = partial(handlers.open_tab, f"{tab}-tab")
        changes.append(button.click(opening, jobs, outputs, **QUIET))
    shown = [*outputs, picture.places, picture.place, picture.image]
    changes.append(done.why.click(handlers.see_why, jobs, shown, **QUIET))

"""The Models tab: what is on this machine, and what can be done with the model in hand.

The model in hand is the sidebar's, here as everywhere; a click on a row chooses it.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vgg.checkpoints.file_names import SAFE_SUFFIXES
from vgg.errors import UserError
from vgg.ui import sidebar
from vgg.ui.events import PRIVATE, QUIET, SEND_CLICKS, said
from vgg.ui.page import Page
from vgg.ui.server.choice import NEW, choice_from_inputs
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.tabs import model_actions, model_snippets, model_takeaway

log = logging.getLogger(__name__)

KEYS_KEPT = 20  # models of one visitor


def picked(name: str) -> str:
    """What goes into `Session.picked`: a text that was not there before."""
    return f"{name}\n{time.time()}"


@dataclass(frozen=True)
class Handlers:
    """What the tab's events call. `inputs` are the sidebar's values everywhere; `brought` and
    `trained` are what the browser keeps of the visitor's models: it may send anything."""

    store: ModelStore
    jobs: Jobs

    def look(self, brought: Any, trained: Any, request: gr.Request, *inputs: Any) -> list[Any]:
        """Everything that the tab shows of the models and the one in hand."""
        store = self.store
        try:
            choice = choice_from_inputs(*inputs)
            name, title = store.name(choice), sidebar.headline(store, choice)
            lines = [
                model_snippets.python(store, choice),
                model_snippets.command_line(store, choice),
                model_snippets.program(store, choice, request.headers.get("origin")),
            ]
            changeable = model_actions.may_change(store, choice.model)
            takeable = choice.model != NEW and store.config(choice).trained
        except (ValueError, TypeError) as error:  # it has just gone
            name, title, lines, changeable, takeable = "", "", ["", "", ""], False, False
            log.info("no model in hand: %s", type(error).__name__)
        found = model_actions.rows(store, self._known(brought, trained))
        return [
            model_actions.table(found, name),
            model_actions.disk_use(store, found),
            f"<p class='state'>In hand: {title}</p>" if title else "",
            *lines,
            _CHANGE if changeable else f"{_CHANGE}{_NOT_YOURS}",
            gr.Textbox(value=store.label(name) if changeable else "", interactive=changeable),
            gr.Button(interactive=changeable),
            gr.Button(interactive=changeable),
            gr.Button(interactive=takeable),
            gr.Column(visible=False),
        ]

    def choose_row(self, brought: Any, trained: Any, event: gr.EventData) -> str:
        key = str(event.key)
        rows = model_actions.rows(self.store, self._known(brought, trained))
        with said():
            if key not in {row.key for row in rows}:
                raise UserError("ui.model_gone")
        return picked(key)

    def do_rename(self, name: str, *inputs: Any) -> str:
        with said():
            return picked(model_actions.rename(self.store, choice_from_inputs(*inputs), name))

    def ask(self, *inputs: Any) -> tuple[Any, str]:
        with said():
            text = model_actions.question(self.store, choice_from_inputs(*inputs))
        return gr.Column(visible=True), text

    def do_delete(self, *inputs: Any) -> str:
        with said():
            model_actions.delete(self.store, choice_from_inputs(*inputs))
        return picked(self.store.first_name)

    def do_import(
        self, brought: Any, file: str | None, name: str, class_names: str
    ) -> tuple[Any, ...]:
        with said():
            if not file:
                raise UserError("ui.choose_file")
            made = model_actions.bring_in(
                self.store,
                self.jobs,
                file,
                name or "",
                class_names=class_names or "",
                on_note=gr.Info,
            )
        public = self.store.settings.public
        keys = [made, *self._known(brought, [])][:KEYS_KEPT] if public else []
        return [self.store.private.handle(key) for key in keys], None, "", "", picked(made)

    def _known(self, brought: Any, trained: Any) -> list[str]:
        """The models that the browser has the keys of."""
        sent = [*(brought if isinstance(brought, list) else [])]
        sent += trained if isinstance(trained, list) else []
        return self.store.private.opened(sent)


class ModelsTab:
    """The tab's components; `wire` makes them work."""

    def __init__(self, page: Page) -> None:
        with gr.Tab("Models", id="models-tab") as self.door:
            self.listing = gr.HTML("", js_on_load=SEND_CLICKS, elem_id="models-table")
            disk = gr.HTML("", elem_id="disk-use")
            in_hand = gr.HTML("", elem_id="model-in-hand")
            with gr.Row(equal_height=False):
                with gr.Column(scale=1, min_width=300):
                    self.take = model_takeaway.TakeAway()
                    gr.HTML("<h2>Use it elsewhere</h2>")
                    snippets = _snippets()
                with gr.Column(scale=1, min_width=300):
                    change_note = gr.HTML(_CHANGE, elem_id="change-note")
                    self._lay_out_changes()
                    self._lay_out_import(page.store.settings.public)
        self.seen = [  # in the order of `Handlers.look`
            self.listing, disk, in_hand, *snippets, change_note, self.new_name, self.rename,
            self.delete, self.take.export, self.asking,
        ]  # fmt: skip

    def _lay_out_changes(self) -> None:
        self.new_name = gr.Textbox(label="New name", elem_id="new-name")
        with gr.Row():
            self.rename = gr.Button("Rename", elem_id="model-rename")
            self.delete = gr.Button("Delete …", elem_id="model-delete")
        with gr.Column(visible=False, elem_id="delete-question") as self.asking:
            self.asked = gr.HTML("", elem_id="delete-losses")
            with gr.Row():
                self.yes = gr.Button("Delete it", variant="stop", elem_id="delete-yes")
                self.no = gr.Button("Keep it", elem_id="delete-no")

    def _lay_out_import(self, public: bool) -> None:
        gr.HTML("<h2>Import a checkpoint</h2>")
        kinds = f"{SAFE_SUFFIXES[0]}{'' if public else ', .pth or any other file of weights'}"
        self.upload = gr.File(
            label=f"{kinds}, or a zip with one and its config.json",
            file_types=[*SAFE_SUFFIXES, ".zip"] if public else None,  # its content tells what it is
            height=176,
            elem_id="model-import",
        )
        self.import_name = gr.Textbox(
            label="Name of the model", placeholder="as the file", elem_id="import-name"
        )
        self.import_classes = gr.Textbox(
            label="Class names",
            info="One a line or between commas, where the file has none",
            placeholder="cat, dog, owl",
            elem_id="import-classes",
        )
        self.import_button = gr.Button("Import", elem_id="import-button")


def _snippets() -> list[gr.Code]:
    """Boxes for the lines of `model_snippets`, a tab each."""
    boxes = []
    names = {"Python": "python", "Command line": "shell", "Another program": "client"}
    with gr.Tabs():
        for name, key in names.items():
            with gr.Tab(name):
                boxes.append(
                    gr.Code(
                        "", show_label=False, interactive=False, lines=4, elem_id=f"snippet-{key}"
                    )
                )
    return boxes


def wire(page: Page, tab: ModelsTab) -> None:
    """The tab's events."""
    handlers, session, choice = Handlers(page.store, page.jobs), page.session, page.sidebar.choice
    mine = [session.models, session.jobs]
    fresh = {"fn": handlers.look, "inputs": [*mine, *choice], "outputs": tab.seen, **QUIET}
    tab.listing.click(handlers.choose_row, mine, session.picked, **QUIET)
    tab.rename.click(handlers.do_rename, [tab.new_name, *choice], session.picked, **QUIET)
    tab.yes.click(handlers.do_delete, choice, session.picked, **QUIET)
    tab.import_button.click(
        handlers.do_import,
        [session.models, tab.upload, tab.import_name, tab.import_classes],
        [session.models, tab.upload, tab.import_name, tab.import_classes, session.picked],
        show_progress_on=tab.import_button,
        **PRIVATE,
    )
    tab.door.select(**fresh)
    page.blocks.load(**fresh)
    for change in page.sidebar.changes:
        change.then(**fresh)
    tab.delete.click(handlers.ask, choice, [tab.asking, tab.asked], **QUIET)
    tab.no.click(lambda: gr.Column(visible=False), None, tab.asking, **QUIET)
    model_takeaway.wire(page, tab.take)


_CHANGE = "<h2>Rename or delete</h2>"
_NOT_YOURS = "<p class='told'>Only models of your own can be changed. Click one in the table.</p>"

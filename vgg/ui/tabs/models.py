"""The Models tab: what is on this machine, and what can be done with the model in hand.

The model in hand is the sidebar's, here as everywhere; a click on a row chooses it.
"""

import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from vgg.checkpoints.library import SAFE_SUFFIXES, SUFFIXES
from vgg.ui import sidebar
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import NEW, ModelStore, choice_from_inputs
from vgg.ui.sidebar import Sidebar
from vgg.ui.tabs import model_actions, model_snippets
from vgg.ui.tabs.train import Session
from vgg.ui.tabs.train_pictures import sentence

log = logging.getLogger(__name__)

REMEMBERED = 20  # models of one visitor
AT_ONCE = 2  # exports and pushes under way


@contextmanager
def _said() -> Iterator[None]:
    """What a person can mend is said on the page, without a path of this machine."""
    try:
        yield
    except gr.Error:
        raise
    except (ValueError, TypeError) as error:
        raise gr.Error(sentence(str(error)), print_exception=False) from error
    except OSError as error:
        log.exception("the disk refuses")
        raise gr.Error(f"The disk refuses: {error.strerror}.", print_exception=False) from error


def _listed(sent: Any) -> list[str]:
    return [key for key in sent if isinstance(key, str)] if isinstance(sent, list) else []


def _take_place(places: threading.BoundedSemaphore) -> None:
    """A lock of our own: Gradio's limits can be walked around."""
    if not places.acquire(blocking=False):
        raise gr.Error(
            f"{AT_ONCE} models are being taken away right now; try again in a minute.",
            print_exception=False,
        )


def _watched(
    work: Callable[[Callable[[dict[str, Any]], None]], Any],
    then: Callable[[], object],
) -> Iterator[tuple[str, Any]]:
    """Do `work` in a thread of its own, as it should end well where the browser has left; yields
    what it says as HTML, with the seconds so far, and at last its result. `then` ends the thread.
    """
    told: queue.Queue[tuple[str, Any]] = queue.Queue()

    def run() -> None:
        try:
            told.put(("result", work(lambda event: told.put(("step", model_actions.words(event))))))
        except ValueError as error:
            told.put(("problem", str(error)))
        except Exception as error:
            log.exception("it failed")
            told.put(("problem", f"it failed ({type(error).__name__}); the server's log says more"))
        finally:
            then()

    # In the context of the visitor's request: what they may do is asked in there.
    asked_by = contextvars.copy_context()
    threading.Thread(target=asked_by.run, args=(run,), name="take-away", daemon=True).start()
    began, kind, said = time.monotonic(), "step", "one moment"
    while True:
        with suppress(queue.Empty):
            kind, said = told.get(timeout=1)
        if kind == "result":
            yield "", said
            return
        text = escape(sentence(str(said)))
        if kind == "problem":
            yield f"<p class='problem' role='alert'>{text}</p>", None
            return
        seconds = f"{time.monotonic() - began:.0f} s"
        yield f"<p class='status' role='status'>{text} {seconds}</p>", None


def _proved(bundle: Any) -> str:
    own = f", {bundle.held_out} of them held out by its training" if bundle.held_out else ""
    apart = max(bundle.largest_difference, 0.0001)
    text = (
        f"Proved in a fresh process on {bundle.images} pictures{own}: every best class is the same "
        f"as here, and no probability differs by more than {100 * apart:.2f} %."
    )
    return f"<p class='told' role='status'>{escape(text)}</p>"


@dataclass(frozen=True)
class OwnModels:
    """What a visitor's page knows of their models, outside of the tabs: see `train.Session`.

    `keys` are those of models that they brought in; who has one may use its model. `picked` takes
    the name of a model and a number that makes it new: the page then chooses that model.
    """

    keys: gr.BrowserState
    picked: gr.Textbox


def begin(store: ModelStore, side: Sidebar) -> OwnModels:
    """Make these parts; call it before the tabs are begun, so that all of them follow."""
    keys = gr.BrowserState([], storage_key="vgg-studio-models", secret="vgg-studio")
    picked = gr.Textbox(visible="hidden", elem_id="picked")

    def choose(text: str) -> list[Any]:
        with _said():
            return sidebar.choose(store, text.partition("\n")[0])

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    side.changes.append(picked.change(choose, picked, side.shown, **quiet))
    return OwnModels(keys, picked)


def _pick(name: str) -> str:
    """What goes into `OwnModels.picked`: a text that was not there before."""
    return f"{name}\n{time.time()}"


def build(
    store: ModelStore,
    jobs: Jobs,
    side: Sidebar,
    session: Session,
    own: OwnModels,
    tab: gr.Tab,
    page: gr.Blocks,
) -> None:
    """Lay the tab out and wire it."""
    public = store.settings.public
    places = threading.BoundedSemaphore(AT_ONCE)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    listing = gr.HTML("", js_on_load=_ROW_CLICK, elem_id="models-table")
    disk = gr.HTML("", elem_id="disk-use")
    in_hand = gr.HTML("", elem_id="model-in-hand")
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            gr.HTML(f"<h2>Take it away</h2>{_EXPORT_HELP}")
            export_button = gr.Button("Export", variant="primary", elem_id="model-export")
            export_box = gr.HTML("", elem_id="export-status")
            download = gr.DownloadButton("Download", visible=False, elem_id="model-download")
            with gr.Accordion("Push to the Hugging Face Hub", open=False, elem_id="push-box"):
                gr.HTML(_PUSH_HELP)
                to = gr.Textbox(label="Repository", placeholder="owner/name", elem_id="push-to")
                token = gr.Textbox(
                    label="Token",
                    type="password",
                    info="Your own, with the right to write; used once and not kept",
                    elem_id="push-token",
                )
                private = gr.Checkbox(True, label="Private", elem_id="push-private")
                push_button = gr.Button("Push", elem_id="model-push")
                push_box = gr.HTML("", elem_id="push-status")
            gr.HTML("<h2>Use it elsewhere</h2>")
            with gr.Tabs():
                with gr.Tab("Python"):
                    in_python = gr.Code("", **_CODE, elem_id="snippet-python")
                with gr.Tab("Command line"):
                    in_shell = gr.Code("", **_CODE, elem_id="snippet-shell")
                with gr.Tab("Another program"):
                    in_client = gr.Code("", **_CODE, elem_id="snippet-client")
        with gr.Column(scale=1, min_width=300):
            change_note = gr.HTML(_CHANGE, elem_id="change-note")
            new_name = gr.Textbox(label="New name", elem_id="new-name")
            with gr.Row():
                rename_button = gr.Button("Rename", elem_id="model-rename")
                delete_button = gr.Button("Delete …", elem_id="model-delete")
            with gr.Column(visible=False, elem_id="delete-question") as asking:
                asked = gr.HTML("", elem_id="delete-losses")
                with gr.Row():
                    yes = gr.Button("Delete it", variant="stop", elem_id="delete-yes")
                    no = gr.Button("Keep it", elem_id="delete-no")
            gr.HTML("<h2>Import a checkpoint</h2>")
            endings = [*(SAFE_SUFFIXES if public else SUFFIXES), ".zip"]
            upload = gr.File(
                label=f"{', '.join(endings[:-1])}, or a zip with one and its config.json",
                file_types=endings,
                height=176,
                elem_id="model-import",
            )
            import_name = gr.Textbox(
                label="Name of the model", placeholder="as the file", elem_id="import-name"
            )
            import_button = gr.Button("Import", elem_id="import-button")

    def known(brought: Any, trained: Any) -> list[str]:
        """The models that the browser has the keys of: it may send anything."""
        return store.opened([*_listed(brought), *_listed(trained)])

    def look(brought: Any, trained: Any, request: gr.Request, *inputs: Any) -> tuple[Any, ...]:
        """Everything that the tab shows of the models and the one in hand."""
        keys = known(brought, trained)
        try:
            choice = choice_from_inputs(*inputs)
            name = store.name(choice)
            lines = [
                model_snippets.python(store, choice),
                model_snippets.command_line(store, choice),
                model_snippets.program(store, choice, request.headers.get("origin")),
            ]
            title = sidebar.headline(store, choice)
            changeable = model_actions.may_change(store, choice.model)
            takeable = choice.model != NEW and store.config(choice).trained
        except (ValueError, TypeError) as error:  # it has just gone
            name, lines, title, changeable, takeable = "", ["", "", ""], "", False, False
            log.info("no model in hand: %s", type(error).__name__)
        found = model_actions.rows(store, keys)
        note = _CHANGE if changeable else f"{_CHANGE}{_NOT_YOURS}"
        return (
            model_actions.table(found, name),
            model_actions.disk_use(store, found),
            f"<p class='state'>In hand: {title}</p>" if title else "",
            *lines,
            note,
            gr.Textbox(value=store.label(name) if changeable else "", interactive=changeable),
            gr.Button(interactive=changeable),
            gr.Button(interactive=changeable),
            gr.Button(interactive=takeable),
            gr.Column(visible=False),
        )

    def forget_files() -> tuple[Any, ...]:
        """Another model: what was exported or pushed before is not of it."""
        return "", gr.DownloadButton(visible=False), ""

    def choose_row(brought: Any, trained: Any, event: gr.EventData) -> str:
        key = str(event.key)
        with _said():
            if key not in {row.key for row in model_actions.rows(store, known(brought, trained))}:
                raise ValueError("this model has gone; choose another")
        return _pick(key)

    def do_rename(name: str, *inputs: Any) -> str:
        with _said():
            return _pick(model_actions.rename(store, choice_from_inputs(*inputs), name))

    def ask(*inputs: Any) -> tuple[Any, str]:
        with _said():
            text = model_actions.question(store, choice_from_inputs(*inputs))
        return gr.Column(visible=True), text

    def do_delete(*inputs: Any) -> str:
        with _said():
            model_actions.delete(store, choice_from_inputs(*inputs))
        return _pick(store.first_name)

    def do_import(brought: Any, file: str | None, name: str) -> tuple[Any, ...]:
        with _said():
            if not file:
                raise ValueError("choose a file first")
            made = model_actions.bring_in(store, jobs, file, name or "")
        keys = [made, *known(brought, [])][:REMEMBERED] if public else []
        return [store.handle(key) for key in keys], None, "", _pick(made)

    def do_export(*inputs: Any) -> Iterator[tuple[Any, Any]]:
        hidden = gr.DownloadButton(visible=False)
        with _said():
            choice = choice_from_inputs(*inputs)
        _take_place(places)
        work = partial(model_actions.export, store, choice)
        for text, bundle in _watched(work, places.release):
            if bundle is None:
                yield text, hidden
                continue
            name, size = bundle.zip.name, model_actions.size_text(bundle.zip.stat().st_size)
            file = gr.DownloadButton(
                f"Download {name} ({size})", value=str(bundle.zip), visible=True
            )
            yield _proved(bundle), file

    def do_push(where: str, secret: str, hidden: bool, *inputs: Any) -> Iterator[tuple[str, Any]]:
        with _said():
            choice = choice_from_inputs(*inputs)
        _take_place(places)
        work = partial(model_actions.push, store, choice, where or "", secret or "", hidden)
        for text, address in _watched(work, places.release):
            if address is None:
                yield text, gr.skip()
                continue
            link = escape(address)
            yield f"<p class='told' role='status'>Pushed: <a href='{link}'>{link}</a></p>", ""

    shown = [
        listing, disk, in_hand, in_python, in_shell, in_client, change_note, new_name,
        rename_button, delete_button, export_button, asking,
    ]  # fmt: skip
    mine = [own.keys, session.mine]
    fresh = {"fn": look, "inputs": [*mine, *side.choice], "outputs": shown, **quiet}
    listing.click(choose_row, mine, own.picked, **quiet)
    rename_button.click(do_rename, [new_name, *side.choice], own.picked, **quiet)
    yes.click(do_delete, side.choice, own.picked, **quiet)
    import_button.click(
        do_import,
        [own.keys, upload, import_name],
        [own.keys, upload, import_name, own.picked],
        show_progress_on=import_button,
        api_visibility="private",
    )
    tab.select(**fresh)
    page.load(**fresh)
    for change in side.changes:
        change.then(**fresh)
        change.then(forget_files, None, [export_box, download, push_box], **quiet)
    delete_button.click(ask, side.choice, [asking, asked], **quiet)
    no.click(lambda: gr.Column(visible=False), None, asking, **quiet)
    export_button.click(
        do_export,
        side.choice,
        [export_box, download],
        concurrency_limit=2,
        **quiet,
    )
    push_button.click(
        do_push,
        [to, token, private, *side.choice],
        [push_box, token],
        concurrency_limit=2,
        **quiet,
    )


_CODE: dict[str, Any] = {"show_label": False, "interactive": False, "lines": 4}
_EXPORT_HELP = """<p class='told'>A zip with the weights, a model card, and an ONNX file that takes
a picture of any size and needs no VGG Studio. You get it once it was proved to answer as this page
does.</p>"""
_PUSH_HELP = """<p class='told'>Anyone who may see the repository loads it with
<code>load_model("hf-hub:owner/name")</code>. Models with the head fc, as in the paper, are loaded
by timm and transformers too: that is what this head is good for.</p>"""
_CHANGE = "<h2>Rename or delete</h2>"
_NOT_YOURS = "<p class='told'>Only models of your own can be changed. Click one in the table.</p>"
_ROW_CLICK = """element.addEventListener("click", (event) => {
  const row = event.target.closest("button[data-key]");
  if (row) trigger("click", { key: row.dataset.key });
});"""

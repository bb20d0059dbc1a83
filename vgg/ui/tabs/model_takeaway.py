"""Taking the model in hand away: exported as a zip, or pushed to the Hub with one's own token."""

import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from vgg.errors import UserError
from vgg.ui.events import QUIET, said
from vgg.ui.markup import note, problem
from vgg.ui.page import Page
from vgg.ui.server.choice import choice_from_inputs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.tabs import model_actions
from vgg.ui.words import sentence, size_text

log = logging.getLogger(__name__)

AT_ONCE = 2  # exports and pushes under way

Tell = Callable[[dict[str, Any]], None]


def watched(work: Callable[[Tell], Any], then: Callable[[], object]) -> Iterator[tuple[str, Any]]:
    """Do `work` in a thread of its own, as it should end well where the browser has left; yields
    what it says as HTML, with the seconds so far, and at last its result. `then` ends the thread.
    """
    told: queue.Queue[tuple[str, Any]] = queue.Queue()

    def run() -> None:
        try:
            told.put(("result", work(lambda event: told.put(("step", model_actions.words(event))))))
        except UserError as error:
            told.put(("problem", str(error)))
        except Exception as error:
            log.exception("it failed")
            told.put(("problem", f"it failed ({type(error).__name__}); the server's log says more"))
        finally:
            then()

    # In the context of the visitor's request: what they may do is asked in there.
    asked_by = contextvars.copy_context()
    threading.Thread(target=asked_by.run, args=(run,), name="take-away", daemon=True).start()
    began, kind, news = time.monotonic(), "step", "one moment"
    while True:
        with suppress(queue.Empty):
            kind, news = told.get(timeout=1)
        if kind == "result":
            yield "", news
            return
        if kind == "problem":
            yield problem(news), None
            return
        yield note("status", f"{sentence(str(news))} {time.monotonic() - began:.0f} s"), None


def proved(bundle: Any) -> str:
    """What the proof of an exported model has shown."""
    own = f", {bundle.held_out} of them held out by its training" if bundle.held_out else ""
    apart = max(bundle.largest_difference, 0.0001)
    text = (
        f"Proved in a fresh process on {bundle.images} pictures{own}: every best class is the same "
        f"as here, and no probability differs by more than {100 * apart:.2f} %."
    )
    return f"<p class='told' role='status'>{escape(text)}</p>"


@dataclass(frozen=True)
class Handlers:
    """What the events call. The places are a lock of our own: Gradio's limits can be walked
    around."""

    store: ModelStore
    places: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(AT_ONCE)
    )

    def do_export(self, *inputs: Any) -> Iterator[tuple[Any, Any]]:
        """What is said, and the button with the zip."""
        with said():
            work = partial(model_actions.export, self.store, choice_from_inputs(*inputs))
        for text, bundle in self._in_a_place(work):
            if bundle is None:
                yield text, gr.DownloadButton(visible=False)
                continue
            label = f"Download {bundle.zip.name} ({size_text(bundle.zip.stat().st_size)})"
            yield proved(bundle), gr.DownloadButton(label, value=str(bundle.zip), visible=True)

    def do_push(
        self, to: str, token: str, private: bool, *inputs: Any
    ) -> Iterator[tuple[str, Any]]:
        """What is said, and the emptied box of the token."""
        with said():
            choice = choice_from_inputs(*inputs)
        work = partial(model_actions.push, self.store, choice, to or "", token or "", private)
        for text, address in self._in_a_place(work):
            if address is None:
                yield text, gr.skip()
                continue
            link = escape(address)
            yield f"<p class='told' role='status'>Pushed: <a href='{link}'>{link}</a></p>", ""

    def _in_a_place(self, work: Callable[[Tell], Any]) -> Iterator[tuple[str, Any]]:
        if not self.places.acquire(blocking=False):
            raise gr.Error(str(UserError("ui.busy", most=AT_ONCE)), print_exception=False)
        yield from watched(work, self.places.release)


def forget_files() -> tuple[Any, ...]:
    """Another model: what was exported or pushed before is not of it."""
    return "", gr.DownloadButton(visible=False), ""


class TakeAway:
    """The components; `wire` makes them work."""

    def __init__(self) -> None:
        gr.HTML(f"<h2>Take it away</h2>{_EXPORT_HELP}")
        self.export = gr.Button("Export", variant="primary", elem_id="model-export")
        self.export_box = gr.HTML("", elem_id="export-status")
        self.download = gr.DownloadButton("Download", visible=False, elem_id="model-download")
        with gr.Accordion("Push to the Hugging Face Hub", open=False, elem_id="push-box"):
            gr.HTML(_PUSH_HELP)
            self.to = gr.Textbox(label="Repository", placeholder="owner/name", elem_id="push-to")
            self.token = gr.Textbox(
                label="Token",
                type="password",
                info="Your own, with the right to write; used once and not kept",
                elem_id="push-token",
            )
            self.private = gr.Checkbox(True, label="Private", elem_id="push-private")
            self.push = gr.Button("Push", elem_id="model-push")
            self.push_box = gr.HTML("", elem_id="push-status")


def wire(page: Page, take: TakeAway) -> None:
    """The events."""
    handlers, choice = Handlers(page.store), page.sidebar.choice
    for change in page.sidebar.changes:
        change.then(forget_files, None, [take.export_box, take.download, take.push_box], **QUIET)
    take.export.click(
        handlers.do_export,
        choice,
        [take.export_box, take.download],
        concurrency_limit=AT_ONCE,
        **QUIET,
    )
    take.push.click(
        handlers.do_push,
        [take.to, take.token, take.private, *choice],
        [take.push_box, take.token],
        concurrency_limit=AT_ONCE,
        **QUIET,
    )


_EXPORT_HELP = """<p class='told'>A zip with the weights, a model card, and an ONNX file that takes
a picture of any size and needs no VGG Studio. You get it once it was proved to answer as this page
does.</p>"""
_PUSH_HELP = """<p class='told'>Anyone who may see the repository loads it with
<code>load_model("hf-hub:owner/name")</code>. Models with the head fc, as in the paper, are loaded
by timm and transformers too: that is what this head is good for.</p>"""

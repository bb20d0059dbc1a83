"""The sidebar: the one place where the model is chosen; every tab uses that model."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr

from vgg.checkpoints.loading import STARTER
from vgg.network.config import IMAGENET_NAMES, MAX_CLASSES, STAGES, ModelConfig
from vgg.network.heads import HEADS, glosses
from vgg.network.summary import count_macs, count_parameters, describe_count
from vgg.ui.server.model_store import (
    IMAGENET,
    NEW,
    Choice,
    ModelStore,
    choice_from_inputs,
    imagenet_choice,
)

NAMES_SHOWN = 12  # class names that stand open; more are folded
UNTRAINED = "not trained yet"


class DownloadStoppedError(Exception):
    """The person has stopped the download."""


@dataclass(frozen=True)
class Sidebar:
    """The components that other parts of the page read or listen to."""

    panel: gr.Sidebar
    choice: list[gr.components.Component]  # in the order of `choice_from_inputs`
    shown: list[gr.components.Component]  # in the order of `show`
    choosing: list[gr.events.Dependency]  # each ends when another choice is shown
    changes: list[gr.events.Dependency]  # each ends when the new choice is ready
    bring: Callable[..., Any]  # event handler: brings the chosen weights to this machine
    progress: list[gr.components.Component]  # what `bring` tells


def entries(store: ModelStore) -> list[tuple[str, str]]:
    """(label, value) of the Model list: starter, own models newest first, ImageNet, new."""
    names = [STARTER, *store.own_models()]
    if store.first_name not in names and store.first_name not in IMAGENET_NAMES:
        names.insert(0, store.first_name)
    own = [("Starter" if name == STARTER else name, name) for name in names]
    return [*own, ("ImageNet (1000 classes)", IMAGENET), ("New network", NEW)]


def facts(config: ModelConfig) -> str:
    """The network's figures and class names as HTML."""
    parameters = count_parameters(config)
    size = config.pretrained_cfg.size
    rows = [
        ("Weights", describe_count(parameters), "numbers that training changes"),
        ("Size", f"{4 * parameters / 1e6:.3g} MB", "in memory, four bytes a weight"),
        (
            "Work",
            f"{describe_count(count_macs(config))}MAC",
            f"multiply-and-add steps for one picture of {size} x {size} pixels",
        ),
    ]
    training = config.extra.get("training")
    training = training if isinstance(training, dict) else {}
    accuracy = training.get("accuracy")
    if isinstance(accuracy, int | float) and config.trained:
        count = training.get("held_out")
        of = f" of {count} pictures" if isinstance(count, int) else ""
        rows.append(
            ("Accuracy", f"{100 * accuracy:.1f} %{of}", "on pictures that it did not learn from")
        )
    cells = "".join(
        f'<div title="{escape(gloss)}"><dt>{name}</dt><dd>{escape(value)}</dd></div>'
        for name, value, gloss in rows
    )
    badge = "" if config.trained else f'<p class="badge">{UNTRAINED}</p>'
    return f"{badge}<dl class='facts'>{cells}</dl>{_names(config)}"


def _names(config: ModelConfig) -> str:
    if not config.trained:
        return ""
    names = ", ".join(escape(name) for name in config.label_names)
    title = f"{config.num_classes} classes"
    is_open = " open" if config.num_classes <= NAMES_SHOWN else ""
    return f"<details class='names'{is_open}><summary>{title}</summary><p>{names}</p></details>"


def headline(store: ModelStore, choice: Choice) -> str:
    """One line that names the model: `Starter · 8 shapes`."""
    try:
        config = store.config(choice)
    except ValueError as error:
        return escape(str(error))
    label = {STARTER: "Starter", IMAGENET: "ImageNet", NEW: "New network"}.get(
        choice.model, store.label(choice.model)
    )
    kind = "shapes" if choice.model == STARTER else "classes"
    text = f"{label} · VGG-{config.depth} · {config.num_classes} {kind}"
    return escape(text if config.trained else f"{text} · {UNTRAINED}")


def on_model(store: ModelStore, model: str, *rest: Any) -> list[Any]:
    """Another entry of the list: depth, batch norm and classes show what it is."""
    choice = _choice(model, *rest)
    if model == IMAGENET:
        choice = imagenet_choice(choice)
    elif model != NEW:
        choice = _known_choice(store, model)
    return show(store, choice)


def on_part(store: ModelStore, *inputs: Any) -> list[Any]:
    """Depth, batch norm, classes, width or head: a finished model can't change them, so another
    value means a new network. An ImageNet model has eight forms, and takes another class count."""
    choice = _choice(*inputs)
    if choice.is_imagenet and choice.architecture not in IMAGENET_NAMES:
        choice = replace(choice, model=NEW)
    if choice.model not in (IMAGENET, NEW):
        own = _known_choice(store, choice.model)
        if choice != own:
            choice = replace(choice, model=NEW)
    return show(store, choice)


def choose(store: ModelStore, name: str) -> list[Any]:
    """Updates that choose a model by its name, such as one that was just trained."""
    if not name:
        return [gr.skip()] * 9
    choice = _known_choice(store, name)
    model, *rest = show(store, choice)
    listed = entries(store)
    if store.may_use(name):
        listed.insert(1, (store.label(name), name))
    return [gr.Dropdown(listed, value=model), *rest]


def show(store: ModelStore, choice: Choice) -> list[Any]:
    """Updates for: model, depth, batch norm, classes, width, head, More, facts, headline."""
    is_new = choice.model == NEW
    try:
        text = facts(store.config(choice))
    except ValueError as error:
        text = _problem(str(error))
    return [
        choice.model,
        choice.depth,
        choice.batch_norm,
        choice.num_classes,
        choice.width,
        choice.head,
        gr.Accordion(visible=is_new),
        text,
        headline(store, choice),
    ]


def fetch(store: ModelStore, downloads: "Downloads", *inputs: Any) -> Iterator[tuple[Any, Any]]:
    """Bring the chosen weights to this machine, telling how far; yields status and Stop button."""
    hidden = gr.Button(visible=False)
    try:
        choice = _choice(*inputs)
        trained = store.config(choice).trained
    except (gr.Error, ValueError):  # it is said elsewhere
        trained = False
    name = store.name(choice) if trained else ""
    if not trained or store.is_here(name):
        yield "", hidden
        return
    download = downloads.start(name)
    while True:
        state, text = download.wait()
        if state == "progress":
            yield f"<p class='status' role='status'>{escape(text)}</p>", gr.Button(visible=True)
            continue
        yield (_problem(text) if text else ""), hidden
        return


class Downloads:
    """Downloads under way, one a model, shared by all visitors; they go on when a tab closes."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self._running: dict[str, Download] = {}
        self._lock = threading.Lock()

    def start(self, name: str) -> "Download":
        """The running download of this model, or a new one."""
        with self._lock:
            running = self._running.get(name)
            if running is None or not running.is_alive():
                running = self._running[name] = Download(self.store, name)
                running.start()
            return running

    def stop(self, *inputs: Any) -> None:
        """Stop the download of the chosen model."""
        with self._lock:
            if running := self._running.get(self.store.name(_choice(*inputs))):
                running.stopped.set()


class Download(threading.Thread):
    """One download in its own thread; what it has to say is read by `wait`."""

    def __init__(self, store: ModelStore, name: str) -> None:
        super().__init__(name=f"download-{name}", daemon=True)
        self.store, self.model_name = store, name
        self.stopped = threading.Event()
        self._text = f"Asking the Hub for {name} …"
        self._result: queue.Queue[str] = queue.Queue()

    def run(self) -> None:
        try:
            self.store.predictor(self.model_name, on_progress=self._tell)
            self._result.put("")
        except DownloadStoppedError:
            self._result.put("Stopped. Choose the model again to go on.")
        except ValueError as error:
            self._result.put(str(error))
        except Exception as error:
            self._result.put(f"the download failed ({type(error).__name__}); try again")
            raise

    def wait(self, seconds: float = 0.4) -> tuple[str, str]:
        """("progress", how far) or ("done", what went wrong or nothing)."""
        try:
            text = self._result.get(timeout=seconds)
        except queue.Empty:
            return "progress", self._text
        self._result.put(text)  # another visitor may wait for it too
        return "done", text

    def _tell(self, received: int, expected: int) -> None:
        if self.stopped.is_set():
            raise DownloadStoppedError
        percent = 100 * received // max(1, expected)
        megabytes = f"{received / 1e6:.0f} of {expected / 1e6:.0f} MB"
        self._text = f"Downloading {self.model_name}: {percent} % ({megabytes})"


def build(store: ModelStore) -> Sidebar:
    """Lay the sidebar out and wire it."""
    choice = store.choice_of(store.first_name)
    start = show(store, choice)
    downloads = Downloads(store)
    with gr.Sidebar(open=False, width=300, elem_id="sidebar") as panel:
        model = gr.Dropdown(
            entries(store),
            value=choice.model,
            label="Model",
            filterable=False,
            elem_id="model",
        )
        depth = gr.Radio(
            list(STAGES),
            value=choice.depth,
            label="Depth",
            info="Layers with weights",
            elem_id="depth",
        )
        batch_norm = gr.Checkbox(
            choice.batch_norm,
            label="Batch norm",
            info="Keeps the numbers between layers in scale, so that deep networks learn",
            elem_id="batch-norm",
        )
        num_classes = gr.Number(
            choice.num_classes,
            label="Classes",
            precision=0,
            minimum=0,  # what a trunk without a classifier has
            maximum=MAX_CLASSES,
            elem_id="num-classes",
        )
        with gr.Accordion("More", open=False, visible=choice.model == NEW) as more:
            width = gr.Number(
                choice.width,
                step=0.125,
                label="Width",
                info="Scales the number of channels of every layer; 1 is the paper's",
                elem_id="width",
            )
            head = gr.Radio(
                list(HEADS),
                value=choice.head,
                label="Head",
                info=glosses(),
                elem_id="head",
            )
        status = gr.HTML("", elem_id="model-status")
        stop = gr.Button("Stop the download", visible=False, size="sm", elem_id="stop-download")
        facts_box = gr.HTML(start[7], elem_id="facts")
    line = gr.Button(start[8], elem_id="model-line", size="sm", visible=True)

    inputs: list[gr.components.Component] = [model, depth, batch_norm, num_classes, width, head]
    shown = [*inputs, more, facts_box, line]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def model_changed(*values: Any) -> list[Any]:
        return on_model(store, *values)

    def part_changed(*values: Any) -> list[Any]:
        return on_part(store, *values)

    def bring(*values: Any) -> Iterator[tuple[Any, Any]]:
        yield from fetch(store, downloads, *values)

    chosen = [
        model.input(model_changed, inputs, shown, **quiet),
        *[
            part.input(part_changed, inputs, shown, **quiet)
            for part in (depth, batch_norm, num_classes, width, head)
        ],
    ]
    progress: list[gr.components.Component] = [status, stop]
    ready = [event.then(bring, inputs, progress, **quiet) for event in chosen]
    stop.click(downloads.stop, inputs, None, queue=False, api_name="stop-download", **quiet)
    line.click(None, None, None, js=_TOGGLE)
    return Sidebar(panel, inputs, shown, chosen, ready, bring, progress)


def _choice(*inputs: Any) -> Choice:
    """The inputs as a `Choice`; what makes no sense is said on the page."""
    try:
        return choice_from_inputs(*inputs)
    except (ValueError, TypeError) as error:
        raise gr.Error(str(error), title="This network can't be", print_exception=False) from error


def _known_choice(store: ModelStore, name: str) -> Choice:
    """`Store.choice_of`; that a model has gone is said on the page."""
    try:
        return store.choice_of(name)
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _problem(text: str) -> str:
    return f"<p class='problem' role='alert'>{escape(text[:1].upper() + text[1:])}.</p>"


_TOGGLE = "() => document.querySelector('#sidebar .toggle-button')?.click()"

"""The sidebar: the one place where the model is chosen; every tab uses that model."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr

from vgg.checkpoints.loading import STARTER
from vgg.errors import UserError
from vgg.network.config import IMAGENET_NAMES, MAX_CLASSES, STAGES, ModelConfig
from vgg.network.heads import HEADS, glosses
from vgg.network.summary import count_macs, count_parameters, describe_count
from vgg.ui import markup
from vgg.ui.events import QUIET, said
from vgg.ui.markup import note, problem
from vgg.ui.server.choice import IMAGENET, NEW, Choice, choice_from_inputs, imagenet_choice
from vgg.ui.server.model_downloads import Downloads
from vgg.ui.server.model_store import ModelStore
from vgg.ui.words import percent, pictures, told

NAMES_SHOWN = 12  # class names that stand open; more are folded
UNTRAINED = "not trained yet"


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
        of = f" of {pictures(count)}" if isinstance(count, int) else ""
        rows.append(("Accuracy", percent(accuracy) + of, "on pictures that it did not learn from"))
    badge = "" if config.trained else note("badge", UNTRAINED)
    return f"{badge}{markup.facts(rows)}{_names(config)}"


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
        return escape(told(error))
    label = {STARTER: "Starter", IMAGENET: "ImageNet", NEW: "New network"}.get(
        choice.model, store.label(choice.model)
    )
    kind = "shapes" if choice.model == STARTER else "classes"
    text = f"{label} · VGG-{config.depth} · {config.num_classes} {kind}"
    return escape(text if config.trained else f"{text} · {UNTRAINED}")


def chosen(*inputs: Any) -> Choice:
    """The sidebar's values as a `Choice`; what makes no sense is said on the page."""
    with said(title="This network can't be"):
        return choice_from_inputs(*inputs)


def choose(store: ModelStore, name: str) -> list[Any]:
    """Updates that choose a model by its name, such as one that was just trained."""
    if not name:
        return [gr.skip()] * 9
    with said():
        model, *rest = show(store, store.choice_of(name))
    listed = entries(store)
    if store.private.may_use(name):
        listed.insert(1, (store.label(name), name))
    return [gr.Dropdown(listed, value=model), *rest]


def show(store: ModelStore, choice: Choice) -> list[Any]:
    """Updates for: model, depth, batch norm, classes, width, head, More, facts, headline."""
    try:
        text = facts(store.config(choice))
    except ValueError as error:
        text = problem(error)
    return [
        choice.model,
        choice.depth,
        choice.batch_norm,
        choice.num_classes,
        choice.width,
        choice.head,
        gr.Accordion(visible=choice.model == NEW),
        text,
        headline(store, choice),
    ]


@dataclass(frozen=True)
class Handlers:
    """What the sidebar's events call; `inputs` are its values, in the order of
    `choice_from_inputs`."""

    store: ModelStore
    downloads: Downloads

    def model_changed(self, model: str, *rest: Any) -> list[Any]:
        """Another entry of the list: depth, batch norm and classes show what it is."""
        choice = chosen(model, *rest)
        if model == IMAGENET:
            choice = imagenet_choice(choice)
        elif model != NEW:
            choice = self._known(model)
        return show(self.store, choice)

    def part_changed(self, *inputs: Any) -> list[Any]:
        """Depth, batch norm, classes, width or head: a finished model can't change them, so another
        value means a new network. An ImageNet model has eight forms, and takes another class
        count."""
        choice = chosen(*inputs)
        changed = choice.model not in (IMAGENET, NEW) and choice != self._known(choice.model)
        if changed or (choice.is_imagenet and choice.architecture not in IMAGENET_NAMES):
            choice = replace(choice, model=NEW)
        return show(self.store, choice)

    def bring(self, *inputs: Any) -> Iterator[tuple[Any, Any]]:
        """Bring the chosen weights to this machine, telling how far; yields status and button."""
        hidden = gr.Button(visible=False)
        try:
            choice = choice_from_inputs(*inputs)
            trained = self.store.config(choice).trained
        except (TypeError, ValueError):  # it is said elsewhere
            trained = False
        name = self.store.name(choice) if trained else ""
        if not trained or self.store.is_here(name):
            yield "", hidden
            return
        download = self.downloads.start(name)
        while True:
            state, text = download.wait()
            if state != "progress":
                yield (problem(text) if text else ""), hidden
                return
            if self.store.visitor() not in download.asked:  # it goes on for others
                yield problem(UserError("ui.download_stopped")), hidden
                return
            yield note("status", text), gr.Button(visible=True)

    def _known(self, name: str) -> Choice:
        with said():  # that it has gone
            return self.store.choice_of(name)

    def choose(self, text: str) -> list[Any]:
        return choose(self.store, text.partition("\n")[0])

    def stop(self, *inputs: Any) -> None:
        self.downloads.stop(self.store.name(chosen(*inputs)))


@dataclass(frozen=True)
class Sidebar:
    """The components that other parts of the page read or listen to."""

    panel: gr.Sidebar
    choice: list[gr.components.Component]  # in the order of `choice_from_inputs`
    shown: list[gr.components.Component]  # in the order of `show`
    choosing: list[gr.events.Dependency]  # each ends when another choice is shown
    changes: list[gr.events.Dependency]  # each ends when the new choice is ready
    handlers: Handlers
    progress: list[gr.components.Component]  # what `Handlers.bring` tells


def build(store: ModelStore) -> Sidebar:
    """Lay the sidebar out and wire it."""
    choice = store.choice_of(store.first_name)
    start = show(store, choice)
    with gr.Sidebar(open=False, width=300, elem_id="sidebar") as panel:
        inputs, more = _lay_out_choice(entries(store), choice)
        status = gr.HTML("", elem_id="model-status")
        stop = gr.Button("Stop the download", visible=False, size="sm", elem_id="stop-download")
        facts_box = gr.HTML(start[7], elem_id="facts")
    line = gr.Button(start[8], elem_id="model-line", size="sm", visible=True)

    handlers = Handlers(store, Downloads(store))
    shown = [*inputs, more, facts_box, line]
    model, *parts = inputs
    changed = [model.input(handlers.model_changed, inputs, shown, **QUIET)]
    changed += [part.input(handlers.part_changed, inputs, shown, **QUIET) for part in parts]
    progress: list[gr.components.Component] = [status, stop]
    ready = [event.then(handlers.bring, inputs, progress, **QUIET) for event in changed]
    stop.click(handlers.stop, inputs, None, queue=False, api_name="stop-download", **QUIET)
    line.click(None, None, None, js=_TOGGLE)
    return Sidebar(panel, inputs, shown, changed, ready, handlers, progress)


def choose_named(sidebar: Sidebar, *boxes: gr.Textbox) -> None:
    """Choose the model whose name comes into one of the boxes. What follows a line's end in it is
    no part of the name: it makes the text a new one."""
    for box in boxes:
        sidebar.changes.append(box.change(sidebar.handlers.choose, box, sidebar.shown, **QUIET))


def _lay_out_choice(listed: list[tuple[str, str]], choice: Choice) -> tuple[list[Any], Any]:
    """The components of the choice, in the order of `choice_from_inputs`, and the fold More."""
    model = gr.Dropdown(
        listed, value=choice.model, label="Model", filterable=False, elem_id="model"
    )
    depth = gr.Radio(
        list(STAGES), value=choice.depth, label="Depth", info="Layers with weights", elem_id="depth"
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
    return [model, depth, batch_norm, num_classes, width, head], more


_TOGGLE = "() => document.querySelector('#sidebar .toggle-button')?.click()"

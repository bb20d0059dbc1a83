"""How to train, the second step of the Train tab: mode, time and more, and what they come to."""

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from vgg.checkpoints.loading import STARTER
from vgg.errors import UserError
from vgg.network.config import ModelConfig
from vgg.training.options import DEFAULT_BUDGET, TrainOptions
from vgg.ui.events import QUIET
from vgg.ui.markup import note, problem
from vgg.ui.server.choice import NEW, Choice, choice_from_inputs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.picture_sets import PictureSet
from vgg.ui.words import duration, sentence

TIMES = {duration(seconds): seconds for seconds in (30.0, DEFAULT_BUDGET, 600.0)}
OWN_TIME, EPOCHS = "Own time", "Epochs"
MODE_NAMES = {
    "Automatic": "auto",
    "Head only": "probe",
    "Whole network": "finetune",
    "From scratch": "scratch",
}


def options_of(
    store: ModelStore,
    choice: Choice,
    mode: str,
    time: str,
    seconds: float | None,
    epochs: float | None,
    image_size: float | None,
    augment: bool,
    seed: float | None,
    no_mirror: bool = False,
) -> TrainOptions:
    """The step's raw values as options; `ValueError` says which makes no sense."""
    kind = MODE_NAMES.get(mode)
    if kind is None:
        raise UserError("training.mode", value=mode, choices=list(MODE_NAMES))
    budget = float(seconds or 0) if time == OWN_TIME else TIMES.get(time)
    limits = store.settings.limits
    if store.settings.public:
        if budget is not None and budget > limits.seconds:
            raise UserError("ui.long", seconds=limits.seconds)
        if time == EPOCHS and (epochs or 0) > limits.epochs:
            raise UserError("ui.many_epochs", most=limits.epochs)
    return TrainOptions(
        **start_from(store, choice, kind),
        epochs=int(epochs or 0) if time == EPOCHS else None,
        budget_s=budget if time != EPOCHS else None,
        image_size=int(image_size) if image_size else None,
        augment=bool(augment),
        mirror=False if no_mirror else None,
        seed=int(seed or 0),
        device=store.settings.device,
        precision=store.settings.precision,
    )


def start_from(store: ModelStore, choice: Choice, mode: str) -> dict[str, Any]:
    """Which network the sidebar's choice means for a training."""
    config = store.config(choice)
    # The starter's trunk knows drawn shapes only; left alone, pictures are learned from scratch.
    from_scratch = mode == "scratch" or choice.model == NEW
    if from_scratch or (choice.model == STARTER and mode == "auto"):
        return {
            "mode": "scratch",
            "depth": config.depth,
            "batch_norm": config.batch_norm,
            "width": config.width,
            "head": config.head,
        }
    spec = choice.architecture if choice.is_imagenet else store.spec_of(choice.model)
    return {"mode": mode, "model": spec}


def origin(store: ModelStore, mode: str, *inputs: Any) -> str:
    """The network that the training starts from, by its name, as HTML."""
    try:
        choice = choice_from_inputs(*inputs)
        start = start_from(store, choice, MODE_NAMES.get(mode, "auto"))
        network = architecture(store.config(choice))
    except (ValueError, TypeError) as error:
        return problem(error)
    model = store.label(store.name(choice))
    name = "Starter" if choice.model == STARTER else f"ImageNet's {model}" * choice.is_imagenet
    name = f"<b>{escape(name or model)}</b>"
    if choice.model == NEW:
        text = f"A new network, {network}."
    elif start["mode"] == "scratch":
        text = f"A new network like {name}, {network}."
    else:
        text = f"Start from {name}, {network}."
    return f"<p class='plan'>{text} <span>The sidebar chooses it.</span></p>"


def architecture(config: ModelConfig) -> str:
    """`VGG-16 with batch norm`."""
    return f"VGG-{config.depth}{' with batch norm' if config.batch_norm else ''}"


def plan(store: ModelStore, pictures: PictureSet | None, values: Sequence[Any], inputs: Any) -> str:
    """One sentence on what will happen."""
    if pictures is None:
        return ""
    try:
        choice = choice_from_inputs(*inputs)
        options = options_of(store, choice, *values)
        config = store.config(choice)
    except (ValueError, TypeError) as error:
        return problem(error)
    name = architecture(config)
    total = len(pictures.index.samples)
    what = f"{name} learns from scratch"
    if options.mode != "scratch":
        model = store.name(choice)
        source = "ImageNet" if choice.is_imagenet else store.label(model)
        what = f"a new last layer learns from the outputs of {source}'s {name}, which stays frozen"
        if options.mode == "finetune":
            what += "; then its last stages learn too"
        elif options.mode == "auto":
            what += "; then its last stages, where the time is enough"
        if not store.is_here(model):
            what += "; its weights are downloaded first, outside of the time"
    kept = sum(sample.part == "held_out" for sample in pictures.index.samples) or round(total / 5)
    rough = "about " if kept == round(total / 5) else ""
    text = f"{what}; {lasting(options)}; {rough}{kept} of {total} pictures are held out to test it."
    classes = len(pictures.index.class_names)
    if config.num_classes != classes:
        text += f" It gets the pictures' {classes} classes."
    return note("plan", sentence(text))


def lasting(options: TrainOptions) -> str:
    """How long it will take: `at most 1 min 40 s`, `10 epochs`."""
    if (seconds := options.seconds) is None:
        return f"{options.epochs} epoch{'s' * (options.epochs != 1)}"
    return f"at most {duration(seconds)}"


def headline(options: TrainOptions) -> str:
    """The step in a few words: `Head only, at most 2 min`."""
    mode = next(name for name, mode in MODE_NAMES.items() if mode == options.mode)
    return f"{mode}, {lasting(options)}"


def own_numbers(time: str) -> tuple[Any, Any]:
    """The box for seconds or that for epochs, where one is chosen."""
    return gr.Number(visible=time == OWN_TIME), gr.Number(visible=time == EPOCHS)


class Choices:
    """The step's components, with the sidebar's first values; `train.wire` makes them work."""

    values: list[gr.Radio | gr.Number | gr.Checkbox]  # in the order of `options_of`

    def __init__(self, store: ModelStore, chosen: Sequence[Any]) -> None:
        defaults = TrainOptions()
        self.origin = gr.HTML(origin(store, "Automatic", *chosen), elem_id="origin")
        mode = gr.Radio(list(MODE_NAMES), value="Automatic", label="Mode", elem_id="mode")
        times = [*TIMES, OWN_TIME, EPOCHS]
        if store.settings.public:
            times = [t for t in times if TIMES.get(t, 0) <= store.settings.limits.seconds]
        usual = duration(DEFAULT_BUDGET)
        budget = gr.Radio(times, value=usual, label="Time", elem_id="budget")
        seconds = gr.Number(
            DEFAULT_BUDGET, label="Seconds", minimum=1, visible=False, elem_id="budget-seconds"
        )
        epochs = gr.Number(
            10, label="Epochs", minimum=1, precision=0, visible=False, elem_id="epochs",
            info="One epoch shows every picture once",
        )  # fmt: skip
        with gr.Accordion("More", open=False, elem_id="train-more"):
            image_size = gr.Number(
                None, label="Image size in pixels", precision=0, elem_id="image-size",
                info="Empty: chosen from the pictures and the time",
            )  # fmt: skip
            augment = gr.Checkbox(
                defaults.augment, label="Show each picture a little changed", elem_id="augment",
                info="Where the whole network or its last stages learn: mirrored, shifted, cropped",
            )  # fmt: skip
            no_mirror = gr.Checkbox(
                False, label="Never mirror pictures", elem_id="no-mirror",
                info="For left and right, b and d; where classes look so, it is off anyway",
            )  # fmt: skip
            seed = gr.Number(
                defaults.seed, label="Seed", precision=0, elem_id="seed",
                info="The same seed gives the same training",
            )  # fmt: skip
            self.name = gr.Textbox(
                label="Name of the model", placeholder="as the pictures", elem_id="model-name"
            )
        self.plan = gr.HTML("", elem_id="plan")
        self.train = gr.Button("Train", variant="primary", elem_id="train")
        budget.change(own_numbers, budget, [seconds, epochs], **QUIET)
        self.values = [mode, budget, seconds, epochs, image_size, augment, seed, no_mirror]

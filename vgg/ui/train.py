"""The Train tab: pictures, how, and watching it learn. The work itself runs in `jobs`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from vgg.images import IMAGE_SUFFIXES
from vgg.options import DEFAULT_BUDGET, TrainOptions
from vgg.ui.jobs import Jobs
from vgg.ui.pictures import (
    PictureSet,
    describe,
    forget,
    from_boxes,
    from_folder,
    from_sample,
    from_zip,
    sentence,
)
from vgg.ui.sidebar import Sidebar, choice_from_inputs
from vgg.ui.store import NEW, Choice, Store
from vgg.ui.watch import NO_JOB, curve, status
from vgg.weights import STARTER

log = logging.getLogger(__name__)

BOXES = 10  # classes that can be filled one by one
OPEN_BOXES = 2
TIMES = {"30 s": 30.0, "2 min": 120.0, "10 min": 600.0}
OWN_TIME, EPOCHS = "Own time", "Epochs"
MODES = {
    "Automatic": "auto",
    "Head only": "probe",
    "Whole network": "finetune",
    "From scratch": "scratch",
}
# What strangers may ask of a public page.
PUBLIC_SECONDS = 120.0
PUBLIC_EPOCHS = 30


def options_of(
    store: Store,
    choice: Choice,
    mode: str,
    time: str,
    seconds: float | None,
    epochs: float | None,
    image_size: float | None,
    augment: bool,
    seed: float | None,
) -> TrainOptions:
    """The tab's raw values as options; `ValueError` says which makes no sense."""
    kind = MODES.get(mode)
    if kind is None:
        raise ValueError(f"unknown mode {mode!r}")
    budget = float(seconds or 0) if time == OWN_TIME else TIMES.get(time)
    if store.settings.public:
        if budget is not None and budget > PUBLIC_SECONDS:
            raise ValueError(f"this public page trains for at most {PUBLIC_SECONDS:.0f} seconds")
        if time == EPOCHS and (epochs or 0) > PUBLIC_EPOCHS:
            raise ValueError(f"this public page trains for at most {PUBLIC_EPOCHS} epochs")
    return TrainOptions(
        **start_from(store, choice, kind),
        epochs=int(epochs or 0) if time == EPOCHS else None,
        budget_s=budget if time != EPOCHS else None,
        image_size=int(image_size) if image_size else None,
        augment=bool(augment),
        seed=int(seed or 0),
        device=store.settings.device,
        precision=store.settings.precision,
    )


def start_from(store: Store, choice: Choice, mode: str) -> dict[str, Any]:
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


def plan(store: Store, pictures: PictureSet | None, values: Sequence[Any], inputs: Any) -> str:
    """One sentence on what will happen."""
    if pictures is None:
        return ""
    try:
        choice = choice_from_inputs(*inputs)
        options = options_of(store, choice, *values)
        config = store.config(choice)
    except (ValueError, TypeError) as error:
        return f"<p class='problem'>{escape(sentence(str(error)))}</p>"
    name = f"VGG-{config.depth}{' with batch norm' if config.batch_norm else ''}"
    total = len(pictures.index.samples)
    what = f"{name} learns from scratch"
    if options.mode != "scratch":
        source = "ImageNet's" if choice.is_imagenet else f"{choice.model}'s"
        what = f"{source} {name} stays as it is, and a new last layer learns from its outputs"
        if options.mode == "finetune":
            what += ", then its last stages learn too"
        elif options.mode == "auto":
            what += ", then its last stages, where the time is enough"
    last = f"{options.epochs} epochs"
    if options.epochs is None:
        last = f"at most {(options.seconds or DEFAULT_BUDGET):.0f} s"
    kept = sum(sample.part == "held_out" for sample in pictures.index.samples) or round(total / 5)
    rough = "about " if kept == round(total / 5) else ""
    text = f"{what}; {last}; {rough}{kept} of {total} pictures are held out to test it."
    if config.num_classes != len(pictures.index.class_names):
        text += f" It gets the folder's {len(pictures.index.class_names)} classes."
    return f"<p class='plan'>{escape(text)}</p>"


@dataclass(frozen=True)
class Session:
    """What a visitor's page knows of its job. These stand outside of the tabs: what lies in a tab
    that is not open is not there for the browser, and would forget the job at a reload.

    `finished` is the name of the model that was just made.
    """

    job_id: gr.BrowserState
    clock: gr.Timer
    finished: gr.Textbox


def begin_session() -> Session:
    """Make a session's parts; call it where the tabs are not yet begun."""
    # The secret is no lock: the id itself, which can't be guessed, is the key to the job.
    remembered = gr.BrowserState("", storage_key="vgg-studio-job", secret="vgg-studio")
    # A text box, out of sight, because its change reaches the browser, and a State's does not
    # always.
    finished = gr.Textbox(visible="hidden", elem_id="finished")
    return Session(remembered, gr.Timer(1.0, active=False), finished)


def build(store: Store, jobs: Jobs, sidebar: Sidebar, session: Session, page: gr.Blocks) -> None:
    """Lay the tab out and wire it."""
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    pictures = gr.State(None, delete_callback=forget)
    job_id, clock, finished = session.job_id, session.clock, session.finished
    defaults = TrainOptions()

    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            gr.HTML("<h2>1. Pictures</h2>")
            with gr.Tabs():
                with gr.Tab("Zip"):
                    gr.HTML(_ZIP_HELP)
                    zip_file = gr.File(
                        label="A zip with one folder a class",
                        file_types=[".zip"],
                        elem_id="train-zip",
                    )
                with gr.Tab("Class by class"):
                    boxes = _class_boxes()
                    use_boxes = gr.Button("Use these classes", elem_id="train-boxes")
                with gr.Tab("Folder", visible=not store.settings.public):
                    folder = gr.Textbox(
                        label="A folder of this machine with one sub-folder a class",
                        placeholder="/home/me/photos",
                        elem_id="train-folder",
                    )
                    use_folder = gr.Button("Use this folder", elem_id="use-folder")
                with gr.Tab("Sample"):
                    gr.HTML("<p class='quiet'>Eight drawn shapes, 200 pictures each.</p>")
                    sample = gr.Button("Use the sample shapes", elem_id="train-sample")
            about = gr.HTML("", elem_id="train-pictures")
        with gr.Column(scale=1, min_width=300):
            gr.HTML("<h2>2. How</h2>")
            mode = gr.Radio(list(MODES), value="Automatic", label="Mode", elem_id="mode")
            times = [*TIMES, OWN_TIME, EPOCHS]
            if store.settings.public:
                times = [t for t in times if TIMES.get(t, 0) <= PUBLIC_SECONDS]
            budget = gr.Radio(times, value="2 min", label="Time", elem_id="budget")
            seconds = gr.Number(
                60, label="Seconds", minimum=1, visible=False, elem_id="budget-seconds"
            )
            epochs = gr.Number(
                10, label="Epochs", minimum=1, precision=0, visible=False, elem_id="epochs"
            )
            with gr.Accordion("More", open=False):
                image_size = gr.Number(
                    None,
                    label="Image size in pixels",
                    info="Empty: chosen from the pictures and the time",
                    precision=0,
                    elem_id="image-size",
                )
                augment = gr.Checkbox(
                    defaults.augment,
                    label="Show each picture a little changed",
                    info="From scratch only: mirrored, shifted, a part hidden",
                    elem_id="augment",
                )
                seed = gr.Number(
                    defaults.seed,
                    label="Seed",
                    info="The same seed gives the same training",
                    precision=0,
                    elem_id="seed",
                )
                name = gr.Textbox(
                    label="Name of the model", placeholder="as the pictures", elem_id="model-name"
                )
            plan_box = gr.HTML("", elem_id="plan")
            with gr.Row():
                train_button = gr.Button("Train", variant="primary", elem_id="train")
                stop = gr.Button("Stop", visible=False, elem_id="stop")
            gr.HTML("<h2>3. Watch</h2>")
            job_box = gr.HTML(NO_JOB, elem_id="job-status")
            curve_box = gr.HTML("", elem_id="curve")

    values = [mode, budget, seconds, epochs, image_size, augment, seed]
    watched = [job_box, curve_box, stop, train_button, clock, finished]

    def take(make: Any) -> Any:
        def handler(old: PictureSet | None, *inputs: Any) -> tuple[Any, str, Any]:
            try:
                found = make(*inputs)
            except ValueError as error:
                raise gr.Error(sentence(str(error)), print_exception=False) from error
            if found is None:
                return gr.skip(), gr.skip(), gr.skip()
            forget(old)
            return found, describe(found), found.name

        return handler

    def boxes_taken(*flat: Any) -> PictureSet | None:
        return from_boxes(store, list(zip(flat[::2], flat[1::2], strict=True)))

    def plan_now(found: PictureSet | None, *inputs: Any) -> str:
        return plan(store, found, inputs[: len(values)], inputs[len(values) :])

    def start(found: PictureSet | None, label: str, *inputs: Any) -> tuple[Any, ...]:
        if found is None:
            raise gr.Error("Choose pictures first: step 1.", print_exception=False)
        try:
            choice = choice_from_inputs(*inputs[len(values) :])
            options = options_of(store, choice, *inputs[: len(values)])
            job = jobs.submit(found.folder, label or found.name, options, owned=found.owned)
        except (ValueError, TypeError) as error:
            raise gr.Error(sentence(str(error)), print_exception=False) from error
        # The job owns the pictures now; a second training takes them anew.
        left = None if found.owned else found
        return left, job.id, *watch(job.id, "")

    def watch(identity: str, told: str) -> tuple[Any, ...]:
        job = jobs.find(identity)
        if job is None:
            return NO_JOB, "", gr.Button(visible=False), gr.skip(), gr.Timer(active=False), told
        going = not job.is_over
        made = jobs.model(job)
        return (
            status(jobs, job),
            curve(job),
            gr.Button(visible=going, interactive=not job.stop.is_set()),
            gr.Button("Train another" if going else "Train"),
            gr.Timer(active=going),
            made,
        )

    def stop_job(identity: str) -> None:
        if job := jobs.find(identity):
            jobs.stop(job)

    taken = [pictures, about, name]
    sources: list[tuple[Any, Any, list[gr.components.Component]]] = [
        (zip_file.upload, partial(from_zip, store), [zip_file]),
        (use_boxes.click, boxes_taken, boxes),
        (use_folder.click, partial(from_folder, store), [folder]),
        (folder.submit, partial(from_folder, store), [folder]),
        (sample.click, partial(from_sample, store), []),
    ]
    for listen, make, given in sources:
        event = listen(take(make), [pictures, *given], taken, api_visibility="private")
        event.then(plan_now, [pictures, *values, *sidebar.choice], plan_box, **quiet)
    for component in values:
        component.change(plan_now, [pictures, *values, *sidebar.choice], plan_box, **quiet)
    for ready in sidebar.changes:
        ready.then(plan_now, [pictures, *values, *sidebar.choice], plan_box, **quiet)
    budget.change(
        lambda time: (gr.Number(visible=time == OWN_TIME), gr.Number(visible=time == EPOCHS)),
        budget,
        [seconds, epochs],
        **quiet,
    )
    inputs = [pictures, name, *values, *sidebar.choice]
    train_button.click(start, inputs, [pictures, job_id, *watched], **quiet)
    stop.click(stop_job, job_id, None, queue=False, **quiet)
    clock.tick(watch, [job_id, finished], watched, queue=False, **quiet)
    page.load(watch, [job_id, finished], watched, **quiet)


def _class_boxes() -> list[gr.components.Component]:
    """Boxes for classes, filled one by one: name and pictures. More open on a click."""
    flat: list[gr.components.Component] = []
    rows = []
    for number in range(BOXES):
        with gr.Group(visible=number < OPEN_BOXES) as row:
            label = gr.Textbox(
                label=f"Class {number + 1}", placeholder="name", elem_id=f"class-name-{number + 1}"
            )
            files = gr.Gallery(
                [],  # the gallery adds a pasted picture to a list, not to None
                label="Pictures",
                sources=["upload", "webcam", "clipboard"],
                file_types=["image", *sorted(IMAGE_SUFFIXES)],
                columns=5,
                type="filepath",
                interactive=True,
                elem_id=f"class-pictures-{number + 1}",
            )
        rows.append(row)
        flat += [label, files]
    shown = gr.State(OPEN_BOXES)
    add = gr.Button("Add a class", elem_id="add-class")

    def one_more(count: int) -> list[Any]:
        count = min(BOXES, count + 1)
        return [count, *[gr.Group(visible=n < count) for n in range(BOXES)]]

    add.click(one_more, shown, [shown, *rows], show_progress="hidden", api_visibility="private")
    return flat


_ZIP_HELP = """<p class="quiet">Put the pictures of each class into a folder of its own, named as
the class, and pack the folders: <code>photos.zip</code> with <code>cat/</code>, <code>dog/</code>,
<code>owl/</code>.</p>"""

"""The Train tab: pictures, how, and watching it learn. The work itself runs in `jobs`."""

import shutil
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from vgg.data.images import IMAGE_SUFFIXES
from vgg.ui.server.jobs import NO_GPU_OF_ITS_OWN, WAITING, Job, Jobs
from vgg.ui.server.model_store import ModelStore, choice_from_inputs
from vgg.ui.sidebar import Sidebar, choose
from vgg.ui.tabs import train_done, train_options
from vgg.ui.tabs.train_pictures import (
    SAMPLE_COUNT,
    PictureSet,
    describe,
    forget,
    from_boxes,
    from_folder,
    from_sample,
    from_zip,
    headline,
    lend,
    sentence,
)
from vgg.ui.tabs.train_progress import NO_JOB, curve, line, others, status

BOXES = 10  # classes that can be filled one by one
OPEN_BOXES = 2
REMEMBERED = 20  # trainings that a browser finds again
LISTED = 6  # of them at once
STEPS = ("1. Pictures", "2. How", "3. Watch")


@dataclass(frozen=True)
class Session:
    """What a visitor's page knows of its jobs. These stand outside of the tabs: what lies in a tab
    that is not open is not there for the browser, and would forget the jobs at a reload.

    `mine` holds the ids of the jobs, that which is shown first. `finished` is the name of the model
    that was just made.
    """

    mine: gr.BrowserState
    clock: gr.Timer
    finished: gr.Textbox


def begin_session() -> Session:
    """Make a session's parts; call it where the tabs are not yet begun."""
    # The secret is no lock: the job's own key, which can't be guessed, is.
    remembered = gr.BrowserState([], storage_key="vgg-studio-jobs", secret="vgg-studio")
    # A text box, out of sight, because its change reaches the browser, and a State's does not
    # always.
    finished = gr.Textbox(visible="hidden", elem_id="finished")
    return Session(remembered, gr.Timer(1.0, active=False), finished)


def step(number: int, words: str = "", *, is_open: bool | None = None) -> Any:
    """An update of a step's line, and whether it stands open; None leaves that as it is."""
    label = f"{STEPS[number - 1]}{' · ' * bool(words)}{words}"
    return gr.Accordion(label) if is_open is None else gr.Accordion(label, open=is_open)


def build(
    store: ModelStore,
    jobs: Jobs,
    sidebar: Sidebar,
    session: Session,
    page: gr.Blocks,
    tabs: gr.Tabs,
    picture: list[Any],
) -> train_done.After:
    """Lay the tab out and wire it. `picture` are the places of the Predict tab's picture, as
    `after.wire` takes them."""
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    pictures = gr.State(None, delete_callback=forget)
    mine, clock, finished = session.mine, session.clock, session.finished

    if store.settings.borrowed_gpu:
        gr.HTML(f"<p class='hint'>{sentence(NO_GPU_OF_ITS_OWN)}</p>")
    with gr.Row(equal_height=False):
        with (
            gr.Column(scale=1, min_width=300),
            gr.Accordion(STEPS[0], elem_id="step-pictures", elem_classes="step") as first,
        ):
            with gr.Tabs():
                with gr.Tab("Zip"):
                    gr.HTML(_ZIP_HELP)
                    zip_file = gr.File(
                        label="A zip with one folder a class",
                        file_types=[".zip"],
                        height=140,
                        elem_id="train-zip",
                    )
                with gr.Tab("By class"):
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
                    gr.HTML(f"<p class='quiet'>Eight drawn shapes, {SAMPLE_COUNT} of each.</p>")
                    sample = gr.Button("Use the sample shapes", elem_id="train-sample")
            about = gr.HTML("", elem_id="train-pictures")
        with (
            gr.Column(scale=1, min_width=300),
            gr.Accordion(STEPS[1], elem_id="step-how", elem_classes="step") as second,
        ):
            choices = train_options.lay_out(
                store, [component.value for component in sidebar.choice]
            )
    with (
        gr.Accordion(STEPS[2], open=False, elem_id="step-watch", elem_classes="step") as third,
        gr.Row(equal_height=False),
    ):
        with gr.Column(scale=1, min_width=300):
            job_box = gr.HTML(NO_JOB, elem_id="job-status")
            stop = gr.Button("Stop (keeps the best so far)", visible=False, elem_id="stop")
            ways_on = train_done.lay_out()
            others_box = gr.HTML("", js_on_load=_JOB_CLICK, elem_id="other-jobs")
        with gr.Column(scale=1, min_width=300):
            curve_box = gr.HTML("", elem_id="curve")

    steps = [first, second, third]
    watched = [job_box, others_box, curve_box, stop, ways_on.row, third, clock, finished]
    values, chosen = choices.values, sidebar.choice

    def take(make: Any) -> Any:
        def handler(old: PictureSet | None, ids: Any, *inputs: Any) -> tuple[Any, ...]:
            try:
                found = make(*inputs)
            except ValueError as error:
                raise gr.Error(sentence(str(error)), print_exception=False) from error
            if found is None:
                return gr.skip(), gr.skip(), gr.skip(), *[gr.skip()] * len(steps)
            forget(old)
            shown = next(iter(jobs.of(ids)), None)
            going = shown is not None and not shown.is_over
            opened = (
                step(1, headline(found), is_open=True),
                step(2, is_open=True),
                step(3, line(jobs, shown), is_open=going),
            )
            return found, describe(found), found.name, *opened

        return handler

    def boxes_taken(*flat: Any) -> PictureSet | None:
        return from_boxes(store, list(zip(flat[::2], flat[1::2], strict=True)))

    def plan_now(found: PictureSet | None, *inputs: Any) -> tuple[str, str]:
        now, choice = inputs[: len(values)], inputs[len(values) :]
        return train_options.origin(store, now[0], *choice), train_options.plan(
            store, found, now, choice
        )

    def start(found: PictureSet | None, ids: Any, label: str, *inputs: Any) -> tuple[Any, ...]:
        if found is None:
            raise gr.Error("Choose pictures first: step 1.", print_exception=False)
        try:
            choice = choice_from_inputs(*inputs[len(values) :])
            options = train_options.options_of(store, choice, *inputs[: len(values)])
            job = submit(found, label, options)
        except (ValueError, TypeError) as error:
            raise gr.Error(sentence(str(error)), print_exception=False) from error
        known = [job.handle, *[other.handle for other in jobs.of(ids)]][:REMEMBERED]
        folded = (
            step(1, headline(found), is_open=False),
            step(2, train_options.headline(options), is_open=False),
        )
        shown = watch(known, "")
        return known, *folded, *shown[:5], step(3, line(jobs, job), is_open=True), *shown[6:]

    def submit(found: PictureSet, label: str, options: Any) -> Job:
        lent = lend(found)
        try:
            return jobs.submit(lent, label or found.name, options, owned=found.owned)
        except ValueError:
            if found.owned:
                shutil.rmtree(lent, ignore_errors=True)
            raise

    def watch(ids: Any, told: str) -> tuple[Any, ...]:
        found = jobs.of(ids)
        going = any(not job.is_over for job in found)
        ended = [job for job in found if jobs.model(job)]
        newest = max(ended, key=lambda job: job.ended or 0, default=None)
        shown = found[0] if found else None
        return (
            status(jobs, shown) or NO_JOB,
            others(jobs, found[1:LISTED]),
            curve(shown),
            stop_button(shown),
            gr.Row(visible=bool(shown and jobs.model(shown))),
            step(3, line(jobs, shown)),
            gr.Timer(active=going),
            jobs.model(newest) if newest else told,
        )

    def restore(ids: Any, told: str) -> tuple[Any, ...]:
        """After a reload the page comes back to the training."""
        found, shown = jobs.of(ids), watch(ids, told)
        if not found:
            return gr.skip(), gr.skip(), gr.skip(), *shown
        job = found[0]
        counts = (job.last("scan") or {"counts": {}})["counts"]
        words = f"{sum(counts.values())} pictures in {len(counts)} classes" if counts else ""
        folded = (
            step(1, words, is_open=False),
            step(2, train_options.headline(job.options), is_open=False),
        )
        opened = step(3, line(jobs, job), is_open=True)
        tab = gr.skip() if job.is_over else gr.Tabs(selected="train-tab")
        return tab, *folded, *shown[:5], opened, *shown[6:]

    def stop_button(job: Job | None) -> Any:
        if job is None or job.is_over:
            return gr.Button(visible=False)
        words = "Stop (keeps the best so far)"
        if job.state == WAITING:
            words = "Take it out of the queue"
        if job.stop.is_set():
            words = "Stopping …"
        return gr.Button(words, visible=True, interactive=not job.stop.is_set())

    def stop_job(ids: Any) -> None:
        if found := jobs.of(ids):
            jobs.stop(found[0])

    def show_other(ids: Any, event: gr.EventData) -> list[str]:
        chosen_first = sorted(jobs.of(ids), key=lambda job: job.id != event.job)
        return [job.handle for job in chosen_first]

    sources: list[tuple[Any, Any, list[gr.components.Component]]] = [
        (zip_file.upload, partial(from_zip, store), [zip_file]),
        (use_boxes.click, boxes_taken, boxes),
        (use_folder.click, partial(from_folder, store), [folder]),
        (folder.submit, partial(from_folder, store), [folder]),
        (sample.click, partial(from_sample, store), []),
    ]
    taken = [pictures, about, choices.name, *steps]
    planned = [pictures, *values, *chosen], [choices.origin, choices.plan]
    for listen, make, given in sources:
        event = listen(
            take(make), [pictures, mine, *given], taken, show_progress_on=about,
            api_visibility="private",
        )  # fmt: skip
        event.then(plan_now, *planned, **quiet)
    for component in values:
        component.change(plan_now, *planned, **quiet)
    inputs = [pictures, mine, choices.name, *values, *chosen]
    choices.train.click(start, inputs, [mine, first, second, *watched], **quiet)
    stop.click(stop_job, mine, None, queue=False, **quiet)
    others_box.click(show_other, mine, mine, **quiet).then(
        watch, [mine, finished], watched, **quiet
    )
    clock.tick(watch, [mine, finished], watched, queue=False, **quiet)
    found_again = [tabs, first, second, *watched]
    page.load(restore, [mine, finished], found_again, queue=False, **quiet)
    # A model that was just trained is chosen at once, and the other tabs follow.
    sidebar.changes.append(
        finished.change(lambda name: choose(store, name), finished, sidebar.shown, **quiet)
    )
    train_done.wire(store, jobs, ways_on, mine, sidebar, tabs, picture)
    for ready in sidebar.changes:
        ready.then(plan_now, *planned, **quiet)
    return ways_on


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
_JOB_CLICK = """element.addEventListener("click", (event) => {
  const job = event.target.closest("button[data-job]");
  if (job) trigger("click", { job: job.dataset.job });
});"""

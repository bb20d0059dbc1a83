"""The Train tab: pictures, how, and watching it learn. The work itself runs in `server.jobs`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from vgg.errors import UserError
from vgg.training.options import TrainOptions
from vgg.ui.events import PRIVATE, QUIET, SEND_CLICKS, said
from vgg.ui.markup import note
from vgg.ui.page import Page, ShownPicture
from vgg.ui.server.choice import choice_from_inputs
from vgg.ui.server.job import UNFINISHED, WAITING, Job
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.picture_sets import (
    PictureSet,
    forget,
    from_folder,
    from_sample,
    from_zip,
    lent,
)
from vgg.ui.tabs import train_done, train_options, train_pictures
from vgg.ui.tabs.train_progress import NO_JOB, curve, line, others, status
from vgg.ui.words import sentence

HANDLES_KEPT = 20  # trainings that a browser finds again
LISTED = 6  # of them at once
FOLDS = ("1. Pictures", "2. How", "3. Watch")
STOP_WORDS = "Stop (keeps the best so far)"

MakeSet = Callable[..., PictureSet | None]  # of the settings and what was given


def fold(number: int, words: str = "", *, is_open: bool | None = None) -> Any:
    """An update of a step's line, and whether it stands open; None leaves that as it is."""
    label = f"{FOLDS[number - 1]}{' · ' * bool(words)}{words}"
    return gr.Accordion(label) if is_open is None else gr.Accordion(label, open=is_open)


def stop_button(job: Job | None) -> Any:
    """An update of the Stop button."""
    if job is None or job.is_over:
        return gr.Button(visible=False)
    if job.state == UNFINISHED:
        return gr.Button("Delete it", visible=True, interactive=True)
    words = "Take it out of the queue" if job.state == WAITING else STOP_WORDS
    stopping = job.stop.is_set()
    return gr.Button("Stopping …" if stopping else words, visible=True, interactive=not stopping)


@dataclass(frozen=True)
class Handlers:
    """What the tab's events call. `handles` are those of the visitor's jobs: the browser keeps
    them, so they may be anything."""

    store: ModelStore
    jobs: Jobs
    values: int  # how many of the inputs are those of step 2; the sidebar's follow

    def take(
        self, make: MakeSet, old: PictureSet | None, handles: Any, *inputs: Any
    ) -> tuple[Any, ...]:
        """Pictures given: the set, what is shown of it, its name, and the three steps' lines."""
        with said():
            found = make(self.store.settings, *inputs)
        if found is None:
            return tuple(gr.skip() for _ in range(6))
        forget(old)
        shown = next(iter(self.jobs.of(handles)), None)
        going = shown is not None and not shown.is_over
        return (
            found,
            train_pictures.describe(found),
            found.name,
            fold(1, train_pictures.headline(found), is_open=True),
            fold(2, is_open=True),
            fold(3, line(self.jobs, shown), is_open=going),
        )

    def plan_now(self, found: PictureSet | None, *inputs: Any) -> tuple[str, str]:
        """Where the training would start, and what it would do."""
        now, choice = inputs[: self.values], inputs[self.values :]
        start = train_options.origin(self.store, now[0], *choice)
        return start, train_options.plan(self.store, found, now, choice)

    def start(
        self, found: PictureSet | None, handles: Any, label: str, *inputs: Any
    ) -> tuple[Any, ...]:
        """Queue a training: the handles, and updates of all three steps."""
        if found is None:
            raise gr.Error(str(UserError("ui.step_1")), print_exception=False)
        with said():
            choice = choice_from_inputs(*inputs[self.values :])
            options = train_options.options_of(self.store, choice, *inputs[: self.values])
            options = replace(options, **found.told)
            with lent(found) as folder:
                job = self.jobs.submit(folder, label or found.name, options, owned=found.owned)
        known = [job.handle, *[other.handle for other in self.jobs.of(handles)]][:HANDLES_KEPT]
        return known, *self._folded(train_pictures.headline(found), options, known, "")

    def watch(self, handles: Any, told: str, *, is_open: bool | None = None) -> tuple[Any, ...]:
        """How far the visitor's jobs are; `told` is the model that was last said to be made."""
        found = self.known(handles)
        ended = [job for job in found if self.jobs.model(job)]
        newest = max(ended, key=lambda job: job.ended or 0, default=None)
        shown = found[0] if found else None
        return (
            status(self.jobs, shown) or NO_JOB,
            others(self.jobs, found[1:LISTED]),
            curve(shown),
            stop_button(shown),
            gr.Button(visible=shown is not None and shown.state == UNFINISHED),
            gr.Row(visible=bool(shown and self.jobs.model(shown))),
            fold(3, line(self.jobs, shown), is_open=is_open),
            gr.Timer(active=any(not job.is_over and job.state != UNFINISHED for job in found)),
            self.jobs.model(newest) if newest else told,
        )

    def restore(self, handles: Any, told: str) -> tuple[Any, ...]:
        """After a reload the page comes back to the training."""
        found = self.jobs.of(handles)
        if not found:
            is_open = True if self.jobs.unfinished() else None
            return gr.skip(), gr.skip(), gr.skip(), *self.watch(handles, told, is_open=is_open)
        job = found[0]
        counts: dict[str, int] = next((e["counts"] for e in job.all("scan") if "counts" in e), {})
        words = train_pictures.counted(sum(counts.values()), counts) if counts else ""
        tab = gr.skip() if job.is_over else gr.Tabs(selected="train-tab")
        return tab, *self._folded(words, job.options, handles, told)

    def _folded(
        self, words: str, options: TrainOptions, handles: Any, told: str
    ) -> tuple[Any, ...]:
        """Steps 1 and 2 as a line each, step 3 open."""
        return (
            fold(1, words, is_open=False),
            fold(2, train_options.headline(options), is_open=False),
            *self.watch(handles, told, is_open=True),
        )

    def known(self, handles: Any) -> list[Job]:
        """The visitor's jobs, then those that an earlier start of the page left unfinished here."""
        mine = self.jobs.of(handles)
        return [*mine, *(job for job in self.jobs.unfinished() if job not in mine)]

    def stop_job(self, handles: Any) -> None:
        for job in self.known(handles)[:1]:
            if job.state == UNFINISHED:
                self.jobs.give_up(job)
            else:
                self.jobs.stop(job)

    def go_on(self, handles: Any) -> list[str]:
        found = self.known(handles)
        for job in found[:1]:
            self.jobs.go_on(job)
        return [job.handle for job in found][:HANDLES_KEPT]

    def show_other(self, handles: Any, event: gr.EventData) -> list[str]:
        chosen_first = sorted(self.known(handles), key=lambda job: job.id != event.job)
        return [job.handle for job in chosen_first]


class TrainTab:
    """The tab's components, in three steps; `wire` makes them work."""

    def __init__(self, page: Page) -> None:
        with gr.Tab("Train", id="train-tab"):
            self.pictures = gr.State(None, delete_callback=forget)
            if page.store.settings.borrowed_gpu:
                gr.HTML(note("hint", sentence(str(UserError("ui.borrowed_gpu")))))
            with gr.Row(equal_height=False):
                with gr.Column(scale=1, min_width=300), _step(1, "pictures") as first:
                    self.given = train_pictures.GivenPictures(page.store.settings.public)
                with gr.Column(scale=1, min_width=300), _step(2, "how") as second:
                    values = [component.value for component in page.sidebar.choice]
                    self.choices = train_options.Choices(page.store, values)
            with _step(3, "watch", is_open=False) as third, gr.Row(equal_height=False):
                with gr.Column(scale=1, min_width=300):
                    self.job = gr.HTML(NO_JOB, elem_id="job-status")
                    self.go_on = gr.Button(
                        "Go on", visible=False, variant="primary", elem_id="go-on"
                    )
                    self.stop = gr.Button(STOP_WORDS, visible=False, elem_id="stop")
                    self.done = train_done.Buttons()
                    self.others = gr.HTML("", js_on_load=SEND_CLICKS, elem_id="other-jobs")
                with gr.Column(scale=1, min_width=300):
                    self.curve = gr.HTML("", elem_id="curve")
        self.steps = [first, second, third]


def _step(number: int, name: str, *, is_open: bool = True) -> gr.Accordion:
    return gr.Accordion(
        FOLDS[number - 1], open=is_open, elem_id=f"step-{name}", elem_classes="step"
    )


def wire(page: Page, tab: TrainTab, picture: ShownPicture) -> None:
    """The tab's events; `picture` is where a finished training shows why it answers so."""
    choices, session = tab.choices, page.session
    handlers = Handlers(page.store, page.jobs, len(choices.values))
    first, second, third = tab.steps
    updated = [
        tab.job, tab.others, tab.curve, tab.stop, tab.go_on, tab.done.row, third, session.clock,
        session.finished,
    ]  # fmt: skip
    asked = [*choices.values, *page.sidebar.choice]
    planned = [tab.pictures, *asked], [choices.origin, choices.plan]
    _wire_pictures(handlers, tab, session.jobs, planned)
    for component in choices.values:
        component.change(handlers.plan_now, *planned, **QUIET)
    inputs = [tab.pictures, session.jobs, choices.name, *asked]
    choices.train.click(handlers.start, inputs, [session.jobs, first, second, *updated], **QUIET)
    known = [session.jobs, session.finished]
    tab.stop.click(handlers.stop_job, session.jobs, None, queue=False, **QUIET).then(
        handlers.watch, known, updated, **QUIET
    )
    tab.go_on.click(handlers.go_on, session.jobs, session.jobs, queue=False, **QUIET).then(
        handlers.watch, known, updated, **QUIET
    )
    tab.others.click(handlers.show_other, session.jobs, session.jobs, **QUIET).then(
        handlers.watch, known, updated, **QUIET
    )
    session.clock.tick(handlers.watch, known, updated, queue=False, **QUIET)
    found_again = [page.tabs, first, second, *updated]
    page.blocks.load(handlers.restore, known, found_again, queue=False, **QUIET)
    train_done.wire(page, tab.done, picture)
    for ready in page.sidebar.changes:
        ready.then(handlers.plan_now, *planned, **QUIET)


def _wire_pictures(
    handlers: Handlers, tab: TrainTab, jobs: gr.BrowserState, planned: tuple[list[Any], list[Any]]
) -> None:
    given = tab.given
    sources: list[tuple[Any, MakeSet, list[Any]]] = [
        (given.zip_file.upload, from_zip, [given.zip_file, given.classes_from]),
        (given.use_boxes.click, train_pictures.from_filled_boxes, given.boxes),
        (given.use_folder.click, from_folder, [given.folder, given.classes_from]),
        (given.folder.submit, from_folder, [given.folder, given.classes_from]),
        (given.sample.click, from_sample, []),
        (
            given.classes_from.input,
            train_pictures.from_zip_or_folder,
            [given.zip_file, given.folder, given.classes_from],
        ),
    ]
    taken = [tab.pictures, given.about, tab.choices.name, *tab.steps]
    for listen, make, inputs in sources:
        event = listen(
            partial(handlers.take, make), [tab.pictures, jobs, *inputs], taken,
            show_progress_on=given.about, **PRIVATE,
        )  # fmt: skip
        event.then(handlers.plan_now, *planned, **QUIET)

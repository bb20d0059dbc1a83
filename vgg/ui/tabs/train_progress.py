"""What a training job shows: its state, its big number, its curves."""

import time
from collections.abc import Sequence
from html import escape

from vgg.ui import plots
from vgg.ui.markup import note, problem, quiet
from vgg.ui.server.job import DONE, RUNNING, STOPPED, UNFINISHED, WAITING, Event, Job
from vgg.ui.server.jobs import Jobs
from vgg.ui.words import duration, sentence

# What is told of work that comes before the epochs: (done, total) put into words.
WORK_SAID = {
    "download": "downloading the weights: {0:.0f} of {1:.0f} MB",
    "scan": "looking through the files: {0:.0f} of {1:.0f}",
    "decode": "reading the pictures: {0:.0f} of {1:.0f}",
    "features": "{0:.0f} of {1:.0f} pictures went through the network",
}
NO_JOB = quiet("Nothing has been trained yet. Choose pictures, then press Train.")


def status(jobs: Jobs, job: Job | None) -> str:
    """What a job is doing, as HTML: one big number, then what matters."""
    if job is None:
        return ""
    epochs = job.all("epoch")
    parts = [_big_number(job, epochs), note("state", _state(jobs, job))]
    if pace := _progress(job, epochs):
        parts.append(quiet(pace))
    told = [e["message"] for e in job.events if e["kind"] in ("plan", "warning")]
    parts += [note("told", sentence(text)) for text in dict.fromkeys(told)]
    if job.error:
        parts.append(problem(job.error))
    return f"<div class='job' data-state='{job.state}'>{''.join(parts)}</div>"


def _big_number(job: Job, epochs: list[Event]) -> str:
    held_out = job.last("split")
    count = held_out.get("held_out") if held_out else None
    if job.result and job.result.get("accuracy") is not None:
        accuracy, count = job.result["accuracy"], job.result["held_out"]
        low, high = job.result["accuracy_interval"]
        interval = f" (95 % interval: {100 * low:.0f} to {100 * high:.0f} %)"
    elif epochs:
        accuracy, interval = epochs[-1]["held_out"], " so far"
    else:
        return ""
    of = (
        f"of {count} held-out pictures{interval}"
        if count
        else f"of the held-out pictures{interval}"
    )
    return f"<p class='big'>{100 * accuracy:.0f} %<span>{escape(of)}</span></p>"


def _state(jobs: Jobs, job: Job) -> str:
    name = f"“{job.name}”"
    if job.state == WAITING:
        place = jobs.place(job)
        before = "one training" if place == 1 else f"{place} trainings"
        return f"{name} waits: place {place} in the queue, {before} before it"
    if job.state == UNFINISHED:
        return f"{name} was interrupted: the page ended before it did. You can go on with it"
    if job.state == RUNNING:
        return f"{name} is learning"
    if job.state == DONE:
        return f"{name} is ready and chosen"
    if job.state == STOPPED:
        kept = "; the best so far is kept" if job.result else " before anything was learned"
        return f"{name} was stopped{kept}"
    return f"{name} could not be trained"


def _progress(job: Job, epochs: list[Event]) -> str:
    """How far the work is, how fast, and how long it will take."""
    if job.state != RUNNING:
        if job.result:
            return f"{duration(job.result['seconds'])}, {job.result['images']} pictures"
        return ""
    told = [
        e for e in job.events if e["kind"] == "epoch" or ("total" in e and e["kind"] in WORK_SAID)
    ]
    last = told[-1] if told else None
    parts = ["getting ready …"]
    if last and last["kind"] == "epoch":
        parts = [
            f"epoch {last['number']} of {last['epochs']}",
            f"{last['pictures_per_second']:.0f} pictures a second",
        ]
        if last["number"] == last["epochs"]:
            parts = ["measuring what it has learned …"]
    elif last:
        scale = 1e6 if last["kind"] == "download" else 1
        counts = (last["done"] / scale, last["total"] / scale)
        parts = [WORK_SAID[last["kind"]].format(*counts)]
    if last and last.get("seconds_left"):
        parts.append(f"{duration(last['seconds_left'])} left")
    since = time.time() - (job.started or time.time())
    most = job.options.seconds
    parts.append(f"{duration(since)}{f' of at most {duration(most)}' if most else ' so far'}")
    return " · ".join(parts)


def line(jobs: Jobs, job: Job | None) -> str:
    """The job in a few words: `shapes: 86 % of 83 pictures`."""
    if job is None:
        return ""
    if job.result and job.result.get("accuracy") is not None:
        accuracy, count = job.result["accuracy"], job.result["held_out"]
        return f"{job.name}: {100 * accuracy:.0f} % of {count} pictures"
    if job.state == RUNNING:
        epochs = job.all("epoch")
        return f"{job.name}: {100 * epochs[-1]['held_out']:.0f} % so far" if epochs else job.name
    if job.state == WAITING:
        return f"{job.name} waits: place {jobs.place(job)} in the queue"
    if job.state == UNFINISHED:
        return f"{job.name} was interrupted"
    return f"{job.name} was stopped" if job.state == STOPPED else f"{job.name}: failed"


def others(jobs: Jobs, mine: Sequence[Job]) -> str:
    """A person's other trainings, each a button that shows it."""
    if not mine:
        return ""
    buttons = "".join(
        f"<li><button type='button' data-job='{escape(job.id)}'>{escape(line(jobs, job))}"
        "</button></li>"
        for job in mine
    )
    return f"{quiet('Your other trainings')}<ul class='other-jobs'>{buttons}</ul>"


def curve(job: Job | None) -> str:
    """Loss and held-out accuracy over the epochs."""
    epochs = job.all("epoch") if job else []
    if not epochs:
        return ""
    numbers = [e["number"] for e in epochs]
    accuracy = plots.Line(
        "held-out pictures",
        plots.BLUE,
        list(zip(numbers, [e["held_out"] for e in epochs], strict=True)),
    )
    learned = plots.Line(
        "pictures learned from",
        plots.ORANGE,
        [(n, e["accuracy"]) for n, e in zip(numbers, epochs, strict=True) if "accuracy" in e],
    )
    loss = plots.Line(
        "loss", plots.ORANGE, list(zip(numbers, [e["loss"] for e in epochs], strict=True))
    )
    return plots.curves(
        [accuracy, learned], title="Accuracy", x_name="epoch", percent=True
    ) + plots.curves([loss], title="Loss", x_name="epoch")

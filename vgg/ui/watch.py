"""What a training job shows: its state, its big number, its curves."""

from html import escape

from vgg.ui import plots
from vgg.ui.jobs import DONE, RUNNING, STOPPED, WAITING, Event, Job, Jobs
from vgg.ui.pictures import sentence

NO_JOB = "<p class='quiet'>Nothing has been trained yet. Choose pictures, then press Train.</p>"


def status(jobs: Jobs, job: Job | None) -> str:
    """What a job is doing, as HTML: one big number, then what matters."""
    if job is None:
        return ""
    epochs = job.all("epoch")
    parts = [_big_number(job, epochs), f"<p class='state'>{escape(_state(jobs, job))}</p>"]
    if pace := _progress(job, epochs):
        parts.append(f"<p class='quiet'>{escape(pace)}</p>")
    told = [e["message"] for e in job.events if e["kind"] in ("plan", "warning")]
    parts += [f"<p class='told'>{escape(sentence(text))}</p>" for text in dict.fromkeys(told)]
    if job.error:
        parts.append(f"<p class='problem' role='alert'>{escape(sentence(job.error))}</p>")
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
        others = "one training" if place == 1 else f"{place} trainings"
        return f"{name} waits: place {place} in the queue, {others} before it"
    if job.state == RUNNING:
        return f"{name} is learning"
    if job.state == DONE:
        return f"{name} is ready and chosen"
    if job.state == STOPPED:
        kept = "the best so far is kept" if job.result else "before anything was learned"
        return f"{name} was stopped; {kept}"
    return f"{name} could not be trained"


def _progress(job: Job, epochs: list[Event]) -> str:
    if job.state != RUNNING:
        if job.result:
            return f"{job.result['seconds']:.0f} s, {job.result['images']} pictures"
        return ""
    if epochs:
        last = epochs[-1]
        return (
            f"epoch {last['number']} of {last['epochs']} · "
            f"{last['pictures_per_second']:.0f} pictures a second · "
            f"{last['seconds_left']:.0f} s left"
        )
    if step := job.last("features"):
        return f"looked at {step['done']} of {step['total']} pictures"
    return "looking at the pictures …"


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

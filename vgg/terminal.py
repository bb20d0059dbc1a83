"""What the command line prints: answers, progress, a training's events."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from vgg.errors import UserError
from vgg.network.config import ModelConfig
from vgg.network.summary import count_macs, count_parameters, describe_count

SKIPS_TOLD = 20  # skipped files that are named on a terminal
COUNTED = {
    "download": "downloaded",
    "scan": "files looked at",
    "decode": "pictures decoded",
    "features": "pictures seen by the trunk",
}


class UsageError(UserError):
    """The command line asks for something that there is not."""


def one_line(error: Exception) -> str:
    """An error's message on one line."""
    if isinstance(error, OSError) and error.strerror:
        name = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{name}"
    return " ".join(str(error).split())


def print_prediction(row: dict[str, Any]) -> None:
    if row["error"]:
        print(f"{row['image']}\n  not read: {row['error']}")
        return
    print(row["image"])
    for place in row["top"]:
        print(f"  {100 * place['probability']:5.1f} %  {place['class']}")


def accuracy_sentence(accuracy: float, interval: tuple[float, float], which: str) -> str:
    """An accuracy as a sentence, with its interval; `which` tells how many pictures, and which."""
    low, high = (f"{100 * share:.1f}" for share in interval)
    return (
        f"{100 * accuracy:.1f} % of {which} pictures are named right "
        f"(95 % interval {low} to {high} %)"
    )


def print_json_list(rows: Iterable[dict[str, Any]]) -> None:
    """One JSON list, written row by row: memory stays flat."""
    lead = "["
    for row in rows:
        sys.stdout.write(f"{lead}\n  {json.dumps(row, ensure_ascii=False)}")
        lead = ","
    print("[]" if lead == "[" else "\n]")


def describe_config(config: ModelConfig) -> list[tuple[str, str]]:
    """What a person wants to know of a model: (name, value) pairs."""
    cfg = config.pretrained_cfg
    parameters = count_parameters(config)
    names = ", ".join(config.label_names[:10]) + (", …" if config.num_classes > 10 else "")
    return [
        ("architecture", config.architecture),
        ("head", f"{config.head}, width {config.width:g}"),
        ("classes", f"{config.num_classes} ({names})" if names else "0, a trunk to train on"),
        ("trained", "yes" if config.trained else "no"),
        ("weights", f"{describe_count(parameters)} ({4 * parameters / 1e6:.3g} MB in fp32)"),
        ("one picture", f"{describe_count(count_macs(config))}MAC at {cfg.size} x {cfg.size}"),
        ("preprocessing", f"{cfg.crop_mode}, crop_pct {cfg.crop_pct:g}, {cfg.interpolation}"),
    ]


@contextmanager
def progress_line(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function (done, total) that keeps a bar on a terminal, and is silent elsewhere."""
    from tqdm import tqdm

    # None: on a terminal only. The delay: no bar before there is something to tell.
    with tqdm(desc=what, unit="", disable=None, delay=1e-9, dynamic_ncols=True) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tell


@contextmanager
def told_events() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Gives a function that tells a training's events on standard error, a line each; counting
    steps share one line on a terminal and are silent elsewhere."""
    with ExitStack() as lines:
        counters: dict[str, Callable[[int, int], None]] = {}

        def tell(event: dict[str, Any]) -> None:
            kind = event["kind"]
            if "done" in event and "total" in event:
                if kind not in counters:
                    lines.close()
                    counters[kind] = lines.enter_context(progress_line(COUNTED.get(kind, kind)))
                counters[kind](event["done"], event["total"])
                return
            if text := event_line(event):
                lines.close()
                counters.clear()
                print(text, file=sys.stderr, flush=True)

        yield tell


def event_line(event: dict[str, Any]) -> str:
    """One event of a training in words; empty for those that say nothing to a person."""
    kind = event["kind"]
    if kind in ("plan", "warning"):
        return f"{kind}: {event['message']}"
    if kind == "scan":
        counts = event["counts"]
        lines = [f"{sum(counts.values())} pictures in {len(counts)} classes"]
        lines += [f"  {name}: {count}" for name, count in counts.items()]
        skipped = event["skipped"]
        lines += [f"skipped {s['file']}: {s['reason']}" for s in skipped[:SKIPS_TOLD]]
        if len(skipped) > SKIPS_TOLD:
            lines.append(f"skipped {len(skipped) - SKIPS_TOLD} more")
        return "\n".join([*lines, *(f"note: {hint}" for hint in event["hints"])])
    if kind == "split":
        return f"{event['held_out']} pictures held out to test it, {event['train']} to learn from"
    if kind == "resume":
        return "going on from the state that was saved last"
    if kind == "epoch":
        return (
            f"epoch {event['number']} of {event['epochs']}: loss {event['loss']:.3f}, "
            f"{100 * event['held_out']:.1f} % of the held-out pictures, "
            f"{event['pictures_per_second']:.0f} pictures a second, "
            f"{event['seconds_left']:.0f} s left"
        )
    return ""

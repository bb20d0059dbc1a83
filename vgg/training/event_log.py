"""The events of a training: told as they come, and kept in a number that does not grow with it.

A few drawings are learned from thousands of times in a minute: a curve needs no more than some of
these epochs.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TrainingEvent = dict[str, Any]

MOST_EPOCHS = 200  # that are kept
STEPS = 20  # of a counted work that are kept
TELL_EVERY = 0.5  # seconds


def kept_with(events: Sequence[TrainingEvent], event: TrainingEvent) -> list[TrainingEvent]:
    """Events and one more. Of a counted work the newest alone stays, and of more epochs than
    `MOST_EPOCHS` every second goes, but for the first and the last."""
    kind = event["kind"]
    if "total" in event:
        events = [e for e in events if e["kind"] != kind or "total" not in e]
    events = [*events, event]
    epochs = [e for e in events if e["kind"] == "epoch"]
    if len(epochs) > MOST_EPOCHS:
        gone = set(map(id, epochs[1:-1:2]))
        events = [e for e in events if id(e) not in gone]
    return events


class EventLog:
    """Writes events to a file, one JSON object a line, and tells them to `on_event`.

    Of many epochs those are written that divide the plan evenly; told are also others, twice a
    second at most. The last before another event is always among them.
    """

    def __init__(self, file: Path, on_event: Callable[[TrainingEvent], object] | None) -> None:
        self.file, self.on_event = file, on_event or (lambda event: None)
        self._unwritten: TrainingEvent | None = None  # the newest epoch
        self._untold: TrainingEvent | None = None
        self._told_at = 0.0
        self._steps: dict[str, int] = {}  # of each counted work

    def add(self, event: TrainingEvent) -> None:
        if event["kind"] != "epoch":
            self._keep_newest_epoch()
            if "total" not in event or self._is_step(event):
                self._write(event)
            self.on_event(event)
            return
        self._unwritten = self._untold = event
        number, planned = event["number"], max(event["number"], event["epochs"])
        if number == 1 or number == planned or _part(number - 1, planned) < _part(number, planned):
            self._keep_newest_epoch()
        elif time.monotonic() - self._told_at >= TELL_EVERY:
            self._tell_newest_epoch()

    def _keep_newest_epoch(self) -> None:
        if self._unwritten:
            self._write(self._unwritten)
            self._unwritten = None
        self._tell_newest_epoch()

    def _tell_newest_epoch(self) -> None:
        event, self._untold = self._untold, None
        if event:
            self._told_at = time.monotonic()
            self.on_event(event)

    def _is_step(self, event: TrainingEvent) -> bool:
        step: int = STEPS * event["done"] // max(1, event["total"])
        before, self._steps[event["kind"]] = self._steps.get(event["kind"]), step
        return step != before

    def _write(self, event: TrainingEvent) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n")


def _part(number: int, planned: int) -> int:
    return MOST_EPOCHS * number // planned

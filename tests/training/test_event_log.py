"""What is kept of a training's events does not grow with it."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from vgg.training.event_log import MOST_EPOCHS, EventLog, kept_with

Event = dict[str, Any]


def many_events() -> list[Event]:
    """Those of a training that counts long and then has thousands of epochs, more than planned."""
    epochs = [
        {"kind": "epoch", "number": number, "epochs": 3000 if number < 1000 else 9000}
        for number in range(1, 8008)
    ]
    work = [{"kind": "features", "done": done, "total": 5000} for done in range(1, 5001)]
    warning = {"kind": "warning", "message": "the device ran out of memory"}
    return [{"kind": "start"}, *work, *epochs[:4000], warning, *epochs[4000:], {"kind": "done"}]


def epochs_in(events: list[Event]) -> list[int]:
    return [event["number"] for event in events if event["kind"] == "epoch"]


def test_the_file_of_a_training_of_thousands_of_epochs_has_a_few_hundred_lines(
    tmp_path: Path,
) -> None:
    told: list[Event] = []
    log = EventLog(tmp_path / "events.jsonl", told.append)
    for event in many_events():
        log.add(event)
    written = [json.loads(line) for line in log.file.read_text().splitlines()]
    numbers = epochs_in(written)
    assert len(written) < 300
    assert numbers == sorted(set(numbers))
    assert {1, 4000, 8007} <= set(numbers)  # the first, and the last before another event
    assert max(b - a for a, b in pairwise(numbers)) <= 9000 / MOST_EPOCHS
    assert [e for e in written if e["kind"] == "features"][-1]["done"] == 5000
    assert [e["kind"] for e in written][-2:] == ["epoch", "done"]
    assert [e for e in told if e in written] == written
    assert len(epochs_in(told)) < 1000


def test_what_a_page_keeps_of_a_training_is_bounded_at_any_time() -> None:
    kept: list[Event] = []
    for event in many_events():
        kept = kept_with(kept, event)
        assert len(kept) <= MOST_EPOCHS + 4
        assert kept[-1] == event
    numbers = epochs_in(kept)
    assert (numbers[0], numbers[-1]) == (1, 8007)
    assert len(numbers) >= MOST_EPOCHS / 2
    assert [e["kind"] for e in kept if e["kind"] != "epoch"] == [
        *("start", "features", "warning", "done")
    ]

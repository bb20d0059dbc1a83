"""One training of the page: what was asked for, how far it is, what came of it."""

import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vgg.training.event_log import kept_with
from vgg.training.options import TrainOptions
from vgg.ui.server.private_models import Owner

WAITING, RUNNING, DONE, STOPPED, FAILED = "waiting", "running", "done", "stopped", "failed"
UNFINISHED = "unfinished"  # by a page that ended: it can be gone on with, or given up

Event = dict[str, Any]


@dataclass
class Job:
    """One training. On a public page the sessions that may watch and stop it are that which started
    it, and those that show its key: a page that was loaded again."""

    folder: Path  # pictures, a sub-folder a class
    out: Path  # of the model that it makes
    options: TrainOptions
    owned: bool = True  # the folder is a copy of ours and goes when the job ends
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    owner: Owner = field(default_factory=Owner)
    state: str = WAITING
    events: list[Event] = field(default_factory=list)
    error: str = ""
    result: dict[str, Any] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    created: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    record: Path | None = None  # what is kept on disk until it ends
    resume: bool = False

    @property
    def name(self) -> str:
        """What a person calls the model."""
        return self.out.name

    @property
    def handle(self) -> str:
        """What the page of its owner keeps, to find it again."""
        return f"{self.id}:{self.owner.key}"

    @property
    def is_over(self) -> bool:
        return self.state in (DONE, STOPPED, FAILED)

    def tell(self, event: Event) -> None:
        """Keep an event; their number stays bounded."""
        self.events = kept_with(self.events, event)

    def last(self, kind: str) -> Event | None:
        """The newest event of a kind."""
        return next((e for e in reversed(self.events) if e["kind"] == kind), None)

    def all(self, kind: str) -> list[Event]:
        """All events of a kind, oldest first."""
        return [event for event in self.events if event["kind"] == kind]

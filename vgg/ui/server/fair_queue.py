"""The queue of the page's calls: it ends, each visitor has a share, others come in between."""

import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from itertools import chain
from typing import Any

import gradio as gr
from gradio.queueing import Event, Queue

from vgg.errors import UserError
from vgg.ui.server.settings import Settings

PLACES = 4  # calls of one event that run side by side


def visitor_of(event: Event) -> str:
    """The session that asks; of a call without one, the address that it came from."""
    # Gradio gives such a call its own number as a session.
    return address_of(event) if event.session_hash == event._id else str(event.session_hash)


def address_of(event: Event) -> str:
    client = event.request.client
    return client.host if client else ""


class FairQueue(Queue):
    """Of those who wait, who runs least comes first, and among them who has waited longest for a
    turn: a visitor's second call comes after the first of each other.

    Sessions are free to invent, addresses are not: one address may fill half of the queue.
    """

    def __init__(self, blocks: gr.Blocks, settings: Settings) -> None:
        super().__init__(
            live_updates=True,
            concurrency_count=blocks.max_threads,
            update_intervals=1,
            max_size=settings.limits.waiting,
            blocks=blocks,
            default_concurrency_limit=PLACES,
        )
        self.limits, self.public = settings.limits, settings.public
        self._turns: dict[str, int] = {}  # of a visitor: which of all calls was begun last
        self._begun = 0
        self._called: dict[str, deque[float]] = defaultdict(deque)  # when, of the last minute

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        host = request.client.host if request.client else ""
        visitor = body.session_hash or host
        if self.public and self._calls(visitor) > self.limits.calls:
            text = str(UserError("ui.calls", most=self.limits.calls))
            return False, text, "queue_full"
        waiting = [(visitor_of(event), address_of(event)) for event in self._waiting()]
        own = sum(other == visitor for other, _ in waiting)
        near = sum(other == host for _, other in waiting)
        if own >= self.limits.waiting_each or 2 * near >= self.limits.waiting:
            return False, str(UserError("ui.own_calls", count=own)), "queue_full"
        return await super().push(body, request, username)

    def _calls(self, visitor: str) -> int:
        """How often the visitor has called in the last minute, this time included."""
        now = time.monotonic()
        self._called[visitor].append(now)
        for name, times in list(self._called.items()):
            while times and now - times[0] > 60:
                times.popleft()
            if not times:
                del self._called[name]
        return len(self._called[visitor])

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        under_way = chain.from_iterable(filter(None, self.active_jobs))
        running = Counter((event.concurrency_id, visitor_of(event)) for event in under_way)
        names = list(self.event_queue_per_concurrency_id)
        random.shuffle(names)  # no event of the page goes before another
        for name in names:
            waiting = self.event_queue_per_concurrency_id[name]
            limit = waiting.concurrency_limit
            if limit is not None and waiting.current_concurrency >= limit:
                continue
            share = max(1, limit - 1) if limit else len(waiting.queue)  # one place for others
            free = [e for e in waiting.queue if running[name, visitor_of(e)] < share]
            if free:
                first = min(
                    free,
                    key=lambda e: (running[name, visitor_of(e)], self._turns.get(visitor_of(e), 0)),
                )
                waiting.queue.remove(first)
                self._take_turn(visitor_of(first))
                return [first], False, name
        return None

    def _take_turn(self, visitor: str) -> None:
        here = {visitor_of(event) for event in self._waiting()}
        self._turns = {name: turn for name, turn in self._turns.items() if name in here}
        self._begun += 1
        self._turns[visitor] = self._begun

    def _waiting(self) -> Iterator[Event]:
        return chain.from_iterable(q.queue for q in self.event_queue_per_concurrency_id.values())

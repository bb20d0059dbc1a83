"""The other processes of a run: whether they live, and waiting for them as long as they do."""

import itertools
import threading
import time
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from vgg.distributed.launchers import Place
from vgg.errors import ProcessLostError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

TIMEOUT = timedelta(seconds=90)  # of a process that gives no sign of life: torch waits 30 minutes
HEARTBEAT = 3.0  # seconds from one sign of life to the next
LOOK_EVERY = (0.0005, 0.02)  # seconds from one look to the next: at first, and in a long wait

_groups = itertools.count()  # that this process has been in: each has names of its own


class Peers:
    """All processes of a group, this one among them, by a store that all reach.

    Each has a thread that says every few seconds that its process lives. Waiting has no limit but
    that: a process may read, write or compute for as long as it takes.
    """

    def __init__(self, place: Place) -> None:
        from torch.distributed.distributed_c10d import PrefixStore

        self.place = place
        self.store = PrefixStore(f"vgg-{next(_groups)}", _store(place))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            with suppress(RuntimeError):  # the store is gone: who waits for it hears so itself
                self.store.add(f"alive-{self.place.rank}", 1)

    def meet(self, name: str) -> None:
        """Wait until all have come to this place; `ProcessLostError` where one never will."""
        # The first to come makes it n * world + 1, the last (n + 1) * world.
        arrived = self.store.add(name, 1)
        wanted = -(-arrived // self.place.world) * self.place.world
        self._wait(name, wanted)

    def _wait(self, name: str, wanted: int) -> None:
        signs: dict[int, tuple[int, float]] = {}  # of each process: how many, and since when
        pause, looked_at = LOOK_EVERY[0], time.monotonic()
        while self.store.add(name, 0) < wanted:
            time.sleep(pause)
            pause = min(2 * pause, LOOK_EVERY[1])
            if time.monotonic() - looked_at > HEARTBEAT:
                looked_at = time.monotonic()
                self._check_alive(signs)

    def _check_alive(self, signs: dict[int, tuple[int, float]]) -> None:
        now = time.monotonic()
        if self.store.add("failed", 0):
            raise ProcessLostError("distributed.lost")
        for rank in range(self.place.world):
            count = self.store.add(f"alive-{rank}", 0)
            before, since = signs.setdefault(rank, (count, now))
            if count != before:
                signs[rank] = count, now
            elif now - since > TIMEOUT.total_seconds() and rank != self.place.rank:
                raise ProcessLostError("distributed.lost")

    def part(self) -> None:
        """Leave together. The first, which may serve the store, leaves last."""
        self.meet("end")
        self.store.add("left", 1)
        if self.place.rank == 0:
            self._wait("left", self.place.world)

    def fail(self) -> None:
        """Tell the others, where they still hear it, that this process leaves before the end."""
        with suppress(RuntimeError):
            self.store.add("failed", 1)

    def close(self) -> None:
        self._over.set()
        self._thread.join()


@cache  # the first process may serve it: it lives as long as the process, for one group or more
def _store(place: Place) -> "Store":
    from torch.distributed.rendezvous import rendezvous

    url = "env://"  # torchrun serves it
    if place.address:
        host, port = place.address
        url = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    store: Store = next(iter(rendezvous(url, place.rank, place.world, timeout=TIMEOUT)))[0]
    return store

"""Whose turn it is on the device: predictions of visitors, and a training between them."""

import os
import sys
import threading
from contextlib import AbstractContextManager, suppress
from typing import Any

STEP_BACK = 5  # of the 19 steps in which Linux counts how far a thread stands back


class FairLock(AbstractContextManager[None]):
    """A lock that serves those who wait in the order in which they came.

    Python's own may be had again at once by who has just given it back: a training, which asks for
    it batch after batch, would let a prediction wait for many batches.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._given = self._served = 0  # how many have come, and how many have had their turn

    def __enter__(self) -> None:
        with self._changed:
            mine = self._given
            self._given += 1
            self._changed.wait_for(lambda: self._served == mine)

    def __exit__(self, *_: Any) -> None:
        with self._changed:
            self._served += 1
            self._changed.notify_all()


def step_back() -> None:
    """Let the calling thread, and those that it starts, give way to the others of this process.

    Linux counts threads singly; other systems share the processor evenly, which is fair too.
    """
    if sys.platform != "linux":
        return
    me = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, me, os.getpriority(os.PRIO_PROCESS, me) + STEP_BACK)

"""Picture files from the disk: read by a pool of threads, each once, as far as memory reaches.

This module never imports torch.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from vgg.data.images import ImageError, read_file
from vgg.data.room import memory_available

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4  # results a thread that wait to be taken: enough to keep all threads busy
KEPT_SHARE = 0.25  # of the memory that is free, for the bytes of files
FEW_BYTES = 256 * 1024**2  # so many are kept to the end of a training


def in_threads(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int | None = None,
    ahead: int = 0,
) -> Generator[Result]:
    """`map(work, items)` on a pool of threads, in order, a bounded number of results ahead: `ahead`
    where it is more than enough to keep all threads busy. `threads` None: as many as cores.

    Threads, never processes: a process forked from a web server's threads can hang, and Pillow
    lets other threads run while it decodes.
    """
    if threads is None:
        from vgg.device import cpu_cores

        threads = cpu_cores()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > max(ahead, threads * AHEAD):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def digest_of(data: bytes) -> str:
    """BLAKE2b of a file's bytes, 16 bytes as 32 hex letters: equal for equal files."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class FileBytes:
    """The bytes of picture files. Each is read from the disk once, and kept for the next who asks
    while there is room: `limit` bytes, by default a part of what is free.

    What did not fit is read again, and refused where its digest is another then: whatever is
    learned of a picture comes of the same bytes. Many threads may ask at once.
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is None:
            limit = int(KEPT_SHARE * (memory_available() or 4 * FEW_BYTES))
        self._left = self._limit = limit
        self._kept: dict[Path, bytes] = {}
        self._lock = threading.Lock()

    def read(self, file: Path, digest: str = "") -> bytes:
        """The bytes of a file; an `ImageError` where it can't be read, or has another `digest`."""
        if (kept := self._kept.get(file)) is not None:
            return kept
        data = read_file(file)
        if digest and digest_of(data) != digest:
            raise ImageError("data.changed")
        with self._lock:
            if len(data) <= self._left:
                self._left -= len(data)
                self._kept[file] = data
        return data

    def let_go(self) -> None:
        """All pictures are read: give the memory back, unless it is little."""
        if self._limit - self._left > FEW_BYTES:
            self._kept, self._left = {}, 0


def reason_of(error: ImageError) -> str:
    """The sentence of an `ImageError` without the file's name."""
    return str(error.values.get("why", error))

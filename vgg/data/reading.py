"""Pictures decoded for a network: uint8 tensors, read by a pool of threads."""

import logging
import math
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from vgg.data.cache import FeatureStore
from vgg.data.duplicates import FINGERPRINT, file_digest, fingerprint
from vgg.data.folder import reason_of
from vgg.data.images import ImageError, probe_size, read_image
from vgg.data.transforms import needed_side, to_uint8
from vgg.device import cpu_cores
from vgg.network.config import Preprocessing

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

MEMORY_SHARE = 0.5  # of what is free; more would push other programs out
PRINT_SIDE = 128  # pixels of the shorter side from which on a fingerprint loses nothing
PRINT_VERSION = 1  # a new one where fingerprints change: those that are kept are then left alone
AHEAD = 4  # results a thread that wait to be taken: enough to keep all threads busy


def in_threads(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int | None = None,
    ahead: int = 0,
) -> Generator[Result]:
    """`map(work, items)` on a pool of threads, in order, a bounded number of results ahead: `ahead`
    where it is more than enough to keep all threads busy.

    Threads, never processes: a process forked from a web server's threads can hang, and Pillow
    lets other threads run while it decodes.
    """
    count = threads or cpu_cores()
    pool = ThreadPoolExecutor(count, thread_name_prefix="decode")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > max(ahead, count * AHEAD):
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


def empty_pixels(count: int, size: int, *, free: int | None = None) -> Tensor:
    """Room for `count` pictures, uint8 (count, 3, size, size): see `empty_tensor`."""
    return empty_tensor((count, 3, size, size), np.uint8, free=free)


def empty_tensor(shape: tuple[int, ...], dtype: DTypeLike, *, free: int | None = None) -> Tensor:
    """Room for one row a picture.

    In memory where it fits into half of the `free` bytes (default: measured now), else in a
    temporary file mapped into memory, which the system deletes with the tensor.
    """
    limit = memory_available() if free is None else free
    if limit is None or math.prod(shape) * np.dtype(dtype).itemsize <= MEMORY_SHARE * limit:
        return torch.from_numpy(np.empty(shape, dtype))
    log.info("%d pictures do not fit into memory; they are kept in a temporary file", shape[0])
    with tempfile.TemporaryFile(prefix="vgg-pixels-") as file:
        # The mapping keeps the file alive after it is closed.
        return torch.from_numpy(np.memmap(file, dtype, "w+", shape=shape))


def memory_available() -> int | None:
    """Bytes that this process can still take without swapping; None where no one tells."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = (line.split() for line in meminfo.read_text().splitlines())
        found += [1024 * int(line[1]) for line in lines if line[0] == "MemAvailable:"]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdecimal():
        found.append(max(0, int(text) - int(used.read_text())))
    return min(found, default=None)


def device_room(device: torch.device, needed: int) -> bool:
    """Whether `needed` bytes more fit onto the device beside a training."""
    if device.type != "cuda":
        return False
    torch.cuda.empty_cache()  # what torch holds in store counts as free
    free, _ = torch.cuda.mem_get_info(device)
    return needed <= MEMORY_SHARE * free


@dataclass(frozen=True)
class LoadedPicture:
    """What was found in one file. `error` says in a sentence why there is nothing.

    `pixels` is uint8 (3, S, S), RGB; `fingerprint` a record of `FINGERPRINT`; each only where it
    was asked for. `digest` is of the file's bytes, where a fingerprint or the
    digest itself was asked for.
    """

    file: Path
    digest: str | None
    pixels: Tensor | None = None
    fingerprint: np.ndarray | None = None
    error: str | None = None


def digests_of(files: Sequence[Path]) -> Generator[str | None]:
    """The digest of each file's bytes; None where it can't be read (any more)."""
    return in_threads(_digest, files)


def load_picture(
    file: Path, cfg: Preprocessing, *, with_fingerprint: bool = False, with_digest: bool = False
) -> LoadedPicture:
    """Read one picture, as `Predictor` does, and take its fingerprint from the same decoding."""
    digest = _digest(file) if with_fingerprint or with_digest else None
    try:
        image = read_image(file, min_side=needed_side(cfg))
        pixels = to_uint8(image, cfg)
        record = None
        if with_fingerprint and digest:
            smaller = min(image.size)  # than it is, where it is a JPEG
            if smaller < PRINT_SIDE and smaller < min(probe_size(file)):
                image = read_image(file, min_side=PRINT_SIDE)
            record = fingerprint(image, digest)
    except ImageError as error:
        return LoadedPicture(file, digest, error=reason_of(error))
    except OSError as error:
        return LoadedPicture(file, digest, error=f"can't be read any more ({error.strerror})")
    return LoadedPicture(file, digest, pixels, record)


def print_store(cfg: Preprocessing) -> FeatureStore:
    """Where fingerprints are kept: apart for each size at which a JPEG may be decoded."""
    side = max(PRINT_SIDE, needed_side(cfg))
    return FeatureStore(f"fingerprints-{PRINT_VERSION}-{side}", FINGERPRINT)


def _digest(file: Path) -> str | None:
    try:
        return file_digest(file)
    except OSError:
        return None

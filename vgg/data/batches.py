"""Many picture files as batches of pixels, decoded beside the model: in order, memory flat."""

import math
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vgg.data.files import batches, in_threads
from vgg.data.images import ImageError, read_image
from vgg.data.transforms import needed_side, to_uint8
from vgg.network.config import Preprocessing

AHEAD = 2  # batches a process that wait to be taken
MANY = 1000  # processes: no limit

Decoded = Tensor | str  # uint8 (3, size, size), RGB, or a sentence why the file can't be read


@dataclass(frozen=True)
class Batch:
    """What so many files hold. `pixels` is uint8 (N, 3, size, size), RGB: those that could be read,
    in order. `errors` has one entry a file: None, or a sentence why it can't be read."""

    pixels: Tensor
    errors: list[str | None]


def read_batches(
    files: Iterable[Path], cfg: Preprocessing, size: int, *, workers: int = 0
) -> Generator[Batch]:
    """The pictures of `files`, `size` files at a time. While one batch is in use the next is read.

    By threads, of which Pillow lets several decode at once. They share one Python, though: to feed
    a GPU that answers thousands of pictures a second, `workers` processes read instead, from a list
    of all files. Those are started anew, never forked, so the calling program needs its
    `if __name__ == "__main__":`.
    """
    if workers:
        if listed := list(files):
            yield from _by_processes(listed, cfg, size, workers)
        return
    for part in batches(in_threads(partial(decode, cfg=cfg), files, ahead=size), size):
        yield _batch(part, cfg)


def room_for_processes(cfg: Preprocessing, size: int) -> int:
    """How many processes can hand batches over in shared memory: a container may have little."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return MANY
    batch = size * math.prod(cfg.input_size)
    return shutil.disk_usage(place).free // ((AHEAD + 1) * batch)


def decode(file: Path, cfg: Preprocessing) -> Decoded:
    """One file as the network sees it; a JPEG is decoded no larger than that needs."""
    try:
        return to_uint8(read_image(file, min_side=needed_side(cfg), white=cfg.white), cfg)
    except ImageError as error:
        return str(error)


def _batch(items: Sequence[Decoded], cfg: Preprocessing) -> Batch:
    read = [item for item in items if isinstance(item, Tensor)]
    pixels = torch.stack(read) if read else torch.empty(0, *cfg.input_size, dtype=torch.uint8)
    return Batch(pixels, [None if isinstance(item, Tensor) else item for item in items])


class _Files(Dataset[Decoded]):
    def __init__(self, files: Sequence[Path], cfg: Preprocessing) -> None:
        self.files, self.cfg = files, cfg

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Decoded:
        return decode(self.files[number], self.cfg)


def _by_processes(
    files: Sequence[Path], cfg: Preprocessing, size: int, workers: int
) -> Iterator[Batch]:
    yield from DataLoader(
        _Files(files, cfg),
        batch_size=size,
        num_workers=min(workers, -(-len(files) // size)),
        collate_fn=partial(_batch, cfg=cfg),
        prefetch_factor=AHEAD,
        multiprocessing_context="spawn",  # a fork of a process with threads can hang
    )

"""What fine-tuning learns from: outputs of frozen stages, computed once, or parts of pictures."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from vgg import distributed
from vgg.data.files import batches, in_threads
from vgg.data.reading import empty_pixels, empty_tensor
from vgg.data.transforms import sampled
from vgg.errors import UserError
from vgg.network.config import Preprocessing
from vgg.training.dataset import Dataset
from vgg.training.features import Trunk
from vgg.training.recipe import Pictures
from vgg.training.run import Run

AREAS = (0.35, 1.0)  # share of the picture that a zoom shows
RATIOS = (3 / 4, 4 / 3)  # width over height of what it shows
READ = 4  # pictures that say how long reading takes

Item = tuple[int, bool]  # the row of a picture, and whether it is mirrored


class ActivationCache:
    """What the frozen stages gave of each picture, and perhaps of its mirror image.

    A line is `early` numbers of the features, then what the fourth pool gave, all float16; in
    memory, or in a temporary file where they would take much of it. The lines are
    the rows of `Dataset`, `count` of them, and those of the mirror images come after.
    """

    def __init__(self, count: int, early: int) -> None:
        self.count, self.early = count, early
        self.filled = torch.zeros(2 * count, dtype=torch.bool)
        self.lines = torch.empty(0, 0)

    def put(self, row: int, features: np.ndarray, maps: Tensor, *, mirrored: bool = False) -> None:
        """Keep `maps` (C, S, S). Those of another size, from before, are given up."""
        line = torch.cat([torch.from_numpy(features[: self.early]), maps.cpu().flatten()])
        if self.lines.shape[1] != len(line):
            self.lines = empty_tensor((len(self.filled), len(line)), np.float16)
            self.filled[:] = False
        self.lines[row + mirrored * self.count] = line
        self.filled[row + mirrored * self.count] = True

    def lacking(self, rows: Iterable[int], *, mirrored: bool) -> list[Item]:
        """Those that are not there yet."""
        return [(row, mirrored) for row in rows if not self.filled[row + mirrored * self.count]]


class CachedPictures(Pictures):
    """Pictures whose rows are in an `ActivationCache`, as many mirror images after them."""

    def take(
        self,
        rows: Tensor,
        device: torch.device,
        cfg: Preprocessing,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        shown = rows
        if generator:
            turned = torch.rand(len(rows), generator=generator) < 0.5 * self.mirror
            shown = rows + turned * (len(self.pixels) // 2)
        x = self.pixels[shown.to(self.pixels.device)].to(device)
        return x.float(), self.targets[rows].to(device)


class Zoomed(Pictures):
    """Pictures of which a network in training sees parts, larger, one in two mirrored."""

    def take(
        self,
        rows: Tensor,
        device: torch.device,
        cfg: Preprocessing,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        x, targets = super().take(rows, device, cfg)
        return (zoom(x, generator, mirror=self.mirror) if generator else x), targets


def zoom(x: Tensor, generator: torch.Generator, *, mirror: bool = True) -> Tensor:
    """A part of each picture, blown up to the full size, with `mirror` one in two mirrored:
    (N, C, S, S).

    Szegedy et al. 2015, "Going deeper with convolutions", section 6. All chance comes from
    `generator`, which lives on the CPU.
    """
    chance = torch.rand(5, len(x), generator=generator)
    area = AREAS[0] + (AREAS[1] - AREAS[0]) * chance[0]
    ratio = (math.log(RATIOS[0]) + math.log(RATIOS[1] / RATIOS[0]) * chance[1]).exp()
    width, height = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
    width = torch.where(chance[4] < 0.5 * mirror, -width, width)  # mirrored
    side = x.shape[3]
    away = torch.arange(side) - (side - 1) / 2  # from the middle, in pixels
    columns, rows = (
        away * part[:, None] + (side * (1 + (2 * at - 1) * (1 - part.abs())) - 1)[:, None] / 2
        for part, at in ((width, chance[2]), (height, chance[3]))
    )
    return sampled(x, columns.to(x.device), rows.to(x.device))


def fill(
    run: Run,
    dataset: Dataset,
    cache: ActivationCache,
    trunk: Trunk,
    items: Sequence[Item],
) -> None:
    """Run the trunk on these pictures and put what it gives into the cache.

    Several processes share the work, and all have all of it in the end. `UserError`: a picture
    is gone; `StoppedError`.
    """
    samples = dict(zip(dataset.rows.tolist(), dataset.samples, strict=True))

    def through_trunk(items: Sequence[Item]) -> Iterator[tuple[np.ndarray, Tensor]]:
        loaded = in_threads(
            lambda item: (dataset.load(samples[item[0]], trunk.cfg).pixels, item[1]), items
        )
        with closing(loaded):
            for batch in batches(loaded, trunk.batch_size):
                run.check_stop()
                pixels = [x.flip(2) if mirror else x for x, mirror in batch if x is not None]
                if len(pixels) < len(batch):
                    raise UserError("training.picture_gone")
                with run.lock:
                    features, maps = trunk.with_maps(torch.stack(pixels))
                yield from zip(features, maps.cpu(), strict=True)

    results = distributed.in_chunks(items, trunk.batch_size, through_trunk)
    for done, ((row, mirrored), result) in enumerate(zip(items, results, strict=True), start=1):
        cache.put(row, *result, mirrored=mirrored)
        run.progress("features", done, len(items))


def read_all(run: Run, dataset: Dataset, cfg: Preprocessing) -> Tensor:
    """Pixels of all pictures, uint8 (size, 3, S, S), a line a row. `UserError`: one is gone;
    `StoppedError`."""
    pixels = empty_pixels(dataset.size, cfg.size)
    loaded = in_threads(lambda sample: dataset.load(sample, cfg), dataset.samples)
    with closing(loaded):
        for done, (row, item) in enumerate(zip(dataset.rows, loaded, strict=True), start=1):
            run.check_stop()
            if item.pixels is None:
                raise UserError("training.picture_gone")
            pixels[row] = item.pixels
            run.progress("decode", done, len(dataset))
    return pixels


def seconds_to_read(dataset: Dataset, cfg: Preprocessing) -> float:
    """One picture, measured on a few: the last, which memory may have had no room for."""
    few = dataset.samples[-READ:]
    began = time.monotonic()
    list(in_threads(lambda sample: dataset.load(sample, cfg), few))
    return (time.monotonic() - began) / len(few)


def seconds_to_look(trunk: Trunk) -> float:
    """How long the trunk takes for one picture, measured on noise."""
    size = trunk.cfg.size
    noise = torch.randint(0, 256, (trunk.batch_size, 3, size, size), dtype=torch.uint8)
    trunk(noise)  # the first time is slower
    began = time.monotonic()
    trunk(noise)
    return (time.monotonic() - began) / trunk.batch_size

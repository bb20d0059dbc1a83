"""How fast a network learns on this machine, measured before a training is planned."""

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from vgg import distributed
from vgg.data.reading import device_room
from vgg.network.vgg import VGG
from vgg.training.learner import Learner
from vgg.training.recipe import Pictures, Recipe, TooLittleMemoryError

MEASURED_BATCHES, MEASURED_SECONDS = 3, 0.5  # the first is slower and does not count


def seconds_per_picture(
    model: VGG,
    recipe: Recipe,
    dtype: torch.dtype,
    pictures: Pictures | None = None,
    *,
    lock: AbstractContextManager[Any] | None = None,
) -> float:
    """How long learning from one picture takes now, measured on a copy, with `pictures` for a
    batch or with noise; with fewer at once where the device's memory is small. `lock` is held for
    one batch at a time; to wait for it is not counted."""
    pictures = pictures or noise(model.config.pretrained_cfg.size, recipe.batch_size)
    while (
        seconds := _seconds_a_step(model, recipe, dtype, pictures, lock or nullcontext())
    ) is None:
        if len(pictures) < 4:
            raise TooLittleMemoryError("training.memory")
        if next(model.parameters()).device.type == "cuda":
            torch.cuda.empty_cache()
        pictures = replace(pictures, rows=pictures.rows[: len(pictures) // 2])
    return seconds / len(pictures)


def _seconds_a_step(
    model: VGG,
    recipe: Recipe,
    dtype: torch.dtype,
    pictures: Pictures,
    lock: AbstractContextManager[Any],
) -> float | None:
    """None where the device's memory is too small for so many pictures."""
    distributed.barrier()
    took: list[float] = []
    try:
        learner = _learner(model, recipe, dtype, pictures)
        if not learner.fits():
            return None
        step = _step_of(learner)
        while distributed.any_of(len(took) < MEASURED_BATCHES or sum(took) < MEASURED_SECONDS):
            with lock:
                began = time.monotonic()
                step()
                took.append(time.monotonic() - began)
    except torch.OutOfMemoryError:
        if distributed.world() > 1:  # the others are in the middle of the step
            raise
        return None
    return distributed.run_on_rank_0(lambda: sum(took[1:]) / len(took[1:]))


def stepper(
    model: VGG, recipe: Recipe, dtype: torch.dtype, pictures: Pictures
) -> Callable[[], None]:
    """A function that learns once from all `pictures`, on a copy of `model`, and waits for the
    device."""
    return _step_of(_learner(model, recipe, dtype, pictures))


def _learner(model: VGG, recipe: Recipe, dtype: torch.dtype, pictures: Pictures) -> Learner:
    device = next(model.parameters()).device
    if device_room(device, pictures.pixels.nbytes):  # as those of a training are
        pictures = replace(pictures, pixels=pictures.pixels.to(device))
    recipe = replace(recipe, batch_size=len(pictures))
    return Learner(copy.deepcopy(model), pictures, 1000 * len(pictures), recipe, dtype)


def _step_of(learner: Learner) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    learner.train()

    def step() -> None:
        learner.step(learner.pictures.rows, generator).cpu()

    return step


def noise(size: int, count: int) -> Pictures:
    """Pictures of nothing, `size` pixels a side, to measure with."""
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    return Pictures(pixels, torch.zeros(count, dtype=torch.int64), torch.arange(count))

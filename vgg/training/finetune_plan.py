"""What fine-tuning has time and memory for: which stages learn, from what, for how many epochs."""

import math
import time
from dataclasses import dataclass
from functools import cached_property

import torch

from vgg import distributed
from vgg.network.summary import count_macs
from vgg.network.vgg import VGG
from vgg.training.cached_maps import (
    ActivationCache,
    CachedPictures,
    Item,
    Zoomed,
    seconds_to_look,
    seconds_to_read,
)
from vgg.training.dataset import Dataset, Trained
from vgg.training.features import Trunk
from vgg.training.film_recorder import ENDING
from vgg.training.partly_frozen import PartlyFrozenVGG, row_size
from vgg.training.recipe import Pictures, Recipe
from vgg.training.run import Run, RunState, copies_of
from vgg.training.scratch import EVALUATION_COST, SAFETY
from vgg.training.throughput import seconds_per_picture

RECIPE = Recipe(lr=0.003, batch_size=16, momentum=0.9, weight_decay=0.0, warmup=0.1, cosine=True)
LEAST_A_CLASS = 20  # pictures to learn from; with fewer the last layer alone does as well
WITH_MIRRORS = 5  # epochs that must be left for mirror images to be worth their time
LIGHT_MACS = 0.3e9  # of a network that even a CPU trains quickly
LARGEST_CACHE = 4 * 1024**3  # bytes
RESERVE = 0.02  # of the budget, for files


@dataclass(frozen=True)
class Way:
    """A way to tune: the first `frozen` stages do not learn. Fewer epochs than `least` do not pay;
    later ones than `most` change nothing."""

    frozen: int
    least: int
    most: int


CACHED = Way(frozen=4, least=3, most=16)  # from outputs of stage 4, computed once
ZOOMED = Way(frozen=2, least=10, most=60)  # from parts of the pictures


@dataclass(frozen=True)
class Plan:
    """The first `frozen` stages do not learn, the others from `samples_planned` pictures, and from
    `samples_limit` if it goes faster. `augment`: pictures are changed a little."""

    frozen: int
    augment: bool
    samples_planned: int
    samples_limit: float = math.inf
    deadline: float | None = None


class KeepProbe(Exception):  # noqa: N818 - it is a decision, not an error
    """The last layer alone is the result; the message says why, to people."""


def enough(run: Run, count: float, dataset: Dataset) -> bool:
    """Whether there are enough pictures to learn from; where it was asked for, always."""
    return run.options.mode != "auto" or count >= LEAST_A_CLASS * len(dataset.class_names)


def fits(numbers: int, count: int) -> bool:
    """Whether so many numbers a picture, twice and in half precision, are not too much to keep."""
    return 4 * numbers * count <= LARGEST_CACHE


class Planner:
    """Plans the tuning of a trunk, that of `model`, below the last layer that `probe` has."""

    def __init__(self, run: Run, probe: Trained, model: VGG, cache: ActivationCache) -> None:
        self.run, self.probe, self.model, self.cache = run, probe, model, cache
        self.dataset, self.parts = probe.dataset, probe.split
        self.config = probe.network.config
        self.cfg = self.config.pretrained_cfg

    def plan(self, accuracy: float) -> Plan:
        """What to do after a last layer of this `accuracy`. `KeepProbe`: nothing."""
        run, count = self.run, len(self.parts.train)
        if not enough(run, count, self.dataset):
            raise KeepProbe(
                f"{self._a_class:.0f} pictures a class are too few to tune more than the last "
                f"layer, it takes {LEAST_A_CLASS}"
            )
        if run.options.mode == "auto" and accuracy == 1:
            raise KeepProbe("the last layer alone is right for all held-out pictures")
        quick = run.device.type != "cpu" or count_macs(self.config) <= LIGHT_MACS
        if run.seconds is None:
            assert run.options.epochs
            way = ZOOMED if quick else CACHED
            augment = run.options.augment and (quick or self.probe.mirror)
            return Plan(way.frozen, augment, run.options.epochs * count)
        return (self._zoomed() if quick else None) or self._cached()

    def resumed(self, saved: RunState) -> Plan:
        """What was planned before the break."""
        until = None if self.run.seconds is None else self._epochs(1.0, 0.0)[1]
        planned = saved["fit"]["samples_planned"]
        return Plan(saved["frozen"], saved["augment"], planned, saved["most"], until)

    def network(self, frozen: int) -> PartlyFrozenVGG:
        """What learns: the probe's network, on the device."""
        network = PartlyFrozenVGG.of(self.probe.network, frozen).to(self.run.device)
        if self.run.device.type == "cpu":
            return network
        return network.to(memory_format=torch.channels_last)

    def lacking(self, *, mirrored: bool) -> list[Item]:
        """What the cache does not have yet; mirror images are learned from only."""
        wanted = self.parts.train + ([] if mirrored else self.parts.held_out)
        return self.cache.lacking(self.dataset.rows[wanted].tolist(), mirrored=mirrored)

    @cached_property
    def trunk(self) -> Trunk:
        return Trunk(
            self.model, self.config.head, self.cfg, device=self.run.device, dtype=self.run.dtype
        )

    @property
    def _a_class(self) -> float:
        return len(self.parts.train) / len(self.dataset.class_names)

    @cached_property
    def _reading(self) -> float:
        """Seconds to read one picture."""
        return seconds_to_read(self.dataset, self.cfg)

    def _zoomed(self) -> Plan | None:
        """Stages three to five, if there is time for enough epochs of them."""
        size = self.cfg.size
        noise = torch.randint(0, 256, (RECIPE.batch_size // 2, 3, size, size), dtype=torch.uint8)
        each = self._seconds_to_learn(ZOOMED, Zoomed, noise)
        epochs, until = self._epochs(each, len(self.dataset) * self._reading)
        if epochs < ZOOMED.least:
            return None
        augment = self.run.options.augment
        self._tell(f"stages 3 to 5, from {'parts of ' * augment}the pictures", ZOOMED, epochs, each)
        return self._planned(ZOOMED, augment, epochs, until)

    def _cached(self) -> Plan:
        """The last stage; with mirror images, if there is time for them, too."""
        size, count = row_size(self.config), len(self.parts.train)
        if not fits(size, len(self.dataset)):
            raise KeepProbe("there are too many pictures to keep in memory what is learned from")
        noise = torch.rand(RECIPE.batch_size, size).half()
        each = self._seconds_to_learn(CACHED, CachedPictures, noise)
        lacking = len(self.lacking(mirrored=False))
        augment = self.run.options.augment and self.probe.mirror
        looking = 0.0
        if lacking or augment:
            looking = seconds_to_look(self.trunk) + self._reading
        epochs, until = self._epochs(each, lacking * looking)
        if augment:
            fewer, _ = self._epochs(each, (lacking + count) * looking)
            augment = fewer >= WITH_MIRRORS
            epochs = fewer if augment else epochs
        if epochs < (CACHED.least if self.run.options.mode == "auto" else 1):
            raise KeepProbe(
                f"the time left is enough for {epochs:.1f} epochs of tuning, which changes little: "
                "a longer budget would do better"
            )
        what = f"stage 5, from outputs of stage 4{' and of mirror images' * augment}"
        self._tell(what, CACHED, epochs, each)
        return self._planned(CACHED, augment, epochs, until)

    def _seconds_to_learn(self, way: Way, kind: type[Pictures], noise: torch.Tensor) -> float:
        """From one picture."""
        count = RECIPE.batch_size // 2
        pictures = kind(noise, torch.zeros(count, dtype=torch.int64), torch.arange(count))
        network = self.network(way.frozen)
        return seconds_per_picture(network, RECIPE, self.run.dtype, pictures, lock=self.run.lock)

    def _epochs(self, each: float, before: float) -> tuple[float, float]:
        """How many there is time for, after `before` seconds of other work, and until when."""
        held_out = len(self.parts.held_out)
        after = copies_of(held_out) * self._reading + EVALUATION_COST * each * held_out
        left = self.run.left - after - (RESERVE + ENDING) * (self.run.seconds or 0)
        epoch = each * (len(self.parts.train) + EVALUATION_COST * held_out)
        epochs = max(0.0, SAFETY * (left - before) / epoch)
        return distributed.run_on_rank_0(lambda: epochs), time.monotonic() + left

    def _planned(self, way: Way, augment: bool, epochs: float, until: float) -> Plan:
        count = len(self.parts.train)
        planned = max(RECIPE.batch_size, round(min(epochs, way.most) * count))
        return Plan(way.frozen, augment, planned, way.most * count, until)

    def _tell(self, what: str, way: Way, epochs: float, each: float) -> None:
        more = ", more would change little" if epochs > way.most else ""
        self.run.say(
            "plan",
            f"{self._a_class:.0f} pictures a class and {self.run.left:.0f} s are enough to tune "
            f"{what}: {min(epochs, way.most):.0f} epochs{more}, by the speed measured: "
            f"{1 / each:.0f} pictures/s",
            epochs=min(epochs, way.most),
            pictures_per_second=1 / each,
        )

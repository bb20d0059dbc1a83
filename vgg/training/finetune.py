"""Fine-tuning: after a new last layer, the stages below it learn, where that is worth its time.

First the layer alone, then the trunk from there on, with smaller rates downwards (Kumar et al.
2022, "Fine-tuning can distort pretrained features…"). On a small machine only the fifth stage
learns, from what the fourth pool gave of each picture, computed once. Where there is the speed for
it, stages three to five learn, from parts of the pictures.
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from vgg import distributed
from vgg.data.reading import device_room
from vgg.errors import StoppedError, UserError
from vgg.inference.calibration import apply_temperature, fit_temperature
from vgg.network.summary import count_macs
from vgg.network.vgg import VGG
from vgg.training.cached_maps import (
    ActivationCache,
    CachedPictures,
    Item,
    Zoomed,
    fill,
    read_all,
    seconds_to_look,
    seconds_to_read,
)
from vgg.training.dataset import Dataset, Trained
from vgg.training.features import Trunk
from vgg.training.film_recorder import ENDING, FilmRecorder
from vgg.training.loop import eval_batch, train_loop
from vgg.training.options import TRAINED_HEAD
from vgg.training.partly_frozen import PartlyFrozenVGG, early_size, new_optimizer, row_size
from vgg.training.probe import train_probe
from vgg.training.recipe import Epoch, Fitted, Pictures, Recipe, TooLittleMemoryError
from vgg.training.run import Run, RunState, copies_of, round_to_half
from vgg.training.scratch import EVALUATION_COST, SAFETY
from vgg.training.throughput import seconds_per_picture

RECIPE = Recipe(lr=0.003, batch_size=16, momentum=0.9, weight_decay=0.0, warmup=0.1, cosine=True)
LEAST_A_CLASS = 20  # pictures to learn from; with fewer the last layer alone does as well
# Stages that do not learn; the fewest epochs that pay; the most: later ones change nothing.
SHELVED, LEAST_SHELVED, MOST_SHELVED = 4, 3, 16
ZOOMED, LEAST_ZOOMED, MOST_ZOOMED = 2, 10, 60
WITH_MIRRORS = 5  # epochs that must be left for mirror images to be worth their time
LIGHT_MACS = 0.3e9  # of a network that even a CPU trains quickly
LARGEST_SHELF = 4 * 1024**3  # bytes
RESERVE = 0.02  # of the budget, for files


@dataclass(frozen=True)
class Plan:
    """The first `frozen` stages do not learn; `augment`: pictures are changed a little."""

    frozen: int
    augment: bool
    shown: int
    most: float = math.inf
    deadline: float | None = None


class _KeepProbe(Exception):  # noqa: N818 - it is a decision, not an error
    """The last layer alone is the result; the message says why, to people."""


def train_finetune(run: Run, dataset: Dataset, model: VGG) -> tuple[str, Trained]:
    """Train a new last layer on the trunk of `model`, then the trunk; keep what does better on the
    held-out pictures. Returns `probe` or `finetune`, and what that gave.

    With mode `auto` the trunk stays as it is where tuning it would not pay; a sentence says why.
    """
    saved = run.read_state()
    config = replace(model.config, head=run.options.head or TRAINED_HEAD)
    cache = ActivationCache(dataset.size, early_size(config))
    # Filled by the way only where time counts: in a pass of its own the pictures come in the same
    # batches again after a break, and give the same numbers to the last bit.
    by_the_way = run.seconds is not None and run.device.type == "cpu" and distributed.world() == 1
    by_the_way &= _enough(run, 0.8 * len(dataset), dataset)
    by_the_way &= _fits(row_size(config, run.options.image_size), len(dataset))
    probe = train_probe(
        run,
        dataset,
        model,
        size=saved.get("size") if saved else None,
        keep=cache.put if by_the_way else None,
    )
    run.notes = list(dict.fromkeys(run.notes))  # what was said before a break is not said twice
    if saved and saved["key"] != f"finetune {probe.dataset.key}":
        run.say("warning", "the pictures have changed since: the trunk is tuned anew")
        saved = None
    after = saved["fit"]["epoch"] if saved else 0
    recorder = FilmRecorder(run, probe.dataset, probe.split, probe.network.config, after=after)
    tuning = _Tuning(run, probe, model, cache, recorder)
    try:
        return "finetune", tuning.work(saved)
    except _KeepProbe as reason:
        run.say("plan", f"{reason}; the trunk stays as it was")
    except (torch.OutOfMemoryError, TooLittleMemoryError):
        run.say("warning", "the device has too little memory to tune the trunk: it stays as it was")
    recorder.discard()
    facts = {**probe.facts, **tuning.facts, "kept": "probe"}
    return "probe", replace(probe, facts=facts, stopped=tuning.stopped)


def _enough(run: Run, count: float, dataset: Dataset) -> bool:
    """Whether there are enough pictures to learn from; where it was asked for, always."""
    return run.options.mode != "auto" or count >= LEAST_A_CLASS * len(dataset.class_names)


def _fits(numbers: int, count: int) -> bool:
    """Whether so many numbers a picture, twice and in half precision, are not too much to keep."""
    return 4 * numbers * count <= LARGEST_SHELF


class _Tuning:
    """What comes after the probe."""

    def __init__(
        self, run: Run, probe: Trained, model: VGG, cache: ActivationCache, recorder: FilmRecorder
    ) -> None:
        self.run, self.probe, self.model, self.cache = run, probe, model, cache
        self.recorder = recorder
        self.dataset, self.parts = probe.dataset, probe.split
        self.config = probe.network.config
        self.cfg = self.config.pretrained_cfg
        self.facts: dict[str, Any] = {"accuracy_probe": self._accuracy(probe.probs)}
        self.stopped = probe.stopped

    def work(self, saved: RunState | None) -> Trained:
        """The tuned network, where it is better than the probe."""
        plan = self._resumed(saved) if saved else self._plan()
        train, held_out = self._sides(plan)
        network = self._tuned(plan.frozen)
        fitted = self._fit(network, train, held_out, plan, saved)
        self.stopped = fitted.stopped
        round_to_half(network)
        logits = self._logits(network, held_out)
        targets = self.dataset.labels[self.parts.held_out]
        temperature = fit_temperature(logits, targets)
        probs = apply_temperature(logits, temperature)
        before, now = self.facts["accuracy_probe"], self._accuracy(probs)
        self.facts |= {"accuracy_finetune": now, "epochs_of_finetune": fitted.epochs}
        right = f"{now:.1%} of the {len(targets)} held-out pictures are right with the trunk tuned"
        if now <= before:
            raise _KeepProbe(f"{right}, {before:.1%} with the last layer alone")
        self.run.say("plan", f"{right}, {before:.1%} were with the last layer alone")
        best = network.plain()
        best.config = replace(best.config, extra={"temperature": temperature})
        calibrated = {"temperature": temperature, "temperature_from": "held_out"}
        return replace(
            self.probe,
            network=best,
            probs=probs,
            epochs=fitted.epochs,
            stopped=fitted.stopped,
            facts={**self.probe.facts, **self.facts, **calibrated, "kept": "finetune"},
        )

    def _tuned(self, frozen: int) -> PartlyFrozenVGG:
        network = PartlyFrozenVGG.of(self.probe.network, frozen).to(self.run.device)
        if self.run.device.type == "cpu":
            return network
        return network.to(memory_format=torch.channels_last)

    def _accuracy(self, probs: np.ndarray) -> float:
        return float((probs.argmax(1) == self.dataset.labels[self.parts.held_out]).mean())

    def _sides(self, plan: Plan) -> tuple[Pictures, Pictures]:
        """Both sides of the split, over one tensor, on the device where it fits."""
        rows = torch.from_numpy(self.dataset.rows)
        try:
            if plan.frozen == ZOOMED:
                kind: type[Pictures] = Zoomed
                pixels = read_all(self.run, self.dataset, self.cfg, self._check_stop)
            else:
                kind = CachedPictures
                items = self._lacking(mirrored=False)
                items += self._lacking(mirrored=True) if plan.augment else []
                fill(self.run, self.dataset, self.cache, self._trunk, items, self._check_stop)
                pixels = self.cache.lines
        except UserError as error:
            raise _KeepProbe(str(error)) from error
        self.dataset.contents.let_go()
        targets = torch.zeros(len(pixels), dtype=torch.int64)
        targets[rows] = torch.from_numpy(self.dataset.labels)
        if device_room(self.run.device, pixels.nbytes):
            pixels = pixels.to(self.run.device)
        train, held_out = (rows[side] for side in (self.parts.train, self.parts.held_out))
        return kind(pixels, targets, train), kind(pixels, targets, held_out)

    def _lacking(self, *, mirrored: bool) -> list[Item]:
        """What the cache does not have yet; mirror images are learned from only."""
        wanted = self.parts.train + ([] if mirrored else self.parts.held_out)
        return self.cache.lacking(self.dataset.rows[wanted].tolist(), mirrored=mirrored)

    def _fit(
        self,
        network: PartlyFrozenVGG,
        train: Pictures,
        held_out: Pictures,
        plan: Plan,
        saved: RunState | None,
    ) -> Fitted:
        run = self.run
        content = {"key": f"finetune {self.probe.dataset.key}", "size": self.cfg.size}
        content |= {"frozen": plan.frozen, "augment": plan.augment, "most": plan.most}

        def on_epoch(epoch: Epoch, state: Any) -> None:
            self.recorder.record(epoch, state)  # first: after a break no frame is missing
            run.save_state(lambda: {**content, "fit": state()})
            run.event("epoch", **asdict(epoch))

        try:
            return train_loop(
                network,
                train,
                held_out,
                plan.shown,
                replace(RECIPE, augment=plan.augment),
                seed=run.options.seed,
                dtype=run.dtype,
                deadline=plan.deadline,
                samples_limit=plan.most,
                resume=saved["fit"] if saved else None,
                on_epoch=on_epoch,
                on_warning=lambda sentence: run.say("warning", sentence),
                should_stop=run.should_stop,
                lock=run.lock,
                optimizer=new_optimizer,
            )
        except TooLittleMemoryError:
            raise
        except (ValueError, StoppedError) as error:  # stopped or exploded before an epoch was over
            self._check_stop()
            run.say("warning", "tuning the trunk failed")
            raise _KeepProbe("the last layer alone is kept") from error

    def _check_stop(self) -> None:
        self.stopped = self.stopped or distributed.any_of(self.run.should_stop())
        if self.stopped:
            raise _KeepProbe("the training was stopped before the trunk was tuned")

    def _logits(self, network: PartlyFrozenVGG, held_out: Pictures) -> np.ndarray:
        chunks = []
        with torch.inference_mode():
            for rows in held_out.rows.split(eval_batch(self.cfg.size)):
                x, _ = held_out.take(rows, self.run.device, self.cfg)
                with self.run.lock:
                    chunks.append(network(x).cpu())
        return torch.cat(chunks).numpy()

    # What there is time for

    def _plan(self) -> Plan:
        run, count, classes = self.run, len(self.parts.train), len(self.dataset.class_names)
        self._check_stop()
        if not _enough(run, count, self.dataset):
            raise _KeepProbe(
                f"{count / classes:.0f} pictures a class are too few to tune more than the last "
                f"layer, it takes {LEAST_A_CLASS}"
            )
        if run.options.mode == "auto" and self.facts["accuracy_probe"] == 1:
            raise _KeepProbe("the last layer alone is right for all held-out pictures")
        quick = run.device.type != "cpu" or count_macs(self.config) <= LIGHT_MACS
        if run.seconds is None:
            assert run.options.epochs
            frozen = ZOOMED if quick else SHELVED
            return Plan(frozen, run.options.augment, run.options.epochs * count)
        return (self._plan_zoomed() if quick else None) or self._plan_shelved()

    def _plan_zoomed(self) -> Plan | None:
        """Stages three to five, if there is time for enough epochs of them."""
        size = self.cfg.size
        noise = torch.randint(0, 256, (RECIPE.batch_size // 2, 3, size, size), dtype=torch.uint8)
        each = self._seconds_to_learn(ZOOMED, Zoomed, noise)
        epochs, until = self._epochs(each, len(self.dataset) * self._reading)
        if epochs < LEAST_ZOOMED:
            return None
        augment = self.run.options.augment
        what = f"stages 3 to 5, from {'parts of ' * augment}the pictures"
        self._tell(what, epochs, MOST_ZOOMED, each)
        return self._planned(ZOOMED, augment, epochs, MOST_ZOOMED, until)

    def _plan_shelved(self) -> Plan:
        """The last stage; with mirror images, if there is time for them, too."""
        size, count = row_size(self.config), len(self.parts.train)
        if not _fits(size, len(self.dataset)):
            raise _KeepProbe("there are too many pictures to keep in memory what is learned from")
        noise = torch.rand(RECIPE.batch_size, size).half()
        each = self._seconds_to_learn(SHELVED, CachedPictures, noise)
        lacking, augment = len(self._lacking(mirrored=False)), self.run.options.augment
        looking = 0.0
        if lacking or augment:
            looking = seconds_to_look(self._trunk) + self._reading
        epochs, until = self._epochs(each, lacking * looking)
        if augment:
            fewer, _ = self._epochs(each, (lacking + count) * looking)
            augment = fewer >= WITH_MIRRORS
            epochs = fewer if augment else epochs
        if epochs < (LEAST_SHELVED if self.run.options.mode == "auto" else 1):
            raise _KeepProbe(
                f"the time left is enough for {epochs:.1f} epochs of tuning, which changes little: "
                "a longer budget would do better"
            )
        what = f"stage 5, from outputs of stage 4{' and of mirror images' * augment}"
        self._tell(what, epochs, MOST_SHELVED, each)
        return self._planned(SHELVED, augment, epochs, MOST_SHELVED, until)

    def _seconds_to_learn(self, frozen: int, kind: type[Pictures], noise: torch.Tensor) -> float:
        """From one picture."""
        network = self._tuned(frozen)
        count = RECIPE.batch_size // 2
        pictures = kind(noise, torch.zeros(count, dtype=torch.int64), torch.arange(count))
        return seconds_per_picture(network, RECIPE, self.run.dtype, pictures, lock=self.run.lock)

    def _epochs(self, each: float, before: float) -> tuple[float, float]:
        """How many there is time for, after `before` seconds of other work, and until when."""
        held_out = len(self.parts.held_out)
        after = copies_of(held_out) * self._reading + EVALUATION_COST * each * held_out
        left = self.run.left - after - (RESERVE + ENDING) * (self.run.seconds or 0)
        epoch = each * (len(self.parts.train) + EVALUATION_COST * held_out)
        epochs = max(0.0, SAFETY * (left - before) / epoch)
        return distributed.run_on_rank_0(lambda: epochs), time.monotonic() + left

    def _planned(self, frozen: int, augment: bool, epochs: float, most: int, until: float) -> Plan:
        count = len(self.parts.train)
        shown = max(RECIPE.batch_size, round(min(epochs, most) * count))
        return Plan(frozen, augment, shown, most * count, until)

    def _tell(self, what: str, epochs: float, most: int, each: float) -> None:
        count, classes = len(self.parts.train), len(self.dataset.class_names)
        more = ", more would change little" if epochs > most else ""
        self.run.say(
            "plan",
            f"{count / classes:.0f} pictures a class and {self.run.left:.0f} s are enough to tune "
            f"{what}: {min(epochs, most):.0f} epochs{more}, by the speed measured: "
            f"{1 / each:.0f} pictures/s",
            epochs=min(epochs, most),
            pictures_per_second=1 / each,
        )

    def _resumed(self, saved: RunState) -> Plan:
        self.run.event("resume", epoch=saved["fit"]["epoch"])
        until = None if self.run.seconds is None else self._epochs(1.0, 0.0)[1]
        plan = Plan(saved["frozen"], saved["augment"], saved["fit"]["samples_planned"])
        return replace(plan, most=saved["most"], deadline=until)

    @cached_property
    def _reading(self) -> float:
        """Seconds to read one picture."""
        return seconds_to_read(self.dataset, self.cfg)

    @cached_property
    def _trunk(self) -> Trunk:
        return Trunk(
            self.model, self.config.head, self.cfg, device=self.run.device, dtype=self.run.dtype
        )

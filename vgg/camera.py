"""The attention film is taken: after an epoch the network in training looks at a few pictures."""

import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from statistics import mean

import torch
from torch import Tensor

from vgg import distributed
from vgg.data import FolderIndex, Sample, Split
from vgg.film import COPY_SIDE, FOLDER, Film, Frame, read_film
from vgg.gradcam import Truth, heat_maps, truth_score
from vgg.images import read_image
from vgg.model import VGG
from vgg.options import ModelConfig
from vgg.predictor import Predictor
from vgg.recipe import Epoch, State
from vgg.runs import Run
from vgg.transforms import needed_side, placement, to_uint8

log = logging.getLogger(__name__)

SHARE = 0.04  # of a training's time, at most
LOOKING, CHECKING = 0.6, 0.2  # of that: for all frames; for the check of the first, and of the last
ENDING = SHARE * (LOOKING / 2 + CHECKING)  # of a training's time, for the last frame
MOST_PICTURES, MOST_FRAMES = 12, 60
TRIALS = 3  # random places that a marked one is compared with


class Camera:
    """Takes the frames of a training, in its folder, and never changes what is learned.

    All of it stays under `SHARE` of the training's time, so a short training has few frames of few
    pictures, or none. Of several processes the first alone has a camera that works.

    `after`: the epoch from which a training goes on that was killed; later frames are made anew.
    """

    def __init__(
        self,
        run: Run,
        index: FolderIndex,
        parts: Split,
        config: ModelConfig,
        *,
        after: int = 0,
    ) -> None:
        self.run, self.config = run, replace(config, extra={})
        self.working = distributed.is_first()
        self.film = Film(run.out / FOLDER, ())
        self._samples = probes(index, parts)
        self._pixels = torch.empty(0)
        self._areas: list[tuple[float, float, float, float]] = []
        self._cost = 0.0  # seconds of the dearest frame, its check not included
        self._began = time.monotonic()  # with this frame
        if self.working:
            self._go_on(after)

    def shoot(self, epoch: Epoch, state: Callable[[], State]) -> None:
        """A frame of the averaged weights in `state` (see `vgg.fitting`), where it is time for one.
        What goes wrong ends the film, not the training."""
        if not self.working:
            return
        self._began = time.monotonic()
        try:
            self._shoot(epoch, state)
        except (OSError, ValueError, torch.OutOfMemoryError) as error:
            self.working = False
            log.warning("the film ends here (%s)", type(error).__name__)
            if not self.film.frames:
                self.discard()
        self.film = replace(self.film, seconds=self._spent())

    def discard(self) -> None:
        """The network of this film is not kept, nor is the film."""
        if distributed.is_first():
            shutil.rmtree(self.film.folder, ignore_errors=True)

    def _go_on(self, after: int) -> None:
        found = None
        try:
            found = read_film(self.run.out) if after else None
        except ValueError:
            log.warning("the film so far is damaged: it begins anew")
        samples = {sample.label: sample for sample in self._samples}
        if found is None or any(number not in samples for number in found.classes):
            self.discard()
            return
        frames = tuple(frame for frame in found.frames if frame.epoch <= after)
        self.film = replace(found, frames=frames)
        self._samples = [samples[number] for number in found.classes]

    def _shoot(self, epoch: Epoch, state: Callable[[], State]) -> None:
        room = SHARE * (self.run.elapsed + epoch.seconds_left)
        first, last = not self.film.frames, epoch.number >= epoch.epochs
        # A map costs less than to learn from a picture. It is measured only where that may fit.
        fits = self._spent() + 2 / epoch.pictures_per_second < LOOKING * room
        if not (fits if first else self._due(epoch, room, last=last)):
            return
        began = time.monotonic()
        predictor = self._predictor(state()["average"])
        if not len(self._pixels) and not self._open(predictor, room):
            return
        heat, probs = self._look(predictor)
        self._cost = max(self._cost, time.monotonic() - began)
        most, seconds = len(heat), CHECKING * room
        if not first:
            most, seconds = last * self.film.frames[0].checked, room - self._spent()
        truth, checked = self._check(predictor, heat, probs, most, seconds)
        frame = Frame(epoch.number, tuple(probs.tolist()), truth, checked)
        self.film.keep_maps(epoch.number, heat)
        film = replace(self.film, frames=(*self.film.frames, frame))
        replace(film, seconds=self._spent()).keep()
        self.film = film

    def _due(self, epoch: Epoch, room: float, *, last: bool) -> bool:
        """Whether there is time for a frame now; those that there is time for are spread evenly."""
        left = epoch.epochs - epoch.number
        if not self._cost:  # after a break it is not known: the next frame shows it
            return self.film.seconds < room
        if last:
            return self.film.seconds + self._cost <= room
        checks = CHECKING * room * (1 if self.film.frames[0].checked else 0)
        # One frame more is kept for the end.
        affordable = int((LOOKING * room + checks - self.film.seconds) / self._cost) - 1
        affordable = min(affordable, MOST_FRAMES - len(self.film.frames) - 1)
        if affordable < 1:
            return False
        return epoch.number - self.film.frames[-1].epoch >= math.ceil(left / affordable)

    def _spent(self) -> float:
        """Seconds that the film has taken so far, those of this frame among them."""
        return self.film.seconds + time.monotonic() - self._began

    def _predictor(self, weights: State) -> Predictor:
        with torch.device("meta"):  # takes the weights as they are; nothing draws from chance
            network = VGG.from_config(self.config, init_weights=False)
        network.load_state_dict(weights, assign=True)
        return Predictor(network.eval(), str(self.run.device), self.run.options.precision)

    def _open(self, predictor: Predictor, room: float) -> bool:
        """Read the pictures, for a first frame as many as there is time for. False for none."""
        if not self.film.frames:
            ready = time.monotonic()
            self._read(self._samples[:1])
            read = time.monotonic()
            for _ in range(2):  # the first time is slower
                looked = time.monotonic()
                self._look(predictor)
            each = time.monotonic() - looked
            # Two frames at least, the first and the last; each makes a network ready.
            free = LOOKING * room - self._spent() - (ready - self._began)
            self._samples = _spread(self._samples, int(free / (2 * each + read - ready)))
        if not self._samples:
            self.working = False
            self.discard()
            return False
        self._read(self._samples)
        return True

    def _read(self, samples: Sequence[Sample]) -> None:
        cfg = self.config.pretrained_cfg
        pixels, areas = [], []
        for number, sample in enumerate(samples):
            image = read_image(sample.path, min_side=max(COPY_SIDE, needed_side(cfg)))
            pixels.append(to_uint8(image, cfg))
            areas.append(placement(image.size, cfg))
            self.film.keep_picture(number, image)
        self._pixels, self._areas = torch.stack(pixels), areas
        self.film = replace(self.film, classes=tuple(sample.label for sample in samples))

    def _look(self, predictor: Predictor) -> tuple[Tensor, Tensor]:
        """(heat (P, S, S), probability of the true class (P,)) of each picture."""
        classes = torch.tensor(self.film.classes)
        with self.run.lock:
            heat = heat_maps(predictor, self._pixels, classes.tolist())
        with self.run.lock:
            probs = predictor.probabilities(self._pixels)
        return heat, probs[torch.arange(len(classes)), classes]

    def _check(
        self, predictor: Predictor, heat: Tensor, probs: Tensor, most: int, seconds: float
    ) -> tuple[Truth | None, int]:
        """The mean truth of the first `most` maps, or of fewer in the time; and of how many."""
        found: list[Truth] = []
        each, until = (TRIALS + 2) * self._cost / len(heat), time.monotonic() + seconds
        for number in range(most):
            began = time.monotonic()
            if began + each > until:
                break
            pixels, area, index = (
                self._pixels[number],
                self._areas[number],
                self.film.classes[number],
            )
            with self.run.lock, suppress(ValueError):  # an empty map can't be checked
                found.append(
                    truth_score(predictor, pixels, heat[number], index, area=area, trials=TRIALS)
                )
            each = time.monotonic() - began
        if not found:
            return None, 0
        names = ("before", "hidden_marked", "hidden_random")
        return Truth(*(mean(getattr(truth, name) for truth in found) for name in names)), len(found)


def probes(index: FolderIndex, parts: Split) -> list[Sample]:
    """Held-out pictures, the first of each class; of many classes a few, evenly spread."""
    first: dict[int, Sample] = {}
    for number in parts.held_out:
        first.setdefault(index.samples[number].label, index.samples[number])
    return _spread([first[label] for label in sorted(first)], MOST_PICTURES)


def _spread(samples: list[Sample], most: int) -> list[Sample]:
    count = max(0, min(most, len(samples)))
    return [samples[number * len(samples) // count] for number in range(count)]

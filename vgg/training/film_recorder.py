"""Records the attention film: after an epoch, heat maps of a few pictures by the network so far."""

import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import mean

import torch
from PIL import Image
from torch import Tensor

from vgg import distributed
from vgg.checkpoints.file_names import FILM_FOLDER
from vgg.data.images import read_image
from vgg.data.index import Sample
from vgg.data.split import Split
from vgg.data.transforms import needed_side, placement, to_uint8
from vgg.errors import UserError
from vgg.inference.attention_film import COPY_SIDE, Film, Frame, read_film
from vgg.inference.faithfulness import Faithfulness, deletion_test
from vgg.inference.predictor import Predictor
from vgg.network.config import ModelConfig
from vgg.network.vgg import VGG
from vgg.training.dataset import Dataset
from vgg.training.recipe import Epoch, LoopState
from vgg.training.run import Run

log = logging.getLogger(__name__)

SHARE = 0.035  # of a training's time; with what can't be foreseen it stays under 5 %
FIRST_MAPS, FIRST = 0.25, 0.5  # of that: for the maps of the first frame; for all of it
ENDING = SHARE * (1 - FIRST)  # of a training's time, for the last frame
MOST_PICTURES, MOST_FRAMES = 12, 60
TRIALS = 2  # random places that a marked one is compared with


@dataclass(frozen=True, eq=False)
class _Picture:
    """A picture of the film: `pixels` is the network's input, uint8 (3, S, S), and `area` where the
    picture lies in it."""

    image: Image.Image
    pixels: Tensor
    area: tuple[float, float, float, float]


class FilmRecorder:
    """Takes the frames of a training, in its folder, and never changes what is learned.

    All of it stays near `SHARE` of the training's time, so a short training has few frames of few
    pictures, or none. Of several processes only the first records.

    `after`: the epoch from which a training goes on that was killed; later frames are made anew.
    """

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        parts: Split,
        config: ModelConfig,
        *,
        after: int = 0,
    ) -> None:
        self.run, self.config = run, replace(config, extra={})
        self.working = distributed.is_rank_0()
        self.film = Film(run.out / FILM_FOLDER, ())
        self._contents = dataset.contents
        self._samples = film_pictures(dataset, parts)
        self._pixels = torch.empty(0)
        self._areas: list[tuple[float, float, float, float]] = []
        self._cost = self._checking = 0.0  # seconds of the dearest frame, and of its check
        self._each = math.inf  # seconds of a picture, at best
        self._began = time.monotonic()  # with this frame
        if self.working:
            self._go_on(after)

    def record(self, epoch: Epoch, state: Callable[[], LoopState]) -> None:
        """A frame of the averaged weights in `state` (see `vgg.training.loop`), where it is
        time for one. What goes wrong ends the film, not the training."""
        if not self.working:
            return
        self._began = time.monotonic()
        try:
            self._record(epoch, state)
        except Exception as error:  # such as an operator that the device does not have
            self.working = False
            log.warning("the film ends here (%s)", type(error).__name__)
            if not self.film.frames:
                self.discard()
        self.film = replace(self.film, seconds=self._spent())

    def discard(self) -> None:
        """The network of this film is not kept, nor is the film."""
        if distributed.is_rank_0():
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

    def _record(self, epoch: Epoch, state: Callable[[], LoopState]) -> None:
        room = SHARE * (self.run.elapsed + epoch.seconds_left)
        first, last = not self.film.frames, epoch.number >= epoch.epochs
        # A map costs less than to learn from a picture.
        fits = self._spent() + 1 / epoch.pictures_per_second < FIRST_MAPS * room
        if not (fits if first else self._due(epoch, room, last=last)):
            return
        began = time.monotonic()
        predictor = self._predictor(state()["average"])
        if first:
            heat, probs = self._open(predictor, FIRST_MAPS * room)
        else:
            if not len(self._pixels):  # after a break
                self._keep(self._samples, [self._read(sample) for sample in self._samples])
            heat, probs = self._explained(predictor, self._pixels, self.film.classes)
        self._cost = max(self._cost, time.monotonic() - began)
        began = time.monotonic()
        wanted = len(heat) if first else last * self.film.frames[0].checked
        seconds = (FIRST * room if first else room) - self._spent()
        truth, checked = self._check(predictor, heat, wanted, seconds)
        self._checking = max(self._checking, time.monotonic() - began)
        self.film.keep_maps(epoch.number, heat)
        frame = Frame(epoch.number, tuple(probs.tolist()), truth, checked)
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
        free = room - self.film.seconds - self._cost - self._checking  # the last frame comes first
        affordable = int(free / self._cost)
        affordable = min(affordable, MOST_FRAMES - len(self.film.frames) - 1)
        if affordable < 1:
            return False
        return epoch.number - self.film.frames[-1].epoch >= math.ceil(left / affordable)

    def _spent(self) -> float:
        """Seconds that the film has taken so far, those of this frame among them."""
        return self.film.seconds + time.monotonic() - self._began

    def _predictor(self, weights: LoopState) -> Predictor:
        with torch.device("meta"):  # takes the weights as they are; nothing draws from chance
            network = VGG.from_config(self.config, init_weights=False)
        network.load_state_dict(weights, assign=True)
        return Predictor(network.eval(), str(self.run.device), self.run.options.precision)

    def _open(self, predictor: Predictor, seconds: float) -> tuple[Tensor, Tensor]:
        """As `_explained`, of one picture after the other until the time is over."""
        seen: list[tuple[Tensor, Tensor]] = []
        pictures, took = [], [math.inf]
        for sample in self._samples:
            began = time.monotonic()
            # The first is slower than the rest and says little.
            if len(seen) > 1 and self._spent() + min(took) > seconds:
                break
            pictures.append(self._read(sample))
            seen.append(self._explained(predictor, pictures[-1].pixels[None], (sample.label,)))
            took.append(time.monotonic() - began)
        self._each = min(took)
        if not seen:
            raise UserError("training.none_held_out")
        self._keep(self._samples[: len(seen)], pictures)
        heat, probs = (torch.cat(parts) for parts in zip(*seen, strict=True))
        return heat, probs

    def _read(self, sample: Sample) -> "_Picture":
        cfg = self.config.pretrained_cfg
        image = read_image(
            self._contents.read(sample.path),
            min_side=max(COPY_SIDE, needed_side(cfg)),
            white=cfg.white,
        )
        return _Picture(image, to_uint8(image, cfg), placement(image.size, cfg))

    def _keep(self, samples: Sequence[Sample], pictures: "Sequence[_Picture]") -> None:
        """These pictures are the film's."""
        for number, picture in enumerate(pictures):
            self.film.keep_picture(number, picture.image)
        self._pixels = torch.stack([picture.pixels for picture in pictures])
        self._areas = [picture.area for picture in pictures]
        self.film = replace(self.film, classes=tuple(sample.label for sample in samples))

    def _explained(
        self, predictor: Predictor, pixels: Tensor, classes: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """(heat (P, S, S), probability of the true class (P,)) of pictures, on the CPU."""
        with self.run.lock:
            heat, logits = predictor.explain(pixels, classes)
        probs = predictor.to_probabilities(logits)
        return heat, probs[torch.arange(len(classes)), torch.tensor(classes)]

    def _check(
        self, predictor: Predictor, heat: Tensor, most: int, seconds: float
    ) -> tuple[Faithfulness | None, int]:
        """The mean truth of the first `most` maps, or of fewer in the time; and of how many."""
        found: list[Faithfulness] = []
        each = (TRIALS + 2) * min(self._each, self._cost / len(heat))
        until = time.monotonic() + seconds
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
                    deletion_test(predictor, pixels, heat[number], index, area=area, trials=TRIALS)
                )
            each = time.monotonic() - began
        if not found:
            return None, 0
        names = ("before", "hidden_marked", "hidden_random")
        return Faithfulness(
            *(mean(getattr(truth, name) for truth in found) for name in names)
        ), len(found)


def film_pictures(dataset: Dataset, parts: Split) -> list[Sample]:
    """Held-out pictures, the first of each class; of many classes a few, evenly spread."""
    first: dict[int, Sample] = {}
    for number in parts.held_out:
        first.setdefault(dataset.samples[number].label, dataset.samples[number])
    return _spread([first[label] for label in sorted(first)], MOST_PICTURES)


def _spread(samples: list[Sample], most: int) -> list[Sample]:
    count = min(most, len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]

"""Prediction: pixels in, the k best classes out."""

import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import torch
from PIL import Image
from torch import Tensor

from vgg.checkpoints.loading import model_name
from vgg.data.batches import Batch, read_batches
from vgg.data.images import read_image, to_rgb
from vgg.data.transforms import needed_side, normalise, to_uint8
from vgg.device import (
    choose_device,
    choose_precision,
    device_name,
    memory_used,
    precision_name,
)
from vgg.errors import UserError
from vgg.inference.gradcam import GradCAM
from vgg.inference.options import PredictOptions
from vgg.network.compiling import Network, compiled
from vgg.network.config import AUTO, ModelConfig
from vgg.network.vgg import VGG
from vgg.network.winograd import use_winograd

log = logging.getLogger(__name__)

BATCH, CUDA_BATCH = 32, 128  # pictures at once: more are hardly faster a picture
MOST_AT_ONCE = 4096  # so many are never asked about

Begun = Callable[[], tuple[Tensor, float]]  # waits; logits on the CPU, and their seconds

Picture = Image.Image | str | Path | bytes | BinaryIO


@dataclass(frozen=True)
class Prediction:
    """The k best classes of one picture, best first. `probs` are in [0, 1]."""

    class_names: tuple[str, ...]
    probs: tuple[float, ...]
    indices: tuple[int, ...]

    def to_json(self) -> list[dict[str, str | float]]:
        """The `top` list of the command line's and the web's JSON."""
        pairs = zip(self.class_names, self.probs, strict=True)
        return [{"class": name, "probability": prob} for name, prob in pairs]


@dataclass(frozen=True)
class RunInfo:
    """What a prediction ran on, and what it took. `milliseconds` is for one picture, without
    the reading of its file, with its heat map where one was made; `memory` is bytes in use (on a
    CPU: of this process)."""

    device: str
    precision: str
    image_size: int
    milliseconds: float
    memory: int


class Predictor:
    """A VGG made ready for fast answers: on its device, in its precision, batch norm folded.

    `model` itself is never changed. `flip` averages each picture's logits with those of its mirror
    image (after Simonyan and Zisserman 2014, section 3.2): a little better, twice the time. None
    means as the model's config says. `batch_size` is how many pictures it takes at once; None
    means as many as suit the device.

        predictor = Predictor(load_model("starter"))
        predictor.predict([read_image("photo.jpg")], top_k=3)[0].class_names
    """

    def __init__(
        self,
        model: VGG,
        device: str = PredictOptions.device,
        precision: str = PredictOptions.precision,
        *,
        flip: bool | None = PredictOptions.flip,
        batch_size: int | None = PredictOptions.batch_size,
    ) -> None:
        if model.config.num_classes == 0:
            raise UserError("inference.trunk")
        PredictOptions(flip=flip, batch_size=batch_size)
        self.config = model.config
        self.device = choose_device(device)
        self.dtype = choose_precision(self.device, precision)
        # Where numbers on the way pass 65504, at which those of fp16 end, it is needed again.
        by_itself = precision == AUTO and self.dtype == torch.float16
        self._given = model if by_itself else None
        self.flip = model.config.flip if flip is None else flip
        self.batch_size = batch_size or (CUDA_BATCH if self.device.type == "cuda" else BATCH)
        self._take(model)
        # A GPU works on one batch while the next is put on it and the one before is written.
        self._ahead = 1 if self.device.type == "cuda" else 0
        self._most = MOST_AT_ONCE  # pictures that the device's memory takes at once
        self.last_run: RunInfo | None = None
        self._device_name = device_name(self.device)

    def _take(self, model: VGG) -> None:
        self.model = _ready(model, self.device, self.dtype)
        self._network: Network = self.model  # what answers: the model, perhaps compiled
        self._cam = GradCAM(self.model, frozen=True)

    def compile(self) -> None:
        """Make whole batches faster still, on a GPU for very many pictures
        (see `vgg.network.compiling`)."""
        cfg = self.config.pretrained_cfg
        with torch.inference_mode():
            pixels = torch.zeros(self.batch_size, *cfg.input_size, dtype=torch.uint8)
            x = normalise(pixels.to(self.device), cfg, self.dtype)
            self._network = compiled(self.model, x, learning=False)

    def predict(
        self, images: Picture | Iterable[Picture], top_k: int = PredictOptions.top_k
    ) -> list[Prediction]:
        """The `top_k` best classes of each picture, in the order given.

        `images`: PIL pictures, or what `read_image` takes. A `top_k` over the class count means
        all classes; one under 1 is a `ValueError`. An unreadable picture raises `ImageError`.
        """
        if isinstance(images, Image.Image | str | Path | bytes) or hasattr(images, "read"):
            images = [cast(Picture, images)]
        check_top_k(top_k, self.config.num_classes)
        waiting, answers = iter(images), list[Prediction]()
        while batch := list(islice(waiting, self.batch_size)):
            answers += self.top(self.measured(self.prepare(batch)), top_k)
        return answers

    def predict_files(
        self, files: Iterable[Path], top_k: int = PredictOptions.top_k, *, workers: int = 0
    ) -> Iterator[tuple[Prediction | None, str | None]]:
        """For each file in order its prediction, or a sentence why it can't be read.

        Files are read while the model works, by threads or by so many `workers`, processes of their
        own (see `vgg.data.batches`, which then takes the whole list of files at once); memory stays
        flat however many there are.
        """
        check_top_k(top_k, self.config.num_classes)
        under_way: deque[tuple[Batch, Begun]] = deque()
        found = read_batches(files, self.config.pretrained_cfg, self.batch_size, workers=workers)
        with closing(found):
            for batch in found:
                under_way.append((batch, self._begin(batch.pixels)))
                if len(under_way) > self._ahead:
                    yield from self._finish(*under_way.popleft(), top_k)
        for batch, begun in under_way:
            yield from self._finish(batch, begun, top_k)

    def _finish(
        self, batch: Batch, begun: Begun, top_k: int
    ) -> Iterator[tuple[Prediction | None, str | None]]:
        """The answers for one batch, in the order of its files."""
        logits, seconds = begun()
        answers = iter(self.top(self.to_probabilities(logits), top_k))
        if len(logits):
            self.last_run = self._run_info(1000 * seconds / len(logits))
        for error in batch.errors:
            yield (None, error) if error else (next(answers), None)

    def logits(self, pixels: Tensor) -> Tensor:
        """uint8 (N, 3, size, size), RGB → logits (N, num_classes), float32, on the CPU, not yet
        divided by the temperature. With `flip` they are the mean over picture and mirror image."""
        return self._begin(pixels)()[0]

    def probabilities(self, pixels: Tensor) -> Tensor:
        """uint8 (N, 3, size, size), RGB → probabilities (N, num_classes), float32, on the CPU."""
        return self.to_probabilities(self.logits(pixels))

    def to_probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, num_classes), as `logits` gives them → calibrated probabilities."""
        return torch.softmax(logits / self.config.temperature, dim=1)

    def measured(self, pixels: Tensor) -> Tensor:
        """`probabilities`, and `last_run` tells what they took."""
        started = time.perf_counter()
        probs = self.probabilities(pixels)
        seconds = time.perf_counter() - started
        self.last_run = self._run_info(1000 * seconds / len(pixels))
        return probs

    def explain(
        self, pixels: Tensor, class_index: int | Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Answers and what speaks for them, of one pass: heat maps (N, size, size), float32 in
        [0, 1], as `GradCAM` makes them, and the logits that `logits` gives; on the CPU.

        `class_index` names a class for all pictures or one for each; None takes the most likely.
        With `flip` the maps are the mean over picture and mirror image, too.
        """
        started, dtype = time.perf_counter(), self.dtype
        x = normalise(pixels.to(self.device), self.config.pretrained_cfg, dtype)
        found = self._cam.with_logits(x, class_index, flip=self.flip)
        heat, logits = (part.cpu() for part in found)
        if self._overflowed(logits, dtype):
            return self.explain(pixels, class_index)
        self.last_run = self._run_info(1000 * (time.perf_counter() - started) / len(pixels))
        return heat, logits

    def _begin(self, pixels: Tensor) -> Begun:
        """Give pictures to the device, and a function that waits for the logits, on the CPU, and
        says how many seconds they took. A CUDA device works on while Python does; others are
        waited for at once."""
        started, dtype = time.perf_counter(), self.dtype
        if self.device.type != "cuda":
            answer = self._in_parts(pixels).cpu()
            if self._overflowed(answer, dtype):
                answer = self._in_parts(pixels).cpu()
            seconds = time.perf_counter() - started
            return lambda: (answer, seconds)
        with torch.cuda.device(self.device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            logits = self._in_parts(pixels).to("cpu", non_blocking=True)
            end.record()

        def wait() -> tuple[Tensor, float]:
            end.synchronize()
            sound = logits if not self._overflowed(logits, dtype) else self.logits(pixels)
            return sound, start.elapsed_time(end) / 1000

        return wait

    def _overflowed(self, logits: Tensor, dtype: torch.dtype) -> bool:
        """Whether fp16, which nobody asked for, was too little for these; then the network runs in
        fp32 from now on."""
        if self._given is None or dtype != torch.float16 or logits.isfinite().all():
            return False
        if self.dtype == dtype:  # the first time
            log.warning("this network's numbers are too large for fp16: it runs in fp32 now")
            self.dtype = torch.float32
            self._take(self._given)
        return True

    def _in_parts(self, pixels: Tensor) -> Tensor:
        """Logits on the device. Where its memory is too small for all at once, half as many
        at a time, from then on."""
        if not len(pixels):
            return torch.empty(0, self.config.num_classes)
        try:
            return torch.cat([self._forward(part) for part in pixels.split(self._most)])
        except torch.OutOfMemoryError:
            self._most = min(self._most, len(pixels)) // 2
            if not self._most:
                self._most = 1
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._in_parts(pixels)  # only here, where what the failed try took is free again

    @torch.inference_mode()
    def _forward(self, pixels: Tensor) -> Tensor:
        to_cuda = self.device.type == "cuda" and pixels.device.type == "cpu"
        if to_cuda:  # from such memory it is copied while Python goes on
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.device, non_blocking=to_cuda)
        x = normalise(pixels, self.config.pretrained_cfg, self.dtype)
        logits = self._network(x).float()
        if self.flip:
            logits = (logits + self._network(x.flip(3)).float()) / 2
        return logits

    def prepare(self, images: Sequence[Picture]) -> Tensor:
        """Read and fit pictures: uint8 (N, 3, size, size), RGB."""
        cfg = self.config.pretrained_cfg
        opened = (i if isinstance(i, Image.Image) else self.read(i) for i in images)
        return torch.stack([to_uint8(to_rgb(image), cfg) for image in opened])

    def read(self, source: str | Path | bytes | BinaryIO) -> Image.Image:
        """`read_image`, a JPEG no larger than this model sees it. All ways in use this one, so that
        page, command line and library give the same numbers."""
        cfg = self.config.pretrained_cfg
        return read_image(source, min_side=needed_side(cfg), white=cfg.white)

    def top(self, probs: Tensor, top_k: int = PredictOptions.top_k) -> list[Prediction]:
        """Probabilities (N, num_classes) → the k best of each row."""
        values, indices = probs.topk(check_top_k(top_k, self.config.num_classes), dim=1)
        names = self.config.label_names
        return [
            Prediction(tuple(names[i] for i in row), tuple(best), tuple(row))
            for best, row in zip(values.tolist(), indices.tolist(), strict=True)
        ]

    def _run_info(self, milliseconds: float) -> RunInfo:
        return RunInfo(
            device=self._device_name,
            precision=precision_name(self.dtype),
            image_size=self.config.pretrained_cfg.size,
            milliseconds=milliseconds,
            memory=memory_used(self.device)[0],
        )


def check_top_k(top_k: int, num_classes: int) -> int:
    """`top_k`, at most the class count. Under 1 is a `ValueError`."""
    return min(PredictOptions(top_k=top_k).top_k, num_classes)


def _ready(model: VGG, device: torch.device, dtype: torch.dtype) -> VGG:
    """A copy in eval mode with batch norm folded in fp32, then moved, laid out channels last."""
    copied = copy.deepcopy(model).eval()
    if copied.config.batch_norm:
        copied.float().fold_batch_norm()
    copied.requires_grad_(False)
    copied.to(device, dtype).to(memory_format=torch.channels_last)
    if device.type == "cpu" and dtype == torch.float32:
        use_winograd(copied, copied.config.pretrained_cfg.size)
    return copied.eval()


def check_trained(config: ModelConfig, spec: str) -> None:
    """A `UserError` where the network is untrained: what it answers would be a guess."""
    if config.num_classes and not config.trained:
        raise UserError("inference.untrained", name=model_name(spec))

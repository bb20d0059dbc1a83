"""Prediction: pixels in, the k best classes out."""

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image
from torch import Tensor

from vgg.device import (
    choose_device,
    choose_precision,
    cpu_cores,
    device_name,
    memory_used,
    precision_name,
)
from vgg.images import ImageError, read_image, to_rgb
from vgg.model import VGG
from vgg.transforms import needed_side, normalise, to_uint8
from vgg.winograd import use_winograd

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
    """What a prediction ran on, and what it took. `milliseconds` is for one picture, reading the
    file not included; `memory` is bytes in use (on a CPU: of this process)."""

    device: str
    precision: str
    image_size: int
    milliseconds: float
    memory: int


class Predictor:
    """A VGG made ready for fast answers: on its device, in its precision, batch norm folded.

    `model` itself is never changed. `flip` averages each picture's logits with those of its mirror
    image (after Simonyan and Zisserman 2014, section 3.2): a little better, twice the time. None
    means as the model's config says.

        predictor = Predictor(load_model("starter"))
        predictor.predict([read_image("photo.jpg")], top_k=3)[0].class_names
    """

    def __init__(
        self,
        model: VGG,
        device: str = "auto",
        precision: str = "auto",
        *,
        flip: bool | None = None,
        batch_size: int = 32,
    ) -> None:
        if model.config.num_classes == 0:
            raise ValueError(
                "this model is a trunk without a classifier: train it on a folder first"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        self.config = model.config
        self.device = choose_device(device)
        self.dtype = choose_precision(self.device, precision)
        self.flip = model.config.flip if flip is None else flip
        self.batch_size = batch_size
        self.model = _ready(model, self.device, self.dtype)
        self.last_run: RunInfo | None = None

    def predict(self, images: Picture | Iterable[Picture], top_k: int = 5) -> list[Prediction]:
        """The `top_k` best classes of each picture, in the order given.

        `images`: PIL pictures, or what `read_image` takes. A `top_k` over the class count means
        all classes; one under 1 is a `ValueError`. An unreadable picture raises `ImageError`.
        """
        if isinstance(images, Image.Image | str | Path | bytes) or hasattr(images, "read"):
            images = [images]
        return [prediction for batch in self._batches(images, top_k) for prediction in batch]

    def predict_stream(self, images: Iterable[Picture], top_k: int = 5) -> Iterator[Prediction]:
        """The same, one by one as batches finish: memory stays flat however many there are."""
        for batch in self._batches(images, top_k):
            yield from batch

    def predict_files(
        self, files: Iterable[Path], top_k: int = 5
    ) -> Iterator[tuple[Prediction | None, str | None]]:
        """For each file in order its prediction, or a sentence why it can't be read.

        Files are read by threads while the model works; memory stays flat however many there are.
        """
        check_top_k(top_k, self.config.num_classes)
        waiting = iter(files)
        with ThreadPoolExecutor(cpu_cores(), thread_name_prefix="read") as pool:
            batch = self._reading(pool, waiting)
            while batch:
                following = self._reading(pool, waiting)
                read = [future.result() for future in batch]
                pixels = [item for item in read if isinstance(item, Tensor)]
                answers = iter(self._answer(torch.stack(pixels), top_k) if pixels else ())
                for item in read:
                    yield (next(answers), None) if isinstance(item, Tensor) else (None, item)
                batch = following

    def _reading(self, pool: ThreadPoolExecutor, files: Iterator[Path]) -> list[Future]:
        return [pool.submit(self._try_prepare, f) for f in islice(files, self.batch_size)]

    def _try_prepare(self, file: Path) -> Tensor | str:
        try:
            return self.prepare([file])[0]
        except ImageError as error:
            return str(error)

    def probabilities(self, pixels: Tensor) -> Tensor:
        """uint8 (N, 3, size, size), RGB → probabilities (N, num_classes), float32, on the CPU."""
        with torch.inference_mode():
            x = normalise(pixels.to(self.device), self.config.pretrained_cfg, self.dtype)
            logits = self.model(x).float()
            if self.flip:
                logits = (logits + self.model(x.flip(3)).float()) / 2
            return torch.softmax(logits / self.config.temperature, dim=1).cpu()

    def prepare(self, images: Sequence[Picture]) -> Tensor:
        """Read and fit pictures: uint8 (N, 3, size, size), RGB."""
        cfg = self.config.pretrained_cfg
        opened = (i if isinstance(i, Image.Image) else self.read(i) for i in images)
        return torch.stack([to_uint8(_rgb(image), cfg) for image in opened])

    def read(self, source: str | Path | bytes | BinaryIO) -> Image.Image:
        """`read_image`, a JPEG no larger than this model sees it. All ways in use this one, so that
        page, command line and library give the same numbers."""
        return read_image(source, min_side=needed_side(self.config.pretrained_cfg))

    def top(self, probs: Tensor, top_k: int = 5) -> list[Prediction]:
        """Probabilities (N, num_classes) → the k best of each row."""
        values, indices = probs.topk(check_top_k(top_k, self.config.num_classes), dim=1)
        names = self.config.label_names
        return [
            Prediction(tuple(names[i] for i in row), tuple(best), tuple(row))
            for best, row in zip(values.tolist(), indices.tolist(), strict=True)
        ]

    def _batches(self, images: Iterable[Picture], top_k: int) -> Iterator[list[Prediction]]:
        check_top_k(top_k, self.config.num_classes)
        waiting = iter(images)
        while batch := list(islice(waiting, self.batch_size)):
            yield self._answer(self.prepare(batch), top_k)

    def _answer(self, pixels: Tensor, top_k: int) -> list[Prediction]:
        started = time.perf_counter()
        probs = self.probabilities(pixels)
        seconds = time.perf_counter() - started
        self.last_run = self._run_info(1000 * seconds / len(pixels))
        return self.top(probs, top_k)

    def _run_info(self, milliseconds: float) -> RunInfo:
        return RunInfo(
            device=device_name(self.device),
            precision=precision_name(self.dtype),
            image_size=self.config.pretrained_cfg.size,
            milliseconds=milliseconds,
            memory=memory_used(self.device)[0],
        )


def check_top_k(top_k: int, num_classes: int) -> int:
    """`top_k`, at most the class count. Under 1 is a `ValueError`."""
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"top_k must be a whole number from 1 up, not {top_k!r}")
    return min(top_k, num_classes)


def _ready(model: VGG, device: torch.device, dtype: torch.dtype) -> VGG:
    """A copy in eval mode with batch norm folded in fp32, then moved, laid out channels last."""
    copied = copy.deepcopy(model).eval()
    if copied.config.batch_norm:
        copied.float().fold_batch_norm()
    copied.requires_grad_(False)
    copied.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    if device.type == "cpu" and dtype == torch.float32:
        use_winograd(copied, copied.config.pretrained_cfg.size)
    return copied


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" and not image.has_transparency_data else to_rgb(image)

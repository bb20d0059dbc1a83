"""A GPU that a ZeroGPU Space lends for one answer. Imported on such a Space only.

The functions under `spaces.GPU` run in a process of their own, forked from this one: what they get
and give is pickled, so it is paths, numbers and NumPy arrays, never a model or a CUDA tensor.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import spaces
import torch

from vgg.checkpoints.folder import build_model, read_checkpoint
from vgg.device import device_name, precision_name
from vgg.inference.predictor import Predictor, RunInfo
from vgg.network.vgg import VGG

SECONDS = 20  # asked for an answer; a visitor's daily share is a few minutes
PAGE = os.getpid()


@spaces.GPU(duration=SECONDS)
def logits_there(path: str, precision: str, pixels: np.ndarray) -> tuple[np.ndarray, str, str]:
    """uint8 (N, 3, size, size), RGB → logits (N, classes), float32; device and precision."""
    predictor = _predictor(path, precision)
    logits = predictor.logits(torch.from_numpy(pixels)).numpy()
    return logits, device_name(predictor.device), precision_name(predictor.dtype)


@spaces.GPU(duration=SECONDS)
def explain_there(
    path: str, precision: str, pixels: np.ndarray, class_index: int | Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray, str, str]:
    """The same pixels → what `Predictor.explain` gives of them; device and precision."""
    predictor = _predictor(path, precision)
    heat, logits = predictor.explain(torch.from_numpy(pixels), class_index)
    return (
        heat.numpy(), logits.numpy(), device_name(predictor.device), precision_name(predictor.dtype)
    )  # fmt: skip


@lru_cache(maxsize=2)
def _predictor(path: str, precision: str) -> Predictor:
    """The model on the GPU, in the process that has one; it stays for the answers that follow."""
    if os.getpid() != PAGE:
        torch.set_num_threads(1)  # OpenMP's threads are not there after a fork
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Predictor(build_model(read_checkpoint(Path(path))), device, precision)


class BorrowingPredictor(Predictor):
    """A `Predictor` whose network runs on the lent GPU. Here it stays on the CPU."""

    def __init__(self, model: VGG, path: Path, precision: str) -> None:
        super().__init__(model, "cpu", "fp32")
        self._there = str(path), precision
        self._ran = ["GPU", precision]

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        logits, *self._ran = logits_there(*self._there, pixels.numpy())
        return torch.from_numpy(logits)

    def explain(
        self, pixels: torch.Tensor, class_index: int | Sequence[int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        started = time.perf_counter()
        heat, logits, *self._ran = explain_there(*self._there, pixels.numpy(), class_index)
        self.last_run = self._run_info(1000 * (time.perf_counter() - started) / len(pixels))
        return torch.from_numpy(heat), torch.from_numpy(logits)

    def _run_info(self, milliseconds: float) -> RunInfo:
        device, precision = self._ran
        device = f"{device} (ZeroGPU)"
        return replace(super()._run_info(milliseconds), device=device, precision=precision)

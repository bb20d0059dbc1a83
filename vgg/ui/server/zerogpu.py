"""A GPU that a ZeroGPU Space lends for one answer. Imported on such a Space only.

The functions under `spaces.GPU` run in a process of their own, forked from this one: what they get
and give is pickled, so it is paths, numbers and NumPy arrays, never a model or a CUDA tensor.
"""

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import spaces
import torch
from PIL import Image

from vgg.checkpoints.folder import build_model, read_checkpoint
from vgg.device import device_name, precision_name
from vgg.inference.heatmap import Explanation, explain
from vgg.inference.predictor import Predictor, RunInfo
from vgg.network.vgg import VGG

SECONDS = 20  # asked for an answer; a visitor's daily share is a few minutes
PAGE = os.getpid()


@spaces.GPU(duration=SECONDS)
def probabilities_there(
    path: str, precision: str, pixels: np.ndarray
) -> tuple[np.ndarray, str, str]:
    """uint8 (N, 3, size, size), RGB → probabilities (N, classes), float32; device and precision."""
    predictor = _predictor(path, precision)
    probs = predictor.probabilities(torch.from_numpy(pixels)).numpy()
    return probs, device_name(predictor.device), precision_name(predictor.dtype)


@spaces.GPU(duration=SECONDS)
def explain_there(
    path: str, precision: str, pixels: np.ndarray, class_index: int | None
) -> dict[str, Any]:
    """RGB (H, W, 3), uint8 → the fields of an `Explanation`, its tensors as arrays."""
    found = explain(_predictor(path, precision), Image.fromarray(pixels), class_index)
    return {**vars(found), "heat": found.heat.cpu().numpy(), "pixels": found.pixels.cpu().numpy()}


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
        self._ran = "ZeroGPU", precision

    def probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        probs, device, precision = probabilities_there(*self._there, pixels.numpy())
        self._ran = f"{device} (ZeroGPU)", precision
        return torch.from_numpy(probs)

    def explain(self, image: Image.Image, class_index: int | None = None) -> Explanation:
        """As `vgg.inference.heatmap.explain`."""
        found = explain_there(*self._there, np.asarray(image.convert("RGB")), class_index)
        known = {name: torch.from_numpy(found[name]) for name in ("heat", "pixels")}
        known["name"] = self.config.label_names[found["index"]]  # ImageNet's files have no names
        return Explanation(**{**found, **known})

    def _run_info(self, milliseconds: float) -> RunInfo:
        device, precision = self._ran
        return replace(super()._run_info(milliseconds), device=device, precision=precision)

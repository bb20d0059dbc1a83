"""VGG Studio: choose a VGG, show it pictures, train it on a folder, see what it answers and why.

Public names load their module when they are first used, so `import vgg` costs nothing (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vgg.evaluation import Evaluation, evaluate
    from vgg.formats import ImageError
    from vgg.gradcam import GradCAM
    from vgg.images import read_image
    from vgg.intake import scan_folder
    from vgg.model import VGG
    from vgg.predictor import Prediction, Predictor
    from vgg.training import TrainResult, train
    from vgg.weights import load_model

_HOMES = {
    "Evaluation": "vgg.evaluation",
    "GradCAM": "vgg.gradcam",
    "ImageError": "vgg.formats",
    "Prediction": "vgg.predictor",
    "Predictor": "vgg.predictor",
    "TrainResult": "vgg.training",
    "VGG": "vgg.model",
    "evaluate": "vgg.evaluation",
    "load_model": "vgg.weights",
    "read_image": "vgg.images",
    "scan_folder": "vgg.intake",
    "train": "vgg.training",
}

__all__ = [
    "VGG",
    "Evaluation",
    "GradCAM",
    "ImageError",
    "Prediction",
    "Predictor",
    "TrainResult",
    "evaluate",
    "load_model",
    "read_image",
    "scan_folder",
    "train",
]


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

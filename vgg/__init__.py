"""VGG Studio: choose a VGG, show it pictures, train it on a folder, see what it answers and why.

Public names load their module when they are first used, so `import vgg` costs nothing (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vgg.checkpoints.loading import load_model
    from vgg.data.folder import scan_folder
    from vgg.data.formats import ImageError
    from vgg.data.images import read_image
    from vgg.inference.evaluation import Evaluation, evaluate
    from vgg.inference.gradcam import GradCAM
    from vgg.inference.predictor import Prediction, Predictor
    from vgg.network.vgg import VGG
    from vgg.training.trainer import TrainResult, train

_HOMES = {
    "Evaluation": "vgg.inference.evaluation",
    "GradCAM": "vgg.inference.gradcam",
    "ImageError": "vgg.data.formats",
    "Prediction": "vgg.inference.predictor",
    "Predictor": "vgg.inference.predictor",
    "TrainResult": "vgg.training.trainer",
    "VGG": "vgg.network.vgg",
    "evaluate": "vgg.inference.evaluation",
    "load_model": "vgg.checkpoints.loading",
    "read_image": "vgg.data.images",
    "scan_folder": "vgg.data.folder",
    "train": "vgg.training.trainer",
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

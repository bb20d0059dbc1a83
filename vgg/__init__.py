"""VGG Studio: choose a VGG, show it pictures, train it on a folder, see what it answers and why.

Public names load their module when they are first used, so `import vgg` costs nothing (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vgg.images import ImageError, read_image
    from vgg.model import VGG
    from vgg.predictor import Prediction, Predictor
    from vgg.weights import load_model

_HOMES = {
    "ImageError": "vgg.images",
    "Prediction": "vgg.predictor",
    "Predictor": "vgg.predictor",
    "VGG": "vgg.model",
    "load_model": "vgg.weights",
    "read_image": "vgg.images",
}

__all__ = ["VGG", "ImageError", "Prediction", "Predictor", "load_model", "read_image"]


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

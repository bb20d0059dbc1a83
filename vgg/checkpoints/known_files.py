"""Files of ImageNet weights that everybody has, known by their SHA-256, not by their names."""

import hashlib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from vgg.network.config import Preprocessing

LEAST_BYTES = 500_000_000  # the smallest of them has 507 million
_TORCHVISIONS = Preprocessing()
_CAFFES = Preprocessing(  # Caffe's: RGB from 0 to 255, less the mean
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255), std=(1 / 255,) * 3
)


@dataclass(frozen=True)
class KnownFile:
    """What a file is. `blue_first`: its first convolution reads blue, green, red."""

    architecture: str
    preprocessing: Preprocessing = _TORCHVISIONS
    blue_first: bool = False


# The first eight digits of the SHA-256, as torchvision's file names have them.
KNOWN = {
    "8a719046": KnownFile("vgg11"),
    "6002323d": KnownFile("vgg11_bn"),
    "19584684": KnownFile("vgg13"),
    "abd245e5": KnownFile("vgg13_bn"),
    "397923af": KnownFile("vgg16"),
    "6c64b313": KnownFile("vgg16_bn"),
    "dcbb9e9d": KnownFile("vgg19"),
    "c79401a0": KnownFile("vgg19_bn"),
    # torchvision's trunk of amdegroot's, for SSD: its classifier is NaN.
    "88682ab5": KnownFile(
        "vgg16", Preprocessing(mean=(0.48235, 0.45882, 0.40784), std=(1 / 255,) * 3)
    ),
    # The authors' own, from Caffe, as jcjohnson converted them.
    "00b39a1b": KnownFile("vgg16", _CAFFES, blue_first=True),
    "d01eb7cb": KnownFile("vgg19", _CAFFES, blue_first=True),
}


@cache
def imagenet_classes() -> tuple[str, ...]:
    """ImageNet's 1000 class names in the order of the outputs; all differ."""
    file = Path(__file__).with_name("imagenet_classes.txt")
    return tuple(file.read_text(encoding="utf-8").splitlines())


def known_file(file: Path) -> KnownFile | None:
    """What this file is known as; None where it is somebody's own."""
    try:
        status = file.stat()
        if status.st_size < LEAST_BYTES or not file.is_file():
            return None
        return KNOWN.get(_digest(file, status.st_size, status.st_mtime_ns))
    except OSError:
        return None


def is_torchvisions(file: Path, name: str) -> bool:
    """Whether a file is torchvision's ImageNet network of this name, classifier and all."""
    known = known_file(file)
    return known is not None and known == KnownFile(name)


@lru_cache(maxsize=64)
def _digest(file: Path, size: int, time_ns: int) -> str:
    """The first eight digits, worked out once for a file that does not change."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:8]

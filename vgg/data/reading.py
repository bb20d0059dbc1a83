"""Pictures decoded for a network, as uint8 tensors, and room for many of them."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from vgg.data.cache import FeatureStore
from vgg.data.depth import WHITE
from vgg.data.duplicates import FINGERPRINT, fingerprint
from vgg.data.files import FileBytes, digest_of, reason_of
from vgg.data.images import ImageError, probe_size, read_file, read_image
from vgg.data.room import memory_available, temporary_file
from vgg.data.transforms import needed_side, to_uint8
from vgg.network.config import Preprocessing

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.5  # of what is free; more would push other programs out
PRINT_SIDE = 128  # pixels of the shorter side from which on a fingerprint loses nothing
PRINT_VERSION = 1  # a new one where fingerprints change: those that are kept are then left alone


def empty_pixels(count: int, size: int, *, free: int | None = None) -> Tensor:
    """Room for `count` pictures, uint8 (count, 3, size, size): see `empty_tensor`."""
    return empty_tensor((count, 3, size, size), np.uint8, free=free)


def empty_tensor(shape: tuple[int, ...], dtype: DTypeLike, *, free: int | None = None) -> Tensor:
    """Room for one row a picture.

    In memory where it fits into half of the `free` bytes (default: measured now), else in a
    temporary file mapped into memory, which the system deletes with the tensor. `UserError` where
    the disk has too little room, too.
    """
    limit = memory_available() if free is None else free
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if limit is None or size <= MEMORY_SHARE * limit:
        return torch.from_numpy(np.empty(shape, dtype))
    log.info("%d pictures do not fit into memory; they are kept in a temporary file", shape[0])
    with temporary_file(size) as file:
        # The mapping keeps the file alive after it is closed.
        return torch.from_numpy(np.memmap(file, dtype, "r+", shape=shape))


def device_room(device: torch.device, needed: int) -> bool:
    """Whether `needed` bytes more fit onto the device beside a training."""
    if device.type != "cuda":
        return False
    torch.cuda.empty_cache()  # what torch holds in store counts as free
    free, _ = torch.cuda.mem_get_info(device)
    return needed <= MEMORY_SHARE * free


@dataclass(frozen=True)
class LoadedPicture:
    """What was found in one file. `error` says in a sentence why there is nothing.

    `pixels` is uint8 (3, S, S), RGB; `fingerprint` a record of `FINGERPRINT`, where it was asked
    for.
    """

    pixels: Tensor | None = None
    fingerprint: np.ndarray | None = None
    error: str = ""


def load_picture(
    file: Path,
    cfg: Preprocessing,
    *,
    contents: FileBytes | None = None,
    digest: str = "",
    with_fingerprint: bool = False,
) -> LoadedPicture:
    """Read one picture, as `Predictor` does, and take its fingerprint from the same decoding.

    The bytes are those that `contents` has, or of a file that has this `digest` still.
    """
    try:
        data = contents.read(file, digest) if contents else read_file(file)
        image = read_image(data, min_side=needed_side(cfg), white=cfg.white)
        pixels = to_uint8(image, cfg)
        if not with_fingerprint:
            return LoadedPicture(pixels)
        smaller = min(image.size)  # than it is, where it is a JPEG
        if smaller < PRINT_SIDE and smaller < min(probe_size(data)):
            image = read_image(data, min_side=PRINT_SIDE, white=cfg.white)
        return LoadedPicture(pixels, fingerprint(image, digest or digest_of(data)))
    except ImageError as error:
        return LoadedPicture(error=reason_of(error))


def print_store(cfg: Preprocessing) -> FeatureStore:
    """Where fingerprints are kept: apart for each size at which a JPEG may be decoded."""
    side = max(PRINT_SIDE, needed_side(cfg))
    white = f"-{cfg.white}" if cfg.white != WHITE else ""
    return FeatureStore(f"fingerprints-{PRINT_VERSION}-{side}{white}", FINGERPRINT)

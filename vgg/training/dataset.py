"""All pictures of an index, read for a training: who they are, their pixels, their fingerprints."""

import hashlib
from collections.abc import Sequence
from contextlib import closing

import numpy as np
from torch import Tensor

from vgg import distributed
from vgg.data.reading import digests_of, empty_pixels, in_threads, load_picture, print_store
from vgg.data.split import FINGERPRINT, FolderIndex
from vgg.network.config import Preprocessing
from vgg.training.run import Run

GONE = "can't be read any more"


def identify(run: Run, index: FolderIndex) -> tuple[FolderIndex, list[str]]:
    """The digest of each picture's bytes, and the index less those that are gone."""
    digests: list[str | None] = []
    with closing(digests_of([sample.path for sample in index.samples])) as read:
        for digest in read:
            run.check_stop()
            digests.append(digest)
            run.progress("read", len(digests), len(index.samples))
    pairs = zip(index.samples, digests, strict=True)
    gone = {sample.name: GONE for sample, digest in pairs if digest is None}
    index, found = without(index, gone), [digest for digest in digests if digest]
    distributed.barrier()
    distributed.check_same(content_key(index, found), "pictures")
    return index, found


def content_key(index: FolderIndex, digests: Sequence[str]) -> str:
    """One digest of all pictures and their names: whether a folder is still the same."""
    key = hashlib.blake2b(digest_size=16)
    for sample, digest in zip(index.samples, digests, strict=True):
        key.update(f"{sample.name}\0{sample.label}\0{digest}\0".encode())
    return key.hexdigest()


def without(index: FolderIndex, reasons: dict[str, str]) -> FolderIndex:
    """`index.without`, where there is something to leave out."""
    return index.without(reasons) if reasons else index


def read_pixels(
    run: Run, index: FolderIndex, digests: Sequence[str], cfg: Preprocessing
) -> tuple[FolderIndex, Tensor, list[int], np.ndarray]:
    """Decode all pictures: (the index less the damaged, pixels, the rows of those left, prints).

    `pixels` is uint8 (M, 3, S, S) with a row for each picture of the first index; fingerprints
    that are known already are not computed again.
    """
    store = print_store(cfg)
    known = store.read(digests)
    fresh: dict[str, np.ndarray] = {}
    reasons: dict[str, str] = {}
    rows: list[int] = []
    pixels = empty_pixels(len(digests), cfg.size)
    prints = np.zeros(len(digests), FINGERPRINT)
    todo = zip(index.samples, digests, strict=True)
    looks = in_threads(
        lambda item: load_picture(item[0].path, cfg, with_fingerprint=item[1] not in known), todo
    )
    with closing(looks):
        for row, item in enumerate(looks):
            run.check_stop()
            if item.pixels is None:
                reasons[index.samples[row].name] = item.error or GONE
            else:
                rows.append(row)
                pixels[row] = item.pixels
                prints[row] = known.get(digests[row], item.fingerprint)
            if item.fingerprint is not None and item.digest:
                fresh[item.digest] = item.fingerprint
            run.progress("decode", row + 1, len(digests))
    store.write(fresh)
    return without(index, reasons), pixels, rows, prints[rows]

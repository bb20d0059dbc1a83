"""The pictures of a training, one table: who they are, their bytes, their pixels."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from vgg.data.cache import FeatureStore
from vgg.data.duplicates import FINGERPRINT
from vgg.data.files import FileBytes, in_threads
from vgg.data.index import FolderIndex, Sample
from vgg.data.mirroring import mirrored_pairs
from vgg.data.reading import LoadedPicture, empty_pixels, load_picture, print_store
from vgg.data.split import Split
from vgg.network.config import Preprocessing
from vgg.network.vgg import VGG
from vgg.training.run import Run


@dataclass(frozen=True, eq=False)
class Dataset:
    """The pictures to learn from, in the order of `index.samples`.

    The one key of a picture is its row: the number that it had when all had been looked at. Every
    table of a training (pixels, features, maps, fingerprints) has a line for each of the `size`
    first rows. Pictures that fall out, once, leave the others' rows as they are: `rows`, int64
    (N,), has those of the samples that are left.
    """

    index: FolderIndex
    rows: np.ndarray
    size: int
    contents: FileBytes = field(default_factory=lambda: FileBytes(0))

    @classmethod
    def of(cls, index: FolderIndex, contents: FileBytes | None = None) -> "Dataset":
        """All pictures of a folder, looked at just now."""
        count = len(index.samples)
        return cls(index, np.arange(count), count, contents or FileBytes(0))

    def __len__(self) -> int:
        return len(self.index.samples)

    @property
    def samples(self) -> tuple[Sample, ...]:
        return self.index.samples

    @property
    def labels(self) -> np.ndarray:
        """int64 (N,), numbers of `class_names`."""
        return self.index.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.index.class_names

    @property
    def digests(self) -> list[str]:
        """One a picture, of its file's bytes: what is kept on disk goes by them."""
        return [sample.digest for sample in self.samples]

    @property
    def key(self) -> str:
        """One digest of all pictures and their names: whether a folder is still the same."""
        key = hashlib.blake2b(digest_size=16)
        for sample in self.samples:
            key.update(f"{sample.name}\0{sample.label}\0{sample.digest}\0".encode())
        return key.hexdigest()

    def only(self, places: Sequence[int], reasons: Mapping[int, str]) -> "Dataset":
        """Those at these places, less those for which there are `reasons`, by place."""
        names = [sample.name for sample in self.samples]
        index = replace(self.index, samples=tuple(self.samples[place] for place in places))
        if reasons:
            index = index.without({names[place]: reason for place, reason in reasons.items()})
        kept = [place for place in places if place not in reasons]
        return replace(self, index=index, rows=self.rows[kept])

    def load(
        self, sample: Sample, cfg: Preprocessing, *, with_fingerprint: bool = False
    ) -> LoadedPicture:
        """Its pixels, of the bytes that its digest is of."""
        return load_picture(
            sample.path,
            cfg,
            contents=self.contents,
            digest=sample.digest,
            with_fingerprint=with_fingerprint,
        )


@dataclass(frozen=True)
class Trained:
    """What a training gave. `probs` (N, K), float32, are of the held-out pictures, in the order of
    the split; `facts` go into metrics.json. `mirror`: mirror images may be learned from."""

    network: VGG
    dataset: Dataset
    split: Split
    probs: np.ndarray
    epochs: int
    stopped: bool
    facts: dict[str, Any]
    mirror: bool = True


def mirrors(run: Run, dataset: Dataset, train: Sequence[int], prints: np.ndarray) -> bool:
    """Whether mirror images may be learned from, and answered with: not where classes are each
    other's, as the pictures to learn from tell; says so then."""
    if run.options.mirror is not None:
        return run.options.mirror
    pairs = mirrored_pairs(prints["thumbnail"][train], dataset.labels[train])
    if not pairs:
        return True
    told = [f"{dataset.class_names[a]!r} and {dataset.class_names[b]!r}" for a, b in pairs[:3]]
    more = f" and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
    run.say(
        "plan",
        f"{', '.join(told)}{more} are mirror images of each other, by the pictures to learn from: "
        "no picture is mirrored",
    )
    return False


def read_pixels(
    run: Run, dataset: Dataset, cfg: Preprocessing
) -> tuple[Dataset, Tensor, np.ndarray]:
    """Decode all pictures: (the dataset less the damaged, pixels, fingerprints of those left).

    `pixels` is uint8 (size, 3, S, S), a line a row; fingerprints that are known already are not
    computed again.
    """
    store: FeatureStore = print_store(cfg)
    known = store.read(dataset.digests)
    fresh: dict[str, np.ndarray] = {}
    reasons: dict[int, str] = {}
    pixels = empty_pixels(dataset.size, cfg.size)
    prints = np.zeros(len(dataset), FINGERPRINT)
    looks = in_threads(
        lambda sample: dataset.load(sample, cfg, with_fingerprint=sample.digest not in known),
        dataset.samples,
    )
    with closing(looks):
        for place, item in enumerate(looks):
            run.check_stop()
            if item.pixels is None:
                reasons[place] = item.error
            else:
                digest = dataset.samples[place].digest
                pixels[dataset.rows[place]] = item.pixels
                prints[place] = known.get(digest, item.fingerprint)
                if item.fingerprint is not None:
                    fresh[digest] = item.fingerprint
            run.progress("decode", place + 1, len(dataset))
    store.write(fresh)
    dataset.contents.let_go()
    left = [place for place in range(len(dataset)) if place not in reasons]
    return dataset.only(left, reasons), pixels, prints[left]

"""The index of a folder: which pictures, of which class; what was skipped, and why."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vgg.data.depth import WHITE
from vgg.errors import UserError

Part = Literal["train", "held_out"]  # of a folder that is divided already
_FEW = 10  # pictures of a class: fewer make its results rough,
_UNEVEN = 10  # and so does so many times fewer than the largest class has
LAYOUT = UserError("data.layout")


@dataclass(frozen=True)
class Sample:
    """One picture. `name` is its path below the scanned folder, with `/`, as in split.json.

    `part` is what split folders decide, None where there are none. `digest` is of the file's bytes
    (see `vgg.data.files`), empty where the scan read its header only.
    """

    path: Path
    name: str
    label: int
    part: Part | None = None
    digest: str = ""


@dataclass(frozen=True)
class Skipped:
    """A file or folder that is not used, by its path below the scanned folder, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class FolderIndex:
    """The pictures of a folder by class; `label` counts in `class_names`, which are sorted.

    `unused` are the pictures in `test/` where `val/` is there to measure on: for an evaluation,
    never learned from.
    """

    root: Path
    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    unused: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()
    white: int = WHITE  # in those that are grey of 16 bits
    least: int = field(default=2, repr=False)  # classes, and pictures a class

    @property
    def labels(self) -> np.ndarray:
        """int64 (N,), one a sample."""
        return np.fromiter((sample.label for sample in self.samples), np.int64, len(self.samples))

    @property
    def counts(self) -> dict[str, int]:
        """Pictures of each class, in the order of `class_names`."""
        counted = Counter(sample.label for sample in self.samples)
        return {name: counted[label] for label, name in enumerate(self.class_names)}

    @property
    def hints(self) -> list[str]:
        """Sentences on what will make the results worse or needs to be known."""
        counts = self.counts
        largest = max(counts, key=counts.__getitem__)
        few = [
            name
            for name in sorted(counts, key=counts.__getitem__)
            if counts[name] < _FEW or counts[name] * _UNEVEN < counts[largest]
        ]
        hints = []
        for name in few[:3]:
            others = f", {largest!r} {counts[largest]}" if counts[largest] > counts[name] else ""
            has = f"{name!r} has {pictures(counts[name])}{others}"
            hints.append(f"{has}: results for {name!r} will be rough")
        if len(few) > 3:
            hints.append(f"so will those for {len(few) - 3} more classes with few pictures")
        return [*hints, *self.notes]

    def to_json(self) -> dict[str, Any]:
        """What people are told of it: `counts`, `skipped`, `hints`."""
        skipped = [asdict(entry) for entry in self.skipped]
        return {"counts": self.counts, "skipped": skipped, "hints": self.hints}

    def without(self, reasons: Mapping[str, str]) -> "FolderIndex":
        """The index less some pictures, which join `skipped`: from `Sample.name` to the reason.

        A class that loses all its pictures goes, too. Raises ValueError where too little is left.
        """
        pairs, unused = (
            [(self.class_names[s.label], s) for s in samples if s.name not in reasons]
            for samples in (self.samples, self.unused)
        )
        gone = tuple(Skipped(name, reason) for name, reason in reasons.items())
        smaller = build_index(self.root, pairs, unused, self.skipped + gone, self.least)
        return replace(smaller, notes=self.notes, white=self.white)


def build_index(
    root: Path,
    used: list[tuple[str, Sample]],
    unused: list[tuple[str, Sample]],
    skipped: tuple[Skipped, ...],
    least: int,
) -> FolderIndex:
    """The index of (class name, sample) pairs, labels given anew; checks that there is enough."""
    counts = Counter(name for name, _ in used)
    names = tuple(sorted(counts, key=natural_order))
    if wrong := _too_little(root, {name: counts[name] for name in names}, least):
        if not skipped:
            raise wrong
        one = skipped[0]
        n = len(skipped)
        raise UserError("data.with_skipped", why=wrong, count=n, file=one.file, reason=one.reason)
    label = {name: k for k, name in enumerate(names)}
    return FolderIndex(
        root=root,
        samples=tuple(replace(sample, label=label[name]) for name, sample in used),
        class_names=names,
        skipped=skipped,
        unused=tuple(replace(s, label=label[name]) for name, s in unused if name in label),
        least=least,
    )


def _too_little(root: Path, counts: Mapping[str, int], least: int) -> UserError | None:
    """What is wrong where there are too few classes, or pictures of one."""
    if not counts:
        return UserError("data.no_pictures", name=root.name, how=LAYOUT)
    if len(counts) < least:
        only, count = next(iter(counts.items()))
        return UserError(
            "data.one_class", name=root.name, only=only, count=count, least=least, how=LAYOUT
        )
    few = [UserError("data.has", name=n, count=c) for n, c in counts.items() if c < least]
    if len(few) > 5:
        few[5:] = [UserError("data.more", count=len(few) - 5)]
    return UserError("data.few_pictures", least=least, few=few) if few else None


def class_key(name: str) -> str:
    """Equal for names of one class: however accents are written, with spaces around, in any case.
    One letter has its case: `a` and `A` may well be two classes."""
    plain = " ".join(unicodedata.normalize("NFC", name).split())
    return plain.casefold() if len(plain) > 1 else plain


def natural_order(name: str) -> tuple[list[str | int], str]:
    """A key that sorts names as people do: 2 before 10, whatever the case."""
    pieces = re.split(r"([0-9]+)", unicodedata.normalize("NFC", name).casefold())
    return [int(piece) if k % 2 else piece for k, piece in enumerate(pieces)], name


def pictures(count: int) -> str:
    return f"{count} picture" + "s" * (count != 1)

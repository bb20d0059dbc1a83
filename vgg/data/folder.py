"""A folder of pictures becomes an index: which pictures, of which class; what was skipped, and why.

Nothing is read but names and the headers of pictures. `split` divides the index.
"""

import os
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from vgg.data.images import IMAGE_SUFFIXES, ImageError, probe_size
from vgg.errors import UserError

MAX_FILES = 1_000_000  # a folder with more is a slip, such as naming the whole disk
Part = Literal["train", "held_out"]  # of a folder that is divided already
_MAX_DEPTH = 8  # folders below a class that are looked into
_PARTS = {"train": "train", "val": "val", "valid": "val", "test": "test"}  # of split folders
_SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"}
_FEW = 10  # pictures of a class: fewer make its results rough,
_UNEVEN = 10  # and so does so many times fewer than the largest class has
_LAYOUT = UserError("data.layout")


@dataclass(frozen=True)
class Sample:
    """One picture. `name` is its path below the scanned folder, with `/`, as in split.json.

    `part` is what split folders decide, None where there are none.
    """

    path: Path
    name: str
    label: int
    part: Part | None = None


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
            has = f"{name!r} has {_pictures(counts[name])}{others}"
            hints.append(f"{has}: results for {name!r} will be rough")
        if len(few) > 3:
            hints.append(f"so will those for {len(few) - 3} more classes with few pictures")
        return [*hints, *self.notes]

    def without(self, reasons: Mapping[str, str]) -> "FolderIndex":
        """The index less some pictures, which join `skipped`: from `Sample.name` to the reason.

        A class that loses all its pictures goes, too. Raises ValueError where too little is left.
        """
        pairs, unused = (
            [(self.class_names[s.label], s) for s in samples if s.name not in reasons]
            for samples in (self.samples, self.unused)
        )
        gone = tuple(Skipped(name, reason) for name, reason in reasons.items())
        smaller = _index(self.root, pairs, unused, self.skipped + gone, self.least)
        return replace(smaller, notes=self.notes)


def scan_folder(path: str | Path, *, least: int = 2, max_files: int = MAX_FILES) -> FolderIndex:
    """Lists the pictures of a folder that has one sub-folder a class, reading their headers only.

    - The classes may lie one or more folders down, where each folder on the way holds one folder
      only. Below a class, pictures may lie in folders of any name.
    - Where all sub-folders are called train, val, valid or test and hold sub-folders themselves,
      they are parts of a split, and the classes, one level down, are matched by name. `train` is
      learned from. `val` is measured on, or `test` where there is no `val`.
    - Hidden files, what is no picture, links that leave the folder, empty classes, and pictures
      whose header can't be read are skipped, never fatal. A damaged picture may show only when it
      is decoded: see `FolderIndex.without`.

    Raises ValueError where there are fewer than `least` classes or pictures of a class.
    """
    root = _existing_folder(Path(path))
    walk = _Walk(root, max_files)
    folders, loose = walk.listing(root)
    while len(folders) == 1:
        inner_folders, inner_files = walk.listing(folders[0])
        if not inner_folders or any(map(_looks_like_picture, inner_files)):
            break
        walk.stray(loose)
        folders, loose = inner_folders, inner_files
    walk.stray(loose)
    parts = _parts(walk, folders)
    found: list[tuple[str, str | None, Path]] = []  # class, part, picture
    for folder in folders:
        part = parts.get(folder.name)
        classes = [folder]
        if part:
            classes, loose_in_part = walk.listing(folder)
            walk.stray(loose_in_part)
        for class_folder in classes:
            pictures = walk.pictures(class_folder)
            if not pictures:
                walk.skip(class_folder, "holds no picture that can be read; not used as a class")
            name = unicodedata.normalize("NFC", class_folder.name)
            found += [(name, part, file) for file in pictures]
    if not found and any(map(_looks_like_picture, loose)):
        raise UserError("data.loose", name=root.name, how=_LAYOUT)
    used, unused = _assigned(walk, found)
    index = _index(root, used, unused, tuple(walk.skipped), least)
    return replace(index, notes=_notes(index, folders, parts))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or what systems leave behind."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def reason_of(error: ImageError) -> str:
    """The sentence of an `ImageError` without the file's name, which `Skipped` has already."""
    return str(error.values.get("why", error))


def _existing_folder(path: Path) -> Path:
    try:
        root = path.resolve(strict=True)
    except FileNotFoundError:
        raise UserError("data.no_folder", path=str(path)) from None
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        raise UserError("data.folder_closed", path=str(path)) from None
    if root.is_dir():
        return root
    if zipfile.is_zipfile(root):
        raise UserError("data.is_zip", name=root.name)
    raise UserError("data.no_folder_or_zip", name=root.name, how=_LAYOUT)


class _Walk:
    """Goes through a folder once and notes what it skips."""

    def __init__(self, root: Path, max_files: int) -> None:
        self.root = root
        self.skipped: list[Skipped] = []
        self._left = self._max_files = max_files
        self._listings: dict[Path, tuple[list[Path], list[Path]]] = {}

    def name(self, path: Path) -> str:
        return str(path)[len(str(self.root)) :].lstrip(os.sep).replace(os.sep, "/")

    def skip(self, path: Path, reason: str) -> None:
        file = self.name(path).encode(errors="replace").decode()
        self.skipped.append(Skipped(file, reason))

    def stray(self, files: list[Path]) -> None:
        for file in files:
            self.skip(file, "lies outside of the class folders")

    def listing(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The visible folders and files in a folder, sorted; what is hidden or a link is noted."""
        if folder in self._listings:
            return self._listings[folder]
        folders: list[Path] = []
        files: list[Path] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._left -= 1
                    if self._left < 0:
                        raise UserError(
                            "data.many_files", name=self.root.name, most=self._max_files
                        )
                    path = folder / entry.name
                    if reason := self._unfit(entry, path):
                        self.skip(path, reason)
                    else:
                        (folders if entry.is_dir() else files).append(path)
        except OSError as error:
            self.skip(folder, f"can't be read ({error.strerror})")
        for paths in (folders, files):
            paths.sort(key=lambda path: _natural_order(path.name))
        self._listings[folder] = folders, files
        return folders, files

    def _unfit(self, entry: os.DirEntry[str], path: Path) -> str | None:
        """Why an entry is passed over, if it is."""
        if is_hidden(entry.name):
            return "is hidden, or made by the system"
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            return "has a name that is not valid text; rename it"
        if entry.is_symlink():
            try:
                target = path.resolve(strict=True)
            except (OSError, RuntimeError):  # RuntimeError: links in a circle
                return "is a link to nothing"
            if not target.is_relative_to(self.root):
                return "is a link that leaves the folder"
            if target.is_dir():
                return "is a link to a folder"
        return None

    def pictures(self, folder: Path, depth: int = 0) -> list[Path]:
        """All pictures in a folder and below whose header can be read."""
        folders, files = self.listing(folder)
        del self._listings[folder]
        good = [file for file in files if self._is_picture(file)]
        for below in folders:
            if depth == _MAX_DEPTH:
                self.skip(below, f"lies more than {_MAX_DEPTH} folders below its class")
            else:
                good += self.pictures(below, depth + 1)
        return good

    def _is_picture(self, file: Path) -> bool:
        if not _looks_like_picture(file):
            self.skip(file, "is not a picture, by the end of its name")
            return False
        try:
            probe_size(file)
        except ImageError as error:
            self.skip(file, reason_of(error))
            return False
        return True


def _looks_like_picture(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


def _natural_order(name: str) -> tuple[list[str | int], str]:
    """A key that sorts names as people do: 2 before 10, whatever the case."""
    pieces = re.split(r"([0-9]+)", unicodedata.normalize("NFC", name).casefold())
    return [int(piece) if k % 2 else piece for k, piece in enumerate(pieces)], name


def _pictures(count: int) -> str:
    return f"{count} picture" + "s" * (count != 1)


def _parts(walk: _Walk, folders: list[Path]) -> dict[str, str]:
    """From a folder's name to its part, if the folders are those of a split."""
    filled = [folder for folder in folders if any(walk.listing(folder))]
    if not all(f.name.lower() in _PARTS and walk.listing(f)[0] for f in filled):
        return {}
    parts = {folder.name: _PARTS[folder.name.lower()] for folder in filled}
    if parts and "train" not in parts.values():
        raise UserError("data.no_train", name=walk.root.name, parts=list(parts))
    return parts


def _assigned(
    walk: _Walk, found: list[tuple[str, str | None, Path]]
) -> tuple[list[tuple[str, Sample]], list[tuple[str, Sample]]]:
    """Samples with their class names: those to use, and those of `test` beside a `val`."""
    learned = {name for name, part, _ in found if part in (None, "train")}
    parts = {part for _, part, _ in found}
    measured = "val" if "val" in parts else "test"
    used: list[tuple[str, Sample]] = []
    unused: list[tuple[str, Sample]] = []
    for name, part, file in found:
        if name not in learned:
            walk.skip(file, f"shows {name!r}, of which train has no picture")
        elif part in (None, "train", measured):
            role: Part = "train" if part == "train" else "held_out"
            sample = Sample(file, walk.name(file), 0, role if measured in parts else None)
            used.append((name, sample))
        else:
            unused.append((name, Sample(file, walk.name(file), 0)))
    return used, unused


def _notes(index: FolderIndex, folders: list[Path], parts: dict[str, str]) -> tuple[str, ...]:
    notes = []
    if index.unused:
        count = _pictures(len(index.unused))
        notes.append(f"{count} in test left for an evaluation: val is there to measure on")
    if not parts and all(folder.name.lower() in _PARTS for folder in folders):
        names = " and ".join(repr(folder.name) for folder in folders)
        notes.append(f"{names} are taken for classes: not all of them hold class folders")
    return tuple(notes)


def _index(
    root: Path,
    used: list[tuple[str, Sample]],
    unused: list[tuple[str, Sample]],
    skipped: tuple[Skipped, ...],
    least: int,
) -> FolderIndex:
    """The index of (class name, sample) pairs, labels given anew; checks that there is enough."""
    counts = Counter(name for name, _ in used)
    names = tuple(sorted(counts, key=_natural_order))
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
        return UserError("data.no_pictures", name=root.name, how=_LAYOUT)
    if len(counts) < least:
        only, count = next(iter(counts.items()))
        return UserError(
            "data.one_class", name=root.name, only=only, count=count, least=least, how=_LAYOUT
        )
    few = [UserError("data.has", name=n, count=c) for n, c in counts.items() if c < least]
    if len(few) > 5:
        few[5:] = [UserError("data.more", count=len(few) - 5)]
    return UserError("data.few_pictures", least=least, few=few) if few else None

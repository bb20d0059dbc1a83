"""A folder of pictures becomes an index: which pictures, of which class; what was skipped, and why.

`split` divides the index.
"""

import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vgg.data.files import FileBytes
from vgg.data.index import LAYOUT, FolderIndex, Part, Sample, build_index, pictures
from vgg.data.walk import MAX_FILES, Walk, looks_like_picture
from vgg.errors import UserError

_PARTS = {"train": "train", "val": "val", "valid": "val", "test": "test"}  # of split folders


def scan_folder(
    path: str | Path,
    *,
    least: int = 2,
    max_files: int = MAX_FILES,
    contents: FileBytes | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> FolderIndex:
    """Lists the pictures of a folder that has one sub-folder a class, reading their headers only.

    - The classes may lie one or more folders down, where each folder on the way holds one folder
      only. Below a class, pictures may lie in folders of any name.
    - Where all sub-folders are called train, val, valid or test and hold sub-folders themselves,
      they are parts of a split, and the classes, one level down, are matched by name. `train` is
      learned from. `val` is measured on, or `test` where there is no `val`.
    - Hidden files, what is no picture, links that leave the folder, empty classes, and pictures
      whose header can't be read are skipped, never fatal. A damaged picture may show only when it
      is decoded: see `FolderIndex.without`.

    With `contents` the files are read whole, and the samples have digests; the next who asks for
    their bytes gets those. `on_progress` gets files looked at and files in all. `should_stop` is
    asked at every file: a `StoppedError` ends the scan then.

    Raises `UserError` where there are fewer than `least` classes or pictures of a class.
    """
    root = _existing_folder(Path(path))
    walk = Walk(root, max_files, should_stop)
    folders, loose = walk.listing(root)
    while len(folders) == 1:
        inner_folders, inner_files = walk.listing(folders[0])
        if not inner_folders or any(map(looks_like_picture, inner_files)):
            break
        walk.stray(loose)
        folders, loose = inner_folders, inner_files
    walk.stray(loose)
    parts = _parts(walk, folders)
    classes: list[tuple[Path, str | None, list[Path]]] = []  # folder, part, files
    for folder in folders:
        part = parts.get(folder.name)
        class_folders = [folder]
        if part:
            class_folders, loose_in_part = walk.listing(folder)
            walk.stray(loose_in_part)
        classes += [(inner, part, walk.files(inner)) for inner in class_folders]
    digests = walk.pictures(
        [file for *_, files in classes for file in files], contents, on_progress
    )
    found: list[tuple[str, str | None, Path]] = []  # class, part, picture
    for folder, part, files in classes:
        good = [file for file in files if file in digests]
        if not good:
            walk.skip(folder, "holds no picture that can be read; not used as a class")
        name = unicodedata.normalize("NFC", folder.name)
        found += [(name, part, file) for file in good]
    if not found and any(map(looks_like_picture, loose)):
        raise UserError("data.loose", name=root.name, how=LAYOUT)
    used, unused = _assigned(walk, found, digests)
    index = build_index(root, used, unused, tuple(walk.skipped), least)
    return replace(index, notes=_notes(index, folders, parts))


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
    raise UserError("data.no_folder_or_zip", name=root.name, how=LAYOUT)


def _parts(walk: Walk, folders: list[Path]) -> dict[str, str]:
    """From a folder's name to its part, if the folders are those of a split."""
    filled = [folder for folder in folders if any(walk.listing(folder))]
    if not all(f.name.lower() in _PARTS and walk.listing(f)[0] for f in filled):
        return {}
    parts = {folder.name: _PARTS[folder.name.lower()] for folder in filled}
    if parts and "train" not in parts.values():
        raise UserError("data.no_train", name=walk.root.name, parts=list(parts))
    return parts


def _assigned(
    walk: Walk, found: list[tuple[str, str | None, Path]], digests: dict[Path, str]
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
            divided = role if measured in parts else None
            used.append((name, Sample(file, walk.name(file), 0, divided, digests[file])))
        else:
            unused.append((name, Sample(file, walk.name(file), 0, digest=digests[file])))
    return used, unused


def _notes(index: FolderIndex, folders: list[Path], parts: dict[str, str]) -> tuple[str, ...]:
    notes = []
    if index.unused:
        count = pictures(len(index.unused))
        notes.append(f"{count} in test left for an evaluation: val is there to measure on")
    if not parts and all(folder.name.lower() in _PARTS for folder in folders):
        names = " and ".join(repr(folder.name) for folder in folders)
        notes.append(f"{names} are taken for classes: not all of them hold class folders")
    return tuple(notes)

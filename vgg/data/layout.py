"""What the folders in a folder are: classes, parts of a split, or pictures without labels.

Where that is not certain, a note says how it was understood.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vgg.data.folder_names import is_to_be_asked, means_nothing, part_in, parts_of
from vgg.data.index import class_key
from vgg.data.walk import MAX_DEPTH, Walk, looks_like_picture
from vgg.errors import UserError

_FEW = 4  # folders side by side of which one alone may hold the pictures


@dataclass(frozen=True)
class ClassFolder:
    """A folder whose pictures, at any depth, are of one class. `part` is train, val or test where
    the folder is divided."""

    folder: Path
    name: str
    part: str | None = None


@dataclass
class Layout:
    """How a folder is understood. `flat` are folders to learn from whose pictures lie in no class
    folders, or a single one that may be a class; `unlabeled` are folders whose pictures have no
    labels, each with what to say of it."""

    top: Path
    classes: list[ClassFolder] = field(default_factory=list)
    flat: list[Path] = field(default_factory=list)
    unlabeled: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    loose: list[Path] = field(default_factory=list)  # files beside the folders, some pictures
    parts: dict[str, list[str]] = field(default_factory=dict)  # names of the folders of each


def understand(walk: Walk) -> Layout:
    """The layout of `walk.root`: its folders are listed down to the classes, no file is opened but
    such as have an odd name."""
    top = _innermost(walk, walk.root)
    if top != walk.root:
        _stray(walk, walk.root, top.parent)
    layout = Layout(top, loose=walk.listing(top)[1])
    folders = walk.listing(top)[0]
    filled = [folder for folder in folders if any(walk.listing(folder))]
    named = parts_of([folder.name for folder in filled])
    parts = {folder: named[folder.name] for folder in filled if folder.name in named}
    if not {"train"} < set(parts.values()):
        parts = _alike(walk, filled) or parts
    others = [folder for folder in filled if folder not in parts]
    for folder in folders:
        if folder not in filled:
            walk.skip(folder, "is empty; not used as a class")
    if split := _split(walk, parts, others):
        _divided(walk, layout, split, [folder for folder in filled if folder not in split])
    elif parts and not others:
        _without_classes(walk, layout, parts)
    else:
        _by_class(walk, layout, parts, filled)
    if len(filled) < 2 and not any(walk.listing(folder)[0] for folder in filled):
        layout.flat = layout.flat or filled
    return layout


def _innermost(walk: Walk, folder: Path, *, packed: bool = False) -> Path:
    """Down to where there is more than one folder, or pictures. `packed`: only through folders that
    are there by how an archive was packed."""
    while len(shown := _with_pictures(walk, folders := walk.listing(folder)[0])) == 1:
        inner, inner_files = walk.listing(shown[0])
        if not inner or any(map(looks_like_picture, inner_files)):
            break
        if packed and not _is_packing(shown[0], folder):
            break
        if len(folders) > 1 and len(inner) == 1:  # it may be a class, and the others empty
            break
        for other in folders if not packed else []:
            if other not in shown:
                walk.skip(other, "holds no pictures; passed over")
        folder = shown[0]
    return folder


def _with_pictures(walk: Walk, folders: list[Path]) -> list[Path]:
    """Of a few folders those with pictures: `annotations` beside `images` is none."""
    if not 1 < len(folders) <= _FEW:
        return folders
    return [folder for folder in folders if _holds_picture(walk, folder)]


def _holds_picture(walk: Walk, folder: Path, depth: int = MAX_DEPTH) -> bool:
    inner, files = walk.listing(folder)
    below = inner if depth else []
    return any(map(looks_like_picture, files)) or any(
        _holds_picture(walk, deeper, depth - 1) for deeper in below
    )


def _is_packing(inner: Path, folder: Path) -> bool:
    """`test/test`, `train/images`."""
    return inner.name.casefold() == folder.name.casefold() or means_nothing(inner.name)


def _class_folders(walk: Walk, part: Path) -> list[Path]:
    """The class folders in a split folder; none where one holds all, as archives are packed."""
    inner = _innermost(walk, part, packed=True)
    folders = walk.listing(inner)[0]
    alone = len(folders) == 1 and not walk.listing(folders[0])[0]
    return [] if alone and _is_packing(folders[0], inner) else folders


def _stray(walk: Walk, top: Path, inner: Path) -> None:
    """Files on the way from `top` to where the classes lie belong to none."""
    for folder in [inner, *inner.parents]:
        walk.stray(walk.listing(folder)[1])
        if folder == top:
            break


def _split(walk: Walk, parts: dict[Path, str], others: Sequence[Path]) -> dict[Path, str]:
    """The parts of a split, where the folders are one: those by their names, and class folders
    that lie beside a `test/` of the same classes."""
    classes = {folder: _class_folders(walk, folder) for folder in parts}
    learned = [folder for folder, part in parts.items() if part == "train" and classes[folder]]
    if learned:
        beside = [folder for folder in others if not is_to_be_asked(folder.name)]
        alone = set(parts.values()) == {"train"}
        # Without another part, `train` may be a class: of pictures of trains.
        if not alone or (len(beside) < 2 and sum(len(classes[f]) for f in learned) > 1):
            return parts
    elif others and "train" not in parts.values():
        names = {folder.name.casefold() for folder in others}
        inside = {folder.name.casefold() for found in classes.values() for folder in found}
        if len(inside & names) > 1:
            return {**parts, **dict.fromkeys(others, "class")}
    return {}


def _alike(walk: Walk, folders: Sequence[Path]) -> dict[Path, str]:
    """The parts of a split by freer names, `PublicTest`, where all have the same classes inside."""
    parts = {folder: part_in(folder.name) for folder in folders}
    if not {"train"} < set(parts.values()) or "" in parts.values():
        return {}
    inside = [{class_key(f.name) for f in _class_folders(walk, folder)} for folder in folders]
    return parts if len(set.intersection(*inside)) > 1 else {}


def _divided(walk: Walk, layout: Layout, parts: dict[Path, str], others: Sequence[Path]) -> None:
    """Each part's class folders; what lies flat in a part, or beside them, has no labels."""
    for folder, part in parts.items():
        if part == "class":
            layout.classes.append(ClassFolder(folder, folder.name, "train"))
            continue
        class_folders = _class_folders(walk, folder)
        if class_folders:
            _stray(walk, folder, class_folders[0].parent)
            layout.classes += [ClassFolder(f, f.name, part) for f in class_folders]
            layout.parts.setdefault(part, []).append(folder.name)
        else:
            layout.unlabeled.append((folder, "without class folders: they have no labels"))
    beside = " and ".join(repr(folder.name) for folder in parts)
    for folder in others:
        layout.unlabeled.append((folder, f"beside {beside}: they are not used"))


def _without_classes(walk: Walk, layout: Layout, parts: dict[Path, str]) -> None:
    """Split folders only, and no classes to learn from in them."""
    layout.flat = [folder for folder, part in parts.items() if part == "train"]
    if not layout.flat and any(_class_folders(walk, folder) for folder in parts):
        names = [folder.name for folder in parts]
        raise UserError("data.no_train", name=walk.root.name, parts=names)
    layout.flat = layout.flat or list(parts)
    for folder in parts:
        if folder not in layout.flat:
            layout.unlabeled.append((folder, "without class folders: they have no labels"))


def _by_class(walk: Walk, layout: Layout, parts: dict[Path, str], folders: Sequence[Path]) -> None:
    """A folder a class; but pictures right in `test/` have no labels."""
    taken = []
    for folder in folders:
        if parts.get(folder) == "test" and not walk.listing(folder)[0]:
            layout.unlabeled.append((folder, "without class folders: they have no labels"))
        elif is_to_be_asked(folder.name) and len(folders) > 2:
            layout.unlabeled.append((folder, "to be answered, by its name: they are not used"))
        else:
            layout.classes += _divided_inside(walk, layout, folder)
            taken += [repr(folder.name)] * (folder in parts)
    if taken:
        layout.notes.append(
            f"{' and '.join(taken)} {'is' if len(taken) == 1 else 'are'} taken for "
            f"{'a class' if len(taken) == 1 else 'classes'}, not for a part of a split"
        )
    if not any(part.part == "train" for part in layout.classes):
        layout.classes = [ClassFolder(f.folder, f.name) for f in layout.classes]
        layout.parts = {}


def _divided_inside(walk: Walk, layout: Layout, folder: Path) -> list[ClassFolder]:
    """A class that is divided itself, `cat/train`, `cat/test`; else the class as it is."""
    inner, files = walk.listing(folder)
    parts = parts_of([below.name for below in inner])
    if len(parts) < len(inner) or len(set(parts.values())) < 2 or "train" not in parts.values():
        return [ClassFolder(folder, folder.name)]
    walk.stray(files)
    for below in inner:
        names = layout.parts.setdefault(parts[below.name], [])
        names += [below.name] * (below.name not in names)
    return [ClassFolder(below, folder.name, parts[below.name]) for below in inner]

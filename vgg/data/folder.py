"""A folder of pictures becomes an index: which pictures, of which class; what was skipped, and why.

`layout` tells what the folders are, `labels` what a table or the files' names say. `split` divides
the index.
"""

import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vgg.data.files import FileBytes
from vgg.data.folder_names import CLASSES, LEAVES, TOP, is_to_be_asked, part_in, parts_of
from vgg.data.index import LAYOUT, FolderIndex, Part, Sample, build_index, class_key, pictures
from vgg.data.labels import TABLES, Labels, by_names, by_table, classes_in_names
from vgg.data.layout import Layout, understand
from vgg.data.walk import MAX_FILES, NO_PICTURE, Walk, looks_like_picture
from vgg.errors import UserError

NAMES = "names"  # as `labels`: the files' own names tell their classes
_BETWEEN = " - "  # of the names of folders in each other that are a class together


@dataclass(frozen=True)
class _Found:
    """A file that may be a picture. `part` is train, val or test, None where nothing is divided."""

    file: Path
    name: str  # of its class
    part: str | None = None
    home: Path | None = None  # its class folder


def scan_folder(
    path: str | Path,
    *,
    least: int = 2,
    labels: str | Path | None = None,
    classes: str = TOP,
    links: bool = True,
    max_files: int = MAX_FILES,
    contents: FileBytes | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> FolderIndex:
    """Lists the pictures of a folder that has one sub-folder a class, reading their headers only.

    - The classes may lie one or more folders down, where each folder on the way holds one folder
      only. Below a class, pictures may lie in folders of any name; `classes="leaves"` makes each of
      those a class. Names that differ in their case, or in spaces around, are one class.
    - Folders by the usual names of a split (see `folder_names`), the classes inside, are its parts.
      `train` is learned from. `val` is measured on, or `test` where there is no `val`. Pictures in
      a part without class folders, or beside the parts, have no labels, and are not used.
    - `labels` is a table of files and classes, also one in the folder by its name, or `names` where
      the files' own names tell: `cat.17.jpg`. One table in a folder without classes is found.
    - What systems leave behind, what is no picture, empty classes, and pictures whose header can't
      be read are skipped, never fatal. Without `links` those to other files are, too. A damaged
      picture may show only when it is decoded: see `FolderIndex.without`.

    With `contents` the files are read whole, and the samples have digests; the next who asks for
    their bytes gets those. `on_progress` gets files looked at and files in all. `should_stop` is
    asked at every file: a `StoppedError` ends the scan then.

    Raises `UserError` where there are fewer than `least` classes or pictures of a class.
    """
    if classes not in CLASSES:
        raise UserError("data.classes", value=classes, choices=CLASSES)
    root = _existing_folder(Path(path))
    walk = Walk(root, max_files=max_files, links=links, should_stop=should_stop)
    layout = understand(walk)
    if labels:
        found, notes = _labelled(walk, layout, labels)
    else:
        found, notes = _in_folders(walk, layout, least)
    held_out = "val" if any(item.part == "val" for item in found) else "test"
    unused = {item.file for item in found if held_out == "val" and item.part == "test"}
    digests = walk.pictures(
        [item.file for item in found],
        contents=contents,
        header_only=unused,
        on_progress=on_progress,
    )
    found = [item for item in found if item.file in digests]
    homes = {item.home for item in found}
    for folder in [item.folder for item in layout.classes if homes != {None}]:
        if folder not in homes:
            walk.skip(folder, "holds no picture that can be read; not used as a class")
    found, more_notes = _one_spelling(_by_leaves(found) if classes == LEAVES else found)
    used, left = _assigned(walk, found, held_out, digests)
    index = build_index(root, used, left, walk.skipped, least)
    notes += [*more_notes, *_division(layout, index), *_tree(found, classes), *_unlearned(found)]
    white, seen = walk.brightness([sample.path for sample in index.samples], contents)
    return replace(index, notes=(*notes, *seen), white=white)


def _existing_folder(path: Path) -> Path:
    try:
        root = path.resolve(strict=True)
    except FileNotFoundError:
        raise UserError("data.no_folder", name=path.name or str(path)) from None
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        raise UserError("data.folder_closed", name=path.name or str(path)) from None
    if root.is_dir():
        return root
    if zipfile.is_zipfile(root):
        raise UserError("data.is_zip", name=root.name)
    raise UserError("data.no_folder_or_zip", name=root.name, how=LAYOUT)


def _in_folders(walk: Walk, layout: Layout, least: int) -> tuple[list[_Found], list[str]]:
    """The files of each class folder; of a folder without any, those that its one table tells."""
    notes = list(layout.notes)
    told = _from_flat(walk, layout, least) if layout.flat or not layout.classes else None
    labelled = {item.file for item in told[0]} if told else set()
    for folder, why in layout.unlabeled:
        files = walk.files(folder)
        if labelled.isdisjoint(files) and (count := sum(map(looks_like_picture, files))):
            walk.skip(folder, f"holds {pictures(count)} {why}")
            notes.append(f"{folder.name!r} holds {pictures(count)} {why}")
    if told:
        return told[0], [*notes, *told[1]]
    walk.stray(layout.loose)
    found = [
        _Found(file, item.name, item.part, item.folder)
        for item in layout.classes
        for file in walk.files(item.folder)
    ]
    once = set(walk.once([item.file for item in found]))
    return [item for item in found if item.file in once], notes


def _from_flat(walk: Walk, layout: Layout, least: int) -> tuple[list[_Found], list[str]] | None:
    """Pictures that lie in no class folders: the one table beside them may tell their classes.

    None where there are no pictures, or the folder is a class after all.
    """
    files = [file for folder in layout.flat for file in walk.files(folder, keep=True)]
    shown = [file for file in walk.once([*layout.loose, *files]) if looks_like_picture(file)]
    if not shown:
        return None
    beside = [file for folder, _ in layout.unlabeled for file in walk.files(folder, keep=True)]
    how: UserError = LAYOUT
    for table in _tables(walk, layout):
        try:
            labels = by_table(table, shown, walk.name)
            if beside and not part_in(table.stem):
                labels = _with_beside(walk, table, labels, shown, beside)
            return _told(walk, layout, labels)
        except UserError as error:
            how = error if how is LAYOUT else how
    named = classes_in_names(shown)
    if layout.classes and (least < 2 or not named):
        return None
    if named:
        names: list[object] = list(named)
        if len(names) > 4:
            names[3:] = [UserError("data.more", count=len(names) - 3)]
        count = sum(named.values())
        how = UserError("data.by_names", count=count, classes=len(named), names=names)
    raise UserError("data.loose", name=walk.root.name, how=how)


def _with_beside(
    walk: Walk, table: Path, labels: Labels, shown: Sequence[Path], beside: Sequence[Path]
) -> Labels:
    """The labels of the files in other parts, too, where the table names them: `val/1.png`."""
    try:
        more = by_table(table, [*shown, *filter(looks_like_picture, beside)], walk.name)
    except UserError:  # the same names in several folders
        return labels
    if len(more.classes) <= len(labels.classes):
        return labels
    homes = {file.parent for file in more.classes}
    rest = {file: why for file, why in more.skipped.items() if file.parent in homes}
    return replace(more, skipped=rest)


def _tables(walk: Walk, layout: Layout) -> list[Path]:
    """Tables beside the pictures, or on the way to them."""
    ways = [layout.top, *layout.top.parents]
    folders = {*layout.flat, *(way for way in ways if way.is_relative_to(walk.root))}
    files = [file for folder in sorted(folders) for file in walk.listing(folder)[1]]
    tables = [file for file in files if file.suffix.lower() in TABLES]
    # Not what a contest wants to have back; and first what is said to be for learning.
    tables = [table for table in tables if not is_to_be_asked(table.stem)]
    return sorted(tables, key=lambda table: ["train", "", "val", "test"].index(part_in(table.stem)))


def _labelled(walk: Walk, layout: Layout, labels: str | Path) -> tuple[list[_Found], list[str]]:
    """All files below the root that a table, or their own names, gives a class."""
    files = walk.once(walk.files(walk.root))
    shown = [file for file in files if looks_like_picture(file)]
    if str(labels) == NAMES:
        return _told(walk, layout, by_names(shown))
    table, wanted = Path(labels), Path(labels).as_posix()
    if not table.is_file():
        inside = [file for file in files if f"/{walk.name(file)}".endswith(f"/{wanted}")]
        table = inside[0] if inside else table
    for file in files:
        if file not in shown and file != table:
            walk.skip(file, NO_PICTURE)
    return _told(walk, layout, by_table(table, shown, walk.name))


def _told(walk: Walk, layout: Layout, labels: Labels) -> tuple[list[_Found], list[str]]:
    """The files that have a class, each in the part that the table, or else its folder, says."""
    for file, reason in labels.skipped.items():
        walk.skip(file, reason)
    tops = {file: _below(file, layout.top) for file in labels.classes}
    parts = parts_of(sorted(set(tops.values())))
    if len({"train"} | set(parts.values())) < 2 or "train" not in parts.values():
        parts = {}
    found = [
        _Found(file, name, labels.parts.get(file) or parts.get(tops[file]))
        for file, name in labels.classes.items()
    ]
    return found, list(labels.notes)


def _below(file: Path, top: Path) -> str:
    """The first folder on the way from the top to a file, if there is one."""
    return "".join(file.relative_to(top).parts[:-1][:1]) if file.is_relative_to(top) else ""


def _by_leaves(found: Sequence[_Found]) -> list[_Found]:
    """Each folder with pictures is a class: by its own name, or where that is several folders' by
    all names from the class down."""
    ways = {}
    for item in found:
        between = item.file.parent.relative_to(item.home).parts if item.home else ()
        ways[item.file] = (item.name, *between)
    ends = Counter(class_key(way[-1]) for way in set(ways.values()))
    names = {
        way: way[-1] if ends[class_key(way[-1])] == 1 else _BETWEEN.join(way)
        for way in set(ways.values())
    }
    return [replace(item, name=names[ways[item.file]]) for item in found]


def _one_spelling(found: Sequence[_Found]) -> tuple[list[_Found], list[str]]:
    """Names of one class are written as most of its pictures have it; and what to say of that."""
    spellings: dict[str, Counter[str]] = {}
    for item in found:
        name = " ".join(unicodedata.normalize("NFC", item.name).split())
        spellings.setdefault(class_key(item.name), Counter())[name] += 1
    chosen = {key: counts.most_common(1)[0][0] for key, counts in spellings.items()}
    notes = [
        f"{' and '.join(map(repr, counts))} are taken for one class, {chosen[key]!r}"
        for key, counts in spellings.items()
        if len(counts) > 1
    ]
    return [replace(item, name=chosen[class_key(item.name)]) for item in found], notes


def _assigned(
    walk: Walk, found: Sequence[_Found], held_out: str, digests: dict[Path, str]
) -> tuple[list[tuple[str, Sample]], list[tuple[str, Sample]]]:
    """Samples with their class names: those to use, and those of `test` beside a `val`."""
    learned = {item.name for item in found if item.part in (None, "train")}
    divided = any(item.part == held_out for item in found)
    used: list[tuple[str, Sample]] = []
    unused: list[tuple[str, Sample]] = []
    for item in found:
        file, name = item.file, walk.name(item.file)
        if item.name not in learned:
            walk.skip(file, f"shows {item.name!r}, of which train has no picture")
        elif item.part in (None, "train", held_out):
            role: Part = "held_out" if item.part == held_out else "train"
            part = role if divided else None
            used.append((item.name, Sample(file, name, 0, part, digests[file])))
        else:
            unused.append((item.name, Sample(file, name, 0)))
    return used, unused


def _division(layout: Layout, index: FolderIndex) -> list[str]:
    """How the parts of a folder that came divided are used."""
    names = {part: " and ".join(map(repr, names)) for part, names in layout.parts.items()}
    notes = []
    parts = Counter(sample.part for sample in index.samples)
    held_out = "val" if index.unused or "val" in names else "test"
    if parts["held_out"] and names:
        notes.append(
            f"{names.get('train', 'train')} is learned from ({pictures(parts['train'])}), "
            f"{names.get(held_out, held_out)} is held out ({parts['held_out']})"
        )
    if index.unused:
        count = pictures(len(index.unused))
        notes.append(f"{count} in test left for an evaluation: val is there to measure on")
    return notes


def _tree(found: Sequence[_Found], classes: str) -> list[str]:
    """What to say where classes hold folders of their own."""
    folders = {item.file.parent for item in found if item.home}
    homes = {item.home for item in found if item.home}
    if classes == LEAVES or len(folders) <= len(homes):
        return []
    inside: dict[Path, set[str]] = {}
    for item in found:
        if item.home and item.file.parent != item.home:
            inside.setdefault(item.home, set()).add(_below(item.file, item.home))
    alike = {home: names for home, names in inside.items() if len(names) > 1}
    count = len({class_key(item.name) for item in found})
    if len(alike) == len(homes) and count > 1 and len(set(map(frozenset, alike.values()))) == 1:
        first, second = sorted({item.name for item in found})[:2]
        same = " and ".join(map(repr, sorted(next(iter(alike.values())))[:2]))
        return [
            f"the {count} classes {first!r}, {second!r}, … hold the same folders, {same}, …: where "
            f"those are the classes, name one folder alone, such as {first!r}"
        ]
    return [f"{count} classes hold {len(folders)} folders; --classes leaves makes each a class"]


def _unlearned(found: Sequence[_Found]) -> list[str]:
    """What to say of classes that are measured on alone."""
    learned = {item.name for item in found if item.part in (None, "train")}
    others = Counter(item.name for item in found if item.name not in learned)
    if not others:
        return []
    names = ", ".join(map(repr, list(others)[:3])) + ", …" * (len(others) > 3)
    return [f"{pictures(others.total())} of {names} are not used: train has none of those"]

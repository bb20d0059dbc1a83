"""Classes that are not folders: a table of files and classes, or the files' own names."""

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from itertools import islice
from pathlib import Path

from vgg.data.folder_names import parts_of
from vgg.data.images import IMAGE_SUFFIXES
from vgg.data.index import class_key
from vgg.data.zip_names import ENOUGH, code_page
from vgg.errors import UserError

MAX_TABLE_BYTES = 16 * 1024**2
MAX_COLUMNS = 10_000  # some tables have a column a class
TABLES = frozenset({".csv", ".tsv"})
SNIFFED = 50  # lines that tell what separates cells
_SAY_CLASSES = {"class", "classes", "label", "labels", "category", "target", "species", "breed"}
_SAY_CLASSES |= {"classname", "diagnosis", "dx", "variety", "disease"}
_MAY_SAY_CLASSES = {"name", "type"}
_SAY_FILES = {"file", "filename", "image", "img", "picture", "photo", "path", "id"}
_YES, _NO = frozenset({"1", "1.0", "true"}), frozenset({"0", "0.0", "false"})
_NONE = {"nan", "null", "none", "n/a"}  # what programs write for no value, in small letters
# What cameras, telephones and programs begin names with: it tells no class.
_BY_CAMERAS = re.compile(
    r"(mv)?img|dscn?|dscf|pict|pxl|gopr|dji|vid|image|untitled|screenshot|whatsapp|snapchat|fb|at",
    re.IGNORECASE,
)
# This may be a class beside others, such as photo and sketch, or train and bus.
_BY_PEOPLE = re.compile(
    r"photo|picture|foto|scan|frame|file|train(ing)?|val(id(ation)?)?|test(ing)?|sample",
    re.IGNORECASE,
)
_EXACTLY = 2
_COVERED = 0.5  # share of the rows, or of the pictures, that a column of files has at least
_LIKE_NAMES = 0.9  # share of the pictures whose names tell a class, for that to be proposed


@dataclass(frozen=True)
class Labels:
    """`classes` and `parts` (train, val, test) by file; `skipped` says why a file has none."""

    classes: dict[Path, str]
    parts: dict[Path, str] = field(default_factory=dict)
    skipped: dict[Path, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def class_in_name(stem: str) -> str:
    """`cat.17` → cat, `dog_0003` → dog, `great_pyrenees (2)` → great_pyrenees; else empty, as for
    what a camera names, `IMG_20230101_7`."""
    found = re.fullmatch(r"(.*?)[\s._-]*\(?\d+\)?", stem.strip())
    name = found[1].strip(" ._-(") if found else ""
    words = re.findall(r"[^\W\d_]+", name)
    return "" if all(map(_BY_CAMERAS.fullmatch, words)) else name


def by_names(files: Sequence[Path]) -> Labels:
    """The class of each file by its own name."""
    classes = {file: class_in_name(file.stem) for file in files}
    skipped = {file: "has a name that tells no class" for file, name in classes.items() if not name}
    return Labels({file: name for file, name in classes.items() if name}, skipped=skipped)


def classes_in_names(files: Sequence[Path]) -> dict[str, int]:
    """The classes that names such as `cat.17.jpg` tell, with their counts; empty where too few
    names do, or they tell fewer than two."""
    named = Counter(class_key(name) for file in files if (name := class_in_name(file.stem)))
    several = sum(count > 1 for count in named.values())
    if all(map(_BY_PEOPLE.fullmatch, named)):
        return {}
    enough = named.total() >= _LIKE_NAMES * len(files) and several == len(named) > 1
    return dict(named) if enough else {}


def by_table(table: Path, files: Sequence[Path], name_of: Callable[[Path], str]) -> Labels:
    """The class of each file by a table with a column of files and one of classes, which are found
    by what is in them: with a header or without, with the files' endings or without; also a column
    a class, 1 where it is so. `name_of` gives a file's path as rows may have it.

    A `UserError` says what the table lacks.
    """
    rows = _rows(table)
    find = _Finder(files, name_of)
    # As most rows have it: one row of a million cells must not make all so wide.
    width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    if width > MAX_COLUMNS:
        raise UserError("data.table_wide", name=table.name, most=MAX_COLUMNS, count=width)
    columns = [[row[c].strip() if c < len(row) else "" for row in rows] for c in range(width)]
    for look in (find, find.by_last_name):  # other folders than ours only where no row has ours
        found = [[look(cell) for cell in column] for column in columns]
        hits = [len(set(column) - {None}) for column in found]
        if best := max(hits, default=0):
            break
    if not best or best < _COVERED * min(len(rows), len(files)):
        raise UserError("data.table_files", name=table.name)
    # A running number may hit as many as the names themselves: `,id` over `0,7.png`.
    fit = [c for c, count in enumerate(hits) if count == best]
    where = max(fit, key=lambda c: (_has_endings(columns[c]), _says(columns[c][0], _SAY_FILES)))
    headed = found[where][0] is None or found[where][0] in found[where][1:]
    header = [column[0] if headed else "" for column in columns]
    others = {c: column[headed:] for c, column in enumerate(columns) if c != where}
    parts_column = _parts_column(others)
    told, how = _told(others, header, parts_column, table)
    labels = Labels({}, notes=(f"classes come from {how} of {table.name!r}",))
    parts = others[parts_column] if parts_column is not None else [""] * len(told)
    meant = parts_of(sorted(set(parts)))
    for file, name, part in zip(found[where][headed:], told, parts, strict=True):
        if file is not None:
            _note_row(labels, table, file, name, meant.get(part, ""))
    for file in files:
        if file not in labels.classes:
            labels.skipped.setdefault(file, f"has no row in {table.name}")
    for file in labels.skipped:
        labels.classes.pop(file, None)
    if missing := len(told) - sum(file is not None for file in found[where][headed:]):
        note = f"{missing} rows of {table.name!r} name files that are not there"
        return replace(labels, notes=(*labels.notes, note))
    return labels


def _note_row(labels: Labels, table: Path, file: Path, name: str, part: str) -> None:
    """Take down what a row says of a file; what it can't be is said."""
    if not name or name.casefold() in _NONE:
        labels.skipped[file] = f"has no class in {table.name}"
    elif class_key(labels.classes.setdefault(file, name)) != class_key(name):
        labels.skipped[file] = f"has two classes in {table.name}"
    elif part:
        labels.parts[file] = part


def _rows(table: Path) -> list[list[str]]:
    """The rows of a table that are not empty, whatever separates their cells."""
    try:
        if table.stat().st_size > MAX_TABLE_BYTES:
            raise UserError("data.table_large", name=table.name, megabytes=MAX_TABLE_BYTES >> 20)
        data = table.read_bytes()
    except OSError as error:
        raise UserError("data.table_disk", name=table.name, why=error.strerror) from error
    text = data.decode(_encoding(data), errors="replace")
    lines = [line for line in text.splitlines()[:SNIFFED] if line.strip()]
    counts = {mark: min((line.count(mark) for line in lines), default=0) for mark in ",;\t|"}
    mark = max(counts, key=counts.__getitem__)
    try:
        rows = csv.reader(StringIO(text, newline=""), delimiter=mark if counts[mark] else " ")
        return [row for row in rows if any(map(str.strip, row))]
    except csv.Error as error:
        raise UserError("data.table_files", name=table.name) from error


def _encoding(data: bytes) -> str:
    """UTF-16 or UTF-8, else the code page that Excel has taken: told as names in a zip are."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError:
        cells = dict.fromkeys(re.split(rb"[,;\t|\r\n\"]+", data))
        return code_page(islice((cell for cell in cells if not cell.isascii()), ENOUGH))
    return "utf-8-sig"


class _Finder:
    """Finds files by what rows call them: a path or the end of one, the ending of the name there or
    not, in any case."""

    def __init__(self, files: Sequence[Path], name_of: Callable[[Path], str]) -> None:
        self._whole: dict[str, Path] = {}
        self._numbers: dict[str, Path | None] = {}  # `7` for 0007.png, as tables of numbers have it
        self._ends: dict[str, Path | None] = {}  # None: of several files
        for file in files:
            path = _plain(name_of(file))
            if (number := _without_ending(path).rpartition("/")[2]).isdecimal():
                number = str(int(number[-20:]))
                self._numbers[number] = None if number in self._numbers else file
            odd = path.rpartition(".")[0] or path  # `cat.webp_large`
            for name in {path, _without_ending(path), odd}:
                self._whole[name] = file
                parts = name.split("/")
                for k in range(len(parts)):
                    end = "/".join(parts[k:])
                    self._ends[end] = file if self._ends.get(end, file) is file else None

    def __call__(self, cell: str) -> Path | None:
        for name in (_plain(cell), _without_ending(_plain(cell))):
            if file := self._ends.get(name):
                return file
            parts = name.split("/")  # a row may know of more folders than there are
            for k in range(1, len(parts)):
                if file := self._whole.get("/".join(parts[k:])):
                    return file
        return self._numbers.get(_plain(cell))

    def by_last_name(self, cell: str) -> Path | None:
        """A file called so in whatever folder, where that is one alone."""
        return self(cell.replace("\\", "/").rpartition("/")[2])


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).casefold()


def _without_ending(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending}" in IMAGE_SUFFIXES else name


def _parts_column(columns: Mapping[int, Sequence[str]]) -> int | None:
    """The column that says train, val or test, if there is one."""
    for c, cells in columns.items():
        values = set(cells) - {""}
        if len(values) > 1 and set(parts_of(sorted(values))) == values:
            return c
    return None


def _told(
    columns: Mapping[int, Sequence[str]], header: Sequence[str], parts: int | None, table: Path
) -> tuple[list[str], str]:
    """(the class of each row, from where in words)."""

    def has_words(c: int) -> bool:
        return any(re.search(r"[^\W\d_]", value) for value in columns[c])

    def worth(c: int) -> tuple[int, bool, bool, int, int]:
        says = _says(header[c], _SAY_CLASSES)
        may_say = _says(header[c], _MAY_SAY_CLASSES) > 0
        return says, has_words(c), may_say, -len(set(columns[c])), -c

    flags = [
        c
        for c in columns
        if header[c]
        and _says(header[c], _SAY_CLASSES) < _EXACTLY
        and {cell.casefold() for cell in columns[c]} <= _YES | _NO
    ]
    ones = [[c for c in flags if row[c].casefold() in _YES] for row in _rows_of(columns)]
    one_each = sum(len(set_here) == 1 for set_here in ones) >= _LIKE_NAMES * len(ones)
    if len(flags) > 1 and one_each and all(len(set_here) <= 1 for set_here in ones):
        told = ["".join(header[c] for c in set_here) for set_here in ones]
        return told, f"the {len(flags)} columns of 0 and 1"
    # Several such columns, of which a picture has more than one, are no classes.
    left_out = {parts, *(flags if len(flags) > 1 else [])}
    choices = [c for c in columns if c not in left_out and _may_be_classes(columns[c])]
    if not choices:
        raise UserError("data.table_classes", name=table.name)
    c = max(choices, key=worth)
    count = len(set(columns[c]))  # a column of the same classes in words says more than numbers
    same = [d for d in choices if has_words(d) and len(set(columns[d])) == count]
    same = [d for d in same if len(set(zip(columns[c], columns[d], strict=True))) == count]
    c = c if has_words(c) or not same else same[0]
    return list(columns[c]), f"column {header[c] or c + 1!r}"


def _says(header: str, words: Collection[str]) -> int:
    """How well the head of a column says what is in it: `_EXACTLY` for `class`, 1 for `ClassId`."""
    inside = re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+", header)
    return _EXACTLY if header.casefold() in words else any(w.casefold() in words for w in inside)


def _has_endings(cells: Sequence[str]) -> bool:
    return any(_without_ending(_plain(cell)) != _plain(cell) for cell in cells[:SNIFFED])


def _rows_of(columns: Mapping[int, Sequence[str]]) -> list[dict[int, str]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _may_be_classes(cells: Sequence[str]) -> bool:
    """Values that come back, and are no measures."""
    values = Counter(class_key(cell) for cell in cells if cell)
    measured = any(re.fullmatch(r"-?\d*\.\d*[1-9]\d*", value) for value in values)
    return 1 < len(values) <= max(2, len(cells) // 2) and not measured

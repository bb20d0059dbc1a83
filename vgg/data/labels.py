"""Classes that are not folders: a table of files and classes, or the files' own names."""

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path

from vgg.data.folder_names import parts_of
from vgg.data.images import IMAGE_SUFFIXES
from vgg.data.index import class_key
from vgg.errors import UserError

MAX_TABLE_BYTES = 16 * 1024**2
TABLES = frozenset({".csv", ".tsv"})
SNIFFED = 50  # lines that tell what separates cells
_HEADERS = {"class", "classes", "label", "labels", "category", "target", "species", "breed"}
_HEADERS |= {"class_name", "classname", "class name", "diagnosis", "dx", "name", "type", "variety"}
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
    """`cat.17` → cat, `dog_0003` → dog, `great_pyrenees (2)` → great_pyrenees; else empty."""
    found = re.fullmatch(r"(.*?)[\s._-]*\(?\d+\)?", stem.strip())
    name = found[1].strip(" ._-(") if found else ""
    return name if re.search(r"[^\W\d_]", name) else ""


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
    columns = [[row[c].strip() if c < len(row) else "" for row in rows] for c in range(width)]
    for look in (find, find.by_last_name):  # other folders than ours only where no row has ours
        found = [[look(cell) for cell in column] for column in columns]
        hits = [sum(file is not None for file in column) for column in found]
        if best := max(hits, default=0):
            break
    if not best or best < _COVERED * min(len(rows), len(files)):
        raise UserError("data.table_files", name=table.name)
    where = hits.index(best)
    headed = found[where][0] is None
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
    if not name:
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
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = data.decode(encoding, errors="replace")
    lines = [line for line in text.splitlines()[:SNIFFED] if line.strip()]
    counts = {mark: min((line.count(mark) for line in lines), default=0) for mark in ",;\t|"}
    mark = max(counts, key=counts.__getitem__)
    try:
        rows = csv.reader(StringIO(text, newline=""), delimiter=mark if counts[mark] else " ")
        return [row for row in rows if any(map(str.strip, row))]
    except csv.Error as error:
        raise UserError("data.table_files", name=table.name) from error


class _Finder:
    """Finds files by what rows call them: a path or the end of one, the ending of the name there or
    not, in any case."""

    def __init__(self, files: Sequence[Path], name_of: Callable[[Path], str]) -> None:
        self._whole: dict[str, Path] = {}
        self._ends: dict[str, Path | None] = {}  # None: of several files
        for file in files:
            path = _plain(name_of(file))
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
        return None

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

    def worth(c: int) -> tuple[bool, bool, int, int]:
        values = Counter(columns[c])
        named = header[c].casefold() in _HEADERS
        words = any(re.search(r"[^\W\d_]", value) for value in values)
        return words, named, -len(values), -c

    choices = [c for c in columns if c != parts and _may_be_classes(columns[c])]
    flags = [c for c in columns if set(columns[c]) <= {"0", "1", "0.0", "1.0"} and header[c]]
    ones = [[c for c in flags if row[c].startswith("1")] for row in _rows_of(columns)]
    if len(flags) > 1 and all(len(set_here) <= 1 for set_here in ones):
        told = ["".join(header[c] for c in set_here) for set_here in ones]
        return told, f"the {len(flags)} columns of 0 and 1"
    if not choices:
        raise UserError("data.table_classes", name=table.name)
    c = max(choices, key=worth)
    return list(columns[c]), f"column {header[c] or c + 1!r}"


def _rows_of(columns: Mapping[int, Sequence[str]]) -> list[dict[int, str]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _may_be_classes(cells: Sequence[str]) -> bool:
    """Values that come back, and are no measures."""
    values = Counter(cell for cell in cells if cell)
    measured = any(re.fullmatch(r"-?\d*\.\d*[1-9]\d*", value) for value in values)
    return 1 < len(values) <= max(2, len(cells) // 2) and not measured

"""The CSV table of predictions: a row a picture, gone on with where a run was broken off.

Spreadsheets open it as it is meant: a mark at the front says UTF-8, and no cell is a formula.
Rows go into a part beside the table, which takes the table's name once all are in it.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

KEY_LENGTH = 12
ENCODING = "utf-8-sig"  # with a mark at the front, without which Excel takes the code page
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would work out
Rows = Iterable[dict[str, Any]]  # `image`, `top`, `error`, as the command line's JSON has them


def header(places: int) -> list[str]:
    """The names of the columns: `image`, class and probability of each place, `error`."""
    columns = [f"{name}_{place}" for place in range(1, places + 1) for name in ("class", "prob")]
    return ["image", *columns, "error"]


def csv_row(row: dict[str, Any], places: int) -> list[str]:
    """The cells under `header(places)`."""
    cells = [cell for p in row["top"] for cell in (p["class"], f"{p['probability']:.6f}")]
    cells = [row["image"], *cells, *[""] * (2 * places - len(cells)), row["error"] or ""]
    return [harmless(cell) for cell in cells]


def harmless(cell: str) -> str:
    """A cell that a spreadsheet shows and does not work out: with an apostrophe before what would
    be a formula, as people write it there."""
    return f"'{cell}" if cell.startswith(_FORMULAS) else cell


def key_of(asked: Any, files: Iterable[Path]) -> str:
    """Changes where what was asked, a file's name, its size or its date does."""
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode())
    for file in files:
        stat = file.stat() if file.exists() else None
        about = (str(file), stat.st_size, stat.st_mtime_ns) if stat else (str(file),)
        digest.update(repr(about).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:KEY_LENGTH]


def rows_done(file: Path, places: int, key: str, images: Sequence[str]) -> int:
    """How many rows a broken run with this key left: those of the first so many `images`."""
    written = [harmless(i).encode("utf-8", "backslashreplace").decode() for i in images]
    return len(_whole_rows(_part(file, key), places, written))


@contextmanager
def write_rows(
    file: Path | None, places: int, *, key: str = "", done: int = 0
) -> Iterator[Callable[[Rows], Rows]]:
    """Gives a function that passes rows through and writes each into the table.

    With a `key`, what was written stays when the work breaks off, for the next run of the same:
    the first `done` rows of an earlier part are kept. Parts with other keys are removed.
    """
    if file is None:
        yield lambda rows: rows
        return
    part = _part(file, key)
    kept = _whole_rows(part, places)[:done] if key else []
    for other in file.parent.glob(f"{_escaped(file.name)}.{'?' * KEY_LENGTH}.part"):
        if other != part:
            other.unlink(missing_ok=True)
    written = len(kept)
    try:
        _begin(part, [header(places), *kept])
        with part.open("a", newline="", encoding="utf-8", errors="backslashreplace") as opened:
            table = csv.writer(opened)

            def keep(rows: Rows) -> Rows:
                nonlocal written
                for row in rows:
                    table.writerow(csv_row(row, places))
                    opened.flush()  # so that a killed run leaves all its rows
                    written += 1
                    yield row

            yield keep
        part.replace(file)
    finally:
        if not (key and written):
            part.unlink(missing_ok=True)


def _begin(part: Path, rows: list[list[str]]) -> None:
    """Replaces the part at once, so that a kill leaves its rows."""
    fresh = part.with_name(f"{part.name}.new")
    with fresh.open("w", newline="", encoding=ENCODING, errors="backslashreplace") as opened:
        csv.writer(opened).writerows(rows)
    fresh.replace(part)


def _part(file: Path, key: str) -> Path:
    return file.with_name(f"{file.name}{key and '.'}{key}.part")


def _escaped(name: str) -> str:
    """A name in which nothing means anything to `glob`."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _whole_rows(part: Path, places: int, images: Sequence[str] | None = None) -> list[list[str]]:
    """The rows that were written whole, as long as they are those of `images`."""
    try:
        text = part.read_bytes().decode(ENCODING)
    except (OSError, ValueError):
        return []
    text = text[: text.rfind("\n") + 1]  # the last line may be cut off
    rows: list[list[str]] = []
    with suppress(csv.Error):  # a cut inside of a quoted name
        rows.extend(csv.reader(StringIO(text, newline=""), strict=True))
    if not rows or rows.pop(0) != header(places):
        return []
    for number, cells in enumerate(rows):
        wrong = images is not None and (number >= len(images) or cells[0] != images[number])
        if len(cells) != 2 * places + 2 or wrong:
            return rows[:number]
    return rows

"""Unpacks a zip of class folders from somebody nobody knows: nothing in it is believed.

Bytes are counted as they come out, whatever the zip's headers say. Only pictures are written, as
plain files, below one new folder.
"""

import errno
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vgg.data.images import IMAGE_SUFFIXES, MAX_FILE_BYTES
from vgg.data.index import Skipped
from vgg.data.labels import TABLES
from vgg.data.litter import Litter, is_hidden
from vgg.data.names import ON_WINDOWS, windows_takes
from vgg.data.walk import NO_PICTURE, is_picture
from vgg.data.zip_names import names_of
from vgg.errors import StoppedError, UserError

_FOLDER_ENDS = ("/", "\\")  # of a folder's name
_CHUNK = 256 * 1024  # bytes read at a time
_SMALL = 10_000_000  # bytes that may come out of a zip however small it is
_ENTRY_BYTES = 400  # of the zip's directory, for one entry with a long name
# What the file system says to a name that it can't take, for instance one of over 255 bytes.
_NAME_ERRORS = {
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.EILSEQ,
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
}
# What zipfile raises on damaged or hostile bytes.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # a compression that it does not know
    OverflowError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class ZipLimits:
    """What a zip may hold. The defaults suit the owner of the machine; a public page sets less."""

    max_entries: int = 100_000
    max_bytes: int = 32 * 1024**3  # that come out in all
    max_file_bytes: int = MAX_FILE_BYTES  # of one picture; a larger one is skipped
    max_ratio: float = 100.0  # bytes out per byte of the zip: pictures hardly shrink
    max_depth: int = 16  # folders on the way to a picture


DEFAULT_LIMITS = ZipLimits()


def open_zip(
    source: Path | BinaryIO,
    into: Path,
    *,
    limits: ZipLimits = DEFAULT_LIMITS,
    should_stop: Callable[[], bool] = bool,
) -> tuple[Path, tuple[Skipped, ...]]:
    """Unpacks the pictures of a zip into the new folder `into`, and says what was left out.

    `into` must not exist; it appears when all is done, and not at all where something fails. It is
    ready for `scan_folder`, folders without a picture included.

    Refused whole, with ValueError: what is no zip, is cut off, is locked with a password, holds
    absolute names, `..` or links, or is over a limit. Skipped: what is no picture, hidden or
    damaged, or has a name that came before or that the disk can't take.

    `should_stop` is asked at every file: a `StoppedError` ends the work then.
    """
    name = Path(str(getattr(source, "name", "the zip"))).name
    if into.exists():
        raise UserError("data.taken", name=into.name)
    scratch = None
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{into.name[:40]}-", dir=into.parent))
        skipped = _unpack(source, scratch, limits, should_stop)
        if not any(p.is_file() and p.suffix.lower() not in TABLES for p in scratch.rglob("*")):
            raise _RefusedError("data.zip_empty")
        scratch.rename(into)
    except _RefusedError as error:
        raise UserError("data.zip", name=name, why=error) from None
    except UserError:  # of who was asked whether to stop
        raise
    except _DAMAGE as error:
        raise UserError("data.zip", name=name, why=UserError("data.no_zip")) from error
    except OSError as error:
        raise UserError("data.zip_disk", name=name, why=error.strerror) from error
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
    return into, skipped


def take_files(
    source: Path,
    names: Collection[str],
    suffixes: Collection[str],
    into: Path,
    *,
    limits: ZipLimits = DEFAULT_LIMITS,
) -> None:
    """Writes a few files of a zip into the folder `into`: those with these names or endings, of
    the one folder in the zip that is nearest to its top and has one with such an ending.

    Refused with ValueError as by `open_zip`, and where there is no such file or two.
    """
    try:
        with source.open("rb") as file:
            packed_bytes = file.seek(0, os.SEEK_END)
            with zipfile.ZipFile(_Guarded(file, limits.max_entries * _ENTRY_BYTES)) as archive:
                _take(archive, packed_bytes, names, suffixes, into, limits)
    except _RefusedError as error:
        raise UserError("data.zip", name=source.name, why=error) from None
    except (*_DAMAGE, _SkipError) as error:
        raise UserError("data.zip", name=source.name, why=UserError("data.no_zip")) from error


def _take(
    archive: zipfile.ZipFile,
    packed_bytes: int,
    names: Collection[str],
    suffixes: Collection[str],
    into: Path,
    limits: ZipLimits,
) -> None:
    entries = archive.infolist()
    if len(entries) > limits.max_entries:
        raise _RefusedError("data.zip_entries", most=limits.max_entries)
    paths = [
        (Path(*_safe_parts(entry, name, limits.max_depth)), entry)
        for entry, name in zip(entries, names_of(entries), strict=True)
        if not name.endswith(_FOLDER_ENDS)
    ]
    paths = [(p, e) for p, e in paths if not any(map(is_hidden, p.parts))]
    asked = sorted(
        (p for p, _ in paths if p.suffix.lower() in suffixes), key=lambda p: len(p.parts)
    )
    if not asked:
        raise _RefusedError("data.zip_without", suffixes=list(suffixes))
    home = asked[0].parent
    if len([p for p in asked if p.parent == home]) > 1:
        raise _RefusedError("data.zip_weights")
    budget = _Budget(
        min(limits.max_bytes, max(_SMALL, int(packed_bytes * limits.max_ratio))),
        limits.max_file_bytes,
    )
    for path, entry in paths:
        if path.parent == home and (path.name in names or path == asked[0]):
            with (into / path.name).open("xb") as file:
                for chunk in _chunks(archive, entry, budget):
                    file.write(chunk)


class _RefusedError(UserError):
    """The rest of the sentence on why a zip is refused."""


class _Guarded:
    """The zip's file, from which the directory can't be read where it is far too long.

    `zipfile` reads it in one piece and makes an object of each entry before entries can be counted.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > self._most:
            raise _RefusedError("data.zip_directory")
        return self._file.read(size)


def _unpack(
    source: Path | BinaryIO, folder: Path, limits: ZipLimits, should_stop: Callable[[], bool]
) -> tuple[Skipped, ...]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            return _unpack(file, folder, limits, should_stop)
    packed_bytes = source.seek(0, os.SEEK_END)
    most_read = max(limits.max_entries * _ENTRY_BYTES, 1024 * 1024)
    with zipfile.ZipFile(_Guarded(source, most_read)) as archive:
        entries = archive.infolist()
        if len(entries) > limits.max_entries:
            raise _RefusedError("data.zip_entries", most=limits.max_entries)
        named = list(zip(entries, names_of(entries), strict=True))
        parts = [_safe_parts(entry, name, limits.max_depth) for entry, name in named]
        allowed = min(limits.max_bytes, max(_SMALL, int(packed_bytes * limits.max_ratio)))
        budget = _Budget(allowed, limits.max_file_bytes)
        budget.check(sum(entry.file_size for entry in entries))
        skipped, litter = [], Litter()
        for (entry, full_name), names in zip(named, parts, strict=True):
            if should_stop():
                raise StoppedError("data.zip_stopped")
            if litter.takes(names):
                continue
            reason = "has a name that Windows can't take; rename it in the zip"
            if not ON_WINDOWS or all(map(windows_takes, names)):  # it would take another name
                wanted = None if full_name.endswith(_FOLDER_ENDS) else entry
                reason = _write(archive, wanted, folder.joinpath(*names), budget)
            if reason:
                name = "/".join(names).encode(errors="replace").decode()
                skipped.append(Skipped(name, reason))
    return (*skipped, *litter.skipped)


class _Budget:
    """Counts the bytes that come out."""

    def __init__(self, allowed: int, allowed_each: int) -> None:
        self._left, self._allowed = allowed, allowed
        self.allowed_each = allowed_each

    def check(self, count: int) -> None:
        if count > self._left:
            raise _RefusedError("data.zip_grows", megabytes=self._allowed / 1e6)

    def spend(self, count: int) -> None:
        self.check(count)
        self._left -= count


def _safe_parts(entry: zipfile.ZipInfo, name: str, max_depth: int) -> list[str]:
    """The names on the way to an entry; raises where they lead out, and for what is no file."""
    name = name.replace("\\", "/")  # as some programs on Windows write
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in parts or "\0" in name:
        raise _RefusedError("data.zip_leads_out", name=name[:80])
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _RefusedError("data.zip_link", name=name[:80])
    if entry.flag_bits & 1:
        raise _RefusedError("data.zip_locked")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _RefusedError("data.zip_rare")
    if len(parts) > max_depth:
        raise _RefusedError("data.zip_deep", most=max_depth)
    return parts


def _write(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo | None, path: Path, budget: _Budget
) -> str:
    """Writes one entry, or a folder for None, or says why it is left out; empty where it is not.
    Known by its content is what has an odd name; a table may tell the pictures' classes."""
    known, begun = path.suffix.lower() in IMAGE_SUFFIXES | TABLES, False
    try:
        if entry is None:
            path.mkdir(parents=True, exist_ok=True)
            return ""
        chunks = _chunks(archive, entry, budget)
        first = next(chunks, b"")
        if not known and not is_picture(first):
            return NO_PICTURE
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            begun = True
            for chunk in (first, *chunks):
                file.write(chunk)
        return ""
    except FileExistsError:
        return "has the name of another file in the zip"
    except _SkipError as error:
        if begun:
            path.unlink()
        return str(error)
    except OSError as error:
        if error.errno not in _NAME_ERRORS:
            raise
        return "has a name that this disk can't take; shorten it"


class _SkipError(Exception):
    """Why one entry is left out."""


def _chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, budget: _Budget) -> Iterator[bytes]:
    count = 0
    try:
        with archive.open(entry) as packed:
            while chunk := packed.read(_CHUNK):
                budget.spend(len(chunk))
                count += len(chunk)
                if count > budget.allowed_each:
                    raise _SkipError(f"is larger than {budget.allowed_each >> 20} MB")
                yield chunk
    except _RefusedError:
        raise
    except _DAMAGE as error:
        raise _SkipError("is damaged in the zip") from error

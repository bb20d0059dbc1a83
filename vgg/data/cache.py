"""What was computed from a picture's bytes, kept on disk for the next time.

A store is a folder of files, each a NumPy array of records with the digest of the picture's bytes
and one row. A file's name is the checksum of its content: a damaged one is noticed and removed. The
folder has a mark of ours, without which nothing in it is ever deleted.
Nothing here is precious; where the disk refuses, the work is simply done again.
"""

import hashlib
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

MARK = ".vgg-studio-store"  # the file in a folder that says that the store is ours
_ROWS = re.compile("[0-9a-f]{32}[.]npy")
_PART = re.compile("rows-.*[.]part")  # being written, or left by a process that was killed
MAX_BYTES = 4 * 1024**3  # of all stores together; what was not used for longest goes first


def cache_dir() -> Path:
    """`$VGG_STUDIO_CACHE`, else the place that this system has for caches."""
    if chosen := os.environ.get("VGG_STUDIO_CACHE"):
        return Path(chosen)
    try:
        if sys.platform == "win32":
            home = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            home = Path.home() / "Library" / "Caches"
        else:
            home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home: nothing can be kept
        home = os.devnull
    return Path(home) / "vgg-studio"


class FeatureStore:
    """Rows of one kind, by the digest of the picture's bytes (32 hex letters).

    `name` says the kind and all that the rows depend on besides the bytes, `dtype` and `shape`
    what a row is.
    """

    def __init__(self, name: str, dtype: np.dtype, shape: tuple[int, ...] = ()) -> None:
        self.folder = cache_dir() / name
        self.dtype = np.dtype([("digest", "S32"), ("row", dtype, shape)])

    def read(self, digests: Iterable[str]) -> dict[str, np.ndarray]:
        """The rows that are there, of those asked for."""
        wanted = {digest.encode() for digest in digests}
        found: dict[str, np.ndarray] = {}
        for file in self._files():
            records = self._load(file)
            if records is None:
                continue
            hits = [i for i, digest in enumerate(records["digest"].tolist()) if digest in wanted]
            if hits:
                _touch(file)
            found.update((records["digest"][i].decode(), records["row"][i]) for i in hits)
        return found

    def write(self, rows: dict[str, np.ndarray]) -> None:
        """Keep some more rows. The file appears whole, or not at all."""
        if not rows:
            return
        records = np.zeros(len(rows), self.dtype)
        for index, (digest, row) in enumerate(rows.items()):
            records[index]["digest"], records[index]["row"] = digest, row
        data = BytesIO()
        np.save(data, records, allow_pickle=False)
        content, part = data.getbuffer(), None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / MARK).touch()
            number, name = tempfile.mkstemp(dir=self.folder, prefix="rows-", suffix=".part")
            part = Path(name)
            with os.fdopen(number, "wb") as file:
                file.write(content)
            part.replace(self.folder / f"{_checksum(content)}.npy")
        except OSError as error:
            if part:
                part.unlink(missing_ok=True)
            log.warning("can't keep results in %s (%s)", self.folder, error.strerror)

    def _files(self) -> list[Path]:
        return [file for file in _listed(self.folder) if _ROWS.fullmatch(file.name)]

    def _load(self, file: Path) -> np.ndarray | None:
        try:
            data = file.read_bytes()
            if _checksum(data) == file.stem:
                records: np.ndarray = np.load(BytesIO(data), allow_pickle=False)
                if records.dtype == self.dtype:
                    return records
            log.warning("%s is damaged; it is removed", file.name)
            file.unlink()
        except (OSError, ValueError) as error:
            log.warning("%s can't be read (%s)", file.name, error)
        return None


def trim(limit: int = MAX_BYTES) -> None:
    """Delete what was not used for longest until all stores together take at most `limit` bytes."""
    known = []
    for folder in _listed(cache_dir()):
        if folder.is_symlink() or not (folder / MARK).is_file():
            continue
        for file in _listed(folder):
            if _ROWS.fullmatch(file.name) or _PART.fullmatch(file.name):
                with suppress(OSError):
                    known.append((file.stat().st_mtime, file.stat().st_size, file))
    total = sum(size for _, size, _ in known)
    for used, size, file in sorted(known, key=lambda entry: entry[0]):
        abandoned = file.suffix == ".part" and time.time() - used > 3600
        if total <= limit and not abandoned:
            continue
        try:
            file.unlink()
            total -= size
        except OSError:
            continue


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _checksum(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _touch(file: Path) -> None:
    try:
        os.utime(file)
    except OSError:
        return

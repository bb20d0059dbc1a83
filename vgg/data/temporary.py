"""Temporary folders that bear this program's mark and end with its process, however it ends.

A folder holds a lock file that its process keeps locked: the system lets go of it when the process
dies, by SIGKILL, too. So `remove_leftovers` knows what nobody uses any more, and touches nothing
that another program, or a living process of this one, has made.
"""

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "vgg-studio-"
LOCK = ".vgg-studio-lock"

_kept: dict[Path, FileLock] = {}


def temporary_folder(kind: str, *, beside: Path | None = None) -> Path:
    """A new folder of this process; `remove` it when it is not needed any more, else it goes when
    the process ends. `beside` makes it a hidden one in that folder, on the same disk."""
    hidden = "" if beside is None else "."
    folder = Path(tempfile.mkdtemp(prefix=f"{hidden}{PREFIX}{kind}-", dir=beside))
    keep(folder)
    return folder


def keep(folder: Path) -> None:
    """Mark a folder as used by this process."""
    lock = FileLock(folder / LOCK, thread_local=False)
    lock.acquire()
    if not _kept:
        atexit.register(remove_all)
    _kept[folder] = lock


def let_go(folder: Path) -> None:
    """Take the mark back: the folder is nobody's."""
    if lock := _kept.pop(folder, None):
        lock.release()
        (folder / LOCK).unlink(missing_ok=True)


def is_in_use(folder: Path) -> bool:
    """Whether a living process keeps the folder, this one or another."""
    if folder in _kept:
        return True
    try:
        with FileLock(folder / LOCK, timeout=0, thread_local=False):
            return False
    except (Timeout, OSError):
        return True


def remove(folder: Path) -> None:
    """Remove a folder of this process."""
    let_go(folder)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def temporary(kind: str, *, beside: Path | None = None) -> Iterator[Path]:
    """A temporary folder that goes with the block."""
    folder = temporary_folder(kind, beside=beside)
    try:
        yield folder
    finally:
        remove(folder)


def remove_leftovers(beside: Path | None = None) -> list[Path]:
    """Remove what dead processes of this program have left in the system's temporary folder, or of
    the hidden kind in `beside`; returns what was removed."""
    home = Path(tempfile.gettempdir()) if beside is None else beside
    hidden = "" if beside is None else "."
    gone = []
    for folder in home.glob(f"{hidden}{PREFIX}*"):
        if (folder / LOCK).is_file() and not folder.is_symlink() and not is_in_use(folder):
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(folder)
    return gone


def remove_all() -> None:
    """Remove all temporary folders of this process, as its end does."""
    for folder in list(_kept):
        if folder.name.lstrip(".").startswith(PREFIX):
            remove(folder)

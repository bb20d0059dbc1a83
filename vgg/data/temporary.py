"""Temporary folders that bear this program's mark and end with its process, however it ends.

A folder holds a lock file that its process keeps locked: the system lets go of it when the process
dies, by SIGKILL, too. So `remove_leftovers` knows what nobody uses any more, and touches nothing
that another program, or a living process of this one, has made.
"""

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "vgg-studio-"
LOCK = ".vgg-studio-lock"

_kept: dict[Path, FileLock] = {}


def temporary_folder(kind: str, *, beside: Path | None = None) -> Path:
    """A new folder of this process; `remove` it when it is not needed any more, else it goes when
    the process ends. `beside` makes it a hidden one in that folder, on the same disk."""
    hidden = "" if beside is None else "."
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{hidden}{PREFIX}{kind}-", dir=beside))
        try:
            keep(folder)
            return folder
        except FileNotFoundError:  # `remove_leftovers` saw it empty
            continue


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
    """Remove a folder of this process. The lock goes last, so that a kill in between leaves
    something that is known to be ours."""
    _empty(folder)
    let_go(folder)
    _remove_empty(folder)


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
        if folder.is_symlink() or not folder.is_dir():
            continue
        if not (folder / LOCK).is_file():
            _remove_empty(folder)  # its process died between two steps
        elif not is_in_use(folder):
            _empty(folder)
            (folder / LOCK).unlink(missing_ok=True)
            _remove_empty(folder)
        if not folder.exists():
            gone.append(folder)
    return gone


def _empty(folder: Path) -> None:
    """Remove all but the lock."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def remove_all() -> None:
    """Remove all temporary folders of this process, as its end does."""
    for folder in list(_kept):
        if folder.name.lstrip(".").startswith(PREFIX):
            remove(folder)

"""A folder on the disk: its listings, what in it is passed over, and which files are pictures."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from vgg.data.files import FileBytes, digest_of, in_threads, reason_of
from vgg.data.images import IMAGE_SUFFIXES, ImageError, probe_size
from vgg.data.index import Skipped, natural_order
from vgg.errors import StoppedError, UserError

MAX_FILES = 1_000_000  # a folder with more is a slip, such as naming the whole disk
MAX_DEPTH = 8  # folders below a class that are looked into
READERS = 4  # threads that open files: they wait for the disk or the network more than they work
_SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"}


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or what systems leave behind."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def looks_like_picture(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


class Walk:
    """Goes through a folder once and notes what it skips. `should_stop` is asked at every folder
    and every file; a `StoppedError` ends the walk then."""

    def __init__(
        self, root: Path, max_files: int, should_stop: Callable[[], bool] | None = None
    ) -> None:
        self.root = root
        self.skipped: list[Skipped] = []
        self._left = self._max_files = max_files
        self._should_stop = should_stop or bool
        self._listings: dict[Path, tuple[list[Path], list[Path]]] = {}

    def name(self, path: Path) -> str:
        """The path below the root, with `/`."""
        return str(path)[len(str(self.root)) :].lstrip(os.sep).replace(os.sep, "/")

    def skip(self, path: Path, reason: str) -> None:
        file = self.name(path).encode(errors="replace").decode()
        self.skipped.append(Skipped(file, reason))

    def stray(self, files: list[Path]) -> None:
        for file in files:
            self.skip(file, "lies outside of the class folders")

    def check_stop(self) -> None:
        if self._should_stop():
            raise StoppedError("data.scan_stopped")

    def listing(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The visible folders and files in a folder, sorted; what is hidden or a link is noted."""
        if folder in self._listings:
            return self._listings[folder]
        self.check_stop()
        folders: list[Path] = []
        files: list[Path] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._left -= 1
                    if self._left < 0:
                        raise UserError(
                            "data.many_files", name=self.root.name, most=self._max_files
                        )
                    path = folder / entry.name
                    if reason := self._unfit(entry, path):
                        self.skip(path, reason)
                    else:
                        (folders if entry.is_dir() else files).append(path)
        except OSError as error:
            self.skip(folder, f"can't be read ({error.strerror})")
        for paths in (folders, files):
            paths.sort(key=lambda path: natural_order(path.name))
        self._listings[folder] = folders, files
        return folders, files

    def _unfit(self, entry: os.DirEntry[str], path: Path) -> str | None:
        """Why an entry is passed over, if it is."""
        if is_hidden(entry.name):
            return "is hidden, or made by the system"
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            return "has a name that is not valid text; rename it"
        if entry.is_symlink():
            try:
                target = path.resolve(strict=True)
            except (OSError, RuntimeError):  # RuntimeError: links in a circle
                return "is a link to nothing"
            if not target.is_relative_to(self.root):
                return "is a link that leaves the folder"
            if target.is_dir():
                return "is a link to a folder"
        return None

    def files(self, folder: Path, depth: int = 0) -> list[Path]:
        """All files in a folder and below."""
        folders, found = self.listing(folder)
        del self._listings[folder]
        for below in folders:
            if depth == MAX_DEPTH:
                self.skip(below, f"lies more than {MAX_DEPTH} folders below its class")
            else:
                found = found + self.files(below, depth + 1)
        return found

    def pictures(
        self,
        files: Sequence[Path],
        contents: FileBytes | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> dict[Path, str]:
        """Those of `files` that are pictures, each with the digest of its bytes. Without `contents`
        only headers are read, and there are no digests."""

        def look(file: Path) -> tuple[Path, str, str]:
            """(file, digest, why it is none)."""
            if not looks_like_picture(file):
                return file, "", "is not a picture, by the end of its name"
            try:
                if contents is None:
                    probe_size(file)
                    return file, "", ""
                data = contents.read(file)
                probe_size(data)
                return file, digest_of(data), ""
            except ImageError as error:
                return file, "", reason_of(error)

        found: dict[Path, str] = {}
        with closing(in_threads(look, files, threads=READERS)) as looks:
            for done, (file, digest, reason) in enumerate(looks, start=1):
                self.check_stop()
                if reason:
                    self.skip(file, reason)
                else:
                    found[file] = digest
                if on_progress:
                    on_progress(done, len(files))
        return found

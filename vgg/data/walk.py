"""A folder on the disk: its listings, what in it is passed over, and which files are pictures."""

import os
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from vgg.data.depth import WHITE, agreed_white, greatest_value
from vgg.data.files import FileBytes, digest_of, in_threads, reason_of
from vgg.data.formats import kind_of
from vgg.data.images import IMAGE_SUFFIXES, ImageError, probe_size, read_file, read_image
from vgg.data.index import Skipped, natural_order
from vgg.data.litter import Litter, is_hidden
from vgg.errors import StoppedError, UserError

MAX_FILES = 1_000_000  # a folder with more is a slip, such as naming the whole disk
MAX_DEPTH = 8  # folders below a class that are looked into
READERS = 4  # threads that open files: they wait for the disk or the network more than they work
_MAGIC_BYTES = 4096  # of a file, which tell what it is
LOOKED_AT = 16  # pictures that tell how bright all are
SMALL = 32  # pixels of the shorter side, of those
DARK = 40  # of 255: what is nowhere brighter is nearly black
NO_PICTURE = "is not a picture"


def looks_like_picture(file: Path) -> bool:
    """By its name, or where that ends oddly, by its first bytes: `n9151jpg`, `cat.webp_large`."""
    return file.suffix.lower() in IMAGE_SUFFIXES or _is_picture_inside(file)


def _is_picture_inside(file: Path) -> bool:
    try:
        if not file.is_file():  # to open a pipe could mean to wait for ever
            return False
        with file.open("rb") as opened:
            return is_picture(opened.read(_MAGIC_BYTES))
    except OSError:
        return False


def is_picture(head: bytes) -> bool:
    """By the first bytes of a file."""
    try:
        kind_of(head)
    except ImageError:
        return False
    return True


def pictures_below(folder: Path) -> list[Path]:
    """All pictures in a folder and below, sorted, each once; less what systems leave behind."""
    walk = Walk(folder.resolve(), max_depth=sys.getrecursionlimit() // 2)
    files = walk.once(walk.files(walk.root))
    return sorted(folder / walk.name(file) for file in files if looks_like_picture(file))


class Walk:
    """Goes through a folder once and notes what it skips. `should_stop` is asked at every folder
    and every file; a `StoppedError` ends the walk then.

    With `links` those to files and folders are followed, wherever they lead, as the person at the
    machine may want; each file counts once, however many ways there are to it.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_files: int = MAX_FILES,
        max_depth: int = MAX_DEPTH,
        links: bool = True,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        self.root = root
        self._skipped: list[Skipped] = []
        self._litter = Litter()
        self._left = self._max_files = max_files
        self._max_depth = max_depth
        self._links, self._linked = links, False
        self._followed: set[Path] = set()  # folders that links have led to
        self._should_stop = should_stop or bool
        self._listings: dict[Path, tuple[list[Path], list[Path]]] = {}

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was passed over, and why; what one system left behind is named once."""
        return (*self._skipped, *self._litter.skipped)

    def name(self, path: Path) -> str:
        """The path below the root, with `/`."""
        return str(path)[len(str(self.root)) :].lstrip(os.sep).replace(os.sep, "/")

    def skip(self, path: Path, reason: str) -> None:
        self._skipped.append(Skipped(_as_text(self.name(path)), reason))

    def stray(self, files: list[Path]) -> None:
        for file in files:
            self.skip(file, "lies outside of the class folders")

    def check_stop(self) -> None:
        if self._should_stop():
            raise StoppedError("data.scan_stopped")

    def listing(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The folders and files in a folder, sorted, less what systems leave behind."""
        if folder in self._listings:
            return self._listings[folder]
        self.check_stop()
        found: list[os.DirEntry[str]] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._count()
                    found.append(entry)
        except OSError as error:
            self.skip(folder, f"can't be read ({error.strerror})")
        folders: list[Path] = []
        files: list[Path] = []
        for entry in sorted(found, key=lambda entry: natural_order(entry.name)):
            path = folder / entry.name
            if is_hidden(entry.name):
                self._litter.takes(self.name(path).split("/"))
            elif reason := self._unfit(entry, path):
                self.skip(path, reason)
            else:
                (folders if entry.is_dir() else files).append(path)
        self._listings[folder] = folders, files
        return folders, files

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise UserError("data.many_files", name=self.root.name, most=self._max_files)

    def _unfit(self, entry: os.DirEntry[str], path: Path) -> str | None:
        """Why an entry is passed over, if it is."""
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            return "has a name that is not valid text; rename it"
        return self._unfit_link(path) if entry.is_symlink() else None

    def _unfit_link(self, path: Path) -> str | None:
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: links in a circle
            return "is a link to nothing"
        if not self._links:
            return "is a link, which is not followed here"
        self._linked = True
        if not target.is_dir():
            return None
        if self.root.is_relative_to(target):
            return "is a link to a folder that holds this one"
        inside = target.is_relative_to(self.root)
        if inside and not any(map(is_hidden, target.relative_to(self.root).parts)):
            return "is a link to a folder that is looked through anyway"
        if target in self._followed:
            return "is a link to a folder that another link leads to"
        self._followed.add(target)
        return None

    def files(self, folder: Path, depth: int = 0, *, keep: bool = False) -> list[Path]:
        """All files in a folder and below. `keep`: they will be asked for once more."""
        folders, found = self.listing(folder)
        if not keep:
            del self._listings[folder]
        for below in folders:
            if depth == self._max_depth:
                self.skip(below, f"lies more than {depth} folders below its class")
            else:
                found = found + self.files(below, depth + 1, keep=keep)
        return found

    def once(self, files: Sequence[Path]) -> list[Path]:
        """These files, each but once where links lead to one."""
        if not self._linked:
            return list(files)
        real = {file: os.path.realpath(file) for file in files}
        first: dict[str, Path] = {}
        for file in sorted(files, key=lambda file: real[file] != str(file)):  # not by a link
            first.setdefault(real[file], file)
        for file in files:
            if first[real[file]] is not file:
                self.skip(file, f"is a link to the same file as {self.name(first[real[file]])}")
        return [file for file in files if first[real[file]] is file]

    def pictures(
        self,
        files: Sequence[Path],
        *,
        contents: FileBytes | None = None,
        header_only: Collection[Path] = (),
        on_progress: Callable[[int, int], None] | None = None,
    ) -> dict[Path, str]:
        """Those of `files` that are pictures, each with the digest of its bytes. Without `contents`
        only headers are read, and there are no digests; nor of the files in `header_only`."""

        def look(file: Path) -> tuple[Path, str, str]:
            """(file, digest, why it is none)."""
            if not looks_like_picture(file):
                return file, "", NO_PICTURE
            try:
                if contents is None or file in header_only:
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

    def brightness(
        self, files: Sequence[Path], contents: FileBytes | None
    ) -> tuple[int, list[str]]:
        """What is white in pictures of 16 bits, where all of them agree; and what to say of that,
        and of pictures that are nearly black. A few files tell whether all have to be read."""

        def read(file: Path) -> bytes:
            self.check_stop()
            try:
                return contents.read(file) if contents else read_file(file)
            except ImageError:  # which is said when it is decoded
                return b""

        few = files[:: max(1, len(files) // LOOKED_AT)]
        notes, white = [], WHITE
        if any(greatest_value(read(file)) for file in few):
            with closing(
                in_threads(lambda file: greatest_value(read(file)), files, threads=READERS)
            ) as tops:
                white = agreed_white([top for top in tops if top is not None])
            if white != WHITE:
                notes.append(f"pictures of 16 bits hold {white.bit_length()}: {white} is white")
        brightest = [_brightest(read(file), white) for file in few]
        known = [value for value in brightest if value is not None]
        dark = [value for value in known if value < DARK]
        if len(dark) > len(known) / 2:
            notes.append(
                f"most pictures are nearly black, at most {max(dark)} of 255: "
                "save them brighter, or little will be learned"
            )
        return white, notes


def _brightest(data: bytes, white: int) -> int | None:
    """The brightest value of a picture, 0 to 255; None where it can't be read."""
    try:
        bands = read_image(data, min_side=SMALL, white=white).split()
    except ImageError:
        return None
    return max(int(np.asarray(band).max()) for band in bands)


def _as_text(name: str) -> str:
    return name.encode(errors="replace").decode()

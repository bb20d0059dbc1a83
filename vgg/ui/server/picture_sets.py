"""Sets of labelled pictures that a person gives the page: as a zip, class by class, a folder, or
the sample. What was uploaded is copied to where Gradio serves nothing, and goes with its set."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from vgg.data import temporary
from vgg.data.names import file_name
from vgg.data.shapes import draw_folder
from vgg.errors import UserError
from vgg.ui.server.settings import Limits, Settings
from vgg.ui.server.uploads import uploaded

if TYPE_CHECKING:
    from vgg.data.index import FolderIndex

SAMPLE_COUNT = 200  # drawings a class of the sample: drawn in a few seconds
# Where the classes of pictures stand, and what `scan_folder` and a training are told of it.
FOLDERS = "Folders"
CLASSES_FROM: dict[str, dict[str, Any]] = {
    FOLDERS: {},
    "Deepest folders": {"classes": "leaves"},
    "File names": {"labels": "names"},
}


@dataclass(frozen=True)
class PictureSet:
    """Pictures to learn from, looked through. `owned`: a copy of ours that goes with the job;
    `told` are the fields of `TrainOptions` that say where their classes stand."""

    folder: Path
    owned: bool
    name: str
    index: "FolderIndex"
    told: Mapping[str, Any] = field(default_factory=dict)


def from_zip(
    settings: Settings, file: str | None, classes_from: str = FOLDERS
) -> PictureSet | None:
    """Unpack an uploaded zip, safely, into a folder that is not served."""
    if not file:
        return None
    return _unpacked(settings, uploaded(file), classes_from)


def _unpacked(settings: Settings, file: Path, classes_from: str) -> PictureSet:
    from vgg.data.zips import ZipLimits, open_zip

    limits = ZipLimits()
    if settings.public:
        most = settings.limits
        limits = ZipLimits(max_entries=2 * most.pictures, max_bytes=most.zip_mb * 1024**2)
    with _new_folder() as scratch:
        folder, skipped = open_zip(
            file, scratch / "pictures", limits=limits, should_stop=settings.clock()
        )
        found = _looked_through(settings, folder, file.stem, classes_from)
    return replace(found, index=replace(found.index, skipped=(*skipped, *found.index.skipped)))


def from_boxes(settings: Settings, boxes: Sequence[tuple[str, Any]]) -> PictureSet | None:
    """Copy the pictures of named boxes, one a class, into a folder."""
    filled = [(name.strip(), pictures) for name, pictures in boxes if pictures]
    if not filled:
        return None
    names = [name for name, _ in filled]
    if missing := next((n for n, (name, _) in enumerate(filled, 1) if not name), None):
        raise UserError("ui.unnamed_class", number=missing)
    if len(set(names)) < len(names):
        raise UserError("ui.same_class")
    if settings.public:  # one upload may be named a million times
        _check_boxes(settings.limits, [path for _, pictures in filled for path, _ in pictures])
    with _new_folder() as scratch:
        for name, pictures in filled:
            folder = scratch / "pictures" / file_name(name, "class")
            folder.mkdir(parents=True)
            for number, (path, _) in enumerate(pictures):
                suffix = Path(path).suffix.lower()
                shutil.copyfile(uploaded(path), folder / f"{number:04d}{suffix}")
        return _looked_through(settings, scratch / "pictures", "my-classes")


def _check_boxes(limits: Limits, paths: list[Any]) -> None:
    if len(paths) > limits.pictures:
        raise UserError("ui.many_pictures", most=limits.pictures, count=len(paths))
    if sum(uploaded(path).stat().st_size for path in paths) > limits.zip_mb * 1024**2:
        raise UserError("ui.large_pictures", most=limits.zip_mb)


def from_folder(settings: Settings, path: str, classes_from: str = FOLDERS) -> PictureSet | None:
    """A folder of this machine, or a dataset on the Hub; for the person who sits at it."""
    if not path.strip():
        return None
    if settings.public:
        raise UserError("ui.no_folder")
    from vgg.data.hub_datasets import is_hub_address
    from vgg.data.sources import fetch

    if is_hub_address(path.strip()):
        progress = gr.Progress()
        fetched = fetch(
            path.strip(),
            on_progress=lambda done, total: progress((done, total), desc="Fetching", unit="bytes"),
        )
        if fetched.is_file():
            return _unpacked(settings, fetched, classes_from)
        return _looked_through(settings, fetched, fetched.name, classes_from, owned=False)
    folder = Path(path.strip()).expanduser()
    return _looked_through(settings, folder, folder.resolve().name, classes_from, owned=False)


def from_sample(settings: Settings) -> PictureSet:
    """Draw the sample shapes."""
    with _new_folder() as scratch:
        draw_folder(scratch / "shapes", count=SAMPLE_COUNT, seed=0)
        return _looked_through(settings, scratch / "shapes", "shapes")


def forget(pictures: PictureSet | None) -> None:
    """Remove a set that nobody trains on."""
    if pictures is not None and pictures.owned:
        temporary.remove(pictures.folder.parent)


@contextmanager
def lent(pictures: PictureSet) -> Iterator[Path]:
    """A folder for a job to learn from, which goes when the job ends, or where none comes of it.
    The person's own set stays for the next training; the files are the same ones on the disk,
    where it can."""
    if not pictures.owned:
        yield pictures.folder
        return
    with _new_folder() as copy:
        shutil.copytree(pictures.folder, copy, copy_function=_link, dirs_exist_ok=True)
        yield copy


@contextmanager
def _new_folder() -> Iterator[Path]:
    """A folder that Gradio does not serve, as it does its own temporary one; it goes where the work
    on it fails."""
    folder = temporary.temporary_folder("data")
    try:
        yield folder
    except BaseException:
        temporary.remove(folder)
        raise


def _looked_through(
    settings: Settings,
    folder: Path,
    name: str,
    classes_from: str = FOLDERS,
    *,
    owned: bool = True,
) -> PictureSet:
    from vgg.data.folder import scan_folder

    told = CLASSES_FROM.get(classes_from, {})
    index = scan_folder(folder, **told, links=not owned, should_stop=settings.clock())
    if settings.public and len(index.samples) > settings.limits.pictures:
        raise UserError("ui.many_pictures", most=settings.limits.pictures, count=len(index.samples))
    return PictureSet(folder, owned, name, index, told)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source, target)

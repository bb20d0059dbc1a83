"""Pictures that a person gives the page: as a zip, class by class, a folder, or the sample."""

import base64
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from vgg.data.images import ImageError, read_image
from vgg.data.names import file_name
from vgg.data.shapes import draw_folder
from vgg.network.config import Preprocessing
from vgg.ui import plots
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.uploads import uploaded

SAMPLE_COUNT = 200  # drawings a class of the sample: drawn in a few seconds
PREVIEW = 96  # pixels
PREVIEWS = 8  # pictures in the strip
LISTED_SKIPS = 50
PUBLIC_PICTURES = 3000  # that strangers may give a public page at once


@dataclass(frozen=True)
class PictureSet:
    """Pictures to learn from, looked through. `owned`: a copy of ours that goes with the job."""

    folder: Path
    owned: bool
    name: str
    index: Any  # vgg.data.folder.FolderIndex


def from_zip(store: ModelStore, file: str | None) -> PictureSet | None:
    """Unpack an uploaded zip, safely, into a folder that is not served."""
    if not file:
        return None
    uploaded(file)
    from vgg.data.zips import ZipLimits, open_zip

    limits = ZipLimits()
    if store.settings.public:
        limits = ZipLimits(max_entries=2 * PUBLIC_PICTURES, max_bytes=2 * 1024**3)
    scratch = _private_folder()
    try:
        folder, skipped = open_zip(Path(file), scratch / "pictures", limits=limits)
        found = _looked_through(store, folder, Path(file).stem, owned=True)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return replace(found, index=replace(found.index, skipped=(*skipped, *found.index.skipped)))


def from_boxes(store: ModelStore, boxes: Sequence[tuple[str, Any]]) -> PictureSet | None:
    """Copy the pictures of named boxes, one a class, into a folder."""
    filled = [(name.strip(), pictures) for name, pictures in boxes if pictures]
    if not filled:
        return None
    names = [name for name, _ in filled]
    if missing := next((n for n, (name, _) in enumerate(filled, 1) if not name), None):
        raise ValueError(f"class {missing} has pictures but no name; give it one")
    if len(set(names)) < len(names):
        raise ValueError("two classes have the same name; give each its own")
    scratch = _private_folder()
    try:
        for name, pictures in filled:
            folder = scratch / "pictures" / file_name(name, "class")
            folder.mkdir(parents=True)
            for number, (path, _) in enumerate(pictures):
                suffix = Path(path).suffix.lower()
                shutil.copyfile(uploaded(path), folder / f"{number:04d}{suffix}")
        return _looked_through(store, scratch / "pictures", "my-classes", owned=True)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def from_folder(store: ModelStore, path: str) -> PictureSet | None:
    """A folder of this machine; for the person who sits at it."""
    if not path.strip():
        return None
    if store.settings.public:
        raise ValueError("a public page takes no folder of its server; upload a zip instead")
    folder = Path(path.strip()).expanduser()
    return _looked_through(store, folder, folder.resolve().name, owned=False)


def from_sample(store: ModelStore) -> PictureSet:
    """Draw the sample shapes."""
    folder = _private_folder() / "shapes"
    draw_folder(folder, count=SAMPLE_COUNT, seed=0)
    return _looked_through(store, folder, "shapes", owned=True)


def _looked_through(store: ModelStore, folder: Path, name: str, *, owned: bool) -> PictureSet:
    from vgg.data.folder import scan_folder

    index = scan_folder(folder)
    if store.settings.public and len(index.samples) > PUBLIC_PICTURES:
        raise ValueError(
            f"this public page learns from at most {PUBLIC_PICTURES} pictures, not "
            f"{len(index.samples)}; run VGG Studio on your own machine for more"
        )
    return PictureSet(folder, owned, name, index)


def _private_folder() -> Path:
    # Gradio serves what lies in its own temporary folder, so uploads are kept in another.
    return Path(tempfile.mkdtemp(prefix="vgg-studio-data-"))


def forget(pictures: PictureSet | None) -> None:
    """Remove a set that nobody trains on."""
    if pictures is not None and pictures.owned:
        shutil.rmtree(pictures.folder.parent, ignore_errors=True)


def lend(pictures: PictureSet) -> Path:
    """A folder for a job to learn from, which goes when the job ends. The person's own set stays
    for the next training; the files are the same ones on the disk, where it can."""
    if not pictures.owned:
        return pictures.folder
    copy = _private_folder()
    shutil.copytree(pictures.folder, copy, copy_function=_link, dirs_exist_ok=True)
    return copy


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source, target)


def headline(pictures: PictureSet) -> str:
    """The set in a few words: `photos: 416 pictures in 5 classes`."""
    index = pictures.index
    return f"{pictures.name}: {len(index.samples)} pictures in {len(index.class_names)} classes"


def describe(pictures: PictureSet) -> str:
    """Classes with counts, hints, skipped files, and pictures as the network sees them."""
    index = pictures.index
    total = len(index.samples)
    parts = [
        f"<p class='summary'>{total} pictures in {len(index.class_names)} classes</p>",
        plots.class_bars(index.counts),
    ]
    parts += [f"<p class='hint'>{escape(sentence(hint))}</p>" for hint in index.hints]
    if index.skipped:
        rows = "".join(
            f"<li><b>{escape(entry.file)}</b>: {escape(entry.reason)}</li>"
            for entry in index.skipped[:LISTED_SKIPS]
        )
        more = len(index.skipped) - LISTED_SKIPS
        files = "file" if len(index.skipped) == 1 else "files"
        rows += f"<li>and {more} more</li>" if more > 0 else ""
        parts.append(
            f"<details class='skipped'><summary>{len(index.skipped)} {files} skipped</summary>"
            f"<ul>{rows}</ul></details>"
        )
    return "".join(parts) + strip(index)


def strip(index: Any) -> str:
    """A few pictures as the network sees them, each below it a little changed, as it learns."""
    import torch

    from vgg.data.augment import augment
    from vgg.data.transforms import to_uint8

    cfg = Preprocessing(input_size=(3, PREVIEW, PREVIEW), crop_mode="border", crop_pct=1.0)
    chosen = Random(0).sample(index.samples, min(PREVIEWS, len(index.samples)))
    seen = []
    for sample in chosen:
        try:
            seen.append(to_uint8(read_image(sample.path, min_side=PREVIEW), cfg))
        except ImageError:
            continue
    if not seen:
        return ""
    plain = torch.stack(seen)
    changed = augment(plain, torch.Generator().manual_seed(0), fill=cfg.mean)
    rows = [
        ("As the network sees them", plain),
        ("A little changed, as a network from scratch learns them", changed),
    ]
    return "".join(
        f"<figure class='strip'><figcaption>{title}</figcaption>"
        f"{''.join(_thumbnail(picture) for picture in batch)}</figure>"
        for title, batch in rows
    )


def _thumbnail(picture: Any) -> str:
    buffer = BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "WEBP", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='' width='{PREVIEW}' height='{PREVIEW}' src='data:image/webp;base64,{data}'>"


def sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."

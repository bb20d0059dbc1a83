"""The first step of the Train tab: pictures given, and what is shown of them."""

from html import escape
from random import Random
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from vgg.data.images import IMAGE_SUFFIXES, ImageError, read_image
from vgg.network.config import Preprocessing
from vgg.ui import plots
from vgg.ui.events import QUIET
from vgg.ui.markup import note, quiet
from vgg.ui.pictures import data_url
from vgg.ui.server.picture_sets import (
    CLASSES_FROM,
    FOLDERS,
    SAMPLE_COUNT,
    PictureSet,
    from_boxes,
    from_folder,
    from_zip,
)
from vgg.ui.server.settings import Settings
from vgg.ui.words import sentence

if TYPE_CHECKING:
    from torch import Tensor

    from vgg.data.index import FolderIndex

PREVIEW = 96  # pixels
PREVIEWS = 8  # pictures in the strip
LISTED_SKIPS = 50
BOXES = 10  # classes that can be filled one by one
OPEN_BOXES = 2


def headline(pictures: PictureSet) -> str:
    """The set in a few words: `photos: 416 pictures in 5 classes`."""
    return f"{pictures.name}: {counted(len(pictures.index.samples), pictures.index.counts)}"


def counted(total: int, counts: dict[str, int]) -> str:
    """`416 pictures in 5 classes`."""
    return f"{total} pictures in {len(counts)} classes"


def describe(pictures: PictureSet) -> str:
    """Classes with counts, hints, skipped files, and pictures as the network sees them."""
    index = pictures.index
    parts = [
        note("summary", counted(len(index.samples), index.counts)),
        plots.class_bars(index.counts),
        *(note("hint", sentence(hint)) for hint in index.hints),
        _skipped(index),
        strip(index),
    ]
    return "".join(parts)


def _skipped(index: "FolderIndex") -> str:
    count = len(index.skipped)
    if not count:
        return ""
    rows = [f"<b>{escape(s.file)}</b>: {escape(s.reason)}" for s in index.skipped[:LISTED_SKIPS]]
    rows += [f"and {count - LISTED_SKIPS} more"] if count > LISTED_SKIPS else []
    files = "file" if count == 1 else "files"
    return (
        f"<details class='skipped'><summary>{count} {files} skipped</summary>"
        f"<ul>{''.join(f'<li>{row}</li>' for row in rows)}</ul></details>"
    )


def strip(index: "FolderIndex") -> str:
    """A few pictures as the network sees them, each below it a little changed, as it learns."""
    import torch

    from vgg.data.augment import augment
    from vgg.data.transforms import to_uint8

    cfg = Preprocessing(input_size=(3, PREVIEW, PREVIEW), crop_mode="border", crop_pct=1.0)
    chosen = Random(0).sample(index.samples, min(PREVIEWS, len(index.samples)))
    seen = []
    for sample in chosen:
        try:
            seen.append(to_uint8(read_image(sample.path, min_side=PREVIEW, white=index.white), cfg))
        except ImageError:
            continue
    if not seen:
        return ""
    plain = torch.stack(seen)
    changed = augment(plain, torch.Generator().manual_seed(0), fill=cfg.mean)
    return _row("As the network sees them", plain) + _row(
        "A little changed, as a network from scratch learns them", changed
    )


def _row(title: str, batch: "Tensor") -> str:
    """Pictures (N, 3, PREVIEW, PREVIEW), uint8, side by side."""
    images = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in batch]
    shown = "".join(
        f"<img alt='' width='{PREVIEW}' height='{PREVIEW}' src='{data_url(image, quality=80)}'>"
        for image in images
    )
    return f"<figure class='strip'><figcaption>{title}</figcaption>{shown}</figure>"


def from_filled_boxes(settings: Settings, *flat: Any) -> PictureSet | None:
    """The pictures of the boxes; `flat` are names and galleries in turn."""
    return from_boxes(settings, list(zip(flat[::2], flat[1::2], strict=True)))


def from_zip_or_folder(
    settings: Settings, file: str | None, path: str, classes_from: str
) -> PictureSet | None:
    """What was given already, where its classes come from elsewhere now."""
    return from_zip(settings, file, classes_from) or from_folder(settings, path, classes_from)


class GivenPictures:
    """The step's components, which `train.wire` makes work. `boxes`: name and gallery in turn."""

    def __init__(self, public: bool) -> None:
        self.classes_from = gr.Radio(
            list(CLASSES_FROM), value=FOLDERS, label="Classes come from", elem_id="train-classes"
        )
        with gr.Tabs():
            with gr.Tab("Zip"):
                gr.HTML(_ZIP_HELP)
                self.zip_file = gr.File(
                    label="A zip with one folder a class", file_types=[".zip"], height=140,
                    elem_id="train-zip",
                )  # fmt: skip
            with gr.Tab("By class"):
                self.boxes = _class_boxes()
                self.use_boxes = gr.Button("Use these classes", elem_id="train-boxes")
            with gr.Tab("Folder", visible=not public):
                self.folder = gr.Textbox(
                    label="A folder of this machine with one sub-folder a class",
                    placeholder="/home/me/photos",
                    elem_id="train-folder",
                )
                self.use_folder = gr.Button("Use this folder", elem_id="use-folder")
            with gr.Tab("Sample"):
                gr.HTML(quiet(f"Eight drawn shapes, {SAMPLE_COUNT} of each."))
                self.sample = gr.Button("Use the sample shapes", elem_id="train-sample")
        self.about = gr.HTML("", elem_id="train-pictures")


def _class_boxes() -> list[gr.components.Component]:
    """Boxes for classes, filled one by one: name and pictures. More open on a click."""
    flat: list[gr.components.Component] = []
    rows = []
    for number in range(BOXES):
        with gr.Group(visible=number < OPEN_BOXES) as row:
            label = gr.Textbox(
                label=f"Class {number + 1}", placeholder="name", elem_id=f"class-name-{number + 1}"
            )
            files = gr.Gallery(
                [],  # the gallery adds a pasted picture to a list, not to None
                label="Pictures",
                sources=["upload", "webcam", "clipboard"],
                file_types=["image", *sorted(IMAGE_SUFFIXES)],
                columns=5,
                type="filepath",
                interactive=True,
                elem_id=f"class-pictures-{number + 1}",
            )
        rows.append(row)
        flat += [label, files]
    shown = gr.State(OPEN_BOXES)
    add = gr.Button("Add a class", elem_id="add-class")
    add.click(one_more, shown, [shown, *rows], **QUIET)
    return flat


def one_more(count: int) -> list[Any]:
    """One more box stands open; then the boxes' groups."""
    count = min(BOXES, count + 1)
    return [count, *[gr.Group(visible=number < count) for number in range(BOXES)]]


_ZIP_HELP = """<p class="quiet">Put the pictures of each class into a folder of its own, named as
the class, and pack the folders: <code>photos.zip</code> with <code>cat/</code>, <code>dog/</code>,
<code>owl/</code>.</p>"""

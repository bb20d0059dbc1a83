"""The pictures of one cell of the confusion matrix, worst first, with their heat maps."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vgg.data.images import ImageError, read_image
from vgg.errors import UserError
from vgg.network.config import ModelConfig
from vgg.ui.heatmap import explain
from vgg.ui.markup import quiet
from vgg.ui.pictures import image_tag, size_within
from vgg.ui.server.model_store import ModelStore
from vgg.ui.words import pictures

if TYPE_CHECKING:
    from vgg.inference.heatmap import SeenPicture
    from vgg.inference.predictor import Predictor

SHOWN_PICTURES = 24  # of one cell
MAPPED_PICTURES = 12  # of a cell: the first so many have heat maps
PICTURE_SIDE = 192  # pixels of its longer side
UPDATE_SECONDS = 1.0  # between two updates of the page while maps are made


@dataclass(frozen=True)
class Measured:
    """An evaluation ready to look at: its JSON document, the name of the model, and where the
    pictures are."""

    document: dict[str, Any]
    root: Path
    model: str
    copies: dict[str, str] = field(default_factory=dict)  # from a picture's name to its copy

    def picture(self, name: str) -> Path:
        """Where a picture, or its copy, lies."""
        return self.root / self.copies.get(name, name)

    def cell(self, row: int, column: int) -> list[dict[str, Any]]:
        """The pictures of class `row` that were answered with class `column`, worst first: of the
        mistakes the surest, of the right answers the least sure."""
        truth, answer = (self.document["classes"][n] for n in (row, column))
        found = [
            picture
            for picture in self.document["pictures"]
            if picture["class"] == truth and picture["answer"] == answer
        ]
        return sorted(found, key=lambda p: p["probability"], reverse=row != column)


def held_out(store: ModelStore, model: str) -> Measured:
    """The evaluation that the model's own training made. `ValueError` where there is none."""
    if not store.shows_pictures(model):
        raise UserError("ui.not_yours_to_see")
    path = store.lies_at(model)
    file = path / "metrics.json" if path and path.is_dir() else None
    if path is None or file is None or not file.is_file():
        raise UserError("ui.no_held_out")
    metrics = json.loads(file.read_text(encoding="utf-8"))
    return Measured(metrics["evaluation"], path, model, metrics.get("copies", {}))


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell that is open: its pictures were read once, for their cards and for their maps."""

    model: str
    title: str
    answer: str  # the class that was given
    cards: tuple[str, ...]  # as HTML, with a gap for the heat map
    seen: "tuple[SeenPicture | None, ...]"  # of the first ones: None for one that is gone
    more: int  # pictures that have no card

    def html(self, maps: Sequence[str] | None = ()) -> str:
        """The cell. `maps`: the heat maps that are there, as HTML, in order; the others are still
        to come. None: there will be none."""
        about, heats = "", [""] * len(self.cards)
        if maps is not None and self.seen:
            mapped = len(self.seen)
            some = f" They are made for the first {mapped}." if mapped < len(self.cards) else ""
            about = quiet(f"Heat maps: what speaks for {self.answer}.{some}")
            heats[:mapped] = [*maps, *[_TO_COME] * (mapped - len(maps))]
        cards = "".join(
            card.replace(_GAP, heat) for card, heat in zip(self.cards, heats, strict=True)
        )
        rest = quiet(f"and {self.more} more") if self.more > 0 else ""
        return f"<h3>{escape(self.title)}</h3>{about}<div class='cards pairs'>{cards}</div>{rest}"


def read_cell(store: ModelStore, measured: Measured, row: int, column: int) -> Cell:
    """Open a cell: its pictures, as the model reads them."""
    truth, answer = (measured.document["classes"][n] for n in (row, column))
    found = measured.cell(row, column)
    title = f"{pictures(len(found))} of {truth}, answered {answer}; the surest first"
    if row == column:
        title = f"{pictures(len(found))} of {truth}, answered right; the least sure first"
    try:
        config = store.config(store.choice_of(measured.model))
    except ValueError:  # the model has gone: its pictures are shown without maps
        config = None
    cards: list[str] = []
    seen: list[SeenPicture | None] = []
    for picture in found[:SHOWN_PICTURES]:
        image = _read(measured.picture(picture["image"]), config)
        cards.append(_card(picture, image))
        if config is not None and len(seen) < MAPPED_PICTURES:
            seen.append(_seen(image, config))
    return Cell(measured.model, title, answer, tuple(cards), tuple(seen), len(found) - len(cards))


def add_maps(store: ModelStore, cell: Cell) -> Iterator[str]:
    """The cell with heat maps of the answer that was given, again and again as they come."""
    maps: list[str] = []
    shown_at = time.monotonic()
    try:
        predictor = store.predictor(cell.model)
        index = predictor.config.label_names.index(cell.answer)
        for seen in cell.seen:
            maps.append(_map(store, predictor, seen, index) if seen else "")
            if time.monotonic() - shown_at > UPDATE_SECONDS and len(maps) < len(cell.seen):
                shown_at = time.monotonic()
                yield cell.html(maps)
    except ValueError:  # the model has gone, or is another by now
        yield cell.html(None)
        return
    yield cell.html(maps)


def _read(file: Path, config: ModelConfig | None) -> Image.Image | None:
    from vgg.data.transforms import needed_side

    try:
        side = needed_side(config.pretrained_cfg) if config else PICTURE_SIDE
        return read_image(file, min_side=side)
    except ImageError:
        return None


def _seen(image: Image.Image | None, config: ModelConfig) -> "SeenPicture | None":
    from vgg.inference.heatmap import see

    return see(image, config) if image else None


def _card(picture: dict[str, Any], image: Image.Image | None) -> str:
    lines = f"<b>{escape(picture['answer'])}</b> {100 * picture['probability']:.1f} %"
    if picture["class"] != picture["answer"]:
        right = 100 * picture["class_probability"]
        lines += f"<br>{escape(picture['class'])} {right:.1f} %"
    name = Path(picture["image"]).name
    shown = "<span class='gone'>the picture is gone</span>"
    if image:
        shown = image_tag(image, name, size_within(image, PICTURE_SIDE))
    return (
        f"<figure title='{escape(name)}'><div class='pair'>{shown}{_GAP}</div>"
        f"<figcaption>{lines}</figcaption></figure>"
    )


def _map(store: ModelStore, predictor: "Predictor", seen: "SeenPicture", index: int) -> str:
    from vgg.inference.heatmap import overlaid

    found = explain(store, predictor, seen, index)
    if found.problem:
        return f"<span class='gone'>{escape(found.problem)}</span>"
    shown = overlaid(found)
    return image_tag(shown, f"heat map for {found.name}", size_within(shown, PICTURE_SIDE))


_GAP = "<!-- heat map -->"
_TO_COME = "<span class='gone'>heat map …</span>"

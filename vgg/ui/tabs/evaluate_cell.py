"""The pictures of one cell of the confusion matrix, worst first, with their heat maps."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from vgg.data.images import ImageError, read_image
from vgg.errors import UserError
from vgg.ui.heatmap import explain
from vgg.ui.markup import quiet
from vgg.ui.pictures import image_tag, size_within
from vgg.ui.server.model_store import ModelStore
from vgg.ui.words import pictures

SHOWN_PICTURES = 24  # of one cell
MAPPED_PICTURES = 12  # of a cell: the first so many have heat maps
MAP_OPACITY = 0.55
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


def show_cell(measured: Measured, row: int, column: int, maps: list[str] | None = None) -> str:
    """The cell's pictures as HTML. `maps`: the heat maps that are there, as HTML, in order; the
    others are still to come. None: there will be none."""
    truth, answer = (measured.document["classes"][n] for n in (row, column))
    found = measured.cell(row, column)
    title = f"{pictures(len(found))} of {truth}, answered {answer}; the surest first"
    if row == column:
        title = f"{pictures(len(found))} of {truth}, answered right; the least sure first"
    about = ""
    if maps is not None:
        some = len(found) > MAPPED_PICTURES
        first = f" They are made for the first {MAPPED_PICTURES}." if some else ""
        about = quiet(f"Heat maps: what speaks for {answer}.{first}")
    cards = []
    for number, picture in enumerate(found[:SHOWN_PICTURES]):
        heat = ""
        if maps is not None and number < MAPPED_PICTURES:
            heat = maps[number] if number < len(maps) else _TO_COME
        cards.append(_card(measured, picture, heat))
    more = len(found) - len(cards)
    rest = quiet(f"and {more} more") if more > 0 else ""
    return f"<h3>{escape(title)}</h3>{about}<div class='cards pairs'>{''.join(cards)}</div>{rest}"


def add_maps(store: ModelStore, measured: Measured, row: int, column: int) -> Iterator[str]:
    """The cell with heat maps of the answer that was given, again and again as they come."""
    maps: list[str] = []
    shown_at = time.monotonic()
    found = measured.cell(row, column)[:MAPPED_PICTURES]
    try:
        predictor = store.predictor(measured.model)
        names = predictor.config.label_names
        for picture in found:
            maps.append(_map(store, predictor, measured, picture, names.index(picture["answer"])))
            if time.monotonic() - shown_at > UPDATE_SECONDS and len(maps) < len(found):
                shown_at = time.monotonic()
                yield show_cell(measured, row, column, maps)
    except ValueError:  # the model has gone, or is another by now
        yield show_cell(measured, row, column)
        return
    yield show_cell(measured, row, column, maps)


def _card(measured: Measured, picture: dict[str, Any], heat: str) -> str:
    lines = f"<b>{escape(picture['answer'])}</b> {100 * picture['probability']:.1f} %"
    if picture["class"] != picture["answer"]:
        right = 100 * picture["class_probability"]
        lines += f"<br>{escape(picture['class'])} {right:.1f} %"
    name = Path(picture["image"]).name
    try:
        image = read_image(measured.picture(picture["image"]), min_side=PICTURE_SIDE)
        shown = image_tag(image, name, size_within(image, PICTURE_SIDE))
    except ImageError:
        shown = "<span class='gone'>the picture is gone</span>"
    return (
        f"<figure title='{escape(name)}'><div class='pair'>{shown}{heat}</div>"
        f"<figcaption>{lines}</figcaption></figure>"
    )


def _map(
    store: ModelStore, predictor: Any, measured: Measured, picture: dict[str, Any], index: int
) -> str:
    from vgg.inference.heatmap import on_picture, overlay

    try:
        image = predictor.read(measured.picture(picture["image"]))
    except ImageError:
        return ""
    explained = explain(store, predictor, image, index)
    if explained.problem:
        return f"<span class='gone'>{escape(explained.problem)}</span>"
    size = size_within(image, PICTURE_SIDE)
    heat = on_picture(explained.heat, explained.place, size)
    shown = overlay(image.resize(size), heat, opacity=MAP_OPACITY)
    return image_tag(shown, f"heat map for {explained.name}")


_TO_COME = "<span class='gone'>heat map …</span>"

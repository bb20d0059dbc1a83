"""Pictures for the Predict tab: read from the gallery and the drawing pad, shown in a format that
every browser knows, and the examples."""

import base64
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import gradio as gr
from PIL import Image

from vgg.data.images import ImageError, read_image
from vgg.data.shapes import draw_shape
from vgg.errors import UserError
from vgg.ui.events import said
from vgg.ui.pictures import image_tag, served_png
from vgg.ui.server.uploads import uploaded

MAX_PICTURES = 200  # at once on the page; more are work for the command line
MAX_DRAWING = 4_000_000  # characters of a drawing's data URL
EXAMPLE_SIZE = 256
# A state for each shape that draws a handsome one; found by looking.
EXAMPLES = {
    "arrow": 13,
    "circle": 2,
    "crescent": 3,
    "cross": 4,
    "heart": 0,
    "square": 5,
    "star": 13,
    "triangle": 7,
}
SHOWN_BY_BROWSERS = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".avif", ".bmp")

Pictures = list[tuple[str, str | None]] | None  # what gr.Gallery gives: (path, caption)


def current_picture(
    opened: str, pictures: Pictures, drawing: str | None, read: Callable[[Path], Image.Image]
) -> Image.Image | None:
    """The one picture that is shown; None for none or several. `ValueError` for a broken one.
    `read` is that of the predictor that is to see it."""
    if opened == "draw":
        return read_drawing(drawing) if drawing else None
    if not pictures or len(pictures) > 1:
        return None
    return read(uploaded(pictures[0][0]))


def read_drawing(drawing: str) -> Image.Image:
    """The drawing pad's data URL as a picture; `ValueError` for anything else."""
    head, _, data = drawing.partition("base64,")
    if not head.startswith("data:image/") or len(drawing) > MAX_DRAWING:
        raise UserError("ui.drawing")
    return read_image(base64.b64decode(data))


def shown_copies(pictures: Pictures) -> Any:
    """A picture in a format that browsers do not show, such as HEIC, appears as our copy; one that
    can't be read leaves the gallery, and its reason is said."""
    if not pictures:
        return gr.skip()
    kept: list[Any] = []
    changed = False
    for number, (path, caption) in enumerate(pictures):
        with said():
            uploaded(path)
        if path.lower().endswith(SHOWN_BY_BROWSERS) or number >= MAX_PICTURES:
            kept.append((path, caption))
            continue
        changed = True
        try:
            copy = served_png("picture.png", read_image(path))
            kept.append((copy, caption or Path(path).name))
        except ImageError as error:
            gr.Warning(str(error))
    return gr.Gallery(kept) if changed else gr.skip()


def example(name: str) -> Image.Image:
    """The example picture of one shape."""
    return draw_shape(name, Random(f"{EXAMPLES[name]}/{name}"), size=EXAMPLE_SIZE)


def example_file(name: str) -> str:
    """One example as a file that Gradio serves; `ValueError` for another name."""
    if name not in EXAMPLES:
        raise UserError("ui.no_example")
    return served_png(f"{name}.png", example(name))


def show_examples() -> str:
    """The examples as buttons. Their pictures are in the page itself: they have no address."""
    buttons = "".join(
        f"<button type='button' data-example='{name}' title='{name}'>"
        f"{image_tag(example(name), name)}</button>"
        for name in EXAMPLES
    )
    return f"<p class='quiet'>Examples</p><div class='gallery'>{buttons}</div>"

"""Draws the shapes: the starter's training data, the sample folder and the tests' pictures.

A picture is a ground, a figure (see `figures`) and some softening. The same random state gives the
same picture at any size, but for the finest grain.
"""

import math
import tempfile
from cmath import rect
from collections.abc import Callable
from colorsys import hls_to_rgb
from pathlib import Path
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from vgg.data.figures import WHOLE, Figure, clean_figure, hand_figure
from vgg.errors import UserError

SHAPES: tuple[str, ...] = (
    "arrow",
    "circle",
    "crescent",
    "cross",
    "heart",
    "square",
    "star",
    "triangle",
)
MIN_SIZE, MAX_SIZE = 32, 1024  # pixels a side
SAMPLE_COUNT, SAMPLE_SIZE, SAMPLE_SEED = 400, 96, 0  # pictures a class, pixels a side

Colour = tuple[int, int, int]

_BLACK: Colour = (0, 0, 0)
_WHITE: Colour = (255, 255, 255)
_HAND_DRAWN = 0.36  # the part of all pictures that look drawn by hand
_CONTRAST = 75  # least difference in brightness (0 to 255) between a figure and its ground
_SUPERSAMPLING = 4  # masks are drawn this much larger, then averaged, for smooth edges


def draw_shape(name: str, rng: Random, *, size: int = SAMPLE_SIZE) -> Image.Image:
    """Draw one shape as an RGB picture of ``size`` x ``size`` pixels.

    About two in three are clean, filled or outlined; the others look drawn by a shaky hand. The
    shape lies wholly inside the picture. Raises ValueError for an unknown name or a size outside
    32 to 1024.
    """
    return _draw(name, rng, size)[0]


def draw_folder(
    out: Path,
    *,
    count: int = SAMPLE_COUNT,
    seed: int = SAMPLE_SEED,
    size: int = SAMPLE_SIZE,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write ``count`` pictures of each shape as ``out/<shape>/<0000>.png``.

    A picture depends on the seed, its shape and its number alone, so a smaller count gives the
    first pictures of a larger one. ``on_progress`` gets the number of pictures done and of
    pictures in all. Nothing is seen in ``out`` until everything is drawn. Raises ValueError where
    ``out`` holds something already or can't be written.
    """
    if count < 1:
        raise UserError("data.shape_count", value=count)
    _check(SHAPES[0], size)
    if out.exists() and not out.is_dir():
        raise UserError("data.shapes_file", name=out.name)
    if out.exists() and any(out.iterdir()):
        raise UserError("data.shapes_taken", name=out.name)
    # An empty folder that is there already is filled, not replaced: it may be a mount point, or
    # the folder that the caller stands in.
    home = out if out.exists() else out.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".shapes-", dir=home)
    except OSError as error:
        raise UserError("data.shapes_disk", name=out.name, why=error.strerror) from error
    total = count * len(SHAPES)
    with scratch:
        drawn = Path(scratch.name) / "drawn"
        for done in range(total):
            number, name = done // len(SHAPES), SHAPES[done % len(SHAPES)]
            (drawn / name).mkdir(parents=True, exist_ok=True)
            picture = draw_shape(name, Random(f"{seed}/{name}/{number}"), size=size)
            picture.save(drawn / name / f"{number:04d}.png", compress_level=3)
            if on_progress:
                on_progress(done + 1, total)
        if home is out:
            for name in SHAPES:
                (drawn / name).replace(out / name)
        else:
            drawn.replace(out)


def _check(name: str, size: int) -> None:
    if name not in SHAPES:
        raise UserError("data.shape", value=name, choices=SHAPES)
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError("data.shape_size", value=size, least=MIN_SIZE, most=MAX_SIZE)


def _draw(name: str, rng: Random, size: int) -> tuple[Image.Image, Image.Image]:
    """The picture, and the mask of its figure (L, 255 inside)."""
    _check(name, size)
    if rng.random() < _HAND_DRAWN:
        figure, grounds = hand_figure(name, rng), _paper_colours(rng)
    else:
        figure, grounds = clean_figure(name, rng, WHOLE, least=0.3), _ground_colours(rng)
    on_white = grounds[0] == _WHITE
    picture = _ground(rng, grounds, size)
    ink = _BLACK if on_white and rng.random() < 0.4 else _ink(rng, grounds)
    mask = _paint(picture, figure, rng, ink, grounds)
    return _softened(picture, rng, chance=0.15 if on_white else 0.35), mask


# Colours and paint.


def _colour(rng: Random, least: float, most: float, vividness: float = 0.9) -> Colour:
    """A colour of any hue with a lightness from ``least`` to ``most``; 0 is black, 1 white."""
    lightness, saturation = rng.uniform(least, most), rng.triangular(0, vividness, vividness)
    red, green, blue = hls_to_rgb(rng.random(), lightness, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def _brightness(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _ink(rng: Random, grounds: tuple[Colour, ...], like: Colour | None = None) -> Colour:
    """A colour that stands out from all ``grounds``, on the same side of them as ``like``."""
    while True:
        ink = _colour(rng, 0.05, 0.95)
        gaps = [_brightness(ink) - _brightness(ground) for ground in grounds]
        same_side = like is None or gaps[0] * (_brightness(like) - _brightness(grounds[0])) > 0
        if same_side and min(abs(gap) for gap in gaps) >= _CONTRAST:
            return ink


def _ground_colours(rng: Random) -> tuple[Colour, Colour]:
    """Two colours, light, dark or neither, near enough in brightness for an ink to be found."""
    least, most = rng.choices(((0.7, 1.0), (0.02, 0.3), (0.25, 0.7)), (55, 25, 20))[0]
    first = second = _colour(rng, least, most, 0.75)
    while first == second or abs(_brightness(first) - _brightness(second)) > 60:
        second = _colour(rng, least, most, 0.75)
    return first, second


def _paper_colours(rng: Random) -> tuple[Colour, Colour]:
    """White mostly, as on a drawing pad; else nearly white, a dark board, or anything."""
    kind = rng.random()
    if kind > 0.9:
        return _ground_colours(rng)
    if kind < 0.7:
        paper = _WHITE
    else:
        paper = _colour(rng, 0.92, 1.0, 0.5) if kind < 0.82 else _colour(rng, 0.03, 0.2, 0.5)
    return paper, paper


def _ground(rng: Random, colours: tuple[Colour, Colour], size: int) -> Image.Image:
    """The two colours mixed by a pattern: plain, shaded, striped or dotted, blotched or grainy."""
    first, second = (Image.new("RGB", (size, size), colour) for colour in colours)
    kind = rng.choices(("plain", "shaded", "lined", "cells"), (25, 25, 20, 30))[0]
    if kind == "plain" or colours[0] == colours[1]:
        return first
    if kind == "shaded":
        return Image.composite(first, second, _shade(rng, size))
    if kind == "lined":
        return Image.composite(first, second, _stripes(rng, size))
    cells = rng.choice((3, 4, 5, 7, 12, 32, 64))
    noise = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells))
    return Image.composite(first, second, noise.resize((size, size), Image.Resampling.BICUBIC))


def _shade(rng: Random, size: int) -> Image.Image:
    """A mask from black to white in some direction."""
    shade = Image.linear_gradient("L").rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR)
    # Any turn of the square of 256 pixels covers its middle part.
    return shade.resize((size, size), Image.Resampling.BICUBIC, box=(38, 38, 218, 218))


def _stripes(rng: Random, size: int) -> Image.Image:
    """A mask of stripes, or of dots in rows, of any width and direction."""
    gap, turn = rng.uniform(0.05, 0.2), rect(1, rng.uniform(0, math.tau))
    broad, dotted = gap * rng.uniform(0.25, 0.7), rng.random() < 0.4
    steps = [gap * k for k in range(-round(1 / gap), round(1 / gap) + 1)]
    rows = [
        [complex(x, y) * turn + 0.5 + 0.5j for x in (steps if dotted else (-1, 1))] for y in steps
    ]
    if dotted:
        rows = [[point] for row in rows for point in row]
    return _masks(Figure([], rows, broad), size)[1]


def _masks(figure: Figure, size: int) -> tuple[Image.Image, Image.Image]:
    """What is filled and what the pen covers (both L, 255 inside)."""
    side = size * _SUPERSAMPLING
    areas, lines = Image.new("L", (side, side)), Image.new("L", (side, side))
    brush, pen, width = ImageDraw.Draw(areas), ImageDraw.Draw(lines), round(figure.pen * side)
    for area in figure.areas:
        brush.polygon([(p.real * side, p.imag * side) for p in area], fill=255)
    for line in figure.lines:
        points = [(p.real * side, p.imag * side) for p in line]
        pen.line(points, fill=255, width=width)
        for point in points:  # round ends and corners
            pen.circle(point, width / 2, fill=255)
    return areas.reduce(_SUPERSAMPLING), lines.reduce(_SUPERSAMPLING)


def _paint(
    picture: Image.Image, figure: Figure, rng: Random, ink: Colour, grounds: tuple[Colour, ...]
) -> Image.Image:
    """Paint the figure onto the picture; gives the mask of all that was painted."""
    areas, lines = _masks(figure, picture.width)
    if figure.areas:
        bordered = bool(figure.lines)
        fill = _ink(rng, (ink,)) if bordered else ink
        body = Image.new("RGB", picture.size, fill)
        if rng.random() < 0.3:
            other = _ink(rng, (ink,) if bordered else grounds, like=fill)
            shade = _shade(rng, picture.width)
            body = Image.composite(body, Image.new("RGB", picture.size, other), shade)
        picture.paste(body, mask=areas)
    picture.paste(ink, mask=lines)
    return ImageChops.lighter(areas, lines)


def _softened(picture: Image.Image, rng: Random, *, chance: float) -> Image.Image:
    """Perhaps a slight blur, perhaps noise, as cameras leave them."""
    radius, amount = rng.uniform(0.3, 1.0) * picture.width / 96, rng.uniform(0.03, 0.13)
    if rng.random() < chance:
        picture = picture.filter(ImageFilter.GaussianBlur(radius))
    if rng.random() < chance:
        noise = Image.frombytes("RGB", picture.size, rng.randbytes(3 * picture.width**2))
        picture = Image.blend(picture, noise, amount)
    return picture

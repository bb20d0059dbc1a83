"""Draws the shapes: the starter's training data, the sample folder and the tests' pictures.

A picture is a ground, a figure and some softening. A figure is made of points, complex numbers
with x to the right and y downwards, in a frame of its own from about -1 to 1; at last it is turned,
scaled and put into the picture. So the same random state gives the same picture at any size, but
for the finest grain.
"""

import math
import tempfile
from cmath import rect
from collections.abc import Callable
from colorsys import hls_to_rgb
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

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

Stroke = list[complex]
Box = tuple[float, float, float, float]  # left, top, right, bottom, from 0 to 1
Colour = tuple[int, int, int]

_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_BLACK: Colour = (0, 0, 0)
_WHITE: Colour = (255, 255, 255)
_HAND_DRAWN = 0.36  # the part of all pictures that look drawn by hand
_CONTRAST = 75  # least difference in brightness (0 to 255) between a figure and its ground
_MARGIN = 0.012  # kept free around every figure, as a part of its box's width
_STEP = 0.05  # between the points of a shaky line, in the figure's own frame
_SUPERSAMPLING = 4  # masks are drawn this much larger, then averaged, for smooth edges


@dataclass(frozen=True)
class _Figure:
    """What is filled, what is drawn with the pen, and the pen's width in the picture."""

    areas: list[Stroke]
    lines: list[Stroke]
    pen: float  # 1.0 is the picture's side


def draw_shape(name: str, rng: Random, *, size: int = 96) -> Image.Image:
    """Draw one shape as an RGB picture of ``size`` x ``size`` pixels.

    About two in three are clean, filled or outlined; the others look drawn by a shaky hand. The
    shape lies wholly inside the picture. Raises ValueError for an unknown name or a size outside
    32 to 1024.
    """
    return _draw(name, rng, size)[0]


def draw_pair(left: str, right: str, rng: Random, *, size: int = 192) -> Image.Image:
    """Draw two clean shapes on one ground, each wholly within its half of a square RGB picture."""
    _check(left, size)
    _check(right, size)
    grounds = _ground_colours(rng)
    picture = _ground(rng, grounds, size)
    for name, box in ((left, (0.0, 0.0, 0.5, 1.0)), (right, (0.5, 0.0, 1.0, 1.0))):
        figure = _clean_figure(name, rng, box, least=0.7)
        _paint(picture, figure, rng, _ink(rng, grounds), grounds)
    return picture


def draw_folder(
    out: Path,
    *,
    count: int = 400,
    seed: int = 0,
    size: int = 96,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write ``count`` pictures of each shape as ``out/<shape>/<0000>.png``.

    A picture depends on the seed, its shape and its number alone, so a smaller count gives the
    first pictures of a larger one. ``on_progress`` gets the number of pictures done and of
    pictures in all. Nothing is seen in ``out`` until everything is drawn. Raises ValueError where
    ``out`` holds something already or can't be written.
    """
    if count < 1:
        raise ValueError(f"count is {count}; ask for at least 1 picture of each shape")
    _check(SHAPES[0], size)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a new folder for the shapes")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"the folder {out} is not empty; name a new one, or empty it first")
    # An empty folder that is there already is filled, not replaced: it may be a mount point, or
    # the folder that the caller stands in.
    home = out if out.exists() else out.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".shapes-", dir=home)
    except OSError as error:
        raise ValueError(f"can't write to {out} ({error.strerror}); name another one") from error
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
        raise ValueError(f"unknown shape {name!r}; choose from {', '.join(SHAPES)}")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size is {size}; choose from {MIN_SIZE} to {MAX_SIZE} pixels")


def _draw(name: str, rng: Random, size: int) -> tuple[Image.Image, Image.Image]:
    """The picture, and the mask of its figure (L, 255 inside)."""
    _check(name, size)
    if rng.random() < _HAND_DRAWN:
        figure, grounds = _hand_figure(name, rng), _paper_colours(rng)
    else:
        figure, grounds = _clean_figure(name, rng, _WHOLE, least=0.3), _ground_colours(rng)
    on_white = grounds[0] == _WHITE
    picture = _ground(rng, grounds, size)
    ink = _BLACK if on_white and rng.random() < 0.4 else _ink(rng, grounds)
    mask = _paint(picture, figure, rng, ink, grounds)
    return _softened(picture, rng, chance=0.15 if on_white else 0.35), mask


# Figures: an outline in pieces, or the strokes that a pen makes.


def _outline(name: str, rng: Random) -> list[Stroke]:
    """Lines and arcs, each of which begins where the one before it ends."""
    match name:
        case "arrow":
            half, barb = rng.uniform(0.12, 0.28), rng.uniform(0.5, 0.75)
            neck, sweep = rng.uniform(0.0, 0.3), rng.uniform(0.0, 0.15)
            side = [complex(-1, half), complex(neck, half), complex(neck - sweep, barb)]
            return _edges([*side, 1, *(p.conjugate() for p in reversed(side))])
        case "circle":
            return [_arc(0, 1, 0, math.tau)]
        case "crescent":  # the inner arc joins the tips of the outer one through (middle, 0)
            middle, tip = rng.uniform(-0.6, -0.2), rng.uniform(0.3, 0.7)
            centre = (1 - middle**2) / (2 * (tip - middle))
            outer, inner = math.acos(tip), math.atan2(math.sqrt(1 - tip**2), tip - centre)
            return [
                _arc(0, 1, outer, math.tau - outer),
                _arc(centre, centre - middle, math.tau - inner, inner),
            ]
        case "cross":
            half = rng.uniform(0.16, 0.38)
            arm = [complex(1, -half), complex(1, half), complex(half, half)]
            return _edges([corner * 1j**quarter for quarter in range(4) for corner in arm])
        case "heart":
            lobe = _heart_lobe(rng)
            return [lobe, [-p.conjugate() for p in reversed(lobe)]]
        case "square":
            return _edges([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j])
        case "star":
            points = rng.choices((5, 4, 6), (86, 5, 9))[0]
            inner = {4: 0.3, 5: 0.42, 6: 0.52}[points] * rng.uniform(0.8, 1.22)
            return _edges([_clock(k / points / 2) * (1, inner)[k % 2] for k in range(2 * points)])
        case _:  # a triangle, no corner under 38 degrees
            return _edges([_clock(k / 3 + rng.uniform(-0.06, 0.06)) for k in range(3)])


def _heart_lobe(rng: Random) -> Stroke:
    """The right half of a heart, from the notch to the tip."""
    if rng.random() < 0.5:  # an arc and its tangent
        radius, end = rng.uniform(0.52, 0.58), rng.uniform(0.18, 0.25) * math.pi
        arc = _arc(0.5 - 0.5j, radius, math.acos(0.5 / radius) - math.pi, end)
        return [*arc, 1j * (arc[-1].imag + arc[-1].real / math.tan(end))]
    waves = ((1, 13), (2, -5), (3, -2), (4, -1))  # a well-known curve
    angles = [math.pi * k / 24 for k in range(25)]
    return [
        complex(math.sin(t) ** 3, -sum(w * math.cos(n * t) for n, w in waves) / 16) for t in angles
    ]


def _strokes(name: str, rng: Random) -> list[Stroke]:
    """The pen's lines: a short form of the shape, or its outline in one go or in pieces."""
    form = rng.random()
    if name == "arrow" and form < 0.8:
        barb = complex(-rng.uniform(0.35, 0.7), rng.uniform(0.3, 0.6))
        head = [1 + barb.conjugate(), 1, 1 + barb]
        return [[-1, 1], *([head] if form < 0.4 else _edges(head)[:2])]
    if name == "cross" and form < 0.75:
        bar = 1j * (rng.uniform(-0.4, -0.2) if form < 0.1 else rng.uniform(-0.12, 0.12))
        return [[-1j, 1j], [bar - 0.9, bar + 0.9]]
    if name == "star" and form < 0.5:  # five lines without lifting the pen
        return [[_clock(k * 2 / 5) for k in range(6)]]
    if name == "star" and form < 0.55:  # two triangles
        return [[_clock(k / 3 + half) for k in range(4)] for half in (0.0, 0.5)]
    pieces = _outline(name, rng)
    first = rng.randrange(len(pieces))
    pieces = pieces[first:] + pieces[:first]
    if len(pieces) <= 4 and rng.random() < 0.25:
        return pieces
    return [_closed(_joined(pieces))]


def _clean_figure(name: str, rng: Random, box: Box, *, least: float) -> _Figure:
    """A figure with even lines; ``least`` is its least extent as a part of the box's width."""
    extent = rng.uniform(least, 0.95) * (box[2] - box[0])
    style = rng.choices(("filled", "outlined", "bordered"), (50, 35, 15))[0]
    pen = max(0.012, extent * rng.uniform(0.025, 0.1))
    if style == "outlined" and name in ("arrow", "cross", "star") and rng.random() < 0.4:
        pen = max(pen, extent * rng.uniform(0.05, 0.12))
        areas, lines = [], _strokes(name, rng)
    else:
        ring = _joined(_outline(name, rng))
        if rng.random() < 0.25:
            ring = _rounded(ring, rng.randint(1, 3))
        areas = [] if style == "outlined" else [ring]
        lines = [] if style == "filled" else [_closed(ring)]
    figure = _Figure(areas, lines, pen if lines else 0.0)
    return _placed(figure, rng, _stretch(name, rng), _angle(name, rng, upright=0.5), extent, box)


def _hand_figure(name: str, rng: Random) -> _Figure:
    """The figure as a drawing pad gets it: shaky strokes that don't quite meet."""
    extent = rng.uniform(0.35, 0.95)
    strokes = _strokes(name, rng)
    narrow = len(strokes) == 1 and name in ("arrow", "crescent", "cross", "star")
    pen = min(rng.uniform(0.018, 0.06), extent * (0.08 if narrow else 0.12))
    bend = [complex(rng.uniform(-0.09, 0.09), rng.uniform(-0.09, 0.09)) for _ in range(3)]
    lines = [_shaky(stroke, bend, rng) for stroke in strokes]
    areas = lines if len(lines) == 1 and rng.random() < 0.12 else []
    figure = _Figure(areas, lines, pen)
    return _placed(figure, rng, _stretch(name, rng), _angle(name, rng, upright=0.8), extent, _WHOLE)


def _stretch(name: str, rng: Random) -> float:
    """Width over height, within what still is the shape."""
    return math.pow({"circle": 1.17, "square": 1.1}.get(name, 1.22), rng.uniform(-1, 1))


def _angle(name: str, rng: Random, *, upright: float) -> float:
    """Radians. Arrows and crescents point anywhere; the others often stand nearly upright."""
    if name in ("arrow", "crescent") or rng.random() > upright:
        return rng.uniform(0, math.tau)
    quarter = math.pi / 4 if name == "cross" and rng.random() < 0.4 else 0.0  # x is a cross too
    return quarter + math.radians(rng.uniform(-15, 15))


def _placed(
    figure: _Figure, rng: Random, stretch: float, angle: float, extent: float, box: Box
) -> _Figure:
    """The figure stretched, turned, and somewhere in ``box``, its longer side ``extent``."""
    wide, turn = math.sqrt(stretch), rect(1, angle)

    def turned(point: complex) -> complex:
        return complex(point.real * wide, point.imag / wide) * turn

    points = [turned(p) for stroke in figure.areas + figure.lines for p in stroke]
    left, right = min(p.real for p in points), max(p.real for p in points)
    top, bottom = min(p.imag for p in points), max(p.imag for p in points)
    scale = (extent - figure.pen) / max(right - left, bottom - top)
    edge = _MARGIN * (box[2] - box[0]) + figure.pen / 2
    x = rng.uniform(box[0] + edge, box[2] - edge - (right - left) * scale)
    y = rng.uniform(box[1] + edge, box[3] - edge - (bottom - top) * scale)
    shift = complex(x - left * scale, y - top * scale)
    areas, lines = (
        [[turned(p) * scale + shift for p in stroke] for stroke in strokes]
        for strokes in (figure.areas, figure.lines)
    )
    return _Figure(areas, lines, figure.pen)


# Lines.


def _clock(turn: float) -> complex:
    """The point ``turn`` of the way round the unit circle, clockwise from the top."""
    return rect(1, math.tau * turn) * -1j


def _arc(centre: complex, radius: float, start: float, stop: float) -> Stroke:
    return [centre + rect(radius, start + (stop - start) * k / 40) for k in range(41)]


def _edges(corners: Stroke) -> list[Stroke]:
    return [list(edge) for edge in pairwise(_closed(corners))]


def _joined(pieces: list[Stroke]) -> Stroke:
    """A ring: a closed line whose first point is not repeated."""
    return [point for piece in pieces for point in piece[:-1]]


def _closed(ring: Stroke) -> Stroke:
    return [*ring, ring[0]]


def _dense(stroke: Stroke) -> Stroke:
    """The same line with a point every ``_STEP`` or so."""
    points = stroke[:1]
    for a, b in pairwise(stroke):
        parts = max(1, round(abs(b - a) / _STEP))
        points += [a + (b - a) * k / parts for k in range(1, parts + 1)]
    return points


def _smooth(points: Stroke, reach: int) -> Stroke:
    """Each point becomes the mean of its neighbours, of fewer towards the ends."""
    smooth = []
    for k in range(len(points)):
        near = min(reach, k, len(points) - 1 - k)
        smooth.append(sum(points[k - near : k + near + 1]) / (2 * near + 1))
    return smooth


def _rounded(ring: Stroke, reach: int) -> Stroke:
    dense = _dense(_closed(ring))[:-1]
    return _smooth(dense[-reach:] + dense + dense[:reach], reach)[reach:-reach]


def _shaky(stroke: Stroke, bend: list[complex], rng: Random) -> Stroke:
    """The line as a hand draws it: bent, corners rounded, trembling, its end off the mark."""
    points = _dense(stroke)
    if stroke[0] == stroke[-1]:  # a closed line stops early, or runs on past its start
        slip = round(len(points) * rng.uniform(-0.05, 0.06))
        points = points[:slip] if slip < 0 else points + points[1 : slip + 1]
    points = _smooth(points, rng.randint(1, 2))
    waves = [  # (radians a point, start, size): a slow sway to a quick tremble, both ways
        (
            math.tau * _STEP / (length * rng.uniform(0.7, 1.4)),
            rng.uniform(0, math.tau),
            size * way * rng.uniform(0.3, 1.2),
        )
        for length, size in ((2.5, 0.028), (1.0, 0.012), (0.45, 0.006))
        for way in (1, 1j)
    ]
    drift = complex(rng.uniform(-0.07, 0.07), rng.uniform(-0.07, 0.07))
    shaky = []
    for k, p in enumerate(points):
        bent = p + bend[0] * p.real**2 + bend[1] * p.real * p.imag + bend[2] * p.imag**2
        tremble = sum(size * math.sin(start + pace * k) for pace, start, size in waves)
        shaky.append(bent + tremble + drift * k / len(points))
    return shaky


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
    return _masks(_Figure([], rows, broad), size)[1]


def _masks(figure: _Figure, size: int) -> tuple[Image.Image, Image.Image]:
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
    picture: Image.Image, figure: _Figure, rng: Random, ink: Colour, grounds: tuple[Colour, ...]
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

"""The figures of the shapes: points and lines, before anything is painted.

A figure is made of points, complex numbers with x to the right and y downwards, in a frame of its
own from about -1 to 1; at last it is turned, scaled and put into the picture.
"""

import math
from cmath import rect
from dataclasses import dataclass
from itertools import pairwise
from random import Random

Stroke = list[complex]
Box = tuple[float, float, float, float]  # left, top, right, bottom, from 0 to 1

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_MARGIN = 0.012  # kept free around every figure, as a part of its box's width
_STEP = 0.05  # between the points of a shaky line, in the figure's own frame


@dataclass(frozen=True)
class Figure:
    """What is filled, what is drawn with the pen, and the pen's width in the picture."""

    areas: list[Stroke]
    lines: list[Stroke]
    pen: float  # 1.0 is the picture's side


# An outline in pieces, or the strokes that a pen makes.


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


def clean_figure(name: str, rng: Random, box: Box, *, least: float) -> Figure:
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
    figure = Figure(areas, lines, pen if lines else 0.0)
    return _placed(figure, rng, _stretch(name, rng), _angle(name, rng, upright=0.5), extent, box)


def hand_figure(name: str, rng: Random) -> Figure:
    """The figure as a drawing pad gets it: shaky strokes that don't quite meet."""
    extent = rng.uniform(0.35, 0.95)
    strokes = _strokes(name, rng)
    narrow = len(strokes) == 1 and name in ("arrow", "crescent", "cross", "star")
    pen = min(rng.uniform(0.018, 0.06), extent * (0.08 if narrow else 0.12))
    bend = [complex(rng.uniform(-0.09, 0.09), rng.uniform(-0.09, 0.09)) for _ in range(3)]
    lines = [_shaky(stroke, bend, rng) for stroke in strokes]
    areas = lines if len(lines) == 1 and rng.random() < 0.12 else []
    figure = Figure(areas, lines, pen)
    return _placed(figure, rng, _stretch(name, rng), _angle(name, rng, upright=0.8), extent, WHOLE)


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
    figure: Figure, rng: Random, stretch: float, angle: float, extent: float, box: Box
) -> Figure:
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
    return Figure(areas, lines, figure.pen)


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

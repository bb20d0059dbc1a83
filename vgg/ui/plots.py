"""Curves and the confusion matrix as HTML, drawn from plain results."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vgg.ui.words import pictures

# Colours that stay apart for colour-blind eyes (Okabe and Ito 2008).
BLUE, ORANGE = "#0072b2", "#d55e00"
WIDTH, HEIGHT = 420, 170
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 28
SHARES_UP_TO = 12  # classes; with more, a cell has room for its count alone
BINS = 10  # of the answers' probabilities
MOST_POINTS = 200  # of a curve: more are no more to see, and go to every open page each second
SQUARE = 260  # pixels a side of the chart of calibration


@dataclass(frozen=True)
class Line:
    """One curve: `points` are (x, y), in order of x."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


def curves(lines: Sequence[Line], *, title: str, x_name: str, percent: bool = False) -> str:
    """A line chart as an SVG. `percent`: y goes from 0 to 1 and is shown in percent."""
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    x_most = max(max(x for x, _ in points), 1e-9)
    x_least = min(min(x for x, _ in points), x_most)
    y_most = 1.0 if percent else max(y for _, y in points) * 1.08 or 1.0
    span = (x_most - x_least) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * (x - x_least) / span,
            TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(y, y_most) / y_most),
        )

    parts = [_grid(y_most, percent), _x_axis(x_least, x_most, x_name)]
    for line in lines:
        placed = [place(x, y) for x, y in thinned(line.points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>' for x, y in placed
        ]
    legend = "".join(
        f'<span><i style="background:{line.colour}"></i>{escape(line.name)}</span>'
        for line in lines
        if line.points
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}<span class="legend">{legend}</span>'
        f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` of them, evenly; the first and the last are among them."""
    if len(points) <= MOST_POINTS:
        return list(points)
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(step * number)] for number in range(MOST_POINTS)]


def _grid(y_most: float, percent: bool) -> str:
    rows = []
    for quarter in range(5):
        y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - quarter / 4)
        value = y_most * quarter / 4
        text = f"{100 * value:.0f} %" if percent else f"{value:.2g}"
        rows.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        )
    return "".join(rows)


def _x_axis(least: float, most: float, name: str) -> str:
    y = HEIGHT - 8
    return (
        f'<text x="{LEFT}" y="{y}">{least:g}</text>'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{y}" text-anchor="middle">{escape(name)}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{y}" text-anchor="end">{most:g}</text>'
    )


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Rows are true classes, columns answers; counts, shaded by their share of the row.

    The diagonal is quiet, mistakes are loud. Each cell with pictures is a button that carries
    its row and column.
    """
    head = "".join(
        f'<th scope="col" title="{escape(name)}"><span>{escape(name)}</span></th>' for name in names
    )
    rows = []
    for i, row in enumerate(matrix):
        total = sum(row) or 1
        cells = "".join(_cell(i, j, count, count / total, names) for j, count in enumerate(row))
        rows.append(
            f'<tr><th scope="row" title="{escape(names[i])}">{escape(names[i])}</th>{cells}'
            f'<td class="sum">{sum(row)}</td></tr>'
        )
    small = " many" if len(names) > SHARES_UP_TO else ""
    return (
        f'<div class="confusion-box"><table class="confusion{small}"><caption>Rows: true class. '
        "Columns: answer. A cell opens its pictures.</caption>"
        f'<thead><tr><td></td>{head}<th scope="col">all</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(i: int, j: int, count: int, share: float, names: Sequence[str]) -> str:
    if not count:
        return "<td></td>"
    kind = "right" if i == j else "wrong"
    percent = f"{100 * share:.0f} %"
    label = f"{names[i]} answered as {names[j]}: {pictures(count)}, {percent} of its class"
    return (
        f'<td class="{kind}" style="--share:{share:.3f}"><button type="button" data-row="{i}" '
        f'data-column="{j}" title="{escape(label)}" aria-label="{escape(label)}">'
        f"{count}<small>{percent}</small></button></td>"
    )


def class_bars(counts: dict[str, int]) -> str:
    """Classes with their picture counts as bars."""
    most = max(counts.values(), default=1) or 1
    rows = "".join(
        f'<li><span class="name">{escape(name)}</span>'
        f'<span class="track"><span style="width:{100 * count / most:.1f}%"></span></span>'
        f'<span class="count">{count}</span></li>'
        for name, count in counts.items()
    )
    return f'<ul class="class-bars">{rows}</ul>'


def reliability(answers: Sequence[tuple[float, bool]]) -> str:
    """How true the percentages are, as an SVG: `answers` are (probability in [0, 1], was right).

    A dot for every tenth: across, how sure it was on average; up, how many of those were right. On
    the diagonal both are the same.
    """
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for answer in answers:
        bins[min(BINS - 1, int(answer[0] * BINS))].append(answer)
    inner = SQUARE - LEFT - RIGHT

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + inner * x, TOP + inner * (1 - y)

    dots = []
    for found in filter(None, bins):
        sure = sum(p for p, _ in found) / len(found)
        right = sum(ok for _, ok in found) / len(found)
        x, y = place(sure, right)
        radius = 3 + 9 * (len(found) / len(answers)) ** 0.5
        text = (
            f"{pictures(len(found))} answered with {100 * sure:.0f} % on average: "
            f"{100 * right:.0f} % of them right"
        )
        dots.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{BLUE}" '
            f'fill-opacity="0.75"><title>{text}</title></circle>'
        )
    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    ticks = "".join(
        f'<text x="{place(at, 0)[0]:.1f}" y="{y0 + 16:.1f}" text-anchor="middle">{100 * at:.0f}'
        f'</text><text x="{x0 - 6:.1f}" y="{place(0, at)[1] + 4:.1f}" text-anchor="end">'
        f"{100 * at:.0f} %</text>"
        for at in (0.0, 0.5, 1.0)
    )
    height = y0 + BOTTOM + 8
    return (
        '<figure class="chart reliability"><figcaption>Are its percentages true?</figcaption>'
        f'<svg viewBox="0 0 {SQUARE} {height:.0f}" role="img" aria-label="calibration">'
        f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" class="grid"/>'
        f'<rect x="{x0}" y="{y1}" width="{inner}" height="{inner}" fill="none" class="grid"/>'
        f'{ticks}<text x="{(x0 + x1) / 2}" y="{y0 + 32:.1f}" text-anchor="middle">how sure it was, '
        f'in %</text>{"".join(dots)}</svg><p class="quiet">Up: how many were right. On the line, '
        "90 % sure means right 9 times in 10; below it, the model is too sure of itself. A larger "
        "dot stands for more pictures.</p></figure>"
    )

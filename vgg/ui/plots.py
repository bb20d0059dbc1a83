"""Curves and the confusion matrix as HTML, drawn from plain results."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Colours that stay apart for colour-blind eyes (Okabe and Ito 2008).
BLUE, ORANGE = "#0072b2", "#d55e00"
WIDTH, HEIGHT = 560, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 28


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
        placed = [place(x, y) for x, y in line.points]
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
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    rows = []
    for i, row in enumerate(matrix):
        total = sum(row) or 1
        cells = "".join(_cell(i, j, count, count / total, names) for j, count in enumerate(row))
        rows.append(
            f'<tr><th scope="row">{escape(names[i])}</th>{cells}'
            f'<td class="sum">{sum(row)}</td></tr>'
        )
    return (
        '<div class="confusion-box"><table class="confusion"><caption>Rows: true class. '
        "Columns: answer. A cell opens its pictures.</caption>"
        f'<thead><tr><td></td>{head}<th scope="col">all</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(i: int, j: int, count: int, share: float, names: Sequence[str]) -> str:
    if not count:
        return "<td></td>"
    kind = "right" if i == j else "wrong"
    label = f"{names[i]} answered as {names[j]}: {count} pictures, {100 * share:.0f} % of its class"
    return (
        f'<td class="{kind}" style="--share:{share:.3f}"><button type="button" data-row="{i}" '
        f'data-column="{j}" title="{escape(label)}" aria-label="{escape(label)}">'
        f"{count}</button></td>"
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

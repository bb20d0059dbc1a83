"""The small pieces of HTML that several parts of the page are made of."""

from collections.abc import Iterable, Sequence
from html import escape

from vgg.ui.words import sentence, told

ROLES = {"problem": " role='alert'", "status": " role='status'"}  # what screen readers tell at once


def note(kind: str, text: str) -> str:
    """A paragraph of plain text; `kind` is its class in `style.css`."""
    return f"<p class='{kind}'{ROLES.get(kind, '')}>{escape(text)}</p>"


def quiet(text: str) -> str:
    """What explains, and can be passed over."""
    return note("quiet", text)


def problem(error: Exception | str) -> str:
    """What went wrong, as a sentence."""
    return note("problem", sentence(error if isinstance(error, str) else told(error)))


def facts(rows: Iterable[tuple[str, str, str]]) -> str:
    """Figures side by side: (name, value, what it means)."""
    cells = "".join(
        f"<div title='{escape(gloss)}'><dt>{name}</dt><dd>{escape(value)}</dd></div>"
        for name, value, gloss in rows
    )
    return f"<dl class='facts'>{cells}</dl>"


def table(columns: Sequence[tuple[str, str]], rows: str, kind: str = "") -> str:
    """A table in a box that scrolls. `columns`: (head, what it means or nothing); `rows`: HTML."""
    head = "".join(
        f"<th title='{escape(gloss)}'>{name}</th>" if gloss else f"<th>{name}</th>"
        for name, gloss in columns
    )
    return (
        f"<div class='confusion-box'><table class='per-class{kind and f' {kind}'}'>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )

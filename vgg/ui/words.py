"""Sentences, counts and figures as the page writes them."""

from vgg.errors import StoppedError, UserError


def told(error: Exception) -> str:
    """What a visitor reads of an error. Python's own words, on a value of another kind than the
    page sends, are for nobody."""
    return str(error if isinstance(error, UserError | StoppedError) else UserError("ui.odd_value"))


def sentence(text: str) -> str:
    """With a capital letter and an end, whatever it came as."""
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def pictures(count: int) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{count} picture{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """`40 s`, `2 min`, `1 min 40 s`."""
    minutes, rest = divmod(round(seconds), 60)
    parts = [f"{minutes} min"] * bool(minutes) + [f"{rest} s"] * bool(rest or not minutes)
    return " ".join(parts)


def size_text(count: int | None) -> str:
    """`15.2 MB`."""
    if count is None:
        return "–"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def percent(share: float | None) -> str:
    """A share from 0 to 1: `93.1 %`."""
    return "–" if share is None else f"{100 * share:.1f} %"

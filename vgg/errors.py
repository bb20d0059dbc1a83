"""Errors as people read them: a key, its values, and one table a language that makes the sentence.

    UserError(ValueError)      what the user can mend; the sentence says what and how
    ├── ImageError             vgg.data.formats: a picture that can't be read
    ├── HubUnavailableError    vgg.downloads
    ├── UsageError             vgg.terminal: the command line asks for something that there is not
    └── TooLittleMemoryError   vgg.training.recipe
    StoppedError               a person has stopped the work: an end, not a failure
    ProcessLostError           another process of this run has ended

The tables are `vgg/sentences/<language>.toml`.
"""

import tomllib
from functools import cache
from pathlib import Path
from reprlib import Repr
from string import Formatter
from typing import Any

LANGUAGE = "en"
_MOST = 200  # letters of a value, however large a file makes it
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 120


class _KeyedError(Exception):
    """`key` names a sentence of the table, `values` fill its places.

    A value may be such an error itself (the reason within a sentence), or a tuple or list of
    choices.
    """

    def __init__(self, key: str, /, **values: Any) -> None:
        super().__init__(key, values)
        self.key, self.values = key, values

    def __reduce__(self) -> tuple[Any, ...]:  # an error may come from another process
        return _again, (type(self), self.key, self.values)

    def __str__(self) -> str:
        return sentence(self.key, self.values)


class UserError(_KeyedError, ValueError):
    """What the user can mend."""


class StoppedError(_KeyedError):
    """Somebody has stopped this work. It is an end, not a failure."""


class ProcessLostError(_KeyedError, RuntimeError):
    """Another process of this run has ended, or does not answer."""


def _again(kind: type[_KeyedError], key: str, values: dict[str, Any]) -> _KeyedError:
    return kind(key, **values)


@cache
def table(language: str = LANGUAGE) -> dict[str, str]:
    """All sentences of a language, by key: `section.name` as they stand in its file."""
    file = Path(__file__).with_name("sentences") / f"{language}.toml"
    sections = tomllib.loads(file.read_text(encoding="utf-8"))
    return {
        f"{section}.{name}": text
        for section, lines in sections.items()
        for name, text in lines.items()
    }


def sentence(key: str, values: dict[str, Any], language: str = LANGUAGE) -> str:
    """The sentence of `key` with its places filled, in a language."""
    return _Places(language).vformat(table(language)[key], (), values)


class _Places(Formatter):
    """`str.format`, where a value may be an error's sentence or a list of choices.

    Beyond its rules: `{why}` of an error is that error's sentence; `{names}` of a tuple or list is
    "a, b or c", and `{names:and}` "a, b and c"; `{count:picture|pictures}` is "1 picture" or
    "2 pictures"; `{value!r}` is cut in the middle where it is long, as hostile files make it.
    """

    def __init__(self, language: str) -> None:
        self.language = language

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion != "r":
            return super().convert_field(value, conversion)
        text = _SHORT.repr(value)
        return text if len(text) <= _MOST else f"{text[:_MOST]}..."

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, _KeyedError):
            return sentence(value.key, value.values, self.language)
        if isinstance(value, tuple | list):
            return self._list([self.format_field(item, "") for item in value], format_spec or "or")
        if "|" in format_spec:
            one, many = format_spec.split("|")
            return f"{value} {one if value == 1 else many}"
        return str(super().format_field(value, format_spec))

    def _list(self, names: list[str], word: str) -> str:
        if len(names) < 2:
            return "".join(names)
        first, last = ", ".join(names[:-1]), names[-1]
        return table(self.language)[f"words.{word}"].format(first=first, last=last)

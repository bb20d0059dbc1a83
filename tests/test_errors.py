"""Every error that a user can mend has a sentence in the table, and fills just its places."""

import ast
import pickle
import re
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

from vgg import errors
from vgg.data.images import ImageError
from vgg.downloads import HubUnavailableError
from vgg.errors import ProcessLostError, StoppedError, UserError, sentence, table
from vgg.terminal import UsageError
from vgg.training.recipe import TooLittleMemoryError

VGG = Path(errors.__file__).parent
KEY = r"[a-z]+\.[a-z_0-9]+"
SOURCES = [*VGG.rglob("*.py"), VGG.parent / "app.py"]
CALLS = [
    node
    for file in SOURCES
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error")
]


def places(text: str) -> dict[str, Any]:
    """A value for each place in a sentence."""
    found = [(name, spec) for _, name, spec, _ in Formatter().parse(text) if name]
    given: dict[str, Any] = {"and": ("cat", "dog"), ".120": "cat"}
    return {name: given.get(str(spec), 2) for name, spec in found}


def raised() -> dict[str, set[str]]:
    """Key → names of the values given, one way wherever it is raised."""
    found: dict[str, set[str]] = {}
    for call in CALLS:
        keys = [c for c in call.args[:1] if isinstance(c, ast.Constant | ast.IfExp)]
        for node in (node for key in keys for node in ast.walk(key)):
            if isinstance(node, ast.Constant) and re.fullmatch(KEY, str(node.value)):
                names = {str(word.arg) for word in call.keywords}
                assert found.setdefault(str(node.value), names) == names, node.value
    return found


def test_each_error_has_a_sentence_and_gives_the_values_of_its_places() -> None:
    sentences = {key: text for key, text in table().items() if not key.startswith("words.")}
    assert raised() == {key: set(places(text)) for key, text in sentences.items()}
    for key, text in sentences.items():
        assert sentence(key, places(text)), key


def test_values_become_words() -> None:
    def filled(text: str, **values: Any) -> str:
        return errors._Places("en").vformat(text, (), values)

    assert filled("{a}; {a:and}", a=("x", "y", 3)) == "x, y or 3; x, y and 3"
    assert [filled("{n:file|files}", n=n) for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert len(filled("{a!r}, {b!r}", a="x" * 10_000, b=[["x" * 99] * 99] * 99)) < 600
    inner = UserError("network.depth", choices=(1, 2), value=3)
    assert filled("no: {why}", why=inner) == "no: num_layers must be 1 or 2, not 3"


def test_no_sentence_stands_in_the_code() -> None:
    own = {"a head", "offsets"}  # of our own tables and of what another function catches
    said = {ast.unparse(call) for call in CALLS if ast.unparse(call.func) == "ValueError"}
    assert [text for text in said if not any(begin in text for begin in own)] == []


def test_a_sentence_within_a_sentence_is_of_the_same_language(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    german = {
        "network.depth": "{value} ist nicht {choices}",
        "data.zip": "{name}: {why}",
        "words.or": "{first} oder {last}",
    }
    monkeypatch.setattr(errors, "table", {"de": german}.__getitem__)
    inner = UserError("network.depth", choices=(1, 2), value=3)
    found = sentence("data.zip", {"name": "a.zip", "why": inner}, "de")
    assert found == "a.zip: 3 ist nicht 1 oder 2"


KINDS = (UserError, ImageError, UsageError, HubUnavailableError, TooLittleMemoryError)


@pytest.mark.parametrize("kind", [*KINDS, StoppedError, ProcessLostError])
def test_an_error_comes_whole_from_another_process(kind: type[Any]) -> None:
    error = kind("network.depth", choices=(1, 2), value=UserError("network.same_name"))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, str(error))

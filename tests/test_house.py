"""The house: modules and functions that are read at one sitting, and few doors at the front."""

import ast
from pathlib import Path

HOUSE = Path(__file__).resolve().parent.parent / "vgg"
TEXTS = {
    str(file.relative_to(HOUSE)): file.read_text(encoding="utf-8")
    for file in sorted(HOUSE.rglob("*.py"))
}
LONGEST_MODULE, LONGEST_FUNCTION, MOST_DOORS = 350, 80, 10  # lines, lines, modules


def test_each_module_is_read_at_one_sitting() -> None:
    lengths = {name: len(text.splitlines()) for name, text in TEXTS.items()}
    assert {name: n for name, n in lengths.items() if n > LONGEST_MODULE} == {}


def test_each_function_is_seen_at_one_look() -> None:
    lengths = {
        f"{name}: {node.name}": node.end_lineno - node.lineno + 1
        for name, text in TEXTS.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST_FUNCTION} == {}


def test_few_modules_stand_at_the_front() -> None:
    assert len([name for name in TEXTS if "/" not in name]) <= MOST_DOORS

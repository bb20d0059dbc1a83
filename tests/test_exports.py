"""The package hands on what it says, and nothing else."""

import ast
import importlib
from pathlib import Path

import pytest

import vgg


def test_public_names_are_those_that_have_a_home() -> None:
    assert set(vgg.__all__) == set(vgg._HOMES)
    assert len(set(vgg.__all__)) == len(vgg.__all__)
    assert set(vgg.__all__) <= set(dir(vgg))


def test_public_names_are_sorted() -> None:
    assert list(vgg._HOMES) == sorted(vgg._HOMES)
    # Constants and acronyms, then classes, then functions, as ruff sorts them.
    order = sorted(vgg.__all__, key=lambda name: (not name.isupper(), name.islower(), name))
    assert vgg.__all__ == order


@pytest.mark.parametrize("name", vgg.__all__)
def test_a_public_name_is_what_its_home_defines(name: str) -> None:
    home = importlib.import_module(vgg._HOMES[name])
    assert getattr(vgg, name) is getattr(home, name)
    assert getattr(vgg, name).__module__ == vgg._HOMES[name]
    assert getattr(vgg, name).__doc__


def test_type_checkers_see_the_same_names_in_the_same_homes() -> None:
    tree = ast.parse(Path(vgg.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == vgg._HOMES


def test_no_public_name_hides_a_module() -> None:
    for name in vgg.__all__:
        assert not Path(vgg.__file__).with_name(f"{name}.py").exists()


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'vgg' has no attribute 'vgg15'"):
        vgg.vgg15  # noqa: B018

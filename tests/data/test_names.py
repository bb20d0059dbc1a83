"""A name that a person chose becomes one that the disk takes, whatever the system."""

import pytest

from vgg.data.names import file_name, windows_takes


@pytest.mark.parametrize("name", ["cat", "construction", "com", "COM10", "a.b.c", "猫 1"])
def test_an_ordinary_name_stays(name: str) -> None:
    assert windows_takes(name)
    assert file_name(name, "class", windows=True) == name


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("aux .png", "_aux .png"),
        ("lpt1", "_lpt1"),
        ("com³", "_com³"),
        ("cat.", "cat"),
        ("cat. ", "cat"),
        ('a/b\\c:d*e?f"g<h>i|j\n', "a-b-c-d-e-f-g-h-i-j-"),
        ("x" * 99 + ". y", "x" * 99),
        (" .. ", "class"),
        ("", "class"),
    ],
)
def test_a_name_that_windows_refuses_is_changed(name: str, made: str) -> None:
    assert windows_takes(made)
    assert file_name(name, "class", windows=True) == made
    if len(name) < 99:
        assert not windows_takes(name)
    assert file_name("con", "class", windows=False) == "con"

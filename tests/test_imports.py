"""Imports go one way, and what a page or a command needs first does not wait for torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the top of the house down: a room imports only rooms below it. `vgg` is the package itself,
# which hands the library's names on; it stands above the library and below who uses it.
ROOMS = (
    "app",
    "vgg.__main__",
    "vgg.cli",
    "vgg.commands",
    "vgg.predict_command",
    "vgg.bench",
    "vgg.ui.app",
    "vgg.ui.api",
    "vgg.ui.tabs",
    "vgg.ui.page",
    "vgg.ui.sidebar",
    "vgg.ui.heatmap",
    "vgg.ui.server",
    "vgg.ui.plots",
    "vgg.ui.markup",
    "vgg.ui.pictures",
    "vgg.ui.events",
    "vgg.ui.words",
    "vgg",
    "vgg.terminal",
    "vgg.training",
    "vgg.export",
    "vgg.inference",
    "vgg.checkpoints",
    "vgg.data",
    "vgg.device",
    "vgg.distributed",
    "vgg.downloads",
    "vgg.network",
    "vgg.errors",
)
APART = [("vgg.training", "vgg.export")]  # neither knows the other
# What shows a page or a list of files before torch is loaded.
WITHOUT_TORCH = (
    "vgg.errors",
    "vgg.data.images",
    "vgg.data.formats",
    "vgg.data.figures",
    "vgg.data.shapes",
    "vgg.network.config",
    "vgg.network.heads",
    "vgg.network.summary",
    "vgg.training.options",
)


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(file): file for file in [*ROOT.glob("*.py"), *sorted((ROOT / "vgg").rglob("*.py"))]
}


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those in functions and for type checkers too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}:{node.lineno}: write the module's whole name"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in FILES else str(node.module)


def room_of(module: str) -> str | None:
    """The room a module stands in: the longest name of `ROOMS` that it begins with."""
    if module in ROOMS:
        return module
    inside = [room for room in ROOMS if room != "vgg" and module.startswith(f"{room}.")]
    return max(inside, key=len, default=None)


def imports_of(name: str) -> set[str]:
    return {other for _, other in imported(FILES[name]) if other in FILES and other != name}


def test_every_module_stands_in_a_room() -> None:
    faces = {"vgg.ui"}  # packages that hold rooms and nothing of their own
    assert [name for name in FILES if name not in faces and room_of(name) is None] == []
    assert {room for room in ROOMS if not any(room_of(name) == room for name in FILES)} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_rooms_below(room: str) -> None:
    above = ROOMS[: ROOMS.index(room)]
    wrong = [
        f"{name}:{line} imports {other}, which stands above"
        for name, file in FILES.items()
        if room_of(name) == room
        for line, other in imported(file)
        if room_of(other) in above
    ]
    assert wrong == []


@pytest.mark.parametrize(("one", "other"), APART)
def test_rooms_that_do_not_know_each_other(one: str, other: str) -> None:
    for name in FILES:
        rooms = {room_of(module) for module in imports_of(name)}
        assert not (room_of(name) == one and other in rooms), name
        assert not (room_of(name) == other and one in rooms), name


def test_no_imports_form_a_circle() -> None:
    left = {name: imports_of(name) for name in FILES}
    while ends := [name for name, wanted in left.items() if not wanted & set(left)]:
        for name in ends:
            del left[name]
    assert sorted(left) == []


def test_gradio_is_imported_by_the_page_alone() -> None:
    for name, file in FILES.items():
        if name != "app" and not name.startswith("vgg.ui"):
            assert "gradio" not in {other.partition(".")[0] for _, other in imported(file)}, name


def test_modules_without_torch_load_neither_it_nor_what_needs_it() -> None:
    script = f"""
import importlib, sys
for name in {WITHOUT_TORCH}:
    importlib.import_module(name)
print(*{{"torch", "torchvision", "safetensors"}} & set(sys.modules))
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.returncode) == ("", 0), ran.stderr


def test_torch_is_loaded_by_the_first_prediction_and_not_before() -> None:
    script = """
import sys, importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
    slow = {"torch", "gradio"} & set(sys.modules)
    assert not slow, f"import {name} loads {slow}"
from vgg import read_image, load_model
assert "torch" not in sys.modules, "a function that reads pictures or finds models loads torch"
"""
    names = [
        "vgg",
        *WITHOUT_TORCH,
        "vgg.checkpoints.loading",
        "vgg.cli",
        "vgg.ui.server.model_store",
    ]
    ran = subprocess.run(
        [sys.executable, "-c", script, *names], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""

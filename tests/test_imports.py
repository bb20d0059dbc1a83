"""Imports go one way, and what a page or a command needs first does not wait for torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the top of the house down: a module imports only what stands below it. `vgg` is the package
# itself, which hands the library's names on; it stands above the library and below who uses it.
ORDER = (
    "app",
    "vgg.__main__",
    "vgg.cli",
    "vgg.commands",
    "vgg.predicting",
    "vgg.bench",
    "vgg.busy",
    "vgg.page_speed",
    "vgg.rivals",
    "vgg.command_speed",
    "vgg.training_speed",
    "vgg.measuring",
    "vgg.ui.app",
    "vgg.ui.api",
    "vgg.ui.models",
    "vgg.ui.predict",
    "vgg.ui.train",
    "vgg.ui.after",
    "vgg.ui.notices",
    "vgg.ui.gallery",
    "vgg.ui.answers",
    "vgg.ui.evaluate",
    "vgg.ui.inside",
    "vgg.ui.film",
    "vgg.ui.watch",
    "vgg.ui.how",
    "vgg.ui.sidebar",
    "vgg.ui.cells",
    "vgg.ui.heatmap",
    "vgg.ui.pictures",
    "vgg.ui.owned",
    "vgg.ui.jobs",
    "vgg.ui.snippets",
    "vgg.ui.store",
    "vgg.ui.zero",
    "vgg.ui.together",
    "vgg.ui.turns",
    "vgg.ui.uploads",
    "vgg.ui.plots",
    "vgg.ui",
    "vgg",
    "vgg.terminal",
    "vgg.table",
    "vgg.export",
    "vgg.collection",
    "vgg.training",
    "vgg.finetune",
    "vgg.scratch",
    "vgg.probe",
    "vgg.heads",
    "vgg.gather",
    "vgg.shelf",
    "vgg.camera",
    "vgg.runs",
    "vgg.pace",
    "vgg.fitting",
    "vgg.tuned",
    "vgg.recipe",
    "vgg.evaluation",
    "vgg.space",
    "vgg.hub",
    "vgg.features",
    "vgg.film",
    "vgg.proof",
    "vgg.onnx_graph",
    "vgg.onnx_resize",
    "vgg.onnx_nodes",
    "vgg.onnx_predict",
    "vgg.explanation",
    "vgg.gradcam",
    "vgg.predictor",
    "vgg.stream",
    "vgg.winograd",
    "vgg.overlay",
    "vgg.pixels",
    "vgg.augment",
    "vgg.data",
    "vgg.zips",
    "vgg.intake",
    "vgg.duplicates",
    "vgg.cache",
    "vgg.weights",
    "vgg.downloads",
    "vgg.checkpoint",
    "vgg.layouts",
    "vgg.transforms",
    "vgg.compiled",
    "vgg.model",
    "vgg.device",
    "vgg.distributed",
    "vgg.images",
    "vgg.formats",
    "vgg.shapes",
    "vgg.cards",
    "vgg.anatomy",
    "vgg.options",
)
WITHOUT_TORCH = ("vgg.images", "vgg.formats", "vgg.shapes", "vgg.options")


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


def test_every_module_has_its_place_in_the_order() -> None:
    assert sorted(set(FILES) - set(ORDER)) == []
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("name", [name for name in ORDER if name in FILES])
def test_imports_go_downwards(name: str) -> None:
    above = ORDER[: ORDER.index(name) + 1]
    wrong = [
        f"line {line} imports {other}, which stands above"
        for line, other in imported(FILES[name])
        if other in above
    ]
    assert wrong == []


def test_gradio_is_imported_by_the_page_alone() -> None:
    for name, file in FILES.items():
        if name != "app" and not name.startswith("vgg.ui"):
            assert "gradio" not in {other.partition(".")[0] for _, other in imported(file)}, name


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_modules_without_torch_import_neither_it_nor_what_needs_it(name: str) -> None:
    roots = {other.partition(".")[0] for _, other in imported(FILES[name])}
    assert roots.isdisjoint({"torch", "torchvision", "safetensors"})
    library = {other for _, other in imported(FILES[name]) if other.startswith("vgg")}
    assert library <= set(WITHOUT_TORCH)


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
    names = ["vgg", *WITHOUT_TORCH, "vgg.weights", "vgg.cli", "vgg.ui.store"]
    ran = subprocess.run(
        [sys.executable, "-c", script, *names], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""

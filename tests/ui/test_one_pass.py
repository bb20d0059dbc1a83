"""The class explained is the class answered, of the same pixels: on the page, the command line and
the endpoints."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from gradio import FileData

from vgg.cli import main
from vgg.data.shapes import SHAPES, draw_shape
from vgg.ui.api import Endpoints
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.tabs.predict import Handlers

STARTER = ("starter", 11, True, 8, 1.0, "gap")  # the sidebar


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """60 JPEGs of 1024 pixels and more: a decoder may make them smaller, by more or by less."""
    folder, rng = tmp_path_factory.mktemp("photographs"), Random(0)
    files = []
    for number in range(60):
        shape = draw_shape(SHAPES[number % len(SHAPES)], rng, size=256)
        size = rng.randint(1024, 2600), rng.randint(1024, 2600)
        files.append(folder / f"{number:02d}.jpg")
        shape.resize(size).save(files[-1], quality=80)
    return files


@pytest.mark.slow
def test_page_command_line_and_endpoints_explain_what_they_answer(
    photographs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ModelStore()
    tab, endpoints = Handlers(store), Endpoints(store, Jobs(store))
    told: list[Any] = ["predict", *map(str, photographs), "--json", "--heatmaps", str(tmp_path)]
    assert main(told) == 0
    for file, row in zip(photographs, json.loads(capsys.readouterr().out), strict=True):
        html, _, _, found = tab.answer("picture", [(str(file), None)], "", 5, *STARTER)
        sent = FileData(path=str(file), orig_name=file.name)
        answered = endpoints.predict(sent)["top"][0]
        explained = endpoints.explain(sent)
        name, probability = answered["class"], pytest.approx(answered["probability"], abs=1e-6)
        assert (found.name, found.probability) == (name, probability)
        assert f"<span class='name'>{name}</span>" in html.partition("</li>")[0]
        assert (explained["class"], explained["probability"]) == (name, probability)
        top = row["top"][0]
        assert (top["class"], top["probability"]) == (name, probability)
        assert row["heatmap"] is None or Path(row["heatmap"]).name.startswith(
            f"{file.stem} ({name})"
        )

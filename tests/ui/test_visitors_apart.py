"""What a visitor of a public page made is out of reach for another who knows its ids and paths."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import serving
from gradio_client import handle_file
from visitors import Visitor, sent, zipped

from vgg.data.shapes import draw_folder

HERS = "ada-owns-this"  # in the names of her classes and models
pytestmark = pytest.mark.slow


def files_of(model: Path) -> dict[str, int]:
    return {str(f.relative_to(model)): f.stat().st_mtime_ns for f in model.rglob("*.*")}


@pytest.fixture(scope="module")
def stolen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Mallory tried each endpoint, event and file with what Ada's trainings are called: one that is
    over, and one that runs. Before and after that, Ada's own answers and files."""
    work = tmp_path_factory.mktemp("two-visitors")
    weights = work / "weights"
    draw_folder(work / "shapes", count=6, size=64)
    for folder in (work / "shapes").iterdir():
        folder.rename(folder.with_name(f"{HERS}-{folder.name}"))
    pictures = zipped(work / "shapes")
    with serving(work, "--host", "0.0.0.0", "--weights-dir", weights) as server:
        ada, mallory = Visitor(server), Visitor(server)
        model = ada.train(pictures, mode="scratch", name=HERS)
        running = ada.client.predict(
            handle_file(pictures), mode="scratch", budget=110, name=HERS, api_name="/train"
        )["job"]
        (home,) = (weights / ".visitors" / model).iterdir()
        before = files_of(home)
        picture = handle_file(next((work / "shapes").rglob("*.png")))
        for name in (model, running):
            for endpoint, data in {
                "/predict": [picture, name],
                "/explain": [picture, name],
                "/evaluate": [handle_file(pictures), name],
                "/train": [handle_file(pictures), name],
                "/job": [name],
                "/stop": [name],
            }.items():
                try:
                    got = mallory.client.predict(*data, api_name=endpoint)
                except Exception as refused:
                    got = str(refused).replace(HERS, "") if endpoint == "/train" else str(refused)
                mallory.got.append((endpoint, str(got)))
        page = json.loads(sent(f"{server.url}/config"))
        parts = {part["id"]: part["props"] for part in page["components"]}
        for event in page["dependencies"]:
            props = [parts[number] for number in event["inputs"]]
            usual = [model if p.get("elem_id") == "model" else p.get("value") for p in props]
            marks = [f"{job}:{end}" for job in (model, running) for end in ("", "wrong")]
            kept = [model, running, *marks]
            for data in (usual, [kept] * len(props), [model] * len(props), [running] * len(props)):
                mallory.event(event["id"], str(event["api_name"]), data)
        files = [*home.rglob("*"), *weights.glob(".unfinished-*/**/*")]
        for file in filter(Path.is_file, files):
            for route in ("file=", "file/", "stream/", "static/../"):
                answer = mallory.ask(f"{route}{file}")
                mallory.got[-1] = (route, answer.replace(str(file), ""))  # which it repeats
        yield {
            "mallory": mallory,
            "files": (before, files_of(home)),
            "job": ada.client.predict(running, api_name="/job")["state"],
            "answer": ada.client.predict(picture, model, api_name="/predict")["top"],
        }
        ada.client.predict(running, api_name="/stop")


def test_nothing_of_hers_is_told(stolen: dict[str, Any]) -> None:
    told = [(what, text[:300]) for what, text in stolen["mallory"].got if HERS in text]
    assert told == []


def test_her_model_and_her_training_are_as_they_were(stolen: dict[str, Any]) -> None:
    before, after = stolen["files"]
    assert after == before != {}
    assert stolen["job"] in ("waiting", "running")
    assert all(re.match(HERS, row["class"]) for row in stolen["answer"])

"""What strangers get of a public page, and what their broken calls leave in its log."""

import json
import re
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any

import pytest
from conftest import ROOT, serving
from visitors import Visitor, sent, zipped

from vgg.data.shapes import draw_folder

HOME = "server-place"  # the folder with models
# None of these may be in anything that a visitor gets. Gradio's own folder for uploads may.
SECRET = (str(ROOT), HOME, ".visitors", "vgg-studio-data", sys.prefix, "Traceback", "site-packages")
LONG = "a" * 100_000
ODD: tuple[Any, ...] = (
    LONG,
    {"path": LONG, "meta": {"_type": "gradio.FileData"}},
    {"path": str(ROOT / "app.py"), "meta": {"_type": "gradio.FileData"}},
    float("inf"),
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Visitor, list[str]]]:
    """A visitor who trained, trained from their own model, and set off every endpoint and event
    with what the page holds and with what it never sends; and the log of that."""
    work = tmp_path_factory.mktemp("public-page")
    (work / HOME).mkdir()
    draw_folder(work / "shapes", count=6, size=64)
    pictures = zipped(work / "shapes")
    with serving(work, "--host", "0.0.0.0", "--weights-dir", work / HOME) as server:
        visitor = Visitor(server)
        own = visitor.train(pictures, mode="scratch", name="mine")
        own = visitor.train(pictures, mode="probe", name="next", model=own)
        page = json.loads(sent(f"{server.url}/config"))
        visitor.got.append(("/config", json.dumps(page)))
        parts = {part["id"]: part["props"] for part in page["components"]}
        events = {event["api_name"]: event for event in page["dependencies"]}
        visitor.event(events["choose"]["id"], "choose", [own])  # the page knows the model now
        begun = len(server.log.read_text())
        visitor.calls = 0
        # The export first: others would rename or delete the model.
        for name, event in sorted(events.items(), key=lambda item: item[0] != "do_export"):
            props = [parts[number] for number in event["inputs"]]
            data = [own if p.get("elem_id") == "model" else p.get("value") for p in props]
            odd = [ODD[place % len(ODD)] for place in range(len(data))]
            for variant in (data, odd, [1] * 40) if data else (data,):
                visitor.event(event["id"], name, variant)
        for path in ("run/predict", "call/predict", "component_server", f"call/{LONG[:50_000]}"):
            visitor.ask(path, {"data": [LONG], "fn_index": 10**6, "session_hash": LONG})
        for path in (f"file={LONG[:50_000]}", "file=/etc/passwd"):
            visitor.ask(path)
        yield visitor, server.log.read_text()[begun:].splitlines()


def test_no_file_that_a_visitor_gets_names_a_place_on_the_server(
    walked: tuple[Visitor, list[str]],
) -> None:
    visitor, _ = walked
    served = re.findall(r"/gradio_api/file=[^\"\\\s']+", "".join(text for _, text in visitor.got))
    files: dict[str, bytes] = {}
    for path in dict.fromkeys(served):
        with suppress(urllib.error.HTTPError):
            content = urllib.request.urlopen(visitor.url.removesuffix("/gradio_api") + path).read()
            files[path] = content
            if content.startswith(b"PK"):
                with zipfile.ZipFile(BytesIO(content)) as packed:
                    files |= {f"{path}/{name}": packed.read(name) for name in packed.namelist()}
    assert any(name.endswith("/metrics.json") for name in files)  # the export was among them
    told = [(s, name) for name, content in files.items() for s in SECRET if s.encode() in content]
    assert told == []


def test_nothing_that_a_visitor_gets_names_a_place_on_the_server(
    walked: tuple[Visitor, list[str]],
) -> None:
    told = [(secret, what) for what, text in walked[0].got for secret in SECRET if secret in text]
    assert told == []


def test_a_broken_call_leaves_one_short_line_in_the_log(walked: tuple[Visitor, list[str]]) -> None:
    visitor, log = walked
    assert any("failed: " in line for line in log)
    assert max(map(len, log)) < 200
    assert len(log) <= visitor.calls

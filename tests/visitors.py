"""Strangers of a public page, who send it what a browser or any other program could."""

import json
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

from conftest import Server
from gradio_client import Client, handle_file


def zipped(folder: Path) -> Path:
    """A zip of a folder of drawings, beside it."""
    packed = folder.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, file.relative_to(folder))
    return packed


def sent(url: str, data: Any = None) -> str:
    """What a request is answered with, also where that is a refusal."""
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


class Visitor:
    """A stranger's session; `got` is all that it was sent, by what it asked for."""

    def __init__(self, server: Server) -> None:
        self.url = f"{server.url}/gradio_api"
        self.client = Client(server.url, verbose=False, analytics_enabled=False)
        self.got: list[tuple[str, str]] = []
        self.calls = 0

    def ask(self, path: str, data: Any = None) -> str:
        self.calls += 1
        self.got.append((path, sent(f"{self.url}/{path}", data)))
        return self.got[-1][1]

    def event(self, number: int, name: str, data: list[Any]) -> None:
        """Start an event of the page as a browser does, and read what it says to its end."""
        session = self.client.session_hash
        asked = {"data": data, "fn_index": number, "session_hash": session}
        if "event_id" not in self.ask("queue/join", asked):
            return
        said = []
        with urllib.request.urlopen(
            f"{self.url}/queue/data?session_hash={session}", timeout=60
        ) as lines:
            for line in lines:
                said.append(line.decode())
                if '"process_completed"' in said[-1] or '"close_stream"' in said[-1]:
                    break
        self.got.append((f"{name} of {str(data)[:60]}", "".join(said)))

    def train(self, pictures: Path, **choices: Any) -> str:
        """The model that was trained, watched as closely as can be."""
        job = self.client.predict(
            handle_file(pictures), api_name="/train", epochs=1, image_size=64, **choices
        )
        while True:
            state = self.client.predict(job["job"], api_name="/job")
            self.got.append(("/job", json.dumps(state)))
            if state["state"] not in ("waiting", "running"):
                break
            time.sleep(0.01)
        assert state["state"] == "done", state
        self.got.append(("/train", json.dumps(job)))
        return str(job["model"])

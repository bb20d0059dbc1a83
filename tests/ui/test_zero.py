"""On a ZeroGPU Space: answers come from another process, and training says that it can't be.

A small `spaces` package stands in for the real one, which needs the Hub's machines. It does what
that one does: it comes before torch, and runs a function in a forked process with everything
pickled on the way in and out.
"""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, Server, serving
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from vgg.errors import UserError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="a ZeroGPU Space forks, as Linux does"),
]

SPACES = """
import functools, multiprocessing, os, pickle, sys

assert "torch" not in sys.modules, "spaces must be imported before torch"
ctx = multiprocessing.get_context("fork")

def note(text):
    with open(os.environ["SPACES_LOG"], "a") as log:
        log.write(text + "\\n")

def work(task, given, answers):
    args, kwargs = pickle.loads(given)
    try:
        answers.put(pickle.dumps((None, task(*args, **kwargs))))
    except Exception as error:
        answers.put(pickle.dumps((repr(error), None)))

def GPU(task=None, *, duration=None, size=None):
    if task is None:
        return functools.partial(GPU, duration=duration, size=size)
    note(f"known {task.__name__}")

    @functools.wraps(task)
    def call(*args, **kwargs):
        answers = ctx.SimpleQueue()
        process = ctx.Process(target=work, args=(task, pickle.dumps((args, kwargs)), answers))
        process.start()
        error, value = pickle.loads(answers.get())
        process.join()
        note(f"ran {task.__name__}")
        assert error is None, error
        return value

    return call
"""


@dataclass(frozen=True)
class ZeroGpu:
    """A page on such a Space, and what its `spaces` package noted."""

    server: Server
    client: Client
    log: Path

    def ran(self, name: str) -> int:
        return self.log.read_text().count(f"ran {name}")


@pytest.fixture(scope="module")
def zero(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZeroGpu]:
    folder = tmp_path_factory.mktemp("zero")
    (folder / "packages" / "spaces").mkdir(parents=True)
    (folder / "packages" / "spaces" / "__init__.py").write_text(SPACES)
    variables = {
        "SPACES_ZERO_GPU": "true",
        "SPACE_ID": "ada/studio",
        "PYTHONPATH": str(folder / "packages"),
        "SPACES_LOG": str(folder / "spaces.txt"),
    }
    with serving(folder, **variables) as server:
        client = Client(server.url, verbose=False, download_files=False, analytics_enabled=False)
        yield ZeroGpu(server, client, folder / "spaces.txt")
        client.close()


def test_its_functions_are_known_before_the_first_visitor(zero: ZeroGpu) -> None:
    known = zero.log.read_text().splitlines()[:2]
    assert known == ["known logits_there", "known explain_there"]


def test_an_answer_comes_from_the_lent_gpu_and_is_the_same(zero: ZeroGpu, shapes: Path) -> None:
    before = zero.ran("logits_there")
    answer = zero.client.predict(handle_file(shapes / "star.png"), api_name="/predict")
    assert zero.ran("logits_there") == before + 1
    ran = subprocess.run(
        [sys.executable, "-m", "vgg", "predict", shapes / "star.png", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = json.loads(ran.stdout)[0]["top"]
    assert [p["class"] for p in answer["top"]] == [p["class"] for p in expected]
    for got, wanted in zip(answer["top"], expected, strict=True):
        assert got["probability"] == pytest.approx(wanted["probability"], abs=0.01)


def test_a_heat_map_and_its_check_come_from_there_too(zero: ZeroGpu, shapes: Path) -> None:
    before = zero.ran("explain_there"), zero.ran("logits_there")
    found = zero.client.predict(handle_file(shapes / "heart.png"), api_name="/explain")
    assert (found["class"], found["error"]) == ("heart", None)
    assert found["heatmap"].startswith("data:image/webp")
    assert found["truth"]["before"] > 0.5
    assert (zero.ran("explain_there"), zero.ran("logits_there")) == (
        before[0] + 1,
        before[1] + 1,
    )


def test_training_says_in_a_sentence_that_it_needs_a_gpu_of_its_own(
    zero: ZeroGpu, shapes: Path
) -> None:
    with pytest.raises(AppError, match="training needs a GPU of its own"):
        zero.client.predict(handle_file(shapes / "star.png"), api_name="/train")
    with urllib.request.urlopen(f"{zero.server.url}/config", timeout=30) as page:
        assert str(UserError("ui.borrowed_gpu"))[1:] in page.read().decode()


def test_elsewhere_the_package_is_not_even_looked_for() -> None:
    script = "import sys, app; print(app.ON_ZERO_GPU, 'spaces' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "False False\n"

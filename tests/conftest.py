"""What all tests share: a clean environment and the same random numbers in every run."""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy as np
    from fake_hub import FakeHub
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

    from vgg.data.index import FolderIndex

ROOT = Path(__file__).resolve().parent.parent
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP = {"width": 1280, "height": 860}
PATIENCE = 30_000  # milliseconds for one step in the browser; the first answer waits for torch
# What Gradio says on every upload, and where a page is left in the middle of an event.
NOT_OURS = (
    "Method not implemented.",
    "AbortError: signal is aborted",
    "Connection errored out.",
    "Unexpected error Connection errored out.",
)
CHILD = """
import contextlib, io
from vgg import load_model
from vgg.cli import main
from vgg.export.hub import push
from vgg.export.space import deploy

def cli(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    return [status, out.getvalue(), err.getvalue()]

def answer_to(line):
    try:
        return {"value": eval(line)}
    except ValueError as error:
        return {"error": str(error)}
"""
HUB_TOKENS = {
    "hf_ada": ("ada", "write"),
    "hf_ada_reads": ("ada", "read"),
    "hf_bob": ("bob", "write"),
}
Ask = Callable[[str], dict[str, Any]]  # see `fake_hub.asking`
# Where the tests marked `real` find their files, and how often properties are tried.
KEPT = ("VGG_STUDIO_ODD", "VGG_STUDIO_REAL", "VGG_STUDIO_EXAMPLES")


def pytest_configure(config: pytest.Config) -> None:
    """Before any module is imported: none of the developer's settings, models or tokens."""
    for name in list(os.environ):
        if name.startswith(("VGG_STUDIO_", "HF_", "HUGGING_FACE_")) and name not in KEPT:
            del os.environ[name]
    cache = tempfile.TemporaryDirectory(prefix="vgg-tests-")
    config.add_cleanup(cache.cleanup)
    os.environ["HF_HOME"] = cache.name
    os.environ["VGG_STUDIO_CACHE"] = str(Path(cache.name, "vgg-studio"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # What tests hand to the page's functions counts as uploaded.
    os.environ["GRADIO_TEMP_DIR"] = tempfile.gettempdir()
    # Threads that wait sleep: spinning, they take the cores from whatever else runs there.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    random.seed(0)
    # Tests that need neither numpy nor torch need not wait for them.
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


def fingerprinted(index: "FolderIndex") -> "tuple[FolderIndex, np.ndarray]":
    """An index less what can't be read, and the fingerprints of what is left."""
    import numpy as np

    from vgg.data.reading import load_picture
    from vgg.network.config import Preprocessing

    found = [
        load_picture(sample.path, Preprocessing(), with_fingerprint=True)
        for sample in index.samples
    ]
    names = [sample.name for sample in index.samples]
    failed = {n: item.error for n, item in zip(names, found, strict=True) if item.error}
    prints = [item.fingerprint for item in found if item.fingerprint is not None]
    return index.without(failed) if failed else index, np.array(prints)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with room for 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the eight pictures that the page offers as examples: `star.png`, …"""
    from vgg.ui.tabs.predict_input import EXAMPLES, example

    folder = tmp_path_factory.mktemp("shapes")
    for name in EXAMPLES:
        example(name).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models and what is kept of pictures go into this test's own folder."""
    monkeypatch.setenv("VGG_STUDIO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VGG_STUDIO_WEIGHTS_DIR", str(tmp_path / "weights"))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `shapes` with ten pictures of each of eight classes, 40 pixels a side."""
    from vgg.data.shapes import draw_folder

    folder = tmp_path_factory.mktemp("drawn") / "shapes"
    draw_folder(folder, count=10, size=40)
    return folder


@pytest.fixture
def own_shapes(drawn: Path, tmp_path: Path) -> Path:
    """The same, to be changed at will."""
    return Path(shutil.copytree(drawn, tmp_path / "shapes"))


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    """A checkpoint of a trunk that never learned."""
    from trainings import untaught

    return untaught(tmp_path / "trunk")


@pytest.fixture(scope="session")
def own_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with two tiny models of our own, the newest of them called `pets`."""
    from vgg.checkpoints.folder import save_checkpoint
    from vgg.network.config import Preprocessing
    from vgg.network.vgg import VGG

    weights = tmp_path_factory.mktemp("weights")
    for age, (name, classes) in enumerate(
        {"pets": ("cat", "dog & bone", "<b>owl</b>"), "older": ("no", "yes")}.items()
    ):
        model = VGG(13, len(classes), batch_norm=False, head="gap", width=0.0625)
        model.config = replace(
            model.config,
            label_names=classes,
            trained=True,
            pretrained_cfg=Preprocessing(input_size=(3, 32, 32)),
        )
        config = save_checkpoint(model, weights / name) / "config.json"
        os.utime(config, (1_800_000_000 - age, 1_800_000_000 - age))
    return weights


@dataclass(frozen=True)
class Server:
    """A running `python app.py`: its address, and where its standard error goes. `before` is what
    it printed up to its address."""

    url: str
    log: Path
    process: subprocess.Popen[str]
    before: tuple[str, ...] = ()

    def wait_for(self, words: str) -> str:
        """The next line that it prints with these words in it; empty where it ends without."""
        lines = read_until(self.process.stdout, words)
        return lines[-1] if lines and words in lines[-1] else ""


def read_until(lines: Any, words: str) -> list[str]:
    """Lines up to the first with these words in it, or to the end."""
    read = []
    for line in lines:
        read.append(line)
        if words in line:
            break
    return read


@contextmanager
def serving(folder: Path, *arguments: str | Path, **variables: str) -> Iterator[Server]:
    """Run `python app.py` in a process of its own, with a Hub that takes calls and never answers;
    what it writes goes into `folder`. `variables` are set in its environment."""
    from fake_hub import hub_environment

    with socket.socket() as silent, socket.socket() as probe:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        hub = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = hub_environment(hub, folder / "hub") | {
            "GRADIO_TEMP_DIR": str(folder / "served"),
            "PYTHONUNBUFFERED": "1",
            **variables,
        }
        log = folder / "log.txt"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "app.py", "--port", str(port), *arguments],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        with process:
            try:
                before = read_until(process.stdout, "Running on")
                assert any("Running on" in line for line in before), log.read_text()
                yield Server(f"http://127.0.0.1:{port}", log, process, tuple(before))
            finally:
                process.terminate()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, own_models: Path) -> Iterator[Server]:
    """The page as a newcomer starts it, with two models of their own."""
    with serving(tmp_path_factory.mktemp("server"), "--weights-dir", own_models) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    assert program, "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=program,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield opened
        opened.close()


@pytest.fixture
def context(browser: "Browser") -> "Iterator[BrowserContext]":
    opened = browser.new_context(
        viewport=DESKTOP, permissions=["clipboard-read", "clipboard-write", "camera"]
    )
    opened.set_default_timeout(PATIENCE)
    yield opened
    opened.close()


@pytest.fixture
def blank(context: "BrowserContext") -> "Iterator[Page]":
    """An empty page; the test fails where the browser's console has something to complain of."""
    opened = context.new_page()
    complaints: list[str] = []

    def listen(message: "ConsoleMessage") -> None:
        if message.type in ("error", "warning") and not message.text.startswith(NOT_OURS):
            complaints.append(message.text)

    opened.on("console", listen)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    assert complaints == [], "\n".join(complaints)


@pytest.fixture(scope="module")
def running_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator["FakeHub"]:
    from fake_hub import FakeHub

    with FakeHub(tmp_path_factory.mktemp("hub"), tokens=HUB_TOKENS) as hub:
        yield hub


@pytest.fixture
def hub(running_hub: "FakeHub") -> Iterator["FakeHub"]:
    """A fake Hub without faults; ada and bob have accounts there."""
    from fake_hub import Faults

    running_hub.requests.clear()
    yield running_hub
    running_hub.faults = Faults()


@pytest.fixture(scope="module")
def ask(running_hub: "FakeHub", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Evaluates a line of Python, such as `push(…)` or `cli("push", …)`, in a process of its own
    whose Hub is the fake one: the Hub's client reads its environment when it is imported."""
    from fake_hub import asking

    with asking(CHILD, running_hub, tmp_path_factory.mktemp("home")) as evaluate:
        yield evaluate

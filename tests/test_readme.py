"""What the README and docs/ say is so: places, links, commands, and the examples for programs."""

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import textwrap
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Server, serving

import app
from vgg import cli
from vgg.data.shapes import draw_folder

PAGES = {page: page.read_text("utf-8") for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
README, PROGRAMS = (PAGES[ROOT / name] for name in ("README.md", "docs/programs.md"))
COMMANDS = [
    (program, options)
    for text in PAGES.values()
    for program, options in re.findall(
        r"^    .*?(-m vgg|-m pytest|app\.py)(.*)", text.replace("\\\n", ""), re.MULTILINE
    )
]
ADDRESS = "http://127.0.0.1:7860"


def example(words: str) -> str:
    """The first block of code that holds these words."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", PROGRAMS, re.MULTILINE)
    return textwrap.dedent(next(block for block in blocks if words in block)).strip()


def test_the_readme_is_short_and_its_map_shows_every_room_and_no_other() -> None:
    assert len(README.splitlines()) < 200
    rows = re.findall(r"^\| (`.*?) \|", README.partition("## Where things are")[2], re.MULTILINE)
    named = set()
    for row in rows:
        first, *others = (Path(name) for name in re.findall(r"`([^`]+)`", row))
        named |= {first, *(first.parent / other for other in others)}
    assert not [path for path in named if not (ROOT / path).exists()]
    public = {path.relative_to(ROOT) for path in ROOT.glob("vgg/*") if path.name[0] not in "_."}
    assert public <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGES[page]):
        assert link.startswith("https://") or (page.parent / link).is_file(), link


@pytest.mark.parametrize(("program", "options"), COMMANDS)
def test_commands_are_understood(program: str, options: str) -> None:
    words = shlex.split(options, comments=True)
    if program == "-m pytest":
        markers = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]
        names = [marker.partition(":")[0] for marker in markers["ini_options"]["markers"]]
        assert set(words[1::2]) <= set(names)
    else:
        (app if program == "app.py" else cli).build_parser().parse_args(words)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    with serving(folder, "--weights-dir", folder / "weights") as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody who has a photo.jpg and a photos.zip."""
    shutil.copy(shapes / "star.png", tmp_path / "photo.jpg")
    draw_folder(tmp_path / "drawn", count=4, seed=2, size=32)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed:
        for file in (tmp_path / "drawn").rglob("*.png"):
            packed.write(file, file.relative_to(tmp_path / "drawn"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_example_for_gradio_client_runs(page: Server, desk: Path) -> None:
    code = example("gradio_client").replace(ADDRESS, page.url)
    assert page.url in code
    told = io.StringIO()
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(told):
        exec(compile(code, "README.md", "exec"), names)
    names["client"].close()  # type: ignore[attr-defined]
    assert "'class': 'star'" in told.getvalue()
    assert "hidden_marked" in told.getvalue()
    assert "'state':" in told.getvalue()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no sh")
def test_the_example_for_curl_runs(page: Server, desk: Path) -> None:
    script = example("curl -s").replace(ADDRESS, page.url)
    assert page.url in script
    ran = subprocess.run(["sh", "-e", "-c", script], capture_output=True, text=True, timeout=60)
    assert "event: complete" in ran.stdout, ran.stdout + ran.stderr
    data = next(line for line in ran.stdout.splitlines() if line.startswith("data: "))
    answer = json.loads(data.removeprefix("data: "))[0]
    assert answer["top"][0]["class"] == "star"
    assert len(answer["top"]) == 3


def test_every_endpoint_is_documented(page: Server) -> None:
    import urllib.request

    with urllib.request.urlopen(f"{page.url}/gradio_api/info", timeout=30) as answer:
        endpoints = json.load(answer)["named_endpoints"]
    for name, endpoint in endpoints.items():
        row = next(line for line in PROGRAMS.splitlines() if line.startswith("| ") and name in line)
        for parameter in endpoint["parameters"][1:]:
            assert f"`{parameter['parameter_name']}`" in row

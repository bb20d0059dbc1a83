"""A Space gets exactly what it needs; and what arrives there works, as a Space runs it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Ask
from fake_hub import COLOURS, FakeHub, Faults, front_matter
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from packaging.requirements import Requirement

from vgg.checkpoints.folder import save_checkpoint
from vgg.data.shapes import draw_folder
from vgg.export.space import MARK, ZERO_GPU, deploy, space_files
from vgg.network.config import Preprocessing
from vgg.network.vgg import VGG

# What Spaces take, by their documentation of August 2026.
ZERO_TORCH = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")
TODAY = "2.14.1"
TREE_LIMIT = 10 * 1000**2  # bytes, without a model
MODEL = {"VGG_STUDIO_MODEL": "pets"}  # the variable that a deploy with this model sets


def content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def requirements(hardware: str | None = None) -> dict[str, Requirement]:
    text = content(space_files(hardware)["requirements.txt"]).decode()
    return {r.name: r for r in map(Requirement, text.split("\n")[:-1])}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model as its training left it."""
    folder = tmp_path_factory.mktemp("weights") / "pets"
    network = VGG(11, 2, head="gap", width=0.0625)
    network.config = replace(
        network.config,
        label_names=("cat", "dog"),
        trained=True,
        pretrained_cfg=Preprocessing(input_size=(3, 32, 32)),
    )
    save_checkpoint(network, folder)
    for name in ("events.jsonl", "metrics.json", "split.json", "held_out/cat.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("/home/ada/pictures")
    return folder


# What goes there


def test_it_is_the_program_and_the_starter_and_nothing_else() -> None:
    files = space_files()
    top = {name for name in files if not name.startswith("vgg/")}
    assert top == {
        "LICENSE", "README.md", "app.py", "requirements.txt", "weights/README.md",
        "weights/starter/config.json", "weights/starter/model.safetensors",
    }  # fmt: skip
    source = {f.relative_to(ROOT).as_posix() for f in (ROOT / "vgg").rglob("*")
              if f.is_file() and not {"__pycache__", "bench"} & set(f.parts)}  # fmt: skip
    assert {name for name in files if name.startswith("vgg/")} == source
    assert sum(len(content(source)) for source in files.values()) < TREE_LIMIT


def test_the_front_matter_is_what_todays_spaces_take() -> None:
    import gradio

    card = front_matter(content(space_files()["README.md"]).decode())
    text = content(space_files()["README.md"]).decode()
    assert (card["sdk"], card["app_file"]) == ("gradio", "app.py")
    assert re.search(r'^python_version: "3\.1[1-4]"$', text, re.MULTILINE), "a text, not a number"
    assert {card["colorFrom"], card["colorTo"]} <= set(COLOURS)
    assert len(card["short_description"]) <= 60
    assert card["sdk_version"].partition(".")[0] == gradio.__version__.partition(".")[0]
    assert card["sdk_version"] in requirements()["gradio"].specifier
    assert ".github/" not in text, "the picture of the page stays here"


def test_torch_may_be_todays_and_on_zerogpu_one_that_it_takes() -> None:
    assert TODAY in requirements()["torch"].specifier
    bounded = requirements(ZERO_GPU)
    assert all(version in bounded["torch"].specifier for version in ZERO_TORCH)
    assert TODAY not in bounded["torch"].specifier, "pip would take the newest"
    assert "0.26.0" in bounded["torchvision"].specifier
    assert "spaces" in bounded
    assert bounded.keys() - {"spaces"} == requirements().keys()


def test_a_dry_run_lists_all_and_asks_nobody(hub: FakeHub, ask: Ask, model: Path) -> None:
    arguments = ["deploy", "--to", "ada/dry", "--model", str(model), "--dry-run", "--json"]
    status, out, err = ask(f"cli(*{arguments!r})")["value"]
    assert (status, err) == (0, "")
    document = json.loads(out)
    listed = {file["path"]: file["bytes"] for file in document["files"]}
    own = {"weights/pets/config.json", "weights/pets/model.safetensors"}
    assert listed.keys() == {*space_files(), *own, MARK}
    assert document["bytes"] == sum(listed.values())
    assert document["model"] == "pets"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "studio"}, "write OWNER/NAME"),
        ({"to": "ada/studio", "hardware": "h100"}, "no hardware 'h100'; choose cpu-basic"),
        ({"to": "ada/studio", "model": "nothing"}, "no model 'nothing'"),
        ({"to": "ada/studio", "model": "hf-hub:nothing"}, "write OWNER/NAME"),
    ],
)
def test_what_can_not_be_is_told_before_anything_is_sent(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        deploy(**options, dry_run=True)


def test_a_large_model_is_refused_with_the_way_by_the_hub(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vgg.export.space.MAX_MODEL_BYTES", 1000)
    with pytest.raises(ValueError, match="push it to the Hub"):
        deploy("ada/studio", model=model, dry_run=True)


# The Space itself


def received(hub: FakeHub, to: str) -> dict[str, bytes]:
    repo = hub.repo(to, repo_type="space")
    assert repo is not None
    names = [entry["path"] for entry in hub.entries(repo)]
    return {n: (repo.folder / n).read_bytes() for n in names if n != ".gitattributes"}


def test_what_was_listed_is_what_arrives_in_one_commit(hub: FakeHub, ask: Ask, model: Path) -> None:
    line = f"deploy('ada/studio', model={str(model)!r}, hardware='t4-small', private=True"
    assert "value" in ask(f"{line}, token='hf_ada')")
    there = received(hub, "ada/studio")
    expected = {name: content(source) for name, source in space_files().items()}
    assert {name: there[name] for name in expected} == expected
    assert there.keys() - expected.keys() == {
        "weights/pets/config.json", "weights/pets/model.safetensors", MARK,
    }  # fmt: skip
    assert not any(b"/home/ada" in data for data in there.values())
    repo = hub.repo("ada/studio", repo_type="space")
    assert (repo.private, repo.settings["hardware"]) == (True, "t4-small")
    assert repo.settings["variables"] == {"VGG_STUDIO_MODEL": {"value": "pets"}}
    assert sum("/commit/" in request.path for request in hub.requests) == 1


def test_a_second_deploy_brings_it_up_to_date_and_takes_away_what_the_first_brought(
    hub: FakeHub, ask: Ask, model: Path
) -> None:
    ask(f"deploy('ada/twice', model={str(model)!r}, token='hf_ada')")
    repo = hub.repo("ada/twice", repo_type="space")
    mine = {"vgg/mine.py": b"", "weights/mine/model.safetensors": b"kept", "mine.txt": b"kept"}
    hub.commit(repo, mine)
    line = "deploy('ada/twice', model='hf-hub:ada/pets', hardware='zero-a10g', token='hf_ada')"
    assert ask(f"{line}.model")["value"] == "hf-hub:ada/pets"
    there = received(hub, "ada/twice")
    assert there.keys() == {*space_files(), *mine, MARK}
    assert b"\nspaces\n" in there["requirements.txt"]
    assert repo.settings["hardware"] == "zero-a10g"
    assert repo.settings["variables"]["VGG_STUDIO_MODEL"] == {"value": "hf-hub:ada/pets"}


@pytest.mark.parametrize(
    ("to", "token", "said"),
    [
        ("ada/none", None, "a token of yours that may write is needed"),
        ("ada/none", "hf_ada_reads", "this token may only read"),
        ("bob/none", "hf_ada", "may not write to bob/none"),
    ],
)
def test_a_deploy_that_may_not_be_is_told_and_makes_nothing(
    hub: FakeHub, ask: Ask, to: str, token: str | None, said: str
) -> None:
    assert said in ask(f"deploy({to!r}, token={token!r})")["error"]
    assert hub.repo(to, repo_type="space") is None


def test_a_space_of_another_program_is_left_alone(hub: FakeHub, ask: Ask) -> None:
    hub.create("spaces/ada/chat", {"name": "chat", "sdk": "gradio"})
    repo = hub.repo("ada/chat", repo_type="space")
    hub.commit(repo, {"app.py": b"print()"})
    before = hub.sha(repo)
    assert "is taken" in ask("deploy('ada/chat', token='hf_ada')")["error"]
    assert hub.sha(repo) == before


def test_a_deploy_that_is_cut_shows_nothing_and_a_second_try_works(hub: FakeHub, ask: Ask) -> None:
    hub.faults = Faults(cut_after_bytes=1000, only="/commit/")
    assert "try again" in ask("deploy('ada/cut', token='hf_ada')")["error"]
    assert received(hub, "ada/cut").keys() == {"README.md"}, "the Hub's own"
    hub.faults = Faults()
    assert "value" in ask("deploy('ada/cut', token='hf_ada')")
    assert received(hub, "ada/cut").keys() == {*space_files(), MARK}


# As a Space runs it


def without_rights(python: str | Path) -> list[str]:
    """Before a command: as a user who is not root and owns nothing, where this one is root."""
    if not hasattr(os, "getuid") or os.getuid() != 0:
        return []
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    other = [*drop, "--reuid=65534", "--regid=65534", "--clear-groups"]
    usable = (
        subprocess.run([*other, python, "-c", "import PIL"], capture_output=True).returncode == 0
    )
    return other if usable else drop  # root's own Python may be closed to others


@dataclass(frozen=True)
class Space:
    """A running Space: its address, its code folder, and all that it must not tell."""

    url: str
    code: Path
    secrets: tuple[str, ...]


@contextmanager
def running(
    code: Path, python: str | Path, home: Path, extra: dict[str, str] | None = None
) -> Iterator[Space]:
    """Run `app.py` as a Space does: read-only code, no home to write to, a user without rights."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for folder in [code, *code.rglob("*")]:
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    scratch = home / "tmp"
    scratch.mkdir(parents=True)
    scratch.chmod(0o777)
    (home / "user").mkdir(mode=0o555)
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | {
        "SPACE_ID": "ada/studio",
        "SYSTEM": "spaces",
        "SPACE_HOST": "ada-studio.hf.space",
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SSR_MODE": "True",
        "HOME": str(home / "user"),
        "TMPDIR": str(scratch),
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        **(extra or {}),
    }
    log = home / "log.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*without_rights(python), python, "app.py"],
            cwd=code,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    with process:
        try:
            deadline = time.monotonic() + 120
            while "Running on" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            url = f"http://127.0.0.1:{port}"
            yield Space(url, code, (str(code), str(home), str(Path(python).parent.parent)))
        finally:
            process.terminate()


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder that other users can enter, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="vgg-space-"))
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def visitor(space: Space) -> Iterator[Client]:
    client = Client(space.url, verbose=False, download_files=False, analytics_enabled=False)
    yield client
    client.close()


def sample_zip(folder: Path) -> Path:
    """The sample shapes, a few of them, as a visitor uploads them."""
    draw_folder(folder / "drawn", count=8, seed=5, size=48)
    target = folder / "shapes.zip"
    with zipfile.ZipFile(target, "w") as packed:
        for file in sorted((folder / "drawn").rglob("*.png")):
            packed.write(file, file.relative_to(folder / "drawn"))
    return target


def raw(space: Space, endpoint: str, data: list[Any], session: str) -> str:
    """Call an endpoint by plain HTTP; what the event stream says."""
    body = json.dumps({"data": data, "session_hash": session}).encode()
    address = f"{space.url}/gradio_api/call/{endpoint}"
    post = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(post, timeout=60) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}/{event}", timeout=60) as stream:
        return stream.read().decode()


def until_over(client: Client, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + 180
    while (state := client.predict(job, api_name="/job"))["state"] in ("waiting", "running"):
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
    return state


def use(space: Space, folder: Path, shapes: Path, first: str) -> None:
    """Two visitors at once: each predicts, explains and trains, and sees nothing of the other's."""
    told: list[str] = []
    for page in ("/", "/config", "/gradio_api/info"):
        with urllib.request.urlopen(space.url + page, timeout=30) as answer:
            told.append(answer.read().decode())
    pictures = sample_zip(folder)
    star = handle_file(shapes / "star.png")
    with visitor(space) as ada, visitor(space) as bob:
        models = ada.predict(api_name="/models")
        assert first in [entry["name"] for entry in models]
        answer = ada.predict(star, api_name="/predict")
        assert answer["top"][0]["class"] == "star"
        explained = ada.predict(star, api_name="/explain")
        assert explained["truth"]["sentence"]
        started = ada.predict(handle_file(pictures), mode="scratch", epochs=2, image_size=32,
                              api_name="/train")  # fmt: skip
        others = bob.predict(handle_file(pictures), mode="scratch", epochs=1, image_size=32,
                             api_name="/train")  # fmt: skip
        told += [json.dumps(x) for x in (models, answer, explained, started, others)]

        # With the other's id, from another session, by the client and by plain HTTP.
        with pytest.raises(AppError, match="no such job"):
            bob.predict(started["job"], api_name="/job")
        for endpoint in ("job", "stop"):
            refused = raw(space, endpoint, [started["job"]], "mallory")
            assert refused.startswith("event: error"), refused

        over = until_over(ada, started["job"])
        assert over["state"] == "done", over
        told.append(json.dumps(over))
        own = ada.predict(star, model=started["model"], api_name="/predict")
        assert len(own["top"]) == 5
        told += [json.dumps(own), json.dumps(ada.predict(api_name="/models"))]
        assert ada.predict(api_name="/models") == models, "what visitors train is listed for nobody"
        upload = {"path": star_path(space, shapes), "meta": {"_type": "gradio.FileData"}}
        for endpoint, data in (
            ("predict", [upload, started["model"], 5]),
            ("explain", [upload, started["model"], ""]),
        ):
            refused = raw(space, endpoint, data, "mallory")
            assert refused.startswith("event: error"), refused
        with pytest.raises(AppError, match="no model"):
            bob.predict(star, model=started["model"], api_name="/predict")
        # A file of the server is no picture, whoever names it.
        stolen = {"path": str(space.code / "app.py"), "meta": {"_type": "gradio.FileData"}}
        assert raw(space, "predict", [stolen, "starter", 5], "mallory").startswith("event: error")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{space.url}/gradio_api/file={space.code}/app.py", timeout=30)
        told.append(json.dumps(until_over(bob, others["job"])))
    for text in told:
        for secret in space.secrets:
            assert secret not in text


def star_path(space: Space, shapes: Path) -> str:
    """Upload a picture by plain HTTP; where it lies."""
    boundary = "x" * 20
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="star.png"\r\n'
    body = (
        f"{head}Content-Type: image/png\r\n\r\n".encode()
        + (shapes / "star.png").read_bytes()
        + f"\r\n--{boundary}--\r\n".encode()
    )
    post = urllib.request.Request(
        f"{space.url}/gradio_api/upload",
        body,
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    with urllib.request.urlopen(post, timeout=30) as answer:
        return json.load(answer)[0]


@pytest.fixture
def tree(hub: FakeHub, ask: Ask, disk: Path, model: Path) -> Path:
    """What the Hub received, as a Space checks it out."""
    assert "value" in ask(f"deploy('ada/studio', model={str(model)!r}, token='hf_ada')")
    repo = hub.repo("ada/studio", repo_type="space")
    return Path(shutil.copytree(repo.folder, disk / "app"))


@pytest.mark.slow
def test_the_uploaded_tree_works_as_a_space_and_keeps_visitors_apart(
    tree: Path, disk: Path, shapes: Path, tmp_path: Path
) -> None:
    with running(tree, sys.executable, disk / "machine", MODEL) as space:
        use(space, tmp_path, shapes, "pets")


@pytest.mark.slow
def test_the_uploaded_tree_works_in_a_fresh_environment(
    tree: Path, disk: Path, shapes: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", disk / "venv"], check=True)
    python = disk / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "-r", tree / "requirements.txt"], check=True
    )
    with running(tree, python, disk / "machine", MODEL) as space:
        use(space, tmp_path, shapes, "pets")


@pytest.mark.slow
def test_a_space_whose_model_is_not_there_starts_with_the_starter(
    tree: Path, disk: Path, shapes: Path
) -> None:
    lost = {"VGG_STUDIO_MODEL": "hf-hub:ada/lost"}
    with running(tree, sys.executable, disk / "machine", lost) as space, visitor(space) as ada:
        answer = ada.predict(handle_file(shapes / "star.png"), api_name="/predict")
        assert answer["top"][0]["class"] == "star"
        assert "The starter stands in" in (disk / "machine" / "log.txt").read_text()

"""The fake Hub keeps its promises: the real client, in a process of its own, works against it."""

import hashlib
import http.client
import json
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Ask
from fake_hub import FakeHub, Faults, asking

CHILD = """
from huggingface_hub import *
def answer_to(line):
    try:
        return {"value": eval(line)}
    except Exception as error:
        names = [kind.__name__ for kind in type(error).__mro__]
        status = getattr(getattr(error, "response", None), "status_code", None)
        return {"errors": names, "text": str(error), "status": status}
"""
CONFIG = b'{"architecture": "vgg11"}'
LARGE = random.Random(1).randbytes(11 * 1024**2)


@pytest.fixture(scope="module")
def ask(running_hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Evaluates a line of Python with the client's functions in reach."""
    running_hub.add_model("timm/tiny", {"config.json": CONFIG, "sub/model.safetensors": LARGE})
    with asking(CHILD, running_hub, tmp_path_factory.mktemp("home")) as evaluate:
        yield evaluate


def lines(hub: FakeHub, method: str = "") -> list[str]:
    """What came in, one "METHOD /path" a request."""
    return [f"{r.method} {r.path}" for r in hub.requests if method in ("", r.method)]


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def send(
    hub: FakeHub, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes]:
    """One request without the client: status and body of the answer."""
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=10)
    connection.request(method, path, body, {"Authorization": "Bearer hf_ada"} | headers)
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


def test_a_download_is_the_bytes_on_disk_and_comes_from_the_cache_then(
    hub: FakeHub, ask: Ask
) -> None:
    path = ask("hf_hub_download('timm/tiny', 'sub/model.safetensors')")["value"]
    assert Path(path).read_bytes() == LARGE
    page = "/timm/tiny/resolve/main/sub/model.safetensors"
    assert lines(hub) == [f"HEAD {page}", f"GET {page}"]
    assert all(request.token is None for request in hub.requests)
    assert ask("hf_hub_download('timm/tiny', 'sub/model.safetensors')")["value"] == path
    assert lines(hub) == [f"HEAD {page}", f"GET {page}", f"HEAD {page}"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("hf_hub_download('timm/tiny', 'no.json')", "EntryNotFoundError"),
        ("hf_hub_download('timm/nothing', 'config.json')", "RepositoryNotFoundError"),
        ("hf_hub_download('timm/tiny', 'config.json', revision='v2')", "RevisionNotFoundError"),
        ("model_info('timm/nothing', token='hf_bob')", "RepositoryNotFoundError"),
        ("hf_hub_download('meta/gated', 'config.json')", "GatedRepoError"),
    ],
)
def test_what_is_not_there_raises_the_clients_own_error(
    hub: FakeHub, ask: Ask, line: str, error: str
) -> None:
    hub.add_model("meta/gated", {"config.json": CONFIG}, gated=True)
    assert error in ask(line)["errors"]


def test_a_file_is_sent_from_a_byte_on(hub: FakeHub, ask: Ask) -> None:
    page = "/timm/tiny/resolve/main/config.json"
    assert send(hub, "GET", page, Range="bytes=10-") == (206, CONFIG[10:])
    assert send(hub, "GET", page, Range="bytes=1000-")[0] == 416


@pytest.mark.parametrize(
    ("token", "status"), [("hf_ada_reads", 403), ("", 401), ("hf_bob", 403), ("hf_old", 401)]
)
def test_only_the_owner_with_a_write_token_can_write(
    hub: FakeHub, ask: Ask, token: str, status: int
) -> None:
    hub.add_model("ada/hers", {"config.json": CONFIG})
    asker = f"repo_id='ada/hers', token={token or False!r}"
    assert ask(f"create_repo({asker})")["status"] == status
    upload = f"upload_file(path_or_fileobj=b'x', path_in_repo='config.json', {asker})"
    assert ask(upload)["status"] == status
    assert files(hub.root / "models/ada/hers") == {"config.json": CONFIG}


def test_a_private_repository_is_seen_by_its_owner_only(hub: FakeHub, ask: Ask) -> None:
    ask("create_repo('ada/secret', private=True, token='hf_ada')")
    line = "repo_exists('ada/secret', token={!r})"
    seen = [ask(line.format(token))["value"] for token in (False, "hf_bob", "hf_ada_reads")]
    assert seen == [False, False, True]


def test_an_uploaded_folder_arrives_byte_for_byte(hub: FakeHub, ask: Ask, tmp_path: Path) -> None:
    card = "---\nlicense: mit\npipeline_tag: image-classification\n---\n"
    (tmp_path / "README.md").write_text(card)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/ü ñ.bin").write_bytes(LARGE)
    (tmp_path / "empty.txt").touch()
    ask("create_repo('ada/new', token='hf_ada')")
    upload = f"upload_folder(repo_id='ada/new', folder_path={str(tmp_path)!r}, token='hf_ada')"
    commit = ask(f"{upload}.oid")["value"]
    there = files(hub.root / "models/ada/new")
    assert there.pop(".gitattributes")
    assert there == files(tmp_path)
    told = ask("(lambda i: [i.sha, i.pipeline_tag])(model_info('ada/new'))")["value"]
    assert told == [commit, "image-classification"]
    [put] = [request for request in hub.requests if request.method == "PUT"]
    assert put.token is None

    hub.requests.clear()
    assert ask(f"{upload}.oid")["value"] == commit
    assert not [line for line in lines(hub, "POST") if "/commit/" in line]


def test_large_content_counts_only_when_all_of_it_has_come(hub: FakeHub, ask: Ask) -> None:
    ask("create_repo('ada/parts', token='hf_ada')")
    content = b"all of it"
    oid = hashlib.sha256(content).hexdigest()
    batch = json.dumps({"objects": [{"oid": oid, "size": len(content)}]}).encode()
    _, answer = send(hub, "POST", "/ada/parts.git/info/lfs/objects/batch", batch)
    [told] = json.loads(answer)["objects"]
    page = told["actions"]["upload"]["href"].removeprefix(hub.url)
    value = {"path": "a.bin", "algo": "sha256", "oid": oid, "size": len(content)}
    commit = json.dumps({"key": "lfsFile", "value": value}).encode()

    assert send(hub, "PUT", page, b"something")[0] == 400
    host, port = hub.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as leaving:
        leaving.sendall(f"PUT {page} HTTP/1.1\r\nContent-Length: 9\r\n\r\nall o".encode())
        leaving.shutdown(socket.SHUT_WR)
        assert leaving.recv(1) == b""
    assert send(hub, "POST", "/api/models/ada/parts/commit/main", commit)[0] == 400
    assert send(hub, "PUT", page, content)[0] == 200
    assert send(hub, "POST", "/api/models/ada/parts/commit/main", commit)[0] == 200
    assert (hub.root / "models/ada/parts/a.bin").read_bytes() == content


def test_a_commit_cannot_write_outside_its_repository(hub: FakeHub, ask: Ask) -> None:
    ask("create_repo('ada/inside', token='hf_ada')")
    value = {"path": "../tiny.txt", "encoding": "base64", "content": "eA=="}
    commit = json.dumps({"key": "file", "value": value}).encode()
    assert send(hub, "POST", "/api/models/ada/inside/commit/main", commit)[0] == 400
    assert send(hub, "GET", "/ada/inside/resolve/main/../../../timm/tiny/config.json")[0] == 404


def test_a_space_has_its_hardware_and_its_readme_is_checked(hub: FakeHub, ask: Ask) -> None:
    space = "'ada/studio', token='hf_ada'"
    create = f"create_repo({space}, repo_type='space', space_sdk='gradio', space_hardware="
    assert ask(f"{create}'t4-small')")["value"] == f"{hub.url}/spaces/ada/studio"
    assert ask(f"{create}'t4-small')")["status"] == 409
    upload = f"upload_file(repo_id={space}, repo_type='space', path_or_fileobj="
    readme = "b'---\\nsdk: gradio\\ncolorFrom: {}\\n---\\n', path_in_repo='README.md')"
    assert "colorFrom" in ask(upload + readme.format("mauve"))["text"]
    assert "errors" not in ask(upload + readme.format("red"))
    ask(f"{upload}b'print()', path_in_repo='app.py')")
    told = ask("(lambda s: [s.sdk, s.runtime.stage])(space_info('ada/studio'))")["value"]
    assert told == ["gradio", "RUNNING"]
    assert "errors" not in ask(f"request_space_hardware({space}, hardware='l4x1')")
    assert ask("get_space_runtime('ada/studio').hardware")["value"] == "l4x1"


def test_a_download_that_is_cut_goes_on_where_it_was(hub: FakeHub, ask: Ask) -> None:
    hub.add_model("timm/cut", {"model.safetensors": LARGE})
    written = 10 * 1024**2  # the client writes, and so keeps, whole pieces of this size
    hub.faults = Faults(cut_after_bytes=written + 1000, times=1)
    path = ask("hf_hub_download('timm/cut', 'model.safetensors')")["value"]
    assert Path(path).read_bytes() == LARGE
    gets = [request for request in hub.requests if request.method == "GET"]
    assert [get.byte_range for get in gets] == [None, f"bytes={written}-"]


def test_a_commit_that_is_cut_changes_nothing_and_works_again(hub: FakeHub, ask: Ask) -> None:
    ask("create_repo('ada/half', token='hf_ada')")
    hub.faults = Faults(cut_after_bytes=50_000, only="/commit/")
    upload = (
        "upload_file(repo_id='ada/half', path_or_fileobj=b'text ' * 50_000,"
        " path_in_repo='notes.txt', token='hf_ada')"
    )
    assert "TransportError" in ask(upload)["errors"]
    assert list(files(hub.root / "models/ada/half")) == [".gitattributes"]
    hub.faults = Faults()
    assert "errors" not in ask(upload)
    assert (hub.root / "models/ada/half/notes.txt").read_bytes() == b"text " * 50_000


def test_a_hub_that_is_down_or_slow_leaves_the_client_its_cache(hub: FakeHub, ask: Ask) -> None:
    repo = hub.add_model("timm/down", {"config.json": b"old"})
    line = "hf_hub_download('timm/down', 'config.json')"
    cached = ask(line)["value"]
    (repo.folder / "config.json").write_bytes(b"new!")
    hub.faults = Faults(status=503)
    assert ask("model_info('timm/down')")["status"] == 503
    assert ask(line)["value"] == cached
    hub.faults = Faults(delay_s=5.0)
    start = time.monotonic()
    assert ask(line.replace(")", ", etag_timeout=0.3)"))["value"] == cached
    assert 0.3 <= time.monotonic() - start < 5.0
    hub.faults = Faults()
    assert ask(line)["value"] != cached

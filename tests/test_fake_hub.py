"""The fake Hub holds what it promises: the real client, in a process of its own, works against it.

One child process lives as long as this file's tests. It evaluates one line of Python at a time with
the client's functions in reach and answers in JSON, so a test can change the Hub between two calls.
"""

import contextlib
import hashlib
import http.client
import json
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, Faults, hub_environment, is_ignored

CHILD = """
import json, sys
from huggingface_hub import *
for line in sys.stdin:
    try:
        answer = {"value": eval(line)}
    except Exception as error:
        answer = {"errors": [kind.__name__ for kind in type(error).__mro__], "text": str(error)}
        answer["status"] = getattr(getattr(error, "response", None), "status_code", None)
    print(json.dumps(answer, default=str), flush=True)
"""
TOKENS = {
    "hf_ada": ("ada", "write"),
    "hf_ada_reads": ("ada", "read"),
    "hf_bob": ("bob", "write"),
}
CONFIG = b'{"architecture": "vgg11"}'
WEIGHTS = random.Random(0).randbytes(300_000)
LARGE = random.Random(1).randbytes(11 * 1024**2)


@dataclass(frozen=True)
class Answer:
    """What a line gave: its value, or the names of the error's classes, HTTP status and text."""

    value: Any = None
    errors: tuple[str, ...] = ()
    status: int | None = None
    text: str = ""


Ask = Callable[[str], Answer]


@pytest.fixture(scope="module")
def running_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    with FakeHub(tmp_path_factory.mktemp("hub"), tokens=TOKENS) as hub:
        hub.add_model("timm/tiny", {"config.json": CONFIG, "sub/model.safetensors": WEIGHTS})
        yield hub


@pytest.fixture
def hub(running_hub: FakeHub) -> Iterator[FakeHub]:
    running_hub.requests.clear()
    yield running_hub
    running_hub.faults = Faults()


@pytest.fixture(scope="module")
def ask(running_hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    environment = hub_environment(running_hub, tmp_path_factory.mktemp("home"))
    environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin
        assert child.stdout
        to_child, from_child = child.stdin, child.stdout

        def evaluate(line: str) -> Answer:
            print(line, file=to_child, flush=True)
            return Answer(**json.loads(from_child.readline()))

        yield evaluate
        to_child.close()


def lines(hub: FakeHub, method: str = "") -> list[str]:
    """What came in, one "METHOD /path" a request."""
    return [f"{r.method} {r.path}" for r in hub.requests if method in ("", r.method)]


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def send(
    hub: FakeHub, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, Any]:
    """One request without the client: status and body of the answer."""
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Authorization": "Bearer hf_ada"} | headers)
        response = connection.getresponse()
        return response.status, response.read()


# Downloads


def test_a_download_is_the_bytes_on_disk(hub: FakeHub, ask: Ask) -> None:
    path = ask("hf_hub_download('timm/tiny', 'sub/model.safetensors')").value
    assert Path(path).read_bytes() == WEIGHTS
    page = "/timm/tiny/resolve/main/sub/model.safetensors"
    assert lines(hub) == [f"HEAD {page}", f"GET {page}"]
    assert all(request.token is None for request in hub.requests)


def test_a_second_download_comes_from_the_cache(hub: FakeHub, ask: Ask) -> None:
    ask("hf_hub_download('timm/tiny', 'config.json')")
    hub.requests.clear()
    assert Path(ask("hf_hub_download('timm/tiny', 'config.json')").value).read_bytes() == CONFIG
    assert lines(hub) == ["HEAD /timm/tiny/resolve/main/config.json"]


def test_a_changed_file_is_a_new_commit_and_is_downloaded_again(hub: FakeHub, ask: Ask) -> None:
    repo = hub.add_model("timm/changing", {"config.json": b"old"})
    old = ask("model_info('timm/changing').sha").value
    ask("hf_hub_download('timm/changing', 'config.json')")
    (repo.folder / "config.json").write_bytes(b"new!")
    new = ask("model_info('timm/changing').sha").value
    path = ask("hf_hub_download('timm/changing', 'config.json')").value
    assert old != new
    assert Path(path).read_bytes() == b"new!"


def test_the_cache_answers_when_the_hub_is_gone(tmp_path: Path, ask: Ask) -> None:
    with FakeHub(tmp_path) as other:
        other.add_model("timm/gone", {"config.json": CONFIG})
        there = f"hf_hub_download('timm/gone', 'config.json', endpoint={other.url!r}"
        first = ask(f"{there})").value
    assert ask(f"{there}, local_files_only=True)").value == first
    assert ask(f"{there})").value == first
    missing = there.replace("config", "other")
    assert "LocalEntryNotFoundError" in ask(f"{missing}, local_files_only=True)").errors


def test_a_snapshot_is_the_whole_tree(hub: FakeHub, ask: Ask) -> None:
    folder = ask("snapshot_download('timm/tiny', revision='main')").value
    assert files(Path(folder)) == {"config.json": CONFIG, "sub/model.safetensors": WEIGHTS}


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
    assert error in ask(line).errors


def test_a_repository_tells_its_files(hub: FakeHub, ask: Ask) -> None:
    expected = ["config.json", "sub/model.safetensors"]
    assert ask("list_repo_files('timm/tiny')").value == expected
    assert ask("[s.rfilename for s in model_info('timm/tiny').siblings]").value == expected
    sizes = "[s.size for s in model_info('timm/tiny', files_metadata=True).siblings]"
    assert ask(sizes).value == [len(CONFIG), len(WEIGHTS)]
    assert ask("[e.path for e in list_repo_tree('timm/tiny')]").value == ["config.json", "sub"]
    exist = "[file_exists('timm/tiny', f) for f in ('config.json', 'no.json')]"
    assert ask(exist).value == [True, False]
    assert ask("[repo_exists('timm/' + n) for n in ('tiny', 'no')]").value == [True, False]


def test_a_file_is_sent_from_a_byte_on(hub: FakeHub) -> None:
    page = "/timm/tiny/resolve/main/config.json"
    assert send(hub, "GET", page, Range="bytes=10-") == (206, CONFIG[10:])
    assert send(hub, "GET", page, Range="bytes=1000-")[0] == 416


# Tokens


def test_a_token_has_a_name_and_a_role(hub: FakeHub, ask: Ask) -> None:
    told = ask("whoami(token='hf_ada_reads')").value
    assert (told["name"], told["auth"]["accessToken"]["role"]) == ("ada", "read")
    assert hub.requests[-1].token == "hf_ada_reads"


def test_an_unknown_token_is_refused_even_for_a_public_file(hub: FakeHub, ask: Ask) -> None:
    assert ask("whoami(token='hf_old')").status == 401
    assert ask("hf_hub_download('timm/tiny', 'x', token='hf_old')").status == 401


@pytest.mark.parametrize(("token", "status"), [("hf_ada_reads", 403), ("", 401), ("hf_bob", 403)])
def test_only_the_owner_with_a_write_token_can_write(
    hub: FakeHub, ask: Ask, token: str, status: int
) -> None:
    hub.add_model("ada/hers", {"config.json": CONFIG})
    asker = f"repo_id='ada/hers', token={token or False!r}"
    assert ask(f"create_repo({asker})").status == status
    upload = f"upload_file(path_or_fileobj=b'x', path_in_repo='config.json', {asker})"
    assert ask(upload).status == status
    assert files(hub.root / "models/ada/hers") == {"config.json": CONFIG}


def test_a_private_repository_is_seen_by_its_owner_only(hub: FakeHub, ask: Ask) -> None:
    ask("create_repo('ada/secret', private=True, token='hf_ada')")
    line = "repo_exists('ada/secret', token={!r})"
    seen = [ask(line.format(token)).value for token in (False, "hf_bob", "hf_ada_reads")]
    assert seen == [False, False, True]
    assert ask("model_info('ada/secret', token='hf_ada').private").value is True


# Uploads


def test_an_uploaded_folder_arrives_byte_for_byte(hub: FakeHub, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\npipeline_tag: image-classification\n---\n"
    )
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/ü ñ.bin").write_bytes(LARGE)
    (tmp_path / "empty.txt").touch()
    url = ask("create_repo('ada/new', token='hf_ada')").value
    upload = f"upload_folder(repo_id='ada/new', folder_path={str(tmp_path)!r}, token='hf_ada')"
    commit = ask(f"{upload}.oid").value
    repo = hub.repo("ada/new")
    assert url == f"{hub.url}/ada/new"
    assert repo is not None
    assert files(repo.folder) == files(tmp_path) | {
        ".gitattributes": (repo.folder / ".gitattributes").read_bytes()
    }
    assert commit == ask("model_info('ada/new').sha").value
    assert ask("model_info('ada/new').pipeline_tag").value == "image-classification"
    [put] = [request for request in hub.requests if request.method == "PUT"]
    assert put.token is None

    hub.requests.clear()
    assert ask(f"{upload}.oid").value == commit
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
    assert ask("list_repo_files('ada/parts')").value == [".gitattributes"]
    assert send(hub, "PUT", page, content)[0] == 200
    assert send(hub, "POST", "/api/models/ada/parts/commit/main", commit)[0] == 200
    assert (hub.root / "models/ada/parts/a.bin").read_bytes() == content


def test_a_commit_cannot_write_outside_its_repository(hub: FakeHub, ask: Ask) -> None:
    ask("create_repo('ada/inside', token='hf_ada')")
    value = {"path": "../tiny.txt", "encoding": "base64", "content": "eA=="}
    commit = json.dumps({"key": "file", "value": value}).encode()
    assert send(hub, "POST", "/api/models/ada/inside/commit/main", commit)[0] == 400
    assert send(hub, "GET", "/ada/inside/resolve/main/../../../timm/tiny/config.json")[0] == 404


def test_a_taken_name_is_refused_unless_that_is_fine(hub: FakeHub, ask: Ask) -> None:
    hub.add_model("ada/taken", {"config.json": CONFIG})
    assert ask("create_repo('ada/taken', token='hf_ada')").status == 409
    assert ask("create_repo('ada/taken', token='hf_ada', exist_ok=True)").errors == ()
    assert files(hub.root / "models/ada/taken") == {"config.json": CONFIG}


def test_files_and_repositories_can_be_deleted(hub: FakeHub, ask: Ask) -> None:
    hub.add_model("ada/old", {"a.txt": b"a", "sub/b.txt": b"b", "c.txt": b"c"})
    assert not ask("delete_file('a.txt', 'ada/old', token='hf_ada')").errors
    assert not ask("delete_folder('sub', 'ada/old', token='hf_ada')").errors
    assert ask("list_repo_files('ada/old')").value == ["c.txt"]
    assert ask("delete_repo('ada/old', token='hf_bob')").status == 403
    assert not ask("delete_repo('ada/old', token='hf_ada')").errors
    assert hub.repo("ada/old") is None


def test_a_gitignore_in_the_repository_keeps_files_out(
    hub: FakeHub, ask: Ask, tmp_path: Path
) -> None:
    (tmp_path / ".gitignore").write_text("weights/\n*.log\n")
    (tmp_path / "weights").mkdir()
    for name in ("app.py", "run.log", "weights/model.safetensors"):
        (tmp_path / name).write_text("x")
    ask("create_repo('ada/ignoring', token='hf_ada')")
    ask(f"upload_folder(repo_id='ada/ignoring', folder_path={str(tmp_path)!r}, token='hf_ada')")
    assert ask("list_repo_files('ada/ignoring')").value == [
        ".gitattributes",
        ".gitignore",
        "app.py",
    ]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the judge here")
def test_gitignore_rules_mean_what_they_mean_to_git(tmp_path: Path) -> None:
    rules = "# a comment\n*.log\n!keep.log\n/top\nbuild/\ndocs/*.txt\n**/deep/*.bin\na/**/z\n?.md\n"
    names = [
        *("x.log", "sub/x.log", "keep.log", "build/keep.log", "top", "sub/top"),
        *("build", "build/x", "sub/build/y", "docs/a.txt", "docs/sub/a.txt"),
        *("deep/x.bin", "p/deep/x.bin", "p/deep/q/x.bin", "a/z", "a/b/c/z", "q.md", "qq.md"),
    ]
    (tmp_path / ".gitignore").write_text(rules)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    told = subprocess.run(
        ["git", "-c", "core.excludesFile=", "check-ignore", "--no-index", "--stdin"],
        cwd=tmp_path,
        input="\n".join(names),
        capture_output=True,
        text=True,
        check=False,  # 1 where nothing is ignored
    )
    assert [name for name in names if is_ignored(name, rules)] == told.stdout.split()


def test_a_space_has_its_sdk_and_its_hardware(hub: FakeHub, ask: Ask) -> None:
    space = "'ada/studio', token='hf_ada'"
    create = f"create_repo({space}, repo_type='space', space_sdk='gradio', space_hardware="
    assert ask(f"{create}'t4-small')").value == f"{hub.url}/spaces/ada/studio"
    assert ask(f"{create}'t4-small')").status == 409
    readme = "b'---\\nsdk: gradio\\n---\\n'"
    upload = f"upload_file(repo_id={space}, repo_type='space', path_or_fileobj="
    ask(f"{upload}{readme}, path_in_repo='README.md')")
    ask(f"{upload}b'print()', path_in_repo='app.py')")
    told = ask("(lambda s: [s.sdk, s.runtime.stage])(space_info('ada/studio'))").value
    assert told == ["gradio", "RUNNING"]
    assert ask("get_space_runtime('ada/studio').hardware").value == "t4-small"
    assert not ask(f"request_space_hardware({space}, hardware='l4x1', sleep_time=300)").errors
    repo = hub.repo("ada/studio", repo_type="space")
    assert repo is not None
    assert (repo.settings["hardware"], repo.settings["sleepTimeSeconds"]) == ("l4x1", 300)
    assert hub.repo("ada/studio") is None


def test_a_spaces_readme_is_checked(hub: FakeHub, ask: Ask) -> None:
    ask("create_repo('ada/odd', repo_type='space', space_sdk='gradio', token='hf_ada')")
    readme = "b'---\\nsdk: gradio\\ncolorFrom: mauve\\n---\\n'"
    refused = ask(
        "upload_file(repo_id='ada/odd', repo_type='space', path_in_repo='README.md',"
        f" path_or_fileobj={readme}, token='hf_ada')"
    )
    assert "ValueError" in refused.errors
    assert "colorFrom" in refused.text


# Faults


def test_a_download_that_is_cut_goes_on_where_it_was(hub: FakeHub, ask: Ask) -> None:
    hub.add_model("timm/cut", {"model.safetensors": LARGE})
    written = 10 * 1024**2  # the client writes, and so keeps, whole pieces of this size
    hub.faults = Faults(cut_after_bytes=written + 1000, times=1)
    path = ask("hf_hub_download('timm/cut', 'model.safetensors')").value
    assert Path(path).read_bytes() == LARGE
    gets = [request for request in hub.requests if request.method == "GET"]
    assert [get.byte_range for get in gets] == [None, f"bytes={written}-"]


def test_a_download_that_breaks_leaves_nothing_and_works_again(hub: FakeHub, ask: Ask) -> None:
    hub.add_model("timm/broken", {"model.safetensors": WEIGHTS})
    hub.faults = Faults(cut_after_bytes=100_000, reset=True, times=1)
    line = "hf_hub_download('timm/broken', 'model.safetensors'{})"
    assert "ReadError" in ask(line.format("")).errors
    assert "LocalEntryNotFoundError" in ask(line.format(", local_files_only=True")).errors
    assert Path(ask(line.format("")).value).read_bytes() == WEIGHTS


def test_a_commit_that_is_cut_changes_nothing_and_works_again(hub: FakeHub, ask: Ask) -> None:
    ask("create_repo('ada/half', token='hf_ada')")
    hub.faults = Faults(cut_after_bytes=50_000, only="/commit/")
    upload = (
        "upload_file(repo_id='ada/half', path_or_fileobj=b'text ' * 50_000,"
        " path_in_repo='notes.txt', token='hf_ada')"
    )
    assert "TransportError" in ask(upload).errors
    assert ask("list_repo_files('ada/half')").value == [".gitattributes"]
    hub.faults = Faults()
    assert not ask(upload).errors
    assert (hub.root / "models/ada/half/notes.txt").read_bytes() == b"text " * 50_000


def test_a_large_upload_that_is_cut_is_sent_again_by_the_client(hub: FakeHub, ask: Ask) -> None:
    ask("create_repo('ada/again', token='hf_ada')")
    hub.faults = Faults(cut_after_bytes=100_000, only="PUT", times=1)
    ask(
        "upload_file(repo_id='ada/again', path_or_fileobj=b'\\0' * 500_000,"
        " path_in_repo='model.bin', token='hf_ada')"
    )
    assert len(lines(hub, "PUT")) == 2
    assert (hub.root / "models/ada/again/model.bin").read_bytes() == bytes(500_000)


def test_a_client_that_dies_during_a_large_upload_leaves_no_trace(
    hub: FakeHub, ask: Ask, tmp_path: Path
) -> None:
    ask("create_repo('ada/dead', token='hf_ada')")
    hub.faults = Faults(cut_after_bytes=100_000, only="PUT")
    before = files(hub.root)
    script = (
        "import huggingface_hub as h; h.upload_file(repo_id='ada/dead', token='hf_ada',"
        " path_or_fileobj=b'\\0' * 700_000, path_in_repo='model.bin')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env=hub_environment(hub, tmp_path),
        stderr=subprocess.DEVNULL,
    ) as child:
        until = time.monotonic() + 20
        while not lines(hub, "PUT") and time.monotonic() < until:
            time.sleep(0.02)
        child.kill()
    assert lines(hub, "PUT")
    assert ask("list_repo_files('ada/dead')").value == [".gitattributes"]
    assert files(hub.root) == before


def test_a_hub_that_is_down_or_slow_leaves_the_client_its_cache(hub: FakeHub, ask: Ask) -> None:
    repo = hub.add_model("timm/down", {"config.json": b"old"})
    line = "hf_hub_download('timm/down', 'config.json')"
    cached = ask(line).value
    (repo.folder / "config.json").write_bytes(b"new!")
    hub.faults = Faults(status=503)
    assert ask("model_info('timm/down')").status == 503
    assert ask(line).value == cached
    hub.faults = Faults(delay_s=5.0)
    start = time.monotonic()
    assert ask(line.replace(")", ", etag_timeout=0.3)")).value == cached
    assert 0.3 <= time.monotonic() - start < 5.0
    hub.faults = Faults()
    assert ask(line).value != cached


def test_a_fault_may_be_limited_to_some_requests(hub: FakeHub, ask: Ask) -> None:
    hub.faults = Faults(status=402, times=1, only="GET /api/models/timm/tiny")
    assert ask("file_exists('timm/tiny', 'config.json')").value is True
    assert [ask("model_info('timm/tiny')").status for _ in range(2)] == [402, None]


# The house


def test_nothing_is_left_open_after_the_block(tmp_path: Path) -> None:
    threads = threading.active_count()
    with FakeHub(tmp_path) as hub:
        host, port = hub.url.removeprefix("http://").split(":")
        kept_alive = socket.create_connection((host, int(port)))
        kept_alive.sendall(b"GET /api/models/a/b HTTP/1.1\r\n\r\n")
        assert kept_alive.recv(100).startswith(b"HTTP/1.1 401 ")
        hub.faults = Faults(delay_s=60)
        kept_alive.sendall(b"GET /api/models/a/b HTTP/1.1\r\n\r\n")
        start = time.monotonic()
    kept_alive.close()
    assert time.monotonic() - start < 5
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


def test_the_childs_environment_has_no_token_and_no_offline_mode(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("KEPT", "yes")
    environment = hub_environment("http://127.0.0.1:1", tmp_path)
    assert environment["KEPT"] == "yes"
    assert {name for name in environment if name.startswith(("HF_", "HUGGING", "TRANS"))} == {
        "HF_ENDPOINT",
        "HF_HOME",
        "HF_HUB_DISABLE_XET",
        "HF_HUB_DISABLE_TELEMETRY",
        "HF_HUB_DISABLE_UPDATE_CHECK",
    }

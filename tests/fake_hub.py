"""A fake Hugging Face Hub on loopback, for the real, unpatched `huggingface_hub` client.

It serves file trees from `root/<models|spaces|datasets>/<owner>/<name>/…` and accepts uploads into
them. A folder that is there is a public repository. Its files may be edited by hand: the commit id
is a hash of the tree, so it changes with them.

    with FakeHub(tmp_path / "hub", tokens={"hf_ada": ("ada", "write")}) as hub:
        hub.add_model("timm/vgg11.tv_in1k", {"config.json": b"{}", "model.safetensors": a_path})
        subprocess.run([sys.executable, "-c", script], env=hub_environment(hub, tmp_path / "home"))

The client reads its environment when it is imported, so it has to run in a process of its own.
What the fake does not have: history (only the current commit can be read), branches, pull requests,
organisations, deleting, .gitignore, Xet storage.
"""

import base64
import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self
from urllib.parse import parse_qs, unquote

CHUNK = 64 * 1024  # bytes
LFS_THRESHOLD = 10 * 1024**2  # bytes; what is larger goes to large file storage (LFS) in any case
LFS_SUFFIXES = (".bin", ".npy", ".npz", ".onnx", ".pt", ".pth", ".safetensors", ".zip")
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
ANONYMOUS = "Invalid username or password."
HARNESSES = "/api/agent-harnesses"  # asked for once a day by every client, whatever it is to do


def hub_environment(hub: "FakeHub | str", home: Path) -> dict[str, str]:
    """The whole environment of a child whose Hub client talks to `hub` (or a URL), cache in `home`.

    It is the caller's environment without any Hub setting: no token, no offline mode, no other
    cache. Hand it over whole and add what the child needs, as in
    `env=hub_environment(hub, home) | {"HF_TOKEN": "hf_ada"}`; with `os.environ | …` the removed
    names would come back.
    """
    ours = ("HF_", "HUGGING", "TRANSFORMERS_", "NO_PROXY", "no_proxy")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    switches = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK")
    return (
        kept
        | {"HF_ENDPOINT": hub if isinstance(hub, str) else hub.url, "HF_HOME": str(home)}
        | dict.fromkeys(switches, "1")
        | dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    )


@contextlib.contextmanager
def asking(
    script: str, hub: "FakeHub | str", home: Path, **environment: str
) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A function that has a line of Python answered in a process of its own, whose Hub is `hub`, by
    the function `answer_to(line)` of `script`. The answer travels as JSON."""
    with subprocess.Popen(
        [sys.executable, "-c", script + _LOOP],
        env=hub_environment(hub, home) | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"} | environment,
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin
        assert child.stdout
        to_child, from_child = child.stdin, child.stdout

        def ask(line: str) -> dict[str, Any]:
            print(line, file=to_child, flush=True)
            return json.loads(from_child.readline())

        yield ask
        to_child.close()


_LOOP = """
import json, sys
for line in sys.stdin:
    print(json.dumps(answer_to(line), default=str), flush=True)
"""


@dataclass(frozen=True)
class Request:
    """One request as it came in. `path` is decoded, without query; `token` is None if none came."""

    method: str
    path: str
    query: str
    token: str | None
    byte_range: str | None  # "bytes=1000-" where a download goes on after a cut


@dataclass
class Faults:
    """What goes wrong. Assign one to `hub.faults` at any time; `hub.faults = Faults()` heals."""

    delay_s: float = 0.0  # every answer waits so long
    status: int | None = None  # answered in place of the true answer
    cut_after_bytes: int | None = None  # a longer body, sent or received, is cut off here
    reset: bool = False  # a cut breaks the connection (TCP reset); else it ends in order, too early
    only: str = ""  # only for requests whose "METHOD /path" contains this
    times: int | None = None  # only for so many requests, then all is well; None: always


@dataclass
class Repo:
    """One repository. `settings`: what was asked for at its creation, later also the hardware."""

    key: str  # "models/owner/name" or "spaces/owner/name"
    folder: Path
    private: bool = False
    gated: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.key.partition("/")[2]

    @property
    def owner(self) -> str:
        return self.id.partition("/")[0]


class FakeHub:
    """A context manager: it listens on a free port, `url`, until the block ends.

    `tokens` maps a token to (user name, "read" or "write"). `requests` lists what came in.
    """

    def __init__(self, root: Path, *, tokens: Mapping[str, tuple[str, str]] | None = None) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.tokens = dict(tokens or {})
        self.requests: list[Request] = []
        self.faults = Faults()
        self.serves_ranges = True
        self.lock = threading.RLock()  # held while a tree is read or changed
        self.closing = threading.Event()
        self.uploads: dict[str, tuple[str, int]] = {}  # ticket of an LFS upload -> sha256, size
        self._repos: dict[str, Repo] = {}
        self._entries: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}

    def __enter__(self) -> Self:
        self.closing.clear()
        self._server = _Server(("127.0.0.1", 0), functools.partial(_Handler, hub=self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join()

    def add_model(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path],
        *,
        private: bool = False,
        gated: bool = False,
        repo_type: str = "model",
    ) -> Repo:
        """Put a model, or a dataset, there without an upload: path -> its bytes, or a file."""
        key = f"{repo_type}s/{repo_id}"
        repo = self._repos[key] = Repo(key, self.root / key, private, gated)
        self.commit(repo, files)
        return repo

    def repo(self, repo_id: str, *, repo_type: str = "model") -> Repo | None:
        """The repository ("model" or "space") of that name, or None."""
        key = f"{repo_type}s/{repo_id}"
        with self.lock:
            if not (self.root / key).is_dir():
                return None
            return self._repos.setdefault(key, Repo(key, self.root / key))

    def create(self, key: str, settings: dict[str, Any]) -> Repo:
        """A new repository with what the Hub puts in: .gitattributes, in a Space README.md too."""
        private = settings.get("visibility") == "private"
        repo = self._repos[key] = Repo(key, self.root / key, private, settings=settings)
        lines = [f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES]
        files: dict[str, bytes | Path] = {".gitattributes": "".join(lines).encode()}
        if key.startswith("spaces/"):
            title, sdk = settings["name"], settings["sdk"]
            files["README.md"] = f"---\ntitle: {title}\nsdk: {sdk}\n---\n".encode()
        self.commit(repo, files)
        return repo

    def commit(
        self, repo: Repo, files: Mapping[str, bytes | Path], deleted: Iterable[Path] = ()
    ) -> None:
        """Change a tree. All is written beside it first, so that a failure changes nothing."""
        with tempfile.TemporaryDirectory(dir=self.root, prefix=".commit-") as staging, self.lock:
            for number, content in enumerate(files.values()):
                staged = Path(staging, str(number))
                if isinstance(content, Path):
                    shutil.copyfile(content, staged)
                else:
                    staged.write_bytes(content)
            for path in deleted:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for number, name in enumerate(files):
                target = repo.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                Path(staging, str(number)).replace(target)

    def entries(self, repo: Repo) -> list[dict[str, Any]]:
        """The files of a repository in the form of the Hub's tree listing, sorted by path."""
        with self.lock:
            paths = sorted(path for path in repo.folder.rglob("*") if path.is_file())
            return [
                self._entry(path) | {"path": path.relative_to(repo.folder).as_posix()}
                for path in paths
            ]

    def sha(self, repo: Repo) -> str:
        """The id of the current commit, 40 hexadecimal digits: a hash of names and contents."""
        lines = [f"{entry['path']} {entry['oid']}" for entry in self.entries(repo)]
        return hashlib.sha1("\n".join([repo.key, *lines]).encode()).hexdigest()

    def stored(self, sha256: str) -> Path:
        """Where LFS keeps that content, whether it is there or not."""
        return self.root / ".lfs" / sha256

    def _entry(self, path: Path) -> dict[str, Any]:
        """Size and hashes of a file, in git's way and LFS's; kept until the file changes."""
        stat = path.stat()
        size, stamp = stat.st_size, (stat.st_size, stat.st_mtime_ns)
        if path in self._entries and self._entries[path][0] == stamp:
            return self._entries[path][1]
        entry: dict[str, Any] = {"type": "file", "size": size}
        with path.open("rb") as file:
            content = file.read(512)
            if is_lfs(path.name, size, content):
                file.seek(0)
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                spec = "version https://git-lfs.github.com/spec/v1"
                content = f"{spec}\noid sha256:{sha256}\nsize {size}\n".encode()
                entry["lfs"] = {"oid": sha256, "size": size, "pointerSize": len(content)}
            else:
                content += file.read()
        entry["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        self._entries[path] = (stamp, entry)
        return entry


def is_lfs(name: str, size: int, sample: bytes) -> bool:
    """Whether the Hub puts such a file into LFS: it is large, or binary by its suffix or start."""
    return size > LFS_THRESHOLD or name.endswith(LFS_SUFFIXES) or b"\0" in sample


def pieces_of(file: BinaryIO, length: int) -> Iterator[bytes]:
    """The next `length` bytes of a file, in pieces."""
    while length > 0 and (piece := file.read(min(CHUNK, length))):
        length -= len(piece)
        yield piece


def front_matter(text: str) -> dict[str, str]:
    """The plain `name: value` lines between the two `---` that open a README.md."""
    block = re.match(r"---\r?\n(.*?)\n---", text, re.DOTALL)
    pairs = re.findall(r"^(\w+):[ \t]*(\S.*?)\s*$", block[1] if block else "", re.MULTILINE)
    return {name: value.strip("\"'") for name, value in pairs}


class _RefusalError(Exception):
    """The Hub says no: HTTP status, X-Error-Code (may be empty), X-Error-Message, more headers."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.headers |= {"X-Error-Message": message}
        if code:
            self.headers["X-Error-Code"] = code


class _CutError(ConnectionError):
    """The faults asked for this connection to be closed now."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for them, so nothing is left open

    def __init__(self, *arguments: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End the connections that clients keep alive; their threads wait for a next request."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news; anything else is a bug in this file."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection. `ROUTES` names the method that answers; it raises a refusal to say no."""

    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds that a connection may stand still
    disable_nagle_algorithm = True  # else head and body, sent apart, cost 40 ms an answer

    def __init__(self, *arguments: Any, hub: FakeHub) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *arguments: object) -> None:
        """Nothing on standard error: `hub.requests` is the log."""

    def handle_request(self) -> None:
        """Record the request, let the faults have their turn, then answer."""
        raw_path, _, query = self.path.partition("?")
        path, self.query = unquote(raw_path), parse_qs(query)
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        byte_range = self.headers.get("Range")
        if path != HARNESSES:
            self.hub.requests.append(Request(self.command, path, query, self.token, byte_range))
        faults = self.hub.faults
        spared = faults.only not in f"{self.command} {path}" or (
            faults.times is not None and faults.times <= 0
        )
        self.faults = Faults() if spared else faults
        self.counted = False
        self.body = self.read_body()
        try:
            try:
                if self.faults.delay_s:
                    self.count_fault()
                    self.hub.closing.wait(self.faults.delay_s)
                if self.faults.status:
                    self.count_fault()
                    phrase = HTTPStatus(self.faults.status).phrase
                    raise _RefusalError(self.faults.status, "", phrase)
                self.route(raw_path)
            except _RefusalError as refusal:
                for _ in self.body:  # its rest would be taken for the next request
                    pass
                self.send_answer(refusal.status, {"error": str(refusal)}, refusal.headers)
        except _CutError:
            self.close_connection = True
            if self.faults.reset:  # closing at once, with a linger time of 0, sends a TCP reset
                off = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, off)
                self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815

    def count_fault(self) -> None:
        """A fault has hit this request: one less of the `times`."""
        with self.hub.lock:
            if self.faults.times is not None and not self.counted:
                self.faults.times -= 1
            self.counted = True

    def route(self, raw_path: str) -> None:
        if "Transfer-Encoding" in self.headers:  # never seen from this client
            self.close_connection = True
            raise _RefusalError(411, "", "Content-Length is needed")
        for methods, pattern, name in ROUTES:
            match = re.fullmatch(pattern, raw_path)
            if match and self.command in methods.split():
                parts = match.groupdict(default="")
                if not parts.get("kind", "models"):
                    parts["kind"] = "models"
                return getattr(self, name)(**{key: unquote(part) for key, part in parts.items()})
        raise _RefusalError(404, "", "Sorry, we can't find the page you are looking for.")

    # Reading and sending

    def read_body(self) -> Iterator[bytes]:
        """The request's body in pieces; an error where the client leaves or a fault cuts it."""
        passed, total = 0, int(self.headers.get("Content-Length", 0))
        limit = self.faults.cut_after_bytes
        while passed < total:
            piece = self.rfile.read(min(total - passed, CHUNK))
            if not piece:
                raise ConnectionAbortedError("the client left in the middle of a request")
            passed += len(piece)
            if limit is not None and passed > limit:
                self.count_fault()
                raise _CutError
            yield piece

    def read_json(self) -> Any:
        return json.loads(b"".join(self.body))

    def send(self, status: int, headers: Mapping[str, str], pieces: Iterable[bytes]) -> None:
        """Head and body, the body cut where the faults say so."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        left = self.faults.cut_after_bytes
        for piece in pieces if self.command != "HEAD" else ():
            self.wfile.write(piece[:left])
            if left is not None and len(piece) > left:
                self.count_fault()
                raise _CutError
            left = None if left is None else left - len(piece)

    def send_answer(
        self, status: int, answer: Any, headers: Mapping[str, str] | None = None
    ) -> None:
        body = json.dumps(answer).encode()
        about = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self.send(status, about | dict(headers or {}), [body])

    # Who asks, and for what

    def user(self) -> str | None:
        """Who asks; None without a token. An unknown token is refused even where none is needed."""
        if self.token is None:
            return None
        if self.token not in self.hub.tokens:
            raise _RefusalError(401, "", "Invalid credentials in Authorization header")
        return self.hub.tokens[self.token][0]

    def writer(self) -> str:
        """Who asks, with a token that may write."""
        user = self.user()
        if user is None:
            raise _RefusalError(401, "", ANONYMOUS)
        if self.hub.tokens[self.token or ""][1] != "write":
            raise _RefusalError(403, "", "This token can only read; writing needs the write role")
        return user

    def find(self, kind: str, owner: str, name: str, revision: str = "main") -> Repo:
        """The repository, if the asker may see it and the revision is there."""
        repo = self.hub.repo(f"{owner}/{name}", repo_type=kind.removesuffix("s"))
        user = self.user()
        if repo is None or (repo.private and user != repo.owner):
            if user is None:
                raise _RefusalError(401, "RepoNotFound", ANONYMOUS)
            raise _RefusalError(404, "RepoNotFound", "Repository not found")
        if revision not in ("main", self.hub.sha(repo)):
            raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo

    def find_to_write(self, kind: str, owner: str, name: str, revision: str = "main") -> Repo:
        """The repository, if the asker may change it too."""
        if self.user() is None:
            raise _RefusalError(401, "RepoNotFound", ANONYMOUS)
        repo = self.find(kind, owner, name, revision)
        if self.writer() != repo.owner:
            raise _RefusalError(403, "", f"You don't have the rights to change {repo.id}")
        return repo

    def whoami(self) -> None:
        name = self.user()
        if name is None:
            raise _RefusalError(401, "", ANONYMOUS)
        access = {"displayName": "test", "role": self.hub.tokens[self.token or ""][1]}
        auth = {"type": "access_token", "accessToken": access}
        self.send_answer(200, {"type": "user", "name": name, "orgs": [], "auth": auth})

    def harnesses(self) -> None:
        self.send_answer(200, {"standardEnvVars": [], "harnesses": {}})

    # Reading repositories

    def resolve(self, kind: str, owner: str, name: str, revision: str, path: str) -> None:
        """A file, whole or from a byte on."""
        repo = self.find(kind, owner, name, revision)
        if repo.gated and self.user() != repo.owner:
            message = f"Access to model {repo.id} is restricted and you are not in its list"
            raise _RefusalError(403 if self.token else 401, "GatedRepo", message)
        sha = self.hub.sha(repo)
        entry = next((e for e in self.hub.entries(repo) if e["path"] == path), None)
        if entry is None:
            raise _RefusalError(404, "EntryNotFound", "Entry not found", X_Repo_Commit=sha)
        size, start, status = entry["size"], 0, 200
        headers = {"X-Repo-Commit": sha, "ETag": f'"{entry.get("lfs", entry)["oid"]}"'}
        stop = size
        asked = self.headers.get("Range", "") if self.hub.serves_ranges else ""
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", asked):
            start, status = int(wanted[1]), 206
            stop = min(int(wanted[2] or size) + 1, size)
            if start >= size:
                raise _RefusalError(416, "", "Out of range", Content_Range=f"bytes */{size}")
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        headers |= {"Content-Length": str(stop - start), "Accept-Ranges": "bytes"}
        with (repo.folder / path).open("rb") as file:
            file.seek(start)
            self.send(status, headers, pieces_of(file, stop - start))

    def info(self, kind: str, owner: str, name: str, revision: str) -> None:
        repo = self.find(kind, owner, name, revision or "main")
        readme = repo.folder / "README.md"
        card = front_matter(readme.read_text("utf-8")) if readme.is_file() else {}
        siblings: list[dict[str, Any]] = []
        for entry in self.hub.entries(repo):
            siblings.append({"rfilename": entry["path"]})
            if "blobs" in self.query:
                siblings[-1] |= {"size": entry["size"], "blobId": entry["oid"]}
                if lfs := entry.get("lfs"):
                    siblings[-1]["lfs"] = lfs | {"sha256": lfs["oid"]}
        answer = {"id": repo.id, "author": repo.owner, "sha": self.hub.sha(repo)}
        answer |= {"private": repo.private, "gated": "auto" if repo.gated else False}
        answer |= {"disabled": False, "tags": [], "siblings": siblings}
        if kind == "spaces":
            answer |= {"sdk": card.get("sdk"), "runtime": self.machine(repo)}
        else:
            answer |= {name: card.get(name) for name in ("pipeline_tag", "library_name")}
        self.send_answer(200, answer)

    def tree(self, kind: str, owner: str, name: str, revision: str, path: str) -> None:
        repo = self.find(kind, owner, name, revision)
        start = f"{path}/" if path else ""
        entries = [e for e in self.hub.entries(repo) if e["path"].startswith(start)]
        if path and not entries:
            raise _RefusalError(404, "EntryNotFound", f"{path} does not exist")
        parents = {str(p) for e in entries for p in PurePosixPath(e["path"]).parents[:-1]}
        for folder in sorted(parent for parent in parents if parent.startswith(start)):
            oid = hashlib.sha1(folder.encode()).hexdigest()
            entries.append({"type": "directory", "path": folder, "oid": oid, "size": 0})
        if self.query.get("recursive") != ["true"]:
            entries = [e for e in entries if "/" not in e["path"].removeprefix(start)]
        self.send_answer(200, entries)

    # Writing repositories

    def create(self) -> None:
        wanted, user = self.read_json(), self.writer()
        kind, owner = wanted.get("type") or "model", wanted.get("organization") or user
        key = f"{kind}s/{owner}/{wanted['name']}"
        if owner != user:
            message = f"You don't have the rights to create a {kind} under the namespace"
            raise _RefusalError(403, "", f'{message} "{owner}"')
        if not re.fullmatch(rf"(models|spaces)/{ID}", key):
            raise _RefusalError(400, "", "Invalid repo name")
        page = f"{self.hub.url}/{key.removeprefix('models/')}"
        with self.hub.lock:
            if (self.hub.root / key).is_dir():
                error = f"You already created this {kind} repo: {owner}/{wanted['name']}"
                return self.send_answer(409, {"error": error, "url": page})
            self.hub.create(key, wanted)
        self.send_answer(200, {"url": page})

    def validate_yaml(self) -> None:
        """A little of what the Hub checks in a README.md: metadata at all, a Space's own fields."""
        wanted = self.read_json()
        card = front_matter(wanted["content"])
        warnings = [] if card else ["empty or missing yaml metadata in repo card"]
        errors = []
        if wanted["repoType"] == "space":
            for name in ("colorFrom", "colorTo"):
                if card.get(name, "red") not in COLOURS:
                    errors.append(f'"{name}" must be one of {", ".join(COLOURS)}')
            if len(card.get("short_description", "")) > 60:
                errors.append('"short_description" must be at most 60 characters long')
        lists = {"errors": errors, "warnings": warnings}
        answer = {key: [{"message": text} for text in texts] for key, texts in lists.items()}
        self.send_answer(400 if errors else 200, answer)

    def preupload(self, kind: str, owner: str, name: str, revision: str) -> None:
        """How each file is to be sent, and what is there under its name already."""
        repo = self.find_to_write(kind, owner, name, revision)
        wanted = self.read_json()
        there = {e["path"]: e.get("lfs", e)["oid"] for e in self.hub.entries(repo)}
        answers = []
        for file in wanted["files"]:
            path, sample = file["path"], base64.b64decode(file["sample"])
            answer = {"path": path, "shouldIgnore": False}
            answer["uploadMode"] = "lfs" if is_lfs(path, file["size"], sample) else "regular"
            answers.append(answer | ({"oid": there[path]} if path in there else {}))
        self.send_answer(200, {"files": answers})

    def lfs_batch(self, kind: str, owner: str, name: str) -> None:
        """An address for each content not stored yet; its ticket stands for the token."""
        self.find_to_write(kind, owner, name)
        answers = []
        for wanted in self.read_json()["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if not self.hub.stored(wanted["oid"]).is_file():
                ticket = uuid.uuid4().hex
                self.hub.uploads[ticket] = (wanted["oid"], wanted["size"])
                pages = {"upload": ticket, "verify": "verify"}
                answer["actions"] = {
                    action: {"href": f"{self.hub.url}/lfs/{page}"} for action, page in pages.items()
                }
            answers.append(answer)
        self.send_answer(200, {"transfer": "basic", "objects": answers})

    def lfs_put(self, ticket: str) -> None:
        """Receive one content; it is kept only if it is whole."""
        if ticket not in self.hub.uploads:
            raise _RefusalError(403, "", "Request has expired")
        target = self.hub.stored(self.hub.uploads[ticket][0])
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.hub.root, prefix=".lfs-") as staging:
            part, digest = Path(staging, "part"), hashlib.sha256()
            with part.open("wb") as file:
                for piece in self.body:
                    file.write(piece)
                    digest.update(piece)
            if (digest.hexdigest(), part.stat().st_size) != self.hub.uploads[ticket]:
                raise _RefusalError(400, "", "The content does not match its sha256 and size")
            part.replace(target)
        self.send_answer(200, {})

    def lfs_verify(self) -> None:
        self.writer()
        wanted = self.read_json()
        target = self.hub.stored(wanted["oid"])
        if not target.is_file() or target.stat().st_size != wanted["size"]:
            raise _RefusalError(404, "", "The content has not been uploaded")
        self.send_answer(200, {})

    def commit(self, kind: str, owner: str, name: str, revision: str) -> None:
        """Check every line of the commit, then change the tree."""
        repo = self.find_to_write(kind, owner, name, revision)
        files: dict[str, bytes | Path] = {}
        deleted: list[Path] = []
        for line in b"".join(self.body).splitlines():
            operation = json.loads(line)
            action, value = operation["key"], operation["value"]
            if action == "header":
                continue
            path = value["path"].rstrip("/")
            if {"", ".", "..", ".git"} & set(path.split("/")):
                raise _RefusalError(400, "", f"Invalid path: {path}")
            if action == "file":
                files[path] = base64.b64decode(value["content"])
            elif action == "lfsFile":
                files[path] = stored = self.hub.stored(value["oid"])
                if not stored.is_file():
                    raise _RefusalError(400, "", f"The LFS content of {path} was not uploaded")
            elif (repo.folder / path).exists():
                deleted.append(repo.folder / path)
            else:
                raise _RefusalError(404, "EntryNotFound", "A file with this name doesn't exist")
        self.hub.commit(repo, files, deleted)
        sha = self.hub.sha(repo)
        page = f"{self.hub.url}/{repo.key.removeprefix('models/')}/commit/{sha}"
        self.send_answer(200, {"success": True, "commitOid": sha, "commitUrl": page})

    # Spaces

    def machine(self, repo: Repo) -> dict[str, Any]:
        """The Space's machine as the Hub tells it. Nothing runs here, whatever the stage says."""
        hardware = repo.settings.get("hardware", "cpu-basic")
        return {
            "stage": "RUNNING" if (repo.folder / "app.py").is_file() else "NO_APP_FILE",
            "hardware": {"current": hardware, "requested": hardware},
            "gcTimeout": repo.settings.get("sleepTimeSeconds"),
        }

    def runtime(self, kind: str, owner: str, name: str) -> None:
        self.send_answer(200, self.machine(self.find(kind, owner, name)))

    def variables(self, kind: str, owner: str, name: str) -> None:
        """Set one of a Space's variables; answers with all of them."""
        repo = self.find_to_write(kind, owner, name)
        wanted = self.read_json()
        known = repo.settings.setdefault("variables", {})
        known[wanted["key"]] = {"value": wanted["value"]}
        self.send_answer(200, known)

    def hardware(self, kind: str, owner: str, name: str) -> None:
        repo = self.find_to_write(kind, owner, name)
        wanted = self.read_json()
        repo.settings |= {"hardware": wanted.pop("flavor")} | wanted
        self.send_answer(200, self.machine(repo))


ID = r"(?P<owner>[A-Za-z0-9][\w.-]*)/(?P<name>[A-Za-z0-9][\w.-]*)"
API = rf"/api/(?P<kind>models|spaces|datasets)/{ID}"
PAGE = rf"/(?:(?P<kind>spaces|datasets)/)?{ID}"
ROUTES = (
    ("GET", HARNESSES, "harnesses"),
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "validate_yaml"),
    ("GET", rf"{API}(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("GET", rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
    ("POST", rf"{API}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"{API}/commit/(?P<revision>[^/]+)", "commit"),
    ("GET", rf"{API}/runtime", "runtime"),
    ("POST", rf"{API}/hardware", "hardware"),
    ("POST", rf"{API}/variables", "variables"),
    ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<ticket>\w+)", "lfs_put"),
    ("POST", "/lfs/verify", "lfs_verify"),
    ("GET HEAD", rf"{PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)

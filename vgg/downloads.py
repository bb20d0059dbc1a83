"""Weights from the Hugging Face Hub: its cache first, else fetched, with progress, plainly told."""

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vgg.errors import UserError
from vgg.network.config import IMAGENET_NAMES

HUB_PREFIX = "hf-hub:"
XET_FROM_BYTES = 100 * 1024**2  # a process of its own takes a second to start
POLL_SECONDS = 0.2
REACH_SECONDS = 3.0  # a Hub that has not answered by then counts as unreachable

# Called with (bytes so far, bytes in all) while a file comes; raising ends the download.
DownloadProgress = Callable[[int, int], None]


class HubUnavailableError(UserError):
    """The weights are not on this machine and the Hub does not give them."""


def cached_weights(name: str) -> Path | None:
    """Where the Hub's cache holds the weights that `name` means; None where it does not."""
    from huggingface_hub import try_to_load_from_cache

    if name in IMAGENET_NAMES:
        name = imagenet_repository(name)
    repository, _, revision = name.partition("@")
    for file in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def imagenet_repository(name: str) -> str:
    """The Hub repository with torchvision's ImageNet weights for one of the eight names."""
    return f"timm/{name}.tv_in1k"


def download(
    repository: str, *, on_progress: DownloadProgress | None = None, name: str | None = None
) -> Path:
    """Weights and config of a Hub repository `owner/name[@revision]`: from the cache, else fetched.

    Returns the file of weights, `config.json` beside it. Honours `HF_TOKEN`, `HF_ENDPOINT`,
    `HF_HOME` and `HF_HUB_OFFLINE`. A `HubUnavailableError` comes within 5 seconds where the Hub
    can't be reached and says the ways on.
    """
    wanted = name or repository
    repo_id, revision = split_repository(repository)
    if found := cached_weights(repository):
        return found
    reach_hub(repo_id, wanted)
    with hub_errors(wanted):
        return _fetch(repo_id, revision, on_progress)


def split_repository(repository: str) -> tuple[str, str | None]:
    """`owner/name@revision` → ("owner/name", "revision"); None where none is named."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    repo_id, _, revision = repository.partition("@")
    try:
        if repo_id.count("/") != 1:
            raise HFValidationError("owner/name is expected")
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError("downloads.repository", name=repository) from error
    return repo_id, revision or None


def small_file(repository: str, file: str) -> Path:
    """A small file of a Hub repository `owner/name[@revision]`, such as its `config.json`: from the
    cache, else fetched whole."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    repo_id, revision = split_repository(repository)
    found = try_to_load_from_cache(repo_id, file, revision=revision)
    if isinstance(found, str):
        return Path(found)
    reach_hub(repo_id, repository)
    with hub_errors(repository):
        return Path(hf_hub_download(repo_id, file, revision=revision))


class RangesNotServedError(Exception):
    """The server gives whole files only."""


class RemoteFile:
    """A file on the Hub of which parts can be read, by range requests (RFC 9110, section 14).

    `size` in bytes; `version` changes with the file's content and can name a folder.
    """

    def __init__(self, url: str, headers: dict[str, str], size: int, version: str) -> None:
        self.url, self.headers, self.size, self.version = url, headers, size, version

    @classmethod
    @contextmanager
    def open(cls, repository: str, file: str, *, wanted: str) -> "Iterator[RemoteFile]":
        """Within the block the Hub's errors become a `HubUnavailableError` on what is `wanted`."""
        from urllib.parse import urlsplit

        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        repo_id, revision = split_repository(repository)
        reach_hub(repo_id, wanted)
        with hub_errors(wanted):
            url = hf_hub_url(repo_id, file, revision=revision)
            facts = get_hf_file_metadata(url)
            headers = dict(build_hf_headers())
            if urlsplit(facts.location).netloc != urlsplit(url).netloc:
                headers.pop("authorization", None)  # it is for the Hub, not for its storage
            version = "".join(c for c in facts.etag or facts.commit_hash or "" if c.isalnum())
            yield cls(facts.location, headers, facts.size or 0, version[:64] or "unknown")

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`. `RangesNotServedError` where all would come."""
        return b"".join(self.stream(start, stop))

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """The same in pieces, as they come."""
        from huggingface_hub.utils import get_session, hf_raise_for_status

        wanted = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        with get_session().stream("GET", self.url, headers=self.headers | wanted) as response:
            if response.status_code == 200:
                raise RangesNotServedError
            hf_raise_for_status(response)
            left = stop - start
            for chunk in response.iter_bytes(64 * 1024):
                left -= len(chunk)
                yield chunk
        if left:
            raise OSError(f"{abs(left)} bytes are {'missing' if left > 0 else 'too many'}")


def _fetch(repo_id: str, revision: str | None, on_progress: DownloadProgress | None) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    hf_hub_download(repo_id, "config.json", revision=revision)
    if found := _fetch_by_xet(repo_id, revision, on_progress):
        return found
    # In this process Xet would go on when `on_progress` raises: nobody could stop a download.
    constants.HF_HUB_DISABLE_XET = True
    bar: dict[str, Any] = {"tqdm_class": _progress_class(on_progress)} if on_progress else {}
    try:
        return Path(hf_hub_download(repo_id, "model.safetensors", revision=revision, **bar))
    except RemoteEntryNotFoundError:
        return Path(hf_hub_download(repo_id, "pytorch_model.bin", revision=revision, **bar))


def _fetch_by_xet(
    repo_id: str, revision: str | None, on_progress: DownloadProgress | None
) -> Path | None:
    """The file of weights by Xet, the Hub's own way of transfer in many parts at once, where the
    file is large and stored so; None where not, or where it did not work.

    Xet reports from a thread of its own and can't be stopped, so it works in a child process.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_DISABLE_XET or find_spec("hf_xet") is None:
        return None
    try:
        facts = get_hf_file_metadata(hf_hub_url(repo_id, "model.safetensors", revision=revision))
    except Exception:  # the plain way says what is wrong
        return None
    if facts.xet_file_data is None or (facts.size or 0) < XET_FROM_BYTES:
        return None
    return fetch_apart(repo_id, revision, facts.size or 0, on_progress)


def fetch_apart(
    repo_id: str, revision: str | None, size: int, on_progress: DownloadProgress | None
) -> Path | None:
    """`model.safetensors` of a repository, fetched into the Hub's cache by a child process, which
    ends at once where `on_progress` raises. None where the child did not succeed."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    code = (
        "import sys; from huggingface_hub import hf_hub_download; "
        "hf_hub_download(sys.argv[1], 'model.safetensors', revision=sys.argv[2] or None)"
    )
    blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo_id, repo_type="model"))
    child = subprocess.Popen(
        [sys.executable, "-c", code, repo_id, revision or ""],
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while child.poll() is None:
            if on_progress:
                on_progress(min(_bytes_on_disk(blobs / "blobs"), size), size)
            time.sleep(POLL_SECONDS)
    finally:
        child.kill()
        child.wait()
    return cached_weights(f"{repo_id}@{revision}" if revision else repo_id)


def _bytes_on_disk(folder: Path) -> int:
    """What the unfinished files of a folder take; they may have holes."""
    total = 0
    for file in folder.glob("*.incomplete"):
        try:
            facts = file.stat()
        except OSError:  # it has just been finished
            continue
        total += min(facts.st_size, 512 * getattr(facts, "st_blocks", facts.st_size))
    return total


def _progress_class(on_progress: DownloadProgress) -> type:
    """A progress bar that draws nothing and tells `on_progress`."""
    from huggingface_hub.utils import tqdm

    class Reporting(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True  # a disabled bar counts nothing, so count here
            self.received = kwargs.get("initial") or 0
            self.expected = kwargs.get("total") or 0
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
            self.update(0)

        def update(self, n: float | None = 1) -> None:
            self.received += n or 0
            self.expected = max(self.expected, self.received)
            on_progress(int(self.received), int(self.expected))

    return Reporting


def reach_hub(repo_id: str, wanted: str, *, pictures: bool = False) -> None:
    """A `HubUnavailableError` within 5 seconds where the Hub gives no sign of life."""
    page = f"datasets/{repo_id}" if pictures else f"{repo_id}/resolve/main/config.json"
    if why := why_unreachable(page):
        raise _unavailable(wanted, why, pictures)


def why_unreachable(page: str, *, token: bool = True) -> UserError | None:
    """Ask the Hub for a sign of life at one of its pages; None where it gives one. `token`: the one
    of this machine may go along.

    The Hub's own client would try again for half a minute.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    if constants.HF_HUB_OFFLINE:
        return UserError("downloads.offline")

    answers: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            head, headers = get_session().head, build_hf_headers(token=None if token else False)
            url = f"{constants.ENDPOINT}/{page}"
            answers.put(head(url, headers=headers, timeout=REACH_SECONDS).status_code)
        except Exception as error:  # any failure of name, network, proxy or certificate
            answers.put(error)

    # A daemon thread, because looking a name up can hang and no time limit reaches it there.
    threading.Thread(target=ask, name="hub-reach", daemon=True).start()
    try:
        status = answers.get(timeout=REACH_SECONDS + 0.5)
    except queue.Empty:
        return UserError("downloads.silent", hub=constants.ENDPOINT)
    if isinstance(status, Exception):
        return UserError("downloads.unreachable", hub=constants.ENDPOINT)
    if status >= 500:
        return UserError("downloads.hub_error", hub=constants.ENDPOINT, status=status)
    return None


@contextmanager
def hub_errors(wanted: str, *, pictures: bool = False) -> Iterator[None]:
    """Say in a sentence what the Hub's client reports in many; on a model's weights, or on a
    dataset's `pictures`."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise HubUnavailableError("downloads.gated", name=wanted) from error
    except errors.RepositoryNotFoundError as error:
        raise HubUnavailableError(
            "downloads.no_dataset" if pictures else "downloads.no_repository", name=wanted
        ) from error
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise HubUnavailableError(
            "downloads.no_file" if pictures else "downloads.no_weights", name=wanted
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        why = error.strerror or type(error).__name__  # such as "No space left on device"
        broken = UserError("downloads.broke_off", why=why)
        raise _unavailable(wanted, broken, pictures) from error
    except Exception as error:
        if is_broken_connection(error):
            broken = UserError("downloads.broke_off", why=type(error).__name__)
            raise _unavailable(wanted, broken, pictures) from error
        raise


def is_broken_connection(error: BaseException) -> bool:
    """True for the errors of the Hub client's HTTP library, which are of no common class."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2")


def _unavailable(wanted: str, why: UserError, pictures: bool = False) -> HubUnavailableError:
    if pictures:
        return HubUnavailableError("downloads.no_pictures", name=wanted, why=why)
    file = f"{wanted.rpartition('/')[2]}.safetensors"
    return HubUnavailableError("downloads.unavailable", name=wanted, why=why, file=file)

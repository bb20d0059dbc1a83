"""Weights from the Hugging Face Hub: its cache first, else fetched, with progress, plainly told."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vgg.network.config import IMAGENET_NAMES

HUB_PREFIX = "hf-hub:"
REACH_SECONDS = 3.0  # a Hub that has not answered by then counts as unreachable

# Called with (bytes so far, bytes in all) while a file comes; raising ends the download.
DownloadProgress = Callable[[int, int], None]


class HubUnavailableError(ValueError):
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
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    wanted = name or repository
    repo_id, _, revision = repository.partition("@")
    try:
        if repo_id.count("/") != 1:
            raise HFValidationError("owner/name is expected")
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            f"{HUB_PREFIX}{repository} names no repository; write {HUB_PREFIX}owner/name"
        ) from error
    if found := cached_weights(repository):
        return found
    _reach_hub(repo_id, wanted)
    with _hub_errors(wanted):
        return _fetch(repo_id, revision or None, on_progress)


def _fetch(repo_id: str, revision: str | None, on_progress: DownloadProgress | None) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    # Xet, the Hub's own way of transfer, reports from a thread of its own and goes on when
    # `on_progress` raises: nobody could stop a download.
    constants.HF_HUB_DISABLE_XET = True
    bar: dict[str, Any] = {"tqdm_class": _progress_class(on_progress)} if on_progress else {}
    hf_hub_download(repo_id, "config.json", revision=revision)
    try:
        return Path(hf_hub_download(repo_id, "model.safetensors", revision=revision, **bar))
    except RemoteEntryNotFoundError:
        return Path(hf_hub_download(repo_id, "pytorch_model.bin", revision=revision, **bar))


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


def _reach_hub(repo_id: str, wanted: str) -> None:
    if why := why_unreachable(f"{repo_id}/resolve/main/config.json"):
        raise _unavailable(wanted, why)


def why_unreachable(page: str, *, token: bool = True) -> str | None:
    """Ask the Hub for a sign of life at one of its pages; None where it gives one. `token`: the one
    of this machine may go along.

    The Hub's own client would try again for half a minute.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"

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
        return f"{constants.ENDPOINT} does not answer"
    if isinstance(status, Exception):
        return f"{constants.ENDPOINT} can't be reached"
    if status >= 500:
        return f"{constants.ENDPOINT} answers with an error ({status})"
    return None


@contextmanager
def _hub_errors(wanted: str) -> Iterator[None]:
    """Say in a sentence what the Hub's client reports in many."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise HubUnavailableError(
            f"{wanted} is gated on the Hub: accept its terms there, then set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubUnavailableError(
            f"the Hub has no repository for {wanted}, or it is private: check the name, "
            "or set HF_TOKEN"
        ) from error
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise HubUnavailableError(
            f"the Hub's repository for {wanted} has no model.safetensors and config.json"
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        why = error.strerror or type(error).__name__  # such as "No space left on device"
        raise _unavailable(wanted, f"the download broke off ({why})") from error
    except Exception as error:
        if is_broken_connection(error):
            raise _unavailable(
                wanted, f"the download broke off ({type(error).__name__})"
            ) from error
        raise


def is_broken_connection(error: BaseException) -> bool:
    """True for the errors of the Hub client's HTTP library, which are of no common class."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2")


def _unavailable(wanted: str, why: str) -> HubUnavailableError:
    return HubUnavailableError(
        f"the weights of {wanted} are not on this machine and {why}. Three ways on: train now, "
        f"from scratch (mode scratch); put a file into weights/, such as "
        f"weights/{wanted.rpartition('/')[2]}.safetensors; or set HF_TOKEN, or HF_ENDPOINT to a "
        "Hub that this machine reaches"
    )

"""`load_model`: one string finds a model, on this machine or on the Hugging Face Hub."""

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg.options import IMAGENET_NAMES, ModelConfig, read_config

if TYPE_CHECKING:
    import torch

    from vgg.model import VGG

log = logging.getLogger(__name__)

STARTER = "starter"
HUB_PREFIX = "hf-hub:"
REACH_SECONDS = 3.0  # a Hub that has not answered by then counts as unreachable
PROJECT = Path(__file__).resolve().parent.parent

# Called with (bytes so far, bytes in all) while a file comes; raising ends the download.
DownloadProgress = Callable[[int, int], None]


class HubUnavailableError(ValueError):
    """The weights are not on this machine and the Hub does not give them."""


def default_weights_dir() -> Path:
    """`$VGG_STUDIO_WEIGHTS_DIR`, else the project's own `weights/`."""
    return Path(os.environ.get("VGG_STUDIO_WEIGHTS_DIR") or PROJECT / "weights")


@cache
def imagenet_classes() -> tuple[str, ...]:
    """ImageNet's 1000 class names in the order of the outputs; all differ."""
    file = Path(__file__).with_name("imagenet_classes.txt")
    return tuple(file.read_text(encoding="utf-8").splitlines())


def load_model(
    spec: str | Path,
    *,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
    weights_dir: Path | None = None,
    on_progress: DownloadProgress | None = None,
) -> "VGG":
    """The model that `spec` names, in eval mode, with `.config`.

    `spec`: `vgg11` … `vgg19_bn` (ImageNet), `starter`, a folder or file of weights, the name of a
    folder in `weights_dir`, or `hf-hub:owner/name`. `dtype` None means float32. A `ValueError` says
    what is wrong and what there is.

        load_model("starter")
        load_model("hf-hub:timm/vgg16.tv_in1k", device="cuda", dtype=torch.float16)
    """
    path = find_weights(spec, weights_dir=weights_dir, on_progress=on_progress)
    from vgg.checkpoint import Checkpoint, build_model, read_checkpoint
    from vgg.device import choose_device

    if isinstance(device, str):
        device = choose_device(device)
    found = read_checkpoint(path)
    config = name_classes(str(spec), found.config)
    try:
        return build_model(Checkpoint(found.state, config), device=device, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def find_weights(
    spec: str | Path,
    *,
    weights_dir: Path | None = None,
    on_progress: DownloadProgress | None = None,
) -> Path:
    """The folder or file that `spec` means; downloads it where that is what it takes."""
    name = str(spec)
    if name.startswith(HUB_PREFIX):
        return download(name.removeprefix(HUB_PREFIX), on_progress=on_progress)
    if found := local_weights(name, weights_dir=weights_dir):
        return found
    if name in IMAGENET_NAMES:
        return download(imagenet_repository(name), on_progress=on_progress, name=name)
    raise ValueError(
        f"no model {name!r}; choose {STARTER}, {', '.join(IMAGENET_NAMES)}, a folder or file of "
        f"weights, or {HUB_PREFIX}owner/name{_own_models(weights_dir)}"
    )


def local_weights(name: str, *, weights_dir: Path | None = None) -> Path | None:
    """Where `name` lies on this machine without the Hub's cache; None where it does not."""
    folder = Path(weights_dir or default_weights_dir())
    if name == STARTER:
        own = folder / STARTER
        return own if (own / "config.json").is_file() else PROJECT / "weights" / STARTER
    if name in IMAGENET_NAMES:
        return _imagenet_file(name, folder)
    try:
        path = Path(name).expanduser()
        is_there = bool(name) and path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, a user that is not, a zero byte
        return None
    is_plain_name = path.name == name and name not in ("", ".", "..")
    is_own = is_plain_name and (folder / name / "config.json").is_file()
    # The folder of pictures that a model learned from often has the model's name.
    if is_own and not (path / "config.json").is_file() and not path.is_file():
        return folder / name
    return path if is_there else None


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


def name_classes(spec: str, config: ModelConfig) -> ModelConfig:
    """Give an ImageNet model the names of its 1000 classes, where its config has none."""
    from_imagenet = spec in IMAGENET_NAMES or spec.startswith(f"{HUB_PREFIX}timm/")
    unnamed = config.label_names[:1] == ("class 0",)
    if from_imagenet and unnamed and config.num_classes == len(imagenet_classes()):
        return replace(config, label_names=imagenet_classes(), trained=True)
    return config


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
            super().__init__(*args, **kwargs)
            self.update(0)

        def update(self, n: float | None = 1) -> None:
            self.received += n or 0
            self.expected = max(self.expected, self.received)
            on_progress(int(self.received), int(self.expected))

    return Reporting


def _reach_hub(repo_id: str, wanted: str) -> None:
    """Ask the Hub for a sign of life: the download itself would retry for half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    if constants.HF_HUB_OFFLINE:
        raise _unavailable(wanted, "HF_HUB_OFFLINE is set")

    answers: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()

    def ask() -> None:
        url = f"{constants.ENDPOINT}/{repo_id}/resolve/main/config.json"
        try:
            head = get_session().head
            answers.put(head(url, headers=build_hf_headers(), timeout=REACH_SECONDS).status_code)
        except Exception as error:  # any failure of name, network, proxy or certificate
            answers.put(error)

    # A daemon thread, because looking a name up can hang and no time limit reaches it there.
    threading.Thread(target=ask, name="hub-reach", daemon=True).start()
    try:
        status = answers.get(timeout=REACH_SECONDS + 0.5)
    except queue.Empty:
        raise _unavailable(wanted, f"{constants.ENDPOINT} does not answer") from None
    if isinstance(status, Exception):
        raise _unavailable(wanted, f"{constants.ENDPOINT} can't be reached") from status
    if status >= 500:
        raise _unavailable(wanted, f"{constants.ENDPOINT} answers with an error ({status})")


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
        # The client's HTTP library has errors of its own that are neither of the above.
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore"):
            raise _unavailable(
                wanted, f"the download broke off ({type(error).__name__})"
            ) from error
        raise


def _unavailable(wanted: str, why: str) -> HubUnavailableError:
    return HubUnavailableError(
        f"the weights of {wanted} are not on this machine and {why}. Three ways on: train now, "
        f"from scratch (mode scratch); put a file into weights/, such as "
        f"weights/{wanted.rpartition('/')[2]}.safetensors; or set HF_TOKEN, or HF_ENDPOINT to a "
        "Hub that this machine reaches"
    )


def _imagenet_file(name: str, folder: Path) -> Path | None:
    """`weights/vgg16/`, `weights/vgg16.pth`, or torchvision's own `vgg16-397923af.pth`."""
    if (folder / name).is_dir():
        return folder / name
    for suffix in (".safetensors", ".pth", ".pt"):
        if (file := folder / f"{name}{suffix}").is_file():
            return file
    return next(iter(sorted(folder.glob(f"{name}-*.pth"))), None)


@dataclass(frozen=True)
class ListedModel:
    """A model that is on this machine: its name for `load_model`, and its config."""

    name: str
    config: ModelConfig

    @property
    def summary(self) -> str:
        """`VGG-11 with batch norm, 8 classes`."""
        norm = " with batch norm" if self.config.batch_norm else ""
        return f"VGG-{self.config.depth}{norm}, {self.config.num_classes} classes"


def available_models(weights_dir: Path | None = None) -> list[ListedModel]:
    """The starter, the trained models in `weights_dir` (newest first), and the ImageNet models
    whose weights are here. A folder with a broken `config.json` is left out and logged."""
    names = [STARTER, *own_models(weights_dir)]
    names += [
        n for n in IMAGENET_NAMES if local_weights(n, weights_dir=weights_dir) or cached_weights(n)
    ]
    found = []
    for name in names:
        try:
            found.append(ListedModel(name, find_config(name, weights_dir=weights_dir)))
        except ValueError as error:
            log.warning("%s is left out: %s", name, error)
    return found


def find_config(spec: str | Path, *, weights_dir: Path | None = None) -> ModelConfig:
    """The config of the model that `spec` names, without loading its weights.

    An ImageNet model that is not here is described by formula, not fetched.
    """
    name = str(spec)
    path = local_weights(name, weights_dir=weights_dir)
    if path is None and name in IMAGENET_NAMES:
        path = cached_weights(name)
        if path is None:
            names = imagenet_classes()
            return ModelConfig(name, len(names), label_names=names, trained=True)
    if path is None:
        path = find_weights(name, weights_dir=weights_dir)
    file = (path if path.is_dir() else path.parent) / "config.json"
    if file.is_file():
        return name_classes(name, read_config(file))
    from vgg.checkpoint import read_checkpoint

    return name_classes(name, read_checkpoint(path).config)


def own_models(weights_dir: Path | None = None) -> list[str]:
    """Names of the trained models in `weights_dir`, newest first."""
    folder = Path(weights_dir or default_weights_dir())
    found = [p.parent for p in folder.glob("*/config.json") if p.parent.name != STARTER]
    found = [p for p in found if p.name not in IMAGENET_NAMES and not p.name.startswith(".")]
    return [p.name for p in sorted(found, key=lambda p: -(p / "config.json").stat().st_mtime)]


def _own_models(weights_dir: Path | None) -> str:
    names = own_models(weights_dir)
    return f"; in weights/: {', '.join(names)}" if names else ""

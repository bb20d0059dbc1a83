"""`load_model`: one string finds a model, on this machine or on the Hugging Face Hub."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vgg.checkpoints.class_names import with_names
from vgg.checkpoints.config_beside import config_beside
from vgg.checkpoints.file_names import CONFIG_FILE, STANDARD_FILES, WEIGHTS_FILE
from vgg.checkpoints.known_files import imagenet_classes, is_torchvisions
from vgg.data.temporary import temporary_folder
from vgg.downloads import (
    HUB_PREFIX,
    DownloadProgress,
    cached_weights,
    download,
    imagenet_repository,
    small_file,
)
from vgg.errors import UserError
from vgg.network.config import IMAGENET_NAMES, ModelConfig

if TYPE_CHECKING:
    import torch

    from vgg.network.vgg import VGG

log = logging.getLogger(__name__)

STARTER = "starter"
PROJECT = Path(__file__).resolve().parent.parent.parent
SHIPPED = PROJECT / "weights"
PACKAGED = PROJECT / "vgg" / "weights"  # the same in an installed package


def project_file(name: str) -> Path:
    """A file of the project itself; a `UserError` in an installed package, which lacks it."""
    if not (PROJECT / name).is_file():
        raise UserError("checkpoints.not_installed", name=name)
    return PROJECT / name


def default_weights_dir() -> Path:
    """Where models are kept: `$VGG_STUDIO_WEIGHTS_DIR`, else the project's own `weights/`, else,
    where that can't be written, as on a Space, a folder of the user's."""
    if chosen := os.environ.get("VGG_STUDIO_WEIGHTS_DIR"):
        return Path(chosen)
    return SHIPPED if os.access(SHIPPED, os.W_OK) else _folder_of_the_user()


@cache
def _folder_of_the_user() -> Path:
    """A folder for models outside of the project. Without a home it is one that lasts as long as
    the temporary files of this machine."""
    try:
        home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
        folder = home / "vgg-studio" / "weights"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # no home, or one that can't be written
        pass
    return temporary_folder("weights")


def _places(weights_dir: Path | None) -> list[Path]:
    """The folders that are looked through for models: what came with a project that can't be
    written is seen, too."""
    if weights_dir is not None:
        return [Path(weights_dir)]
    home = default_weights_dir()
    chosen = bool(os.environ.get("VGG_STUDIO_WEIGHTS_DIR"))
    return [home] if chosen or home == SHIPPED else [home, SHIPPED, PACKAGED]


def model_name(spec: str | Path) -> str:
    """What messages call the model `spec`: never by its place on this machine."""
    name = str(spec)
    return name if name.startswith(HUB_PREFIX) else Path(name).name or name


def load_model(
    spec: str | Path,
    *,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
    weights_dir: Path | None = None,
    on_progress: DownloadProgress | None = None,
    class_names: Sequence[str] = (),
) -> "VGG":
    """The model that `spec` names, in eval mode, with `.config`.

    `spec`: `vgg11` … `vgg19_bn` (ImageNet), `starter`, a folder or file of weights, the name of a
    folder in `weights_dir`, or `hf-hub:owner/name`. `dtype` None means float32. `class_names` are
    those of its outputs, where the file has none. A `ValueError` says what is wrong and what there
    is.

        load_model("starter")
        load_model("hf-hub:timm/vgg16.tv_in1k", device="cuda", dtype=torch.float16)
    """
    path = find_weights(spec, weights_dir=weights_dir, on_progress=on_progress)
    from vgg.checkpoints.folder import Checkpoint, build_model, read_checkpoint
    from vgg.device import choose_device

    if isinstance(device, str):
        device = choose_device(device)
    found = read_checkpoint(path)
    for note in found.notes:
        log.warning("%s: %s", path.name, note)
    config = with_names(name_classes(str(spec), found.config), class_names)
    try:
        return build_model(Checkpoint(found.state, config), device=device, dtype=dtype)
    except UserError as error:
        raise UserError("checkpoints.file", name=path.name, why=error) from error


def load_trunk(
    spec: str | Path,
    *,
    weights_dir: Path | None = None,
    on_progress: DownloadProgress | None = None,
) -> "VGG":
    """The model that `spec` names, to train a new last layer on. Of one that has to come from the
    Hub only the convolutions come, 59 of 553 MB, where its server gives parts of files; such a
    model has no classifier (`num_classes` 0). Else as `load_model`."""
    from vgg.checkpoints.trunk_download import cached_trunk, download_trunk

    name = str(spec)
    repository = _repository_of(name, weights_dir)
    if repository is not None and not cached_weights(repository):
        trunk = cached_trunk(repository) or download_trunk(
            repository, on_progress=on_progress, name=name
        )
        if trunk:
            spec = trunk
    return load_model(spec, weights_dir=weights_dir, on_progress=on_progress)


def _repository_of(name: str, weights_dir: Path | None) -> str | None:
    """The Hub repository that `name` would be fetched from; None where it is here already."""
    if name.startswith(HUB_PREFIX):
        return name.removeprefix(HUB_PREFIX)
    if name in IMAGENET_NAMES and not local_weights(name, weights_dir=weights_dir):
        return imagenet_repository(name)
    return None


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
    raise UserError(
        "checkpoints.no_model",
        name=model_name(name),
        choices=(STARTER, *own_models(weights_dir), *IMAGENET_NAMES),
        prefix=HUB_PREFIX,
    )


def local_weights(name: str, *, weights_dir: Path | None = None) -> Path | None:
    """Where `name` lies on this machine without the Hub's cache; None where it does not."""
    places = _places(weights_dir)
    if name == STARTER:
        own = (place / STARTER for place in (*places, PACKAGED))
        return next((p for p in own if (p / "config.json").is_file()), SHIPPED / STARTER)
    if name in IMAGENET_NAMES:
        return next(filter(None, (_imagenet_file(name, place) for place in places)), None)
    try:
        path = Path(name).expanduser()
        is_there = bool(name) and path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, a user that is not, a zero byte
        return None
    is_plain_name = path.name == name and name not in ("", ".", "..")
    own = (place / name for place in places if is_plain_name)
    found = next((p for p in own if (p / "config.json").is_file()), None)
    # The folder of pictures that a model learned from often has the model's name.
    if found and not (path / "config.json").is_file() and not path.is_file():
        return found
    return path if is_there else None


def name_classes(spec: str, config: ModelConfig) -> ModelConfig:
    """Give an ImageNet model the names of its 1000 classes, where its config has none."""
    from_imagenet = spec in IMAGENET_NAMES or spec.startswith(f"{HUB_PREFIX}timm/")
    unnamed = config.label_names[:1] == ("class 0",)
    if from_imagenet and unnamed and config.num_classes == len(imagenet_classes()):
        return replace(config, label_names=imagenet_classes(), trained=True)
    return config


def _imagenet_file(name: str, folder: Path) -> Path | None:
    """`weights/vgg16/`, `weights/vgg16.pth`, or a file known to be torchvision's, such as
    `vgg16-397923af.pth`, whatever it is called."""
    if (folder / name).is_dir():
        return folder / name
    for suffix in (".safetensors", ".pth", ".pt"):
        if (file := folder / f"{name}{suffix}").is_file():
            return file
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return next((file for file in files if is_torchvisions(file, name)), None)


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
        except (UserError, OSError) as error:  # an OSError where it goes while we look
            log.warning("%s is left out: %s", name, error)
    return found


def find_config(
    spec: str | Path, *, weights_dir: Path | None = None, class_names: Sequence[str] = ()
) -> ModelConfig:
    """The config of the model that `spec` names, without loading its weights.

    An ImageNet model that is not here is described by formula, not fetched.
    """
    name = str(spec)
    path = local_weights(name, weights_dir=weights_dir)
    if path is None and name in IMAGENET_NAMES:
        path = cached_weights(name)
        if path is None:
            names = imagenet_classes()
            config = ModelConfig(name, len(names), label_names=names, trained=True)
            return with_names(config, class_names)
    found = _hub_config(name) if path is None and name.startswith(HUB_PREFIX) else None
    if found is None:
        found = _config_of(path or find_weights(name, weights_dir=weights_dir))
    return with_names(name_classes(name, found), class_names)


def _hub_config(name: str) -> ModelConfig | None:
    """What the small `config.json` of a repository says; None where that takes the weights."""
    repository = name.removeprefix(HUB_PREFIX)
    if cached_weights(repository):
        return None
    try:
        file = small_file(repository, CONFIG_FILE)
        return config_beside(file.with_name(WEIGHTS_FILE), is_folders=False)[0]
    except UserError:  # the weights say it, or why they can't be had
        return None


def _config_of(path: Path) -> ModelConfig:
    """The config of a folder or file of weights; the weights are looked at where no config of a
    VGG lies beside them, or where it may be another file's."""
    if path.is_dir() or path.name in STANDARD_FILES:
        config, _ = config_beside(path / WEIGHTS_FILE if path.is_dir() else path, is_folders=True)
        if config:
            return config
    beside = path.with_name(CONFIG_FILE)
    files = [file for file in (path, beside) if file.exists()]
    return _config_read(path, tuple(file.stat().st_mtime_ns for file in files))


@lru_cache(maxsize=32)
def _config_read(path: Path, times: tuple[int, ...]) -> ModelConfig:
    """What the weights themselves say, once for a file that does not change."""
    from vgg.checkpoints.folder import read_checkpoint

    return read_checkpoint(path).config


def own_models(weights_dir: Path | None = None) -> list[str]:
    """Names of the trained models in `weights_dir`, newest first."""
    found = [p for place in _places(weights_dir) for p in place.glob("*/config.json")]
    found = [p for p in found if p.parent.name not in (STARTER, *IMAGENET_NAMES)]
    found = [p for p in found if not p.parent.name.startswith(".")]
    newest_first = sorted(found, key=_written, reverse=True)
    return list(dict.fromkeys(p.parent.name for p in newest_first))


def _written(file: Path) -> float:
    """When a file was written; 0 where it has just gone."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0

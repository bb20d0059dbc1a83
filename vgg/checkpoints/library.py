"""The models on this machine as a person keeps them: told about, renamed, deleted, brought in.

`vgg.checkpoints.loading` finds a model; here its folder is changed.
"""

import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgg.checkpoints.file_names import CONFIG_FILE, COPIES_FOLDER, EVENTS_FILE, METRICS_FILE
from vgg.checkpoints.loading import STARTER
from vgg.data.names import file_name
from vgg.data.zips import ZipLimits, take_files
from vgg.errors import UserError
from vgg.network.config import IMAGENET_NAMES, ModelConfig, read_config

MAX_NAME = 60
MAX_CONFIG_BYTES = 4_000_000  # 100,000 class names fit
SAFE_SUFFIXES = (".safetensors",)
SUFFIXES = (*SAFE_SUFFIXES, ".pth", ".pt", ".bin")
# One file of weights may have all of the zip, and hardly shrinks.
LIMITS = ZipLimits(max_entries=10_000, max_bytes=4 * 1024**3, max_file_bytes=4 * 1024**3)


@dataclass(frozen=True)
class ModelFacts:
    """What a person wants to know of a model before choosing among several.

    `accuracy` is (share, pictures measured on, 95 % interval); None where it was never measured.
    `bytes` is what it takes on disk, and `changed` when it was written, in seconds since 1970;
    None where its files are elsewhere.
    """

    config: ModelConfig
    accuracy: tuple[float, int, tuple[float, float]] | None
    bytes: int | None = None
    changed: float | None = None


def facts_of(config: ModelConfig, path: Path | None) -> ModelFacts:
    """The facts of a model whose folder, or file of weights, is `path`."""
    size = changed = None
    if path is not None:
        size = bytes_of(path)
        changed = (path / CONFIG_FILE if path.is_dir() else path).stat().st_mtime
    return ModelFacts(config, accuracy_of(config), size, changed)


def accuracy_of(
    config: ModelConfig, metrics: Mapping[str, Any] | None = None
) -> tuple[float, int, tuple[float, float]] | None:
    """Accuracy, pictures that it was measured on, and its 95 % interval; None where unknown."""
    for source in (metrics, config.extra.get("training")):
        if not isinstance(source, Mapping):
            continue
        try:
            low, high = map(float, source["accuracy_interval"])
            return float(source["accuracy"]), int(source["held_out"]), (low, high)
        except (KeyError, TypeError, ValueError):
            continue
    return None


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:  # it has just gone
            continue
    return total


def losses(folder: Path) -> list[str]:
    """What would be lost with a model's folder, a phrase each: `1.2 MB of weights`, …"""
    from vgg.checkpoints.folder import weights_file

    found = []
    try:
        found.append(f"{weights_file(folder).stat().st_size / 1e6:.1f} MB of weights")
    except (OSError, ValueError):
        found.append("its files")
    accuracy = accuracy_of(read_config(folder / CONFIG_FILE))
    if accuracy:
        share, count, _ = accuracy
        found.append(f"an accuracy of {100 * share:.1f} % of {count} pictures")
    if (folder / METRICS_FILE).is_file():
        found.append("what it got wrong, picture by picture")
    if copies := sum(file.is_file() for file in (folder / COPIES_FOLDER).rglob("*")):
        one = "1 small copy of a held-out picture"
        found.append(one if copies == 1 else f"{copies} small copies of held-out pictures")
    if (folder / EVENTS_FILE).is_file():
        found.append("the record of its training")
    return found


def rename_model(folder: Path, name: str) -> Path:
    """Give a model's folder another name; returns the folder. `ValueError` where that is taken."""
    clean = clean_name(name)
    if not name.strip():
        raise UserError("checkpoints.no_name")
    target = folder.with_name(clean)
    if target == folder:
        return folder
    check_free(target)
    try:
        return folder.rename(target)
    except OSError as error:
        raise UserError("checkpoints.not_renamed", name=folder.name, why=error.strerror) from error


def delete_model(folder: Path) -> None:
    """Delete a model's folder: at once as far as anyone sees, however long the disk takes."""
    try:
        doomed = Path(tempfile.mkdtemp(prefix=".deleted-", dir=folder.parent))
        folder.rename(doomed / folder.name)
    except OSError as error:
        raise UserError("checkpoints.not_deleted", name=folder.name, why=error.strerror) from error
    shutil.rmtree(doomed, ignore_errors=True)


def import_model(
    file: Path,
    out: Path,
    *,
    suffixes: Collection[str] = SUFFIXES,
    limits: ZipLimits = LIMITS,
) -> Path:
    """Bring a checkpoint in as the new folder `out`: a file of weights, or a zip with one and its
    `config.json`.

    Keys and shapes are checked against the config, or tell what the network is; pickles are read
    as weights only. Nothing but weights and config is taken from a zip. `ValueError` says what is
    wrong; then there is no folder.
    """
    from vgg.checkpoints.folder import build_model, is_half, read_checkpoint, save_checkpoint

    suffix = file.suffix.lower()
    if suffix not in (*suffixes, ".zip"):
        raise UserError("checkpoints.no_checkpoint", name=file.name, suffixes=(*suffixes, ".zip"))
    check_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".import-", dir=out.parent))
    except OSError as error:
        raise UserError("checkpoints.no_place", why=error.strerror) from error
    try:
        source = file
        if suffix == ".zip":
            source = scratch / "given"
            source.mkdir()
            take_files(file, (CONFIG_FILE,), suffixes, source, limits=limits)
            config = source / CONFIG_FILE
            if config.is_file() and config.stat().st_size > MAX_CONFIG_BYTES:
                raise UserError("checkpoints.large_config", config=CONFIG_FILE, name=file.name)
        model = build_model(read_checkpoint(source))
        import torch

        save_checkpoint(model, scratch / "made", dtype=torch.float16 if is_half(model) else None)
        return (scratch / "made").rename(out)
    except OSError as error:
        raise UserError("checkpoints.not_kept", name=file.name, why=error.strerror) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_free(folder: Path) -> None:
    """`ValueError` where a model can't have this folder's name."""
    if folder.name in (STARTER, *IMAGENET_NAMES):
        raise UserError("checkpoints.reserved", name=folder.name)
    if folder.exists():
        raise UserError("checkpoints.taken", name=folder.name)


def clean_name(name: str) -> str:
    """A name for a model's folder: letters, digits, `-`, `_`, `.`; `model` where none is left. It
    is one that Windows takes, too: models travel."""
    plain = re.sub(r"[^\w.-]+", "-", name.strip()).strip("-.")[:MAX_NAME]
    return file_name(plain, "model", windows=True)

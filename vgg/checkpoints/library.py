"""The models on this machine as a person keeps them: told about, renamed, deleted, brought in.

`vgg.checkpoints.loading` finds a model; here its folder is changed.
"""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from vgg.checkpoints.class_names import with_names
from vgg.checkpoints.file_names import (
    CONFIG_FILE,
    COPIES_FOLDER,
    EVENTS_FILE,
    METRICS_FILE,
    SAFE_SUFFIXES,
    WEIGHTS_SUFFIXES,
)
from vgg.checkpoints.loading import STARTER
from vgg.data.names import file_name
from vgg.data.temporary import remove, temporary_folder
from vgg.data.zips import ZipLimits, take_files
from vgg.errors import UserError
from vgg.network.config import IMAGENET_NAMES, ModelConfig, read_config
from vgg.network.summary import Cost, cost_of

log = logging.getLogger(__name__)

MAX_NAME = 60
MAX_CONFIG_BYTES = 4_000_000  # 100,000 class names fit
# Of a stranger's model on a public page: a VGG-19 at its own 224 pixels takes 600 MB and 20e9.
PUBLIC_COST = Cost(bytes=700_000_000, macs=25_000_000_000)
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
    # `os.walk` passes over a folder that goes meanwhile.
    files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names] or [path]
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
        doomed = temporary_folder("deleted", beside=folder.parent)
        folder.rename(doomed / folder.name)
    except OSError as error:
        raise UserError("checkpoints.not_deleted", name=folder.name, why=error.strerror) from error
    remove(doomed)


def import_model(
    file: Path,
    out: Path,
    *,
    limits: ZipLimits = LIMITS,
    pickles: bool = True,
    most: Cost | None = None,
    class_names: Sequence[str] = (),
    on_note: Callable[[str], None] | None = None,
) -> Path:
    """Bring a checkpoint in as the new folder `out`: a file of weights, or a zip with one and its
    `config.json`.

    What a file is tells its content, not its name. Keys and shapes are checked against the config,
    or tell what the network is; pickles are read as weights only, and without `pickles` not at all.
    Nothing but weights and config is taken from a zip. `most` bounds what the network may cost,
    which is looked at before it is made. `class_names` are those of its outputs, where the file has
    none; `on_note` gets sentences on what was taken for what. A `UserError` says what is wrong;
    then there is no folder.
    """
    from vgg.checkpoints import folder
    from vgg.checkpoints.contents import is_safetensors, is_torch_zip

    check_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = temporary_folder("import", beside=out.parent)
    except OSError as error:
        raise UserError("checkpoints.no_place", why=error.strerror) from error
    try:
        source = weights = file
        if (is_zipfile(file) or file.suffix.lower() == ".zip") and not is_torch_zip(file):
            source = scratch / "given"
            source.mkdir()
            suffixes = WEIGHTS_SUFFIXES if pickles else SAFE_SUFFIXES
            take_files(file, (CONFIG_FILE,), suffixes, source, limits=limits)
            config = source / CONFIG_FILE
            if config.is_file() and config.stat().st_size > MAX_CONFIG_BYTES:
                raise UserError("checkpoints.large_config", config=CONFIG_FILE, name=file.name)
            weights = folder.weights_file(source)
        if not pickles and not is_safetensors(weights):
            raise UserError("checkpoints.no_pickles", name=weights.name)
        read = folder.read_checkpoint(source)
        if most:
            check_cost(read.config, most)
        for note in read.notes:
            (on_note or log.warning)(str(note))
        named = replace(read, config=with_names(read.config, class_names))
        model = folder.build_model(named, thorough=True)
        import torch

        half = torch.float16 if folder.is_half(model) else None
        folder.save_checkpoint(model, scratch / "made", dtype=half)
        return (scratch / "made").rename(out)
    except OSError as error:
        raise UserError("checkpoints.not_kept", name=file.name, why=error.strerror) from error
    finally:
        remove(scratch)


def check_cost(config: ModelConfig, most: Cost, size: int | None = None) -> None:
    """A `UserError` for a model that would take more of everybody's machine, with pictures of
    `size` pixels a side (default: its own)."""
    cost = cost_of(config, size)
    if cost.bytes > most.bytes or cost.macs > most.macs:
        raise UserError(
            "checkpoints.costly",
            megabytes=cost.bytes / 1e6,
            macs=cost.macs / 1e9,
            most_megabytes=most.bytes / 1e6,
            most_macs=most.macs / 1e9,
        )


def check_free(folder: Path) -> None:
    """`ValueError` where a model can't have this folder's name."""
    if folder.name in (STARTER, *IMAGENET_NAMES):
        raise UserError("checkpoints.reserved", name=folder.name)
    if folder.exists():
        raise UserError("checkpoints.taken", name=folder.name)


def plain_name(file: Path) -> str:
    """A file's name without its endings: `cats.pth.tar` is `cats`."""
    name = file.name
    while (ending := Path(name).suffix).lower() in (*WEIGHTS_SUFFIXES, ".zip"):
        name = name.removesuffix(ending)
    return name


def clean_name(name: str) -> str:
    """A name for a model's folder: letters, digits, `-`, `_`, `.`; `model` where none is left. It
    is one that Windows takes, too: models travel."""
    plain = re.sub(r"[^\w.-]+", "-", name.strip()).strip("-.")[:MAX_NAME]
    return file_name(plain, "model", windows=True)

"""What a file of weights holds, told by its content: never by its name, and never by running it."""

import math
import threading
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, load_file
from torch import Tensor

from vgg.checkpoints.class_names import ordered_names
from vgg.checkpoints.head_layers import StateDict
from vgg.data.names import ON_WINDOWS
from vgg.errors import UserError

MAX_HEADER = 100_000_000  # bytes of a safetensors file's table: what its own library takes
PART = 2**22  # numbers that are looked at together
DEEPEST, MOST_PARTS = 8, 200_000  # of what a file holds, that are looked into
# How other kinds of files begin that people take for weights, and what is said of each.
_PACKED, _LUA = UserError("checkpoints.packed"), UserError("checkpoints.lua")
_WEB_PAGE = UserError("checkpoints.web_page")
_OTHERS = (
    (b"\x89HDF", UserError("checkpoints.keras")),
    (b"version https://git-lfs", UserError("checkpoints.lfs_pointer")),
    (b"<!DOCTYPE", _WEB_PAGE),
    (b"<!doctype", _WEB_PAGE),
    (b"<html", _WEB_PAGE),
    (b"\x1f\x8b", _PACKED),
    (b"7z\xbc\xaf", _PACKED),
    (b"Rar!", _PACKED),
)
_NAME_FIELDS = ("class_to_idx", "idx_to_class", "class_names", "classes", "categories")
_unpickling = threading.Lock()  # what torch allows holds for the whole process


def _plain(*_: object) -> "OrderedDict[Any, Any]":
    """In place of what makes some kind of dictionary."""
    return OrderedDict()


def _harmless() -> list[Any]:
    """Types beside weights that training scripts save: they hold values and run nothing. Those that
    may not be installed here become dictionaries."""
    from numpy._core import multiarray

    dictionaries = (
        "easydict.EasyDict",
        "yacs.config.CfgNode",
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "lightning.fabric.utilities.data.AttributeDict",
    )
    paths = [(PurePosixPath, "PosixPath"), (PureWindowsPath, "WindowsPath")]
    return [
        Namespace,
        SimpleNamespace,
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdU"},
        datetime,
        date,
        timedelta,
        *[(getattr(multiarray, name), f"numpy.{home}.multiarray.{name}")
          for name in ("scalar", "_reconstruct") for home in ("core", "_core")],
        (_plain, "collections.defaultdict"),
        *[(kind, f"builtins.{kind.__name__}") for kind in (dict, list, int, float, str, bool)],
        *[(OrderedDict, name) for name in dictionaries],
        *[(kind, f"{home}.{name}") for kind, name in paths
          for home in ("pathlib", "pathlib._local")],
    ]  # fmt: skip


def is_safetensors(file: Path) -> bool:
    return _is_safetensors(_head(file))


def looks_like_weights(file: Path) -> bool:
    """Whether a file among others may be one of weights, by its first bytes."""
    try:
        head = _head(file)
    except UserError:
        return False
    # The older format begins with a pickled number of torch's own.
    is_older = head.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    return is_older or _is_safetensors(head) or _is_torch_zip(head)


def is_torch_zip(file: Path) -> bool:
    """Whether a zip is what `torch.save` writes, and not one that somebody packed: the name of its
    first entry tells, without the table of a zip that may be hostile."""
    return _is_torch_zip(_head(file))


def _is_torch_zip(head: bytes) -> bool:
    length = int.from_bytes(head[26:28], "little")
    return head[:4] == b"PK\3\4" and head[30 : 30 + length].endswith(b"/data.pkl")


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(512)
    except OSError as error:
        raise UserError("checkpoints.unreadable", name=file.name, why=error.strerror) from error


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER


def load_object(file: Path) -> object:
    """What the file holds, whatever that is. A `UserError` says what a file is that holds none.

    Pickles are read with `weights_only=True`: one that would run code is refused.
    """
    head = _head(file)
    kind = next((kind for begin, kind in _OTHERS if head.startswith(begin)), None)
    if head[257:262] == b"ustar":
        kind = _PACKED
    elif head[1:8] == b"\0\0\0\1\0\0\0" and head[0] in range(1, 9):  # a type, the first index
        kind = _LUA
    if kind:
        raise UserError("checkpoints.other_kind", name=file.name, why=kind)
    mapped = not ON_WINDOWS  # which lets nobody replace, rename or delete a mapped file
    try:
        if _is_safetensors(head):
            return load_file(file) if mapped else load(file.read_bytes())
        with _unpickling, torch.serialization.safe_globals(_harmless()):
            # Only the newer format, a zip file, can be mapped into memory.
            return torch.load(
                file, map_location="cpu", weights_only=True, mmap=mapped and head[:2] == b"PK"
            )
    except Exception as error:  # a damaged pickle can fail with nearly any of them
        if "GLOBAL" in str(error):  # torch's word for a class or function that it will not call
            raise UserError("checkpoints.runs_code", name=file.name) from error
        raise UserError("checkpoints.damaged", name=file.name) from error


def _inside(loaded: object) -> Iterator[Mapping[Any, Any]]:
    """All dictionaries in what was loaded, the outer ones first; what holds itself, once."""
    level, seen = [loaded], set[int]()
    for _ in range(DEEPEST):
        following: list[object] = []
        for part in level:
            if isinstance(part, Namespace | SimpleNamespace):
                part = vars(part)
            if id(part) in seen or len(seen) > MOST_PARTS:
                continue
            if isinstance(part, Mapping):
                yield part
                following += part.values()
            elif isinstance(part, list | tuple):
                following += part
            else:
                continue
            seen.add(id(part))
        level = following


def state_dicts(loaded: object) -> list[StateDict]:
    """The dictionaries of tensors in what was loaded, those with most convolutions first; among
    equal ones those that stand further out, and first.

    A `UserError` where there is none, or where a tensor of the first is no plain one.
    """
    found = [tensors for part in _inside(loaded) if (tensors := _tensors(part))]
    found.sort(key=lambda state: -sum(value.ndim == 4 for value in state.values()))
    if not found:
        raise UserError("checkpoints.no_weights")
    wrong = next((key for key, value in found[0].items() if not _is_plain(value)), None)
    if wrong is not None:
        raise UserError("checkpoints.no_tensor", key=wrong)
    return [state for state in found if all(map(_is_plain, state.values()))]


def _tensors(part: Mapping[Any, Any]) -> StateDict:
    return {str(key): value for key, value in part.items() if isinstance(value, Tensor)}


def joined_parts(loaded: object) -> list[StateDict]:
    """What stands in several dictionaries of tensors side by side, as a trunk and a classifier that
    were saved apart do, each time as one."""
    found = []
    for outer in _inside(loaded):
        parts = {name: _tensors(x) for name, x in outer.items() if isinstance(x, Mapping)}
        if sum(map(bool, parts.values())) > 1:
            whole = {f"{name}.{key}": v for name, part in parts.items() for key, v in part.items()}
            found.append(whole)
    return [state for state in found if all(map(_is_plain, state.values()))]


def _is_plain(value: Tensor) -> bool:
    return value.layout is torch.strided and not value.is_meta and not value.is_quantized


def class_names(loaded: object, count: int) -> tuple[str, ...]:
    """Names of `count` classes that the file itself has, in the order of the outputs; empty where
    it has none."""
    fields = [
        (_NAME_FIELDS.index(str(key).lower()), value)
        for part in _inside(loaded)
        for key, value in part.items()
        if str(key).lower() in _NAME_FIELDS
    ]
    for _, value in sorted(fields, key=lambda field: field[0]):
        names = ordered_names(value.tolist() if isinstance(value, np.ndarray) else value)
        if len(names) == count == len({*names}) and all(names):
            return names
    return ()


def is_finite(values: Tensor) -> bool:
    """No NaN and nothing infinite. Sums of parts tell it of nearly all tensors, without a copy."""
    if not values.is_floating_point():
        return True
    sums = (part.sum(dtype=torch.float32) for part in values.flatten().split(PART))
    return all(map(math.isfinite, sums)) or bool(values.isfinite().all())

"""Where the work runs: the device, the precision that is fast on it, its name and its memory."""

import logging
import math
import os
import platform
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vgg import distributed
from vgg.errors import UserError, sentence
from vgg.network.config import AUTO, PRECISIONS

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KINDS = ("cuda", "mps", "xpu", "cpu")  # in the order of preference


def choose_device(name: str = AUTO) -> torch.device:
    """`auto` takes the first of cuda, mps, xpu and cpu that this machine has and that works; `cuda`
    the first GPU, or of several processes each its own. torch, which counts the cores of the whole
    machine, is told how many there are for this process.

    A `UserError` says what there is where `name` is not, and what fails where it does not work.
    """
    if name == AUTO:
        name = next(kind for kind in KINDS if _has(kind) and _works(_own(kind)))
    name = _own(name)
    kind, _, number = name.partition(":")
    if kind not in KINDS or not re.fullmatch("[a-z]+(:[0-9]{1,3})?", name):
        raise UserError("device.device", value=name)
    if not _has(kind):
        there = [kind for kind in KINDS if _has(kind)]
        raise UserError("device.kind", kind=kind, there=there)
    if number and int(number) >= _count(kind):
        raise UserError("device.number", kind=kind, count=_count(kind), name=name)
    if why := _failure(name):
        raise UserError("device.fails", name=name, why=why)
    if torch.get_num_threads() > cpu_cores():
        torch.set_num_threads(cpu_cores())
    return torch.device(name)


def choose_precision(device: torch.device, name: str = AUTO) -> torch.dtype:
    """`auto` takes the fastest precision that keeps the answers: bf16 where the chip multiplies it
    natively, fp16 on other GPUs, else fp32."""
    if name != AUTO:
        if name not in DTYPES:
            raise UserError("device.precision", value=name, choices=PRECISIONS)
        return DTYPES[name]
    if device.type == "cpu":
        return torch.bfloat16 if _cpu_multiplies_bf16() else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    return torch.float16


def precision_name(dtype: torch.dtype) -> str:
    """torch.bfloat16 → `bf16`."""
    return next(name for name, value in DTYPES.items() if value == dtype)


def device_name(device: torch.device) -> str:
    """What a person calls it: `NVIDIA H100`, `CPU (2 cores)`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return torch.xpu.get_device_name(device)
    if device.type == "mps":
        return f"Apple GPU ({platform.machine()})"
    return f"CPU ({cpu_cores()} cores)"


def cpu_cores() -> int:
    """Processor cores that this process may use: in a container those of its limit, rounded up."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return min(allowed, max(1, math.ceil(min(allowed, cgroup_cores()))))


def cgroup_cores(root: Path = Path("/")) -> float:
    """How many processor cores Linux lets this process's control group (version 1 or 2) use: 1.5 is
    one and a half; infinite without a limit. `root` is where /proc and /sys are."""
    limits = [math.inf]
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    for group in groups:
        _, controllers, path = group.split(":", 2)  # `0::/path`, or `4:cpu,cpuacct:/path`
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        place = top / path.strip("/")
        # What is above limits, too. A container sees its own group as the top, whatever the path.
        limits += map(_quota, (place, *(p for p in place.parents if p.is_relative_to(top)), top))
    return min(limits)


def _quota(group: Path) -> float:
    with suppress(OSError, ValueError):  # no such file, or no number: `max 100000`
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((group / f"cpu.cfs_{x}_us").read_text() for x in ("quota", "period"))
        if int(quota) > 0:  # -1: no limit
            return int(quota) / int(period)
    return math.inf


def memory_used(device: torch.device) -> tuple[int, int]:
    """(bytes in use, bytes in all): the device's own memory, or this process's on a CPU.

    0 stands for a figure that this system does not tell.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free, total
    if device.type == "xpu":
        return torch.xpu.memory_allocated(device), torch.xpu.get_device_properties(0).total_memory
    if device.type == "mps":
        return torch.mps.current_allocated_memory(), torch.mps.recommended_max_memory()
    return _process_memory(), _machine_memory()


def _own(name: str) -> str:
    """Of several processes each has its own GPU."""
    several = name == "cuda" and distributed.world() > 1
    return f"cuda:{distributed.gpu_number(_count(name))}" if several else name


@cache
def _works(name: str) -> bool:
    """Whether a device that is there can be used; where not, the log says why, once."""
    if why := _failure(name):
        log.warning(sentence("device.fails", {"name": name, "why": why}))
    return why is None


@cache
def _failure(name: str) -> str | None:
    """What goes wrong in the first product on a device; None where nothing does. A card is listed,
    and fails, where this torch was not built for it ("no kernel image")."""
    if name == "cpu":
        return None
    try:
        square = torch.ones(2, 2, device=name)
        (square @ square).sum().item()
    except torch.OutOfMemoryError:  # others use it just now
        return None
    except Exception as error:  # torch has no kind of error of its own for it
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def _has(kind: str) -> bool:
    if kind == "cpu":
        return True
    if kind == "mps":
        return torch.backends.mps.is_available()
    return bool(getattr(torch, kind).is_available())


def _count(kind: str) -> int:
    return 1 if kind in ("mps", "cpu") else getattr(torch, kind).device_count()


def _cpu_multiplies_bf16() -> bool:
    # avx512 alone is not enough: without its bf16 part every product goes through fp32 and is slow.
    chip: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if chip:
        return bool(chip.get("avx512_bf16") or chip.get("amx_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _process_memory() -> int:
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _machine_memory() -> int:
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0

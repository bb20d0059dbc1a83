"""More than one process, by torchrun's environment; one process alone is the smallest case.

torchrun starts the same command several times and tells each copy its number. Each then does its
share, and all come to the same result; the first writes it down. Started without torchrun, every
function here does the plain thing at once, and no process group is made.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from vgg.errors import ProcessLostError as ProcessLostError  # handed on: it is told here
from vgg.errors import StoppedError, UserError

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

TIMEOUT = timedelta(seconds=90)  # with a process that does not answer: torch waits 30 minutes
LOOK_EVERY = 0.02  # seconds


# Who we are


def world() -> int:
    """How many processes torchrun has started; 1 without it."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """The number of this process among all of them, from 0."""
    return _number("RANK", 0)


def local_rank() -> int:
    """The number of this process among those on this machine: the number of its GPU."""
    return _number("LOCAL_RANK", 0)


def local_world() -> int:
    """How many processes torchrun has started on this machine; 1 without it."""
    return _number("LOCAL_WORLD_SIZE", 1)


def is_rank_0() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


@overload
def shard(items: "Tensor") -> "Tensor": ...
@overload
def shard(items: Sequence[Item]) -> Sequence[Item]: ...
def shard(items: "Sequence[Item] | Tensor") -> "Sequence[Item] | Tensor":
    """Every n-th item, of n processes: the part of the work that is this one's."""
    return items if world() == 1 else items[rank() :: world()]


def _number(name: str, alone: int) -> int:
    # Other programs set names as plain as RANK; this one is torchrun's own.
    return int(os.environ.get(name, alone)) if "TORCHELASTIC_RUN_ID" in os.environ else alone


# Being together


@contextmanager
def joined() -> Iterator[None]:
    """Be one group with the other processes for the time of the block."""
    import torch
    from torch import distributed

    if world() == 1 or distributed.is_initialized():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda and local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    with _or_lost():
        # What is small goes over the CPU, the gradients between the GPUs.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        yield
        with _or_lost():
            distributed.barrier()  # nobody leaves while another still talks to it
    finally:
        distributed.destroy_process_group()


@contextmanager
def stdout_of_rank_0() -> Iterator[None]:
    """Only the first process writes to standard output; and torchrun's signal to end, which it
    sends when another process has ended, becomes a `ProcessLostError`."""
    if world() == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: object) -> None:
        raise ProcessLostError("distributed.lost")

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        with (
            Path(os.devnull).open("w") as nothing,
            redirect_stdout(sys.stdout if is_rank_0() else nothing),
        ):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _or_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch makes of a closed connection and of a timeout
        raise ProcessLostError("distributed.lost") from error


# Telling each other. All processes call these, in the same order.


def barrier() -> None:
    """Wait for all others, however long their share of the work takes.

    One that has ended meanwhile does not let this one wait: torchrun then ends all.
    """
    if world() == 1:
        return
    from torch.distributed import distributed_c10d

    with _or_lost():
        store = distributed_c10d._get_default_store()
        # The first to come makes it n * world + 1, the last (n + 1) * world.
        arrived = store.add("vgg-meet", 1)
        wanted = -(-arrived // world()) * world()
        while store.add("vgg-meet", 0) < wanted:
            time.sleep(LOOK_EVERY)


def all_gather(value: Result) -> list[Result]:
    """The value of each process, in order, in every process."""
    if world() == 1:
        return [value]
    from torch import distributed

    found: list[Any] = [None] * world()
    with _or_lost():
        distributed.all_gather_object(found, value)
    return found


def run_on_rank_0(work: Callable[[], Result]) -> Result:
    """What `work` gives in the first process, the only one that does it, in every process.

    A `UserError` there, or a Stop, is raised in all.
    """
    if world() == 1:
        return work()
    from torch import distributed

    answer: list[Any] = [None, None]
    if is_rank_0():
        try:
            answer[0] = work()
        except (UserError, StoppedError) as error:
            answer[1] = error
    barrier()  # the others wait as long as it takes
    with _or_lost():
        distributed.broadcast_object_list(answer)
    if answer[1]:
        raise answer[1]
    result: Result = answer[0]
    return result


def any_of(flag: bool) -> bool:
    """Whether it is so in any process."""
    if world() == 1:
        return flag
    import torch

    count = torch.tensor([float(flag)])
    all_reduce_sum([count])
    return bool(count.item())


def check_same(value: object, what: str) -> None:
    """A `ValueError` where the processes do not all have the same value."""
    if any(other != value for other in all_gather(value)):
        raise UserError("distributed.differ", what=what)


def all_reduce_sum(tensors: "Sequence[Tensor]") -> None:
    """Put into each tensor, in place, its sum over all processes. All are on one device."""
    if world() == 1 or not tensors:
        return
    import torch
    from torch import distributed

    with torch.no_grad():
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        if flat.device.type != "cuda":  # gloo adds up on the CPU
            flat = flat.cpu()
        with _or_lost():
            distributed.all_reduce(flat)
        pieces = flat.split([tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view_as(tensor))


def average(tensors: "Sequence[Tensor]") -> None:
    """Put into each tensor, in place, its mean over all processes."""
    all_reduce_sum(tensors)
    for tensor in tensors if world() > 1 else ():
        tensor.div_(world())


def same_as_first(tensors: "Sequence[Tensor]") -> None:
    """Put into each tensor, in place, what it is in the first process."""
    if not is_rank_0():
        for tensor in tensors:
            tensor.detach().zero_()
    all_reduce_sum(tensors)


# Sharing a long list of work


def in_chunks(
    items: Sequence[Item], size: int, work: Callable[[Sequence[Item]], Iterator[Result]]
) -> Iterator[Result]:
    """`work(items)`, a result for each item, in order, in every process.

    The processes take whole chunks of `size` in turn, so that each is worked on just as by one
    process alone. No more than a chunk of each process is waiting at a time.
    """
    if world() == 1:
        yield from work(items)
        return
    chunks = [items[at : at + size] for at in range(0, len(items), size)]
    own = shard(chunks)
    results = work([item for chunk in own for item in chunk])
    for turn in range(-(-len(chunks) // world())):
        done = list(islice(results, len(own[turn]))) if turn < len(own) else []
        for part in all_gather(done):
            yield from part

"""More than one process; one process alone is the smallest case.

A launcher (torchrun, srun, mpirun) starts the same command several times and tells each copy its
number. Each then does its share, and all come to the same result; the first writes it down. Where
no launcher has started it, every function here does the plain thing at once, and no process group
is made.
"""

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from vgg.distributed.launchers import Place, place_of
from vgg.distributed.peers import TIMEOUT, Peers
from vgg.errors import ProcessLostError, UserError

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

# Who we are


def _place() -> Place:
    return place_of(os.environ)


def world() -> int:
    """How many processes the launcher has started; 1 without one."""
    return _place().world


def rank() -> int:
    """The number of this process among all of them, from 0."""
    return _place().rank


def gpu_number(count: int) -> int:
    """Which of the `count` GPUs that it sees is this process's own: that of its number on this
    machine, or the only one, where srun or the like shows each process its own."""
    alone = count == 1 and "TORCHELASTIC_RUN_ID" not in os.environ  # torchrun shows all to each
    return 0 if alone else _place().local_rank


def local_world() -> int:
    """How many processes the launcher has started on this machine; 1 without one."""
    return _place().local_world


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


# Being together

_peers: list[Peers] = []  # of the group that this process is in


@contextmanager
def joined() -> Iterator[None]:
    """Be one group with the other processes for the time of the block.

    Nobody leaves before all have come to the end, however long the first still writes there.
    """
    import torch
    from torch import distributed

    if world() == 1 or distributed.is_initialized():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda and (number := gpu_number(torch.cuda.device_count())) < torch.cuda.device_count():
        torch.cuda.set_device(number)
    with or_lost():
        peers = Peers(_place())
        # What is small goes over the CPU, the gradients between the GPUs.
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=peers.store,
            rank=rank(),
            world_size=world(),
            timeout=TIMEOUT,
        )
    _peers.append(peers)
    try:
        yield
        with or_lost():
            peers.part()
    except BaseException:
        peers.fail()
        raise
    finally:
        _peers.remove(peers)
        peers.close()
        distributed.destroy_process_group()


@contextmanager
def stdout_of_rank_0() -> Iterator[None]:
    """Only the first process writes to standard output; and the launcher's signal to end, which it
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
def or_lost() -> Iterator[None]:
    """What torch makes of a closed connection and of a timeout becomes a `ProcessLostError`."""
    try:
        yield
    except RuntimeError as error:
        from torch.distributed import DistError

        # Gloo has no errors of its own, but names its source file in each.
        if isinstance(error, DistError) or "gloo" in str(error):
            raise ProcessLostError("distributed.lost") from error
        raise


# Telling each other. All processes call these, in the same order.


def barrier() -> None:
    """Wait for all others, however long their share of the work takes: see `Peers`.

    To be called before any other of these functions, where one process may come much later.
    """
    if world() > 1:
        with or_lost():
            _peers[-1].meet("barrier")


def all_gather(value: Result) -> list[Result]:
    """The value of each process, in order, in every process."""
    if world() == 1:
        return [value]
    from torch import distributed

    found: list[Any] = [None] * world()
    with or_lost():
        distributed.all_gather_object(found, value)
    return found


def run_on_rank_0(work: Callable[[], Result]) -> Result:
    """What `work` gives in the first process, the only one that does it, in every process.

    What it raises there is raised in all.
    """
    if world() == 1:
        return work()
    from torch import distributed

    answer: list[Any] = [_tried(work)] if is_rank_0() else [None]
    barrier()  # the others wait as long as it takes
    with or_lost():
        distributed.broadcast_object_list(answer)
    done, raised = answer[0]
    if raised:
        raise raised
    return cast(Result, done)


def all_or_none(work: Callable[[], Result]) -> Result:
    """What `work` gives in this process, once all have done theirs, however long it takes.

    What it raises in one is raised in all, so that none goes on alone. `work` itself must not call
    any of these functions.
    """
    if world() == 1:
        return work()
    done, raised = _tried(work)
    barrier()
    for error in all_gather(raised):
        if error:
            raise error
    return cast(Result, done)


def _tried(work: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    """What it gave, or what it raised, so that another process can take it."""
    try:
        return work(), None
    except Exception as error:
        with suppress(Exception):  # whatever an exception's own pickling may raise
            pickle.loads(pickle.dumps(error))
            return None, error
        return None, RuntimeError(f"{type(error).__name__}: {error}")


def any_of(flag: bool) -> bool:
    """Whether it is so in any process."""
    return most_of(int(flag)) > 0


def most_of(number: int) -> int:
    """The largest of the numbers of all processes."""
    if world() == 1:
        return number
    import torch
    from torch import distributed

    largest = torch.tensor(number)
    with or_lost():
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return int(largest)


def check_same(value: object, what: str) -> None:
    """A `UserError` where the processes do not all have the same value."""
    if any(other != value for other in all_gather(value)):
        raise UserError("distributed.differ", what=what)


def all_reduce_sum(tensor: "Tensor") -> None:
    """Put into a tensor, in place, its sum over all processes."""
    if world() == 1:
        return
    from torch import distributed

    with or_lost():
        if tensor.device.type in ("cpu", "cuda"):
            distributed.all_reduce(tensor)
        else:  # gloo adds up on the CPU
            total = tensor.cpu()
            distributed.all_reduce(total)
            tensor.copy_(total)


# Sharing a long list of work


def in_chunks(
    items: Sequence[Item], size: int, work: Callable[[Sequence[Item]], Iterator[Result]]
) -> Iterator[Result]:
    """`work(items)`, a result for each item, in order, in every process.

    The processes take whole chunks of `size` in turn, so that each is worked on just as by one
    process alone. No more than a chunk of each process is waiting at a time. What `work` raises in
    one process is raised in all.
    """
    if world() == 1:
        yield from work(items)
        return
    chunks = [items[at : at + size] for at in range(0, len(items), size)]
    own = shard(chunks)
    results = work([item for chunk in own for item in chunk])
    counts = [len(chunk) for chunk in own] + [0]  # perhaps none in the last turn
    for turn in range(-(-len(chunks) // world())):
        done = all_or_none(partial(_next_of, results, counts[turn]))
        for part in all_gather(done):
            yield from part


def _next_of(results: Iterator[Result], count: int) -> list[Result]:
    return list(islice(results, count))

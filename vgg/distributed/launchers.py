"""Which of several processes this one is, by what its launcher has written into its environment."""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vgg.errors import UserError

Environment = Mapping[str, str]

# Names of the rank and of how many there are; then the same among those on one machine.
TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
OPEN_MPI = tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
MPICH = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_TASKS_HERE")
PMI = ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE")

SLURM_OWN_STEPS = 0xFFFFFFF0  # step numbers from here on are Slurm's own: a job's shell has one
JOB = ("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
FIRST_PORT, PORTS = 20_000, 10_000  # below those that systems hand out themselves


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that work together. `address` is (host, port) of the
    first; None where there is no other, or torch knows how to find it."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    address: tuple[str, int] | None = None


def place_of(environment: Environment) -> Place:
    """The place that torchrun, srun or mpirun has written into a process's environment.

    - `RANK` and `WORLD_SIZE` count with `MASTER_ADDR` and `MASTER_PORT` beside them, as torchrun
      and others by torch's convention set them: other programs set names as plain as RANK.
    - `SLURM_PROCID` counts with the `SLURM_STEP_ID` of a step that srun made. The shell of a Slurm
      job has `SLURM_PROCID` and `SLURM_NTASKS`, too: what is started there without srun is one
      process, however many tasks the job has. (In a shell that `srun --ntasks=2 --pty` has opened,
      unset `SLURM_STEP_ID`.)
    - Open MPI's and MPICH's names are their own, and count before Slurm's: their mpirun starts its
      helpers by srun.

    Where the launcher tells no address, the first process is found at `MASTER_ADDR`, on this
    machine if all are here, or on the first node of the Slurm step; `UserError` if none of these is
    known. Its port is `MASTER_PORT`, or one made of the job's number.
    """
    if environment.get("MASTER_ADDR") and environment.get("MASTER_PORT"):
        # Without the local ones: one process a machine, as in a cluster of containers.
        found = _named(environment, TORCH, one_machine=False)
        if found:
            return found
    found = _named(environment, OPEN_MPI)
    if not found and "MPI_LOCALRANKID" in environment:
        found = _named(environment, MPICH)
    if not found and _is_srun_step(environment):
        found = _named(_slurm_completed(environment), SLURM)
    found = found or _named(environment, PMI) or Place()
    return found if found.world == 1 else replace(found, address=_address(found, environment))


def _named(
    environment: Environment, names: tuple[str, ...], *, one_machine: bool = True
) -> Place | None:
    """The place under these names. Where the local ones are missing, all processes are on
    `one_machine`, or each is on its own."""
    rank = _number(environment, names[0])
    if rank is None:  # at once: this is asked often, and mostly by one process alone
        return None
    world, local_rank, local_world = (_number(environment, name) for name in names[1:])
    if world is None or rank >= world:
        return None
    alone = (rank, world) if one_machine else (0, 1)
    return Place(
        rank,
        world,
        alone[0] if local_rank is None else local_rank,
        alone[1] if local_world is None else local_world,
    )


def _number(environment: Environment, name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else None


def _is_srun_step(environment: Environment) -> bool:
    step = _number(environment, "SLURM_STEP_ID")
    return step is not None and step < SLURM_OWN_STEPS


def _slurm_completed(environment: Environment) -> dict[str, str]:
    """With how many tasks the step has, and how many of them this node: of
    `SLURM_STEP_TASKS_PER_NODE`, such as `2(x3),1`, the number of `SLURM_NODEID`."""
    completed = {name: environment.get(name, "") for name in SLURM}
    completed[SLURM[1]] = completed[SLURM[1]] or environment.get("SLURM_NTASKS", "")
    told = re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    tasks = [count for count, times in told for _ in range(int(times or 1))]
    node = _number(environment, "SLURM_NODEID") or 0
    if node < len(tasks):
        completed[SLURM[3]] = tasks[node]
    return completed


def _address(place: Place, environment: Environment) -> tuple[str, int]:
    host = environment.get("MASTER_ADDR")
    if not host and place.local_world == place.world:
        host = "127.0.0.1"
    host = host or first_host(environment.get("SLURM_STEP_NODELIST", ""))
    if not host:
        raise UserError("distributed.no_address")
    job = " ".join(environment.get(name, "") for name in JOB)
    port = _number(environment, "MASTER_PORT")
    return host, FIRST_PORT + zlib.crc32(job.encode()) % PORTS if port is None else port


def first_host(nodes: str) -> str:
    """The first name of Slurm's list of nodes: `gpu[07-09,12],old1` begins with `gpu07`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0]) if first else ""

"""How the benchmark measures: two things in turn, medians, a report, and the machine's own speed.

What it measures stands in `bench.py`.
"""

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from vgg.device import choose_device, choose_precision, cpu_cores, precision_name
from vgg.network.config import AUTO

Clock = Callable[[], float]  # seconds, as time.perf_counter
Measure = Callable[[], float]  # does the work once and returns what it took


@dataclass(frozen=True)
class Row:
    """One comparison. The values are medians in `unit`, `ratio` is ours / rival, and `better`
    (`lower` or `higher`) says which way is good."""

    name: str
    ours: str
    rival: str
    ours_value: float
    rival_value: float
    unit: str
    ratio: float
    better: str
    note: str


@dataclass(frozen=True)
class Machine:
    """What the rows were measured on. `gflops` is by precision: 10^9 floating-point operations a
    second in one large matrix product, which direct convolutions can at best come near."""

    cpu: str
    cores: int
    gpu: str | None
    device: str
    torch: str
    precision: str
    gflops: dict[str, float]

    def __str__(self) -> str:
        rates = ", ".join(f"{rate:.0f} GFLOP/s in {name}" for name, rate in self.gflops.items())
        parts = [f"{self.cpu}, {self.cores} cores", self.gpu, f"torch {self.torch}"]
        parts += [f"{self.precision} on {self.device}", f"matrix products: {rates}"]
        return " · ".join(part for part in parts if part)


@dataclass(frozen=True)
class BenchPlan:
    """What a run measures on, and how much: `row_seconds` is the time slice of one row."""

    machine: Machine
    device: torch.device
    quick: bool
    row_seconds: float


@dataclass(frozen=True)
class BenchReport:
    """All rows of a run. `cut_short` names the groups at which a quick run's time was up."""

    machine: Machine
    rows: tuple[Row, ...]
    cut_short: tuple[str, ...]
    quick: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """One JSON object: `machine`, `rows`, `cut_short`, `quick`, `seconds`."""
        return asdict(self)

    def table(self) -> str:
        """The report as plain text for a terminal."""
        cells = [("", "ours", "rival", "ratio", "")]
        for row in self.rows:
            mine, other = (f"{_short(v)} {row.unit}" for v in (row.ours_value, row.rival_value))
            ratio = f"{row.ratio:.2f}{'*' if row.better == 'higher' else ' '}"
            about = f"{row.ours} against {row.rival}; {row.note}"
            cells.append((row.name, mine, other, ratio, about))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [str(self.machine)]
        for name, *numbers, about in cells:
            aligned = "  ".join(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=False))
            lines.append(f"{name.ljust(widths[0])}  {aligned}  {about}".rstrip())
        lines.append("Medians, measured in turn. Ratio: ours / rival; a star: higher is better.")
        if self.cut_short:
            groups = ", ".join(self.cut_short)
            lines.append(f"The time was up at {groups}: rows may be missing.")
        return "\n".join([*lines, f"{self.seconds:.0f} s in all."])


def timed(work: Callable[[], object], *, clock: Clock = time.perf_counter) -> Measure:
    """`work` as a measure: the milliseconds of one call."""

    def measure() -> float:
        started = clock()
        work()
        return 1000 * (clock() - started)

    return measure


def in_turn(
    ours: Measure,
    rival: Measure,
    *,
    seconds: float,
    least: int = 2,
    most: int = 100,
    clock: Clock = time.perf_counter,
) -> tuple[list[float], list[float]]:
    """Measure A B A B …, after one warm-up of each, until the time slice is spent.

    In turn, because other work on the machine then slows both alike. `least` and `most` count
    pairs; the warm-up is not in the slice.
    """
    ours()
    rival()
    values: tuple[list[float], list[float]] = ([], [])
    started = clock()
    while len(values[0]) < least or (len(values[0]) < most and clock() - started < seconds):
        values[0].append(ours())
        values[1].append(rival())
    return values


def make_row(
    name: str,
    ours: str,
    rival: str,
    values: tuple[Sequence[float], Sequence[float]],
    *,
    unit: str = "ms",
    better: str = "lower",
    notes: Sequence[str] = (),
) -> Row:
    """A row from the values of `in_turn`: their medians, and the ratio of the medians."""
    mine, other = median(values[0]), median(values[1])
    note = "; ".join([*notes, f"{len(values[0])} pairs"])
    return Row(name, ours, rival, mine, other, unit, mine / other, better, note)


def describe_machine(device: str = AUTO, precision: str = AUTO) -> Machine:
    """This machine, and how fast it multiplies matrices (takes about a second)."""
    place = choose_device(device)
    fast = choose_precision(place, precision)
    return Machine(
        cpu=cpu_name(),
        cores=cpu_cores(),
        gpu=torch.cuda.get_device_name(place) if place.type == "cuda" else None,
        device=str(place),
        torch=torch.__version__,
        precision=precision_name(fast),
        gflops={precision_name(t): matrix_rate(place, t) for t in (torch.float32, fast)},
    )


def cpu_name() -> str:
    """The processor's name as its maker gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def matrix_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = 0.4) -> float:
    """GFLOP/s of the best square matrix product among those that `seconds` have room for."""
    side = 1024 if device.type == "cpu" else 8192
    left, right = (torch.rand(side, side).to(device, dtype) for _ in range(2))

    def multiply() -> None:
        torch.mm(left, right)
        wait_for(device)

    products, _ = in_turn(timed(multiply), lambda: 0.0, seconds=seconds, least=1)
    return 2 * side**3 / min(products) / 1e6


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _short(value: float) -> str:
    """Three digits are enough: 12.3, 123, 1234."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"

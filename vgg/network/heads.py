"""The table of heads: what reads a VGG's feature maps, and how, up to the logits.

An entry is all that the program knows of a head: the network's construction, counts, rows of the
Inside tab, checkpoints, training, ONNX files, model cards and the page go by it. No torch here:
it is loaded where a layer is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

HIDDEN = (4096, 4096)  # units of the hidden fully connected layers at width 1 (Simonyan 2014)
POOLED = 7  # places a side that the paper's classifier reads
ROOT_FLOOR = 1e-8  # keeps the slope of the square root finite at 0
NORM_FLOOR = 1e-12  # what torch's `normalize` divides by at least


class Graph(Protocol):
    """An ONNX graph under way; each method returns the name of what it has added."""

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str: ...

    def tensor(self, values: "Tensor") -> str: ...


@dataclass(frozen=True)
class Head:
    """One head. It reads the last ReLU's maps of some stages, each stage by itself, and puts what
    it makes of them side by side for the fully connected layers.

    `pooling(pool)` makes the layer that reads one stage, (N, C, H, W) → (N, C), or with `grid`
    (N, C, pool, pool), with c more where all of a channel's places are c more, as means and maxima
    do (heat maps go by it); `onnx(graph, maps, side, pool)` adds nodes that do the same to maps of
    `side` places a side, by the name of its result.
    """

    label: str  # two or three words
    gloss: str  # one line that says what it does
    row: str  # the pooling as a row of the Inside tab; `{pool}` is places a side
    row_gloss: str  # what that row means
    pooling: Callable[[int], "nn.Module"]
    onnx: Callable[[Graph, str, int, int], str]
    stages: tuple[int, ...] = (5,)  # which of the five it reads
    after_last_pool: bool = False  # reads the fifth stage after its max-pool
    grid: bool = False  # reads pool x pool numbers a channel, not one
    rooted: bool = False  # square roots, those of each stage scaled to length 1
    hidden: bool = False  # has `VGG(hidden=…)` layers before the last, and dropout
    is_papers: bool = False  # with its default sizes the one that torchvision and timm have
    module: str = __name__  # imported where a fresh process must know this head

    def __post_init__(self) -> None:
        # Training computes what lower stages give once, and goes on from the fourth pool.
        if self.stages[-1] != 5 or list(self.stages) != sorted({*self.stages}):
            raise ValueError("a head reads stages in rising order, the fifth among them")
        if self.hidden and len(self.stages) > 1:
            raise ValueError("a head with hidden layers reads the fifth stage alone")

    def sizes(self, channels: Sequence[int], pool: int) -> list[int]:
        """How many numbers it reads of each of its stages; `channels` are those of all five."""
        return [channels[stage - 1] * (pool**2 if self.grid else 1) for stage in self.stages]


def _grid(pool: int) -> "nn.Module":
    from vgg.network.pooling import AverageGrid

    return AverageGrid(pool)


def _onnx_grid(graph: Graph, maps: str, side: int, pool: int) -> str:
    """Adaptive average pooling as two products with a matrix of averages."""
    if side == pool:
        return maps
    from vgg.network.pooling import averages

    matrix = averages(side, pool)
    across = graph.add("MatMul", maps, graph.tensor(matrix.T))
    return graph.add("MatMul", graph.tensor(matrix), across)


def _mean(_pool: int) -> "nn.Module":
    from vgg.network.pooling import GlobalAverage

    return GlobalAverage()


def _onnx_mean(graph: Graph, maps: str, _side: int, _pool: int) -> str:
    return graph.add("GlobalAveragePool", maps)


HEADS: dict[str, Head] = {
    # Simonyan and Zisserman 2014, section 2.1.
    "fc": Head(
        label="fully connected",
        gloss="three fully connected layers, as in the paper",
        row="average pooling to {pool} x {pool}",
        row_gloss="average pooling: the mean over places",
        pooling=_grid,
        onnx=_onnx_grid,
        after_last_pool=True,
        grid=True,
        hidden=True,
        is_papers=True,
    ),
    # Lin et al. 2013, "Network in Network", section 3.2.
    "gap": Head(
        label="global average",
        gloss="averages the last maps, one layer",
        row="global average pooling",
        row_gloss="global average pooling: one number a channel: its mean over all places",
        pooling=_mean,
        onnx=_onnx_mean,
    ),
    # Early stages see texture, late ones objects. The square root tames bursts (Perronnin et al.
    # 2010, section 3.3).
    "stages": Head(
        label="three stages",
        gloss="averages the maps of three stages, one layer",
        row="global average pooling of stages 3, 4 and 5, rooted, each of length 1",
        row_gloss="global average pooling: one number a channel: its mean over all places",
        pooling=_mean,
        onnx=_onnx_mean,
        stages=(3, 4, 5),
        rooted=True,
    ),
}


def glosses() -> str:
    """All heads in a sentence each: `fc: three fully connected layers, as in the paper. gap: …`"""
    return ". ".join(f"{name}: {head.gloss}" for name, head in HEADS.items())

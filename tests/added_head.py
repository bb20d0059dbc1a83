"""What somebody adds: a depth and a head, each to its table. Importing it is all that it takes."""

from torch import nn

from vgg.network.config import STAGES
from vgg.network.heads import HEADS, Head

STAGES[14] = (1, 2, 2, 3, 3)
HEADS["max"] = Head(
    label="global maximum",
    gloss="the largest number of each map, one layer",
    row="global max pooling",
    row_gloss="global max pooling: one number a channel: its largest over all places",
    pooling=lambda _pool: nn.AdaptiveMaxPool2d(1),
    onnx=lambda graph, maps, _side, _pool: graph.add("GlobalMaxPool", maps),
    module=__name__,
)

"""What can be chosen for a training, with its defaults."""

from dataclasses import dataclass
from reprlib import repr as shown  # short, however large a value a file holds

from vgg.network.config import (
    MAX_IMAGE_SIZE,
    MIN_SIDE,
    PRECISIONS,
    check_network,
    is_number,
    listed,
)

MODES = ("auto", "probe", "finetune", "scratch")
DEFAULT_MODEL = "vgg16_bn"
DEFAULT_BUDGET = 120.0  # seconds, where neither a budget nor epochs are given
SMALLEST_BUDGET = 1.0
MAX_EPOCHS = 10_000
TRAINED_HEAD = "stages"  # on a pretrained trunk: the best seen on small folders
SCRATCH_HEAD = "gap"


@dataclass(frozen=True)
class TrainOptions:
    """What can be chosen for a training. None leaves the choice to the program, which says it.

    `model` is a spec as `load_model` takes it; `depth`, `batch_norm` and `width` describe a new
    network instead. `epochs` or `budget_s`, seconds from the call to the finished evaluation, say
    how long. `augment` shows a network from scratch each picture a little changed.
    """

    model: str | None = None
    depth: int | None = None
    batch_norm: bool | None = None
    width: float | None = None
    head: str | None = None
    mode: str = "auto"
    epochs: int | None = None
    budget_s: float | None = None
    image_size: int | None = None
    augment: bool = True
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {shown(self.mode)}; choose {listed(MODES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"unknown precision {shown(self.precision)}; choose {listed(PRECISIONS)}"
            )
        check_network(self.depth or 16, 2, self.head or "gap", self.width or 1.0)
        if self.width is not None and self.width == 0:
            raise ValueError("width must be above 0")
        if self.epochs is not None and self.budget_s is not None:
            raise ValueError("give either epochs or a budget in seconds, not both")
        epochs = self.epochs
        if epochs is not None and (type(epochs) is not int or not 1 <= epochs <= MAX_EPOCHS):
            raise ValueError(
                f"epochs must be a whole number from 1 to {MAX_EPOCHS}, not {shown(epochs)}"
            )
        budget = self.budget_s
        if budget is not None and not (is_number(budget) and budget >= SMALLEST_BUDGET):
            raise ValueError(
                f"the budget must be at least {SMALLEST_BUDGET:g} second, not {shown(budget)}"
            )
        size = self.image_size
        if size is not None and (type(size) is not int or not MIN_SIDE <= size <= MAX_IMAGE_SIZE):
            raise ValueError(
                f"the image size must lie between {MIN_SIDE} and {MAX_IMAGE_SIZE} pixels, "
                f"not {shown(size)}"
            )
        if type(self.seed) is not int:
            raise ValueError(f"the seed must be a whole number, not {shown(self.seed)}")
        if self.model is not None and (self.depth or self.batch_norm is not None or self.width):
            raise ValueError(
                "give either a model to start from, or the depth, batch norm and width of a new one"
            )

    @property
    def seconds(self) -> float | None:
        """The budget; None where epochs were chosen instead."""
        return None if self.epochs is not None else self.budget_s or DEFAULT_BUDGET

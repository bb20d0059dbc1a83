"""What can be chosen for a training, with its defaults."""

from dataclasses import dataclass

from vgg.data.folder_names import CLASSES, TOP
from vgg.errors import UserError
from vgg.network.config import (
    AUTO,
    MAX_IMAGE_SIZE,
    MIN_SIDE,
    PRECISIONS,
    check_network,
    is_number,
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
    how long. `augment` shows a network from scratch each picture a little changed; with `mirror`
    None it is mirrored, too, unless classes are mirror images of each other. `labels` and `classes`
    are as `scan_folder` takes them.
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
    mirror: bool | None = None
    labels: str | None = None
    classes: str = TOP
    seed: int = 0
    device: str = AUTO
    precision: str = AUTO

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError("training.mode", value=self.mode, choices=MODES)
        if self.classes not in CLASSES:
            raise UserError("data.classes", value=self.classes, choices=CLASSES)
        if self.precision not in PRECISIONS:
            raise UserError("device.precision", value=self.precision, choices=PRECISIONS)
        check_network(self.depth or 16, 2, self.head or "gap", self.width or 1.0)
        if self.width is not None and self.width == 0:
            raise UserError("training.width")
        if self.epochs is not None and self.budget_s is not None:
            raise UserError("training.epochs_and_budget")
        epochs = self.epochs
        if epochs is not None and (type(epochs) is not int or not 1 <= epochs <= MAX_EPOCHS):
            raise UserError("training.epochs", most=MAX_EPOCHS, value=epochs)
        budget = self.budget_s
        if budget is not None and not (is_number(budget) and budget >= SMALLEST_BUDGET):
            raise UserError("training.budget", least=SMALLEST_BUDGET, value=budget)
        size = self.image_size
        if size is not None and (type(size) is not int or not MIN_SIDE <= size <= MAX_IMAGE_SIZE):
            raise UserError("network.image_size", least=MIN_SIDE, most=MAX_IMAGE_SIZE, value=size)
        if type(self.seed) is not int:
            raise UserError("training.seed", value=self.seed)
        if self.model is not None and (self.depth or self.batch_norm is not None or self.width):
            raise UserError("training.model_and_network")

    @property
    def seconds(self) -> float | None:
        """The budget; None where epochs were chosen instead."""
        return None if self.epochs is not None else self.budget_s or DEFAULT_BUDGET

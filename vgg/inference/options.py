"""What can be chosen when a model is asked, with its defaults. No torch here."""

from dataclasses import dataclass

from vgg.checkpoints.loading import STARTER
from vgg.errors import UserError
from vgg.network.config import AUTO


@dataclass(frozen=True)
class PredictOptions:
    """What can be chosen when a model is asked.

    The `top_k` best classes are answered; more than there are means all. `flip` averages each
    picture's logits with those of its mirror image; None does as the model's config says.
    `batch_size` pictures are taken at once; None takes as many as suit the device. `opacity`, 0 to
    1, is that of a heat map over its picture.
    """

    model: str = STARTER
    top_k: int = 5
    flip: bool | None = None
    batch_size: int | None = None
    opacity: float = 0.5
    device: str = AUTO
    precision: str = AUTO

    def __post_init__(self) -> None:
        if type(self.top_k) is not int or self.top_k < 1:
            raise UserError("inference.top_k", value=self.top_k)
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError("inference.batch_size", value=self.batch_size)
        if not 0 <= self.opacity <= 1:
            raise UserError("inference.opacity", value=self.opacity)

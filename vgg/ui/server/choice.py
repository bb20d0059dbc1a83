"""What the sidebar says: which model, or which network that is still to be trained."""

from dataclasses import dataclass

from vgg.checkpoints.known_files import imagenet_classes
from vgg.errors import UserError
from vgg.network.config import IMAGENET_NAMES, architecture_name, depth_and_norm

# Entries of the sidebar's list. The slash keeps them apart from the folders in weights/.
IMAGENET = "/imagenet"  # the eight ImageNet models
NEW = "/new"  # a network that is not trained yet


@dataclass(frozen=True)
class Choice:
    """What the sidebar says. It comes from the browser: nothing in it is trusted."""

    model: str
    depth: int
    batch_norm: bool
    num_classes: int
    width: float = 1.0
    head: str = "fc"

    @property
    def is_imagenet(self) -> bool:
        return self.model == IMAGENET

    @property
    def architecture(self) -> str:
        return architecture_name(self.depth, self.batch_norm)


def choice_from_inputs(
    model: str,
    depth: float | None,
    batch_norm: bool,
    num_classes: float | None,
    width: float | None,
    head: str,
) -> Choice:
    """The sidebar's raw values as a `Choice`; `ValueError` says which makes no sense."""
    if num_classes is None or num_classes != int(num_classes):
        raise UserError("ui.classes")
    depth_and_norm(architecture_name(int(depth or 0), bool(batch_norm)))
    return Choice(
        str(model), int(depth or 0), bool(batch_norm), int(num_classes), float(width or 0), head
    )


def imagenet_choice(choice: Choice) -> Choice:
    """The ImageNet model of this depth and batch norm, with its 1000 classes; where there is none,
    that of depth 16."""
    depth = choice.depth if choice.architecture in IMAGENET_NAMES else 16
    return Choice(IMAGENET, depth, choice.batch_norm, len(imagenet_classes()))

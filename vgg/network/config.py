"""What a network is: the depth table, preprocessing, and all that a `config.json` says.

No torch here: the page shows a network's size before torch is loaded, by formula.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from vgg.errors import UserError
from vgg.network.heads import HEADS, HIDDEN, POOLED, Head

CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
AUTO = "auto"  # the program chooses
PRECISIONS = (AUTO, "fp32", "bf16", "fp16")

# The depths that there are: convolutions in each of the five stages; a 2x2 max-pool ends each
# stage (Simonyan and Zisserman 2014, table 1: configurations A, B, D and E). Depth = convolutions
# + 3 fully connected layers.
STAGES: dict[int, tuple[int, int, int, int, int]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
CHANNELS = (64, 128, 256, 512, 512)  # output channels of each stage at width 1
MIN_SIDE = 32  # five poolings halve the picture five times: 32 pixels become one
MAX_HIDDEN = 16  # fully connected layers before the last
MAX_UNITS = 100_000  # of one of them
MAX_CLASSES = 100_000  # a count above this is a slip of the keyboard, not a wish
MAX_WIDTH = 8.0
MAX_IMAGE_SIZE = 2048
MAX_NUMBER = 1e6  # no field of a config has a use for more, and float32 holds it
MIN_STD = 1e-6  # a picture is divided by it

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The networks that have ImageNet weights: torchvision's, all of them.
IMAGENET_NAMES = tuple(f"vgg{depth}{bn}" for depth in (11, 13, 16, 19) for bn in ("", "_bn"))


def is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= MAX_NUMBER  # false for NaN, too


def _is_triple(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 3


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input. It belongs to the weights, not to the code.

    The names are timm's (`pretrained_cfg`). `mean` and `std` are for RGB in [0, 1]; `input_size` is
    (channels, height, width), the sides equal; `white` is white in grey of 16 bits.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    input_size: tuple[int, int, int] = (3, 224, 224)
    interpolation: str = "bilinear"
    crop_pct: float = 0.875
    crop_mode: str = "center"
    white: int = 65535

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not _is_triple(value) or not all(is_number(v) for v in value):
                raise UserError("network.triple", name=name, value=value)
        if min(self.std) < MIN_STD:
            raise UserError("network.std", least=MIN_STD, value=list(self.std))
        size = self.input_size
        if not _is_triple(size) or size[0] != 3 or size[1] != size[2] or type(size[1]) is not int:
            raise UserError("network.input_size", value=size)
        if not MIN_SIDE <= size[1] <= MAX_IMAGE_SIZE:
            most = MAX_IMAGE_SIZE
            raise UserError("network.image_size", least=MIN_SIDE, most=most, value=size[1])
        if self.interpolation not in INTERPOLATIONS:
            value = self.interpolation
            raise UserError("network.interpolation", value=value, choices=INTERPOLATIONS)
        if self.crop_mode not in CROP_MODES:
            raise UserError("network.crop_mode", value=self.crop_mode, choices=CROP_MODES)
        if type(self.white) is not int or not 0 < self.white < 65536:
            raise UserError("network.white", value=self.white)
        if not is_number(self.crop_pct) or not 0.1 <= self.crop_pct <= 1:
            raise UserError("network.crop_pct", value=self.crop_pct)

    @property
    def size(self) -> int:
        """Side of the square input, in pixels."""
        return self.input_size[1]


@dataclass(frozen=True)
class ModelConfig:
    """All that a checkpoint's `config.json` says of a model, besides its weights.

    `num_classes` 0 means a trunk without a classifier. `label_names` has one name a class, in
    the order of the outputs. `hidden` (units at width 1) and `pool` (places a side) are the head's
    own sizes, at their defaults where the head does not read them. `extra` keeps the fields that
    this version does not read.
    """

    architecture: str = "vgg16_bn"
    num_classes: int = 2
    head: str = "fc"
    width: float = 1.0
    label_names: tuple[str, ...] = ()
    trained: bool = False
    pretrained_cfg: Preprocessing = Preprocessing()
    dropout: float = 0.5
    hidden: tuple[int, ...] = HIDDEN
    pool: int = POOLED
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        depth_and_norm(self.architecture)
        _forget_unread_sizes(self)
        check_network(
            self.depth,
            self.num_classes,
            self.head,
            self.width,
            self.dropout,
            self.hidden,
            self.pool,
        )
        if not self.label_names:
            object.__setattr__(self, "label_names", default_names(self.num_classes))
        if len(self.label_names) != self.num_classes:
            raise UserError(
                "network.name_count", names=len(self.label_names), classes=self.num_classes
            )
        if not all(isinstance(name, str) and name for name in self.label_names):
            raise UserError("network.empty_name")
        if len(set(self.label_names)) != len(self.label_names):
            raise UserError("network.same_name")
        if not isinstance(self.trained, bool):
            raise UserError("network.trained", value=self.trained)

    @property
    def depth(self) -> int:
        return depth_and_norm(self.architecture)[0]

    @property
    def batch_norm(self) -> bool:
        return depth_and_norm(self.architecture)[1]

    @property
    def temperature(self) -> float:
        """Logits are divided by it before the softmax (Guo et al. 2017, section 4.2)."""
        value = self.extra.get("temperature", 1.0)
        return float(value) if is_number(value) and value > 0 else 1.0

    @property
    def flip(self) -> bool:
        """Whether the answer is that for the picture and its mirror image together: the mean of
        both logits. A training from scratch that showed mirror images too says so."""
        return self.extra.get("flip") is True

    def with_classes(self, num_classes: int) -> "ModelConfig":
        """The same trunk with a new, untrained last layer of `num_classes` outputs."""
        return replace(
            self,
            num_classes=num_classes,
            label_names=default_names(num_classes),
            trained=False,
            extra={},
        )

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`, ready for `json.dumps`."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        for name, default in (("hidden", HIDDEN), ("pool", POOLED)):
            if own[name] == default:  # as files have been before there was a choice
                del own[name]
        own |= {name: list(own[name]) for name in ("label_names", "hidden") if name in own}
        own["pretrained_cfg"] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self.pretrained_cfg).items()
            if key != "white" or value != Preprocessing.white
        }
        return {**own, **self.extra}

    @classmethod
    def from_json(cls, data: Any) -> "ModelConfig":
        """Read what `to_json` or timm wrote; fields that are not given take their defaults.

        A `ValueError` names the field that is missing or wrong.
        """
        if not isinstance(data, dict):
            raise UserError("network.no_config")
        if not isinstance(data.get("architecture"), str):
            raise UserError("network.no_architecture")
        known = {f.name for f in fields(cls)} - {"extra"}
        own = {key: value for key, value in data.items() if key in known}
        names = own.pop("label_names", None) or ()
        if not isinstance(names, list | tuple):
            raise UserError("network.names_field")
        cfg = own.pop("pretrained_cfg", None) or {}
        if not isinstance(cfg, dict):
            raise UserError("network.preprocessing_field")
        read = {f.name for f in fields(Preprocessing)}
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in cfg.items() if k in read
        }
        if isinstance(own.get("hidden"), list):
            own["hidden"] = tuple(own["hidden"])
        own.setdefault("num_classes", cfg.get("num_classes", len(names)))
        own.setdefault("trained", own["num_classes"] != 0)
        extra = {key: value for key, value in data.items() if key not in known}
        return cls(
            **own, label_names=tuple(names), pretrained_cfg=Preprocessing(**values), extra=extra
        )


def depth_and_norm(architecture: str) -> tuple[int, bool]:
    """`"vgg16_bn"` → (16, True). A `ValueError` lists the names that there are."""
    if not is_architecture(architecture):
        raise UserError("network.architecture", value=architecture, choices=architectures())
    name, _, norm = architecture.partition("_")
    return int(name.removeprefix("vgg")), norm == "bn"


def is_architecture(name: object) -> bool:
    return isinstance(name, str) and name in architectures()


def architectures() -> tuple[str, ...]:
    """The names of all networks that can be made: each depth, without and with batch norm."""
    return tuple(architecture_name(depth, norm) for depth in STAGES for norm in (False, True))


def architecture_name(depth: int, batch_norm: bool) -> str:
    """(16, True) → `"vgg16_bn"`, the names of torchvision and timm."""
    return f"vgg{depth}_bn" if batch_norm else f"vgg{depth}"


def default_names(num_classes: int) -> tuple[str, ...]:
    """`class 0`, `class 1`, …: the names of classes that nobody has named."""
    return tuple(f"class {index}" for index in range(num_classes))


def check_network(
    depth: int,
    num_classes: int,
    head: str,
    width: float,
    dropout: float = 0.5,
    hidden: tuple[int, ...] = HIDDEN,
    pool: int = POOLED,
) -> None:
    """Refuse, with a `ValueError`, what is not a VGG."""
    if type(depth) is not int or depth not in STAGES:
        raise UserError("network.depth", choices=tuple(STAGES), value=depth)
    if type(num_classes) is not int:
        raise UserError("network.whole_classes", value=num_classes)
    if not 0 <= num_classes <= MAX_CLASSES:
        raise UserError("network.classes", most=MAX_CLASSES, value=num_classes)
    if not isinstance(head, str) or head not in HEADS:
        raise UserError("network.head", value=head, choices=tuple(HEADS))
    if not is_number(width) or not 0 < width <= MAX_WIDTH:
        raise UserError("network.width", most=MAX_WIDTH, value=width)
    if not is_number(dropout) or not 0 <= dropout < 1:
        raise UserError("network.dropout", value=dropout)
    if (
        not isinstance(hidden, tuple)
        or len(hidden) > MAX_HIDDEN
        or not all(type(units) is int and 0 < units <= MAX_UNITS for units in hidden)
    ):
        raise UserError("network.hidden", layers=MAX_HIDDEN, most=MAX_UNITS, value=hidden)
    if type(pool) is not int or not 1 <= pool <= POOLED:
        raise UserError("network.pool", most=POOLED, value=pool)
    if hidden != HIDDEN and not HEADS[head].hidden:
        raise UserError("network.not_read", name="hidden", head=head)
    if pool != POOLED and not HEADS[head].grid:
        raise UserError("network.not_read", name="pool", head=head)


def _forget_unread_sizes(config: ModelConfig) -> None:
    """`replace(config, head="gap")` of a network with other hidden layers is one without them."""
    head = HEADS.get(config.head) if isinstance(config.head, str) else None
    if head and not head.hidden:
        object.__setattr__(config, "hidden", HIDDEN)
    if head and not head.grid:
        object.__setattr__(config, "pool", POOLED)


def scaled(count: int, width: float) -> int:
    """A channel or unit count at this width; at least 1."""
    return max(1, round(count * width))


def channels_of(width: float) -> list[int]:
    """Output channels of each of the five stages at this width."""
    return [scaled(count, width) for count in CHANNELS]


def head_of(config: ModelConfig) -> Head:
    """The config's entry in the table of heads."""
    return HEADS[config.head]


def pooled_sizes(config: ModelConfig) -> list[int]:
    """How many numbers the classifier reads of each stage that its head reads, for one picture."""
    return head_of(config).sizes(channels_of(config.width), config.pool)


def classifier_sizes(config: ModelConfig) -> list[tuple[int, int]]:
    """(inputs, outputs) of each fully connected layer; none where there are no classes."""
    if config.num_classes == 0:
        return []
    hidden = config.hidden if head_of(config).hidden else ()
    units = [scaled(count, config.width) for count in hidden]
    return list(pairwise([sum(pooled_sizes(config)), *units, config.num_classes]))


def convolution_sizes(depth: int, width: float) -> list[tuple[int, int, int]]:
    """(stage, input channels, output channels) of each 3x3 convolution, from the picture on."""
    sizes, inputs = [], 3
    for stage, count in enumerate(STAGES[depth]):
        for _ in range(count):
            outputs = scaled(CHANNELS[stage], width)
            sizes.append((stage, inputs, outputs))
            inputs = outputs
    return sizes


def dump_config(config: ModelConfig) -> str:
    """`config.json` as text: stable order, one field a line."""
    return json.dumps(config.to_json(), indent=2, ensure_ascii=False) + "\n"


def read_config(file: Path) -> ModelConfig:
    """Read and check a `config.json`, ours or timm's."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError("network.unreadable_config", name=file.name, why=error.strerror) from error
    except (ValueError, RecursionError) as error:
        raise UserError("network.no_json", name=file.name, why=str(error)) from error
    return ModelConfig.from_json(data)

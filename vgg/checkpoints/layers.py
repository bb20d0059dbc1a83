"""Which VGG a state dict is of: told by the shapes and the order of its layers, whatever they are
called and whatever stands before their names.

What comes of it are our names (torchvision's) and a config. Where a layer is not a VGG's, the error
names it beside the nearest VGG; nothing is guessed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from vgg.checkpoints.head_layers import FileLayer, StateDict, chain, fold_norms, with_biases
from vgg.errors import UserError
from vgg.network.config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAX_WIDTH,
    STAGES,
    ModelConfig,
    Preprocessing,
    architecture_name,
    channels_of,
    convolution_sizes,
    scaled,
)
from vgg.network.heads import HEADS, HIDDEN, POOLED

# What profilers and averaged models leave in a state dict; nothing that answers go through.
_COUNTERS = ("total_ops", "total_params", "n_averaged")
# What trainings that save all of themselves keep beside the network: weights of classes, counts.
_LOSSES = re.compile(
    r"((train|val|valid|test)_?)?(criterion|loss(_?(fn|func|function))?|metrics?|acc(uracy)?|f1|auroc"
    r"|confmat)",
    re.IGNORECASE,
)
_KINDS = ({"weight", "bias"}, {"weight", "bias", "running_mean", "running_var"})
LUMA = (0.299, 0.587, 0.114)  # shares of red, green and blue in grey (ITU-R BT.601), as Pillow's
CIFAR_SIDE, CIFAR_CLASSES = 32, (10, 100)


@dataclass(frozen=True)
class Recognised:
    """A network as it was read off its layers; `notes` are sentences on what was taken for what."""

    state: StateDict
    config: ModelConfig
    notes: tuple[UserError, ...] = ()


def recognise(state: StateDict) -> Recognised:
    """The VGG of this state dict. Values are not copied but where two layers become one.

    A `UserError` names the first layer that is not a VGG's.
    """
    layers = _layers(state)
    try:
        layers = _in_order(layers)
        depth, width = _trunk(layers)
    except UserError:
        layers = sorted(layers, key=_natural)
        depth, width = _trunk(layers)
    convolutions = [layer for layer in layers if layer.is_convolution]
    dense = [layer for layer in layers if layer.is_dense]
    norms, head_norms = _norms(layers, convolutions)
    for layer in layers:
        _check_kinds(layer, UserError("checkpoints.trunk", name=_name(depth, norms), width=width))
    if dense and all("pre_logits" in layer.name for layer in dense):
        dense = []  # timm's way to leave the last layer away
    channels = channels_of(width)
    dense = chain(dense, _inputs_of_heads(channels))
    folded = fold_norms(dense, head_norms) if dense else []
    named = dict(zip(_numbers(depth, bool(norms)), _mixed(convolutions, norms), strict=True))
    found = {f"features.{n}.{kind}": v for n, t in named.items() for kind, v in t.items()}
    for number, tensors in enumerate(folded):
        found |= {f"classifier.{3 * number}.{kind}": value for kind, value in tensors.items()}
    config = _config(depth, width, bool(norms), dense, channels)
    notes = [
        UserError("checkpoints.unseen_relu", first=one.key, second=two.key)
        for one, two in pairwise(dense)
        if one.stands_before(two) == 1
    ]
    if (first := found["features.0.weight"]).shape[1] == 1:
        shares = torch.tensor(LUMA, dtype=first.dtype).view(1, 3, 1, 1)
        found["features.0.weight"] = first * shares
        notes.append(UserError("checkpoints.grey"))
    if config.num_classes and config.pool != POOLED:
        side = config.pretrained_cfg.size
        notes.append(UserError("checkpoints.side", pool=config.pool, side=side))
    return Recognised(found, _grey(config) if first.shape[1] == 1 else config, tuple(notes))


def _layers(state: StateDict) -> list[FileLayer]:
    layers: dict[str, FileLayer] = {}
    for key, value in state.items():
        name, _, kind = key.rpartition(".")
        of_loss = any(map(_LOSSES.fullmatch, name.split(".")))
        if kind not in _COUNTERS and not (
            of_loss and (value.ndim < 2 or not value.is_floating_point())
        ):
            layers.setdefault(name, FileLayer(name, {})).tensors[kind] = value
    return list(layers.values())


def _natural(layer: FileLayer) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", layer.name)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _in_order(layers: list[FileLayer]) -> list[FileLayer]:
    """As the file has them, which is how they were made; where it sorts names, as safetensors
    does, by the numbers in them."""
    names = [layer.name for layer in layers if layer.is_convolution]
    return sorted(layers, key=_natural) if names == sorted(names) else layers


def _trunk(layers: Sequence[FileLayer]) -> tuple[int, float]:
    """Depth and width whose convolutions these are, one for one."""
    homes = {layer.place[0] for layer in layers if layer.is_convolution}
    found = [x for x in layers if x.is_convolution or (x.ndim == 4 and x.place[0] in homes)]
    if not found:
        counts = tuple(sum(stages) for stages in STAGES.values())
        raise UserError("checkpoints.no_vgg", choices=counts)
    shapes: list[tuple[int, ...]] = [tuple(layer.weight.shape) for layer in found]
    if shapes[0][1:] == (1, 3, 3):  # it takes grey pictures
        shapes[0] = (shapes[0][0], 3, 3, 3)
    for depth in STAGES:
        full = [outputs for _, _, outputs in convolution_sizes(depth, 1.0)]
        width = width_of([shape[0] for shape in shapes], full)
        if width and _shapes(depth, width) == shapes:
            return depth, width
    raise _nearest(found, shapes)


def _shapes(depth: int, width: float) -> list[tuple[int, ...]]:
    return [(outputs, inputs, 3, 3) for _, inputs, outputs in convolution_sizes(depth, width)]


def _nearest(found: Sequence[FileLayer], shapes: list[tuple[int, ...]]) -> UserError:
    """The error that names the first convolution in which the nearest VGG differs."""
    width = min(MAX_WIDTH, max(shapes[0][0], 1) / 64)

    def alike(depth: int) -> tuple[int, int]:
        wanted = _shapes(depth, width)
        same = [mine == theirs for mine, theirs in zip(shapes, wanted, strict=False)]
        return (same.index(False) if False in same else len(same), -abs(len(wanted) - len(shapes)))

    depth = max(STAGES, key=alike)
    place, wanted = alike(depth)[0], _shapes(depth, width)
    network = UserError("checkpoints.trunk", name=architecture_name(depth, False), width=width)
    if place >= len(wanted):
        return UserError("checkpoints.one_more", key=found[place].key, network=network)
    if place >= len(shapes):
        return UserError("checkpoints.one_less", key=found[-1].key, network=network)
    return UserError(
        "checkpoints.differs",
        key=found[place].key,
        found=shapes[place],
        network=network,
        needed=wanted[place],
    )


def width_of(counts: Sequence[int], full: Sequence[int]) -> float | None:
    """The width that makes `counts` of these counts at width 1: of all that do, the one that a
    person would type, a half, quarter and so on or that with the fewest decimals. None where none
    does."""
    if len(counts) != len(full) or min(counts) < 1:
        return None
    pairs = list(zip(counts, full, strict=True))
    lowest = max(((count - 0.5) / most for count, most in pairs if count > 1), default=0.0)
    highest = min(MAX_WIDTH, *((count + 0.5) / most for count, most in pairs))
    middle = (lowest + highest) / 2
    halves = (round(middle * parts) / parts for parts in (1, 2, 4, 8, 16, 32, 64))
    typed = (*halves, *(round(middle, decimals) for decimals in range(1, 6)), middle)
    fits = (w for w in typed if 0 < w <= MAX_WIDTH and [scaled(m, w) for m in full] == [*counts])
    return next(fits, None)


def _norms(
    layers: Sequence[FileLayer], convolutions: Sequence[FileLayer]
) -> tuple[list[FileLayer], list[FileLayer]]:
    """The trunk's batch norms, one a convolution or none, and those of the head."""
    found = [layer for layer in layers if layer.is_norm]
    wanted = [layer.weight.shape[0] for layer in convolutions]
    count, homes = len(wanted), {layer.place[0] for layer in convolutions}
    beside = [layer for layer in found if layer.place[0] in homes]
    for norms in (beside, found[:count], found[len(found) - count :]):
        if [layer.size for layer in norms] == wanted:
            for convolution, norm in zip(convolutions, norms, strict=True):
                if convolution.stands_before(norm) not in (1, None):
                    raise UserError("checkpoints.norm_place", key=norm.name, after=convolution.name)
            return norms, [layer for layer in found if layer not in norms]
    among = layers[: layers.index(convolutions[-1])]
    if some := [layer for layer in beside if layer in among]:
        raise UserError("checkpoints.some_norms", key=some[0].name)
    return [], found


def _check_kinds(layer: FileLayer, network: UserError) -> None:
    """`UserError` for a layer, or a part of one, that a VGG has not."""
    known = layer.is_convolution or layer.is_dense or layer.is_norm
    allowed = _KINDS[layer.is_norm] | ({"num_batches_tracked"} if layer.is_norm else set())
    odd = [kind for kind in layer.tensors if not known or kind not in allowed]
    if odd:
        key = f"{layer.name}.{odd[0]}".lstrip(".")
        raise UserError("checkpoints.surplus", key=key, network=network)


def _name(depth: int, norms: Sequence[FileLayer]) -> str:
    return architecture_name(depth, bool(norms))


def _numbers(depth: int, batch_norm: bool) -> list[int]:
    """Indices in `VGG.features` of the layers with parameters."""
    numbers, index = [], 0
    for count in STAGES[depth]:
        for _ in range(count):
            numbers += [index, index + 1] if batch_norm else [index]
            index += 3 if batch_norm else 2
        index += 1  # the max-pool
    return numbers


def _mixed(convolutions: Sequence[FileLayer], norms: Sequence[FileLayer]) -> list[StateDict]:
    """The tensors of all layers of the trunk in order."""
    first = with_biases([layer.tensors for layer in convolutions])
    if not norms:
        return first
    pairs = zip(first, (layer.as_norm() for layer in norms), strict=True)
    return [tensors for pair in pairs for tensors in pair]


def _inputs_of_heads(channels: Sequence[int]) -> set[int]:
    """How many numbers any head of ours reads."""
    pools = range(1, POOLED + 1)
    return {sum(head.sizes(channels, pool)) for head in HEADS.values() for pool in pools}


def _config(
    depth: int, width: float, batch_norm: bool, dense: Sequence[FileLayer], channels: Sequence[int]
) -> ModelConfig:
    name = architecture_name(depth, batch_norm)
    if not dense:
        return ModelConfig(name, 0, head="gap", width=width)
    units = [layer.size for layer in dense]
    head, pool = _head(dense, channels)
    hidden: tuple[int, ...] = HIDDEN
    if HEADS[head].hidden:
        full = [outputs for _, _, outputs in convolution_sizes(depth, 1.0)]
        outputs = [scaled(count, width) for count in full]
        papers = width_of([*outputs, *units[:-1]], [*full, *HIDDEN])
        hidden = HIDDEN if papers else tuple(max(1, round(n / width)) for n in units[:-1])
        width = papers or width
        if [scaled(count, width) for count in hidden] != units[:-1]:
            raise UserError("checkpoints.hidden", units=units[:-1], width=width)
    cfg = Preprocessing()
    if pool != POOLED and (pool > 1 or _is_for_cifar(dense, channels)):
        side = CIFAR_SIDE * pool  # what five poolings leave of it is what is read
        cfg = Preprocessing(input_size=(3, side, side), crop_pct=1.0)
    return ModelConfig(
        name,
        units[-1],
        head=head,
        width=width,
        trained=True,
        pretrained_cfg=cfg,
        hidden=hidden,
        pool=pool,
    )


def _head(dense: Sequence[FileLayer], channels: Sequence[int]) -> tuple[str, int]:
    """The head that these layers are, and places a side that it reads. Our own files of `gap` look
    as others' that read one place after the last max-pool; ours are told by their layer's name."""
    inputs = dense[0].inputs
    plain = [
        name
        for name, head in HEADS.items()
        if len(dense) == 1 and not head.grid and sum(head.sizes(channels, POOLED)) == inputs
    ]
    grids = [
        (name, pool)
        for name, head in HEADS.items()
        for pool in range(1, POOLED + 1)
        if head.grid and head.hidden and sum(head.sizes(channels, pool)) == inputs
    ]
    if plain and (not grids or dense[0].name.endswith("classifier.0")):
        return plain[0], POOLED
    if not grids:
        raise UserError("checkpoints.odd_classifier", inputs=inputs, heads=tuple(HEADS))
    return grids[0]


def _is_for_cifar(dense: Sequence[FileLayer], channels: Sequence[int]) -> bool:
    """Whether a head that reads one place is one for pictures of 32 pixels: ten or a hundred
    classes, `classifier.weight` alone, or hidden layers as wide as the trunk's end."""
    hidden = {layer.size for layer in dense[:-1]}
    alone = len(dense) == 1 and dense[0].name.rpartition(".")[2] == "classifier"
    return dense[-1].size in CIFAR_CLASSES or alone or hidden == {channels[-1]}


def _grey(config: ModelConfig) -> ModelConfig:
    """All colours by the same numbers, so that a grey picture is what it was."""
    mean, std = (
        round(sum(share * value for share, value in zip(LUMA, values, strict=True)), 3)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    cfg = replace(config.pretrained_cfg, mean=(mean,) * 3, std=(std,) * 3)
    return replace(config, pretrained_cfg=cfg)

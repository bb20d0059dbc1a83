"""Parameter names: other people's turned into ours (torchvision's), ours into timm's; a config read
off shapes."""

import re

import torch
from torch import Tensor

from vgg.errors import UserError
from vgg.network.config import (
    STAGES,
    ModelConfig,
    architecture_name,
    channels_of,
    convolution_sizes,
    scaled,
)
from vgg.network.heads import HEADS, HIDDEN, POOLED

StateDict = dict[str, Tensor]

# What training scripts and wrappers put around or before a network's own names.
_ENVELOPES = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
_NAMES = {
    "pre_logits.fc1": "classifier.0",  # timm
    "pre_logits.fc2": "classifier.3",
    "head.fc": "classifier.6",
    "conv_layers": "features",  # the lesson
    "fc_layers": "classifier",
}
_TIMM = ("pre_logits", "head")
_PARTS = re.compile(r"(features|classifier)\.(\d+)\.(\w+)")


def unwrap(loaded: object) -> StateDict:
    """The state dict inside what a `.pth` file held: itself, or behind a known key."""
    for _ in _ENVELOPES:  # a bounded number of times: a dictionary may hold itself
        if isinstance(loaded, dict):
            inside = (loaded[key] for key in _ENVELOPES if isinstance(loaded.get(key), dict))
            loaded = next(inside, loaded)
    if not isinstance(loaded, dict) or not loaded:
        raise UserError("checkpoints.no_weights")
    wrong = next((key for key, value in loaded.items() if not _is_plain(value)), None)
    if wrong is not None:
        raise UserError("checkpoints.no_tensor", key=wrong)
    return {str(key): value for key, value in loaded.items()}


def to_ours(state: StateDict) -> StateDict:
    """Rename torchvision's, timm's or the lesson's keys to ours; values are not copied.

    Unknown names stay, so that the check against the network can name them.
    """
    named = {_rename(key): value for key, value in state.items()}
    return {
        key: value.flatten(1) if key.startswith("classifier.") and value.ndim == 4 else value
        for key, value in _number(named).items()
    }


def to_timm(state: StateDict, *, temperature: float = 1.0) -> StateDict:
    """Our names of a whole network with head `fc` → those of timm's VGG, whose fully connected
    layers are convolutions: (4096, C * 49) becomes (4096, C, 7, 7).

    timm knows no temperature, so the last layer is divided by it: the same probabilities.
    """
    renamed = {ours: theirs for theirs, ours in _NAMES.items() if theirs.startswith(_TIMM)}
    named = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        if layer == "classifier.6":
            value = (value.float() / temperature).to(value.dtype)
        elif layer.startswith("classifier.") and value.ndim == 2:
            side = POOLED if layer == "classifier.0" else 1
            value = value.unflatten(1, (-1, side, side))
        named[f"{renamed.get(layer, layer)}.{kind}"] = value.contiguous()
    return named


def infer_config(state: StateDict) -> ModelConfig:
    """Depth, batch norm, head, width and class count, read off keys and shapes of our layout."""
    convolutions = [v for k, v in _in_order(state, "features") if v.ndim == 4]
    depth = _depth_of(len(convolutions))
    if depth is None:
        raise UserError(
            "checkpoints.no_vgg",
            count=len(convolutions),
            choices=[sum(s) for s in STAGES.values()],
        )
    batch_norm = any(key.endswith("running_mean") for key in state)
    layers = [v for k, v in _in_order(state, "classifier") if v.ndim == 2]
    width = _width_of(depth, [v.shape[0] for v in convolutions], [v.shape[0] for v in layers[:-1]])
    head, num_classes = "gap", 0
    if layers:
        num_classes = layers[-1].shape[0]
        inputs = layers[0].shape[1]
        head = next(
            (
                name
                for name, entry in HEADS.items()
                if (entry.hidden and len(layers) > 1)
                or (not entry.hidden and sum(entry.sizes(channels_of(width), POOLED)) == inputs)
            ),
            "",
        )
        if not head:
            raise UserError("checkpoints.odd_classifier", inputs=inputs, heads=tuple(HEADS))
    return ModelConfig(
        architecture=architecture_name(depth, batch_norm),
        num_classes=num_classes,
        head=head,
        width=width,
        trained=num_classes > 0,
    )


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not value.is_meta
        and not value.is_quantized
    )


def _rename(key: str) -> str:
    while prefix := next((p for p in _PREFIXES if key.startswith(p)), None):
        key = key.removeprefix(prefix)
    for old, new in _NAMES.items():
        if key.startswith(f"{old}."):
            return f"{new}{key.removeprefix(old)}"
    return key


def _number(state: StateDict) -> StateDict:
    """Give the layers torchvision's numbers where a VGG counts them otherwise (a ReLU or a dropout
    that is not a module of its own shifts all that follow)."""
    indices: dict[str, list[int]] = {"features": [], "classifier": []}
    kinds: dict[tuple[str, int], str] = {}
    for key, value in state.items():
        if match := _PARTS.fullmatch(key):
            part, index = match[1], int(match[2])
            if index not in indices[part]:
                indices[part].append(index)
            if match[3] == "weight":
                kinds[part, index] = "conv" if value.ndim == 4 else "other"
    trunk = sorted(indices["features"])
    batch_norm = any(key.endswith("running_mean") for key in state)
    depth = _depth_of(sum(kinds.get(("features", i)) == "conv" for i in trunk))
    if depth is None:
        return state
    wanted = _trunk_numbers(depth, batch_norm)
    heads = sorted(indices["classifier"])
    if len(wanted) != len(trunk) or len(heads) not in (0, 1, 3):
        return state
    new = {("features", old): n for old, n in zip(trunk, wanted, strict=True)}
    fresh = {0: [], 1: [0], 3: [0, 3, 6]}[len(heads)]
    new |= {("classifier", old): n for old, n in zip(heads, fresh, strict=True)}
    renumbered = {}
    for key, value in state.items():
        if match := _PARTS.fullmatch(key):
            key = f"{match[1]}.{new[match[1], int(match[2])]}.{match[3]}"
        renumbered[key] = value
    return renumbered


def _trunk_numbers(depth: int, batch_norm: bool) -> list[int]:
    """Indices in `features` of the layers with parameters."""
    numbers, index = [], 0
    for count in STAGES[depth]:
        for _ in range(count):
            numbers += [index, index + 1] if batch_norm else [index]
            index += 3 if batch_norm else 2
        index += 1  # the max-pool
    return numbers


def _in_order(state: StateDict, part: str) -> list[tuple[str, Tensor]]:
    keys = [k for k in state if (m := _PARTS.fullmatch(k)) and m[1] == part and m[3] == "weight"]
    return [(key, state[key]) for key in sorted(keys, key=lambda key: int(key.split(".")[1]))]


def _depth_of(convolutions: int) -> int | None:
    return next((depth for depth, stages in STAGES.items() if sum(stages) == convolutions), None)


def _width_of(depth: int, channels: list[int], hidden: list[int]) -> float:
    """The width that gives these counts: of all that do, the one with the fewest decimals, as a
    person would type it. Where none does, the check of the shapes will say what is wrong."""
    full = [outputs for _, _, outputs in convolution_sizes(depth, 1.0)] + [*HIDDEN[: len(hidden)]]
    counts = channels + hidden
    pairs = list(zip(counts, full, strict=True))
    lowest = max(((count - 0.5) / most for count, most in pairs if count > 1), default=0.0)
    highest = min((count + 0.5) / most for count, most in pairs)
    middle = (lowest + highest) / 2
    typed = (round(middle, decimals) for decimals in range(1, 6))
    return next((w for w in typed if w > 0 and [scaled(m, w) for m in full] == counts), middle)

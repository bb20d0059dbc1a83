"""The layers of somebody's classifier: put in order, and their batch norms merged into them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vgg.errors import UserError
from vgg.network.config import MAX_HIDDEN

StateDict = dict[str, Tensor]
MOST_TRIES = 1000
NORM_EPS = 1e-5  # torch's; no state dict holds it


@dataclass(frozen=True, eq=False)
class FileLayer:
    """A layer as a file has it: its name, and its tensors by their own names."""

    name: str
    tensors: StateDict

    @property
    def weight(self) -> Tensor:
        return self.tensors["weight"]

    @property
    def key(self) -> str:
        return f"{self.name}.weight".lstrip(".")

    @property
    def is_convolution(self) -> bool:
        """A VGG's: 3 x 3."""
        return self.ndim == 4 and self.weight.shape[2:] == (3, 3) and self.weight.numel() > 0

    @property
    def is_dense(self) -> bool:
        """A fully connected layer, or the convolution that some write for one."""
        return self.ndim == 2 or (self.ndim == 4 and self.weight.shape[2:] != (3, 3))

    @property
    def is_norm(self) -> bool:
        shapes = {v.shape for key, v in self.tensors.items() if key != "num_batches_tracked"}
        is_row = len(shapes) == 1 and len(next(iter(shapes))) == 1
        return is_row and {"running_mean", "running_var"} <= self.tensors.keys()

    @property
    def ndim(self) -> int:
        """Of its weight; 0 where it has none."""
        return self.tensors["weight"].ndim if "weight" in self.tensors else 0

    @property
    def size(self) -> int:
        """How many numbers come out for one picture, or one place of it."""
        return len(self.tensors["running_mean"] if self.is_norm else self.weight)

    @property
    def inputs(self) -> int:
        return self.weight[:1].numel() if len(self.weight) else 0

    @property
    def place(self) -> tuple[str, int | None]:
        """`a.b.4` → (`a.b`, 4); None where the name ends in no number."""
        home, _, last = self.name.rpartition(".")
        return home, int(last) if last.isdigit() else None

    def stands_before(self, other: "FileLayer") -> int | None:
        """How many steps, where both stand in one sequence; None where that can't be told."""
        (home, mine), (others, its) = self.place, other.place
        return its - mine if home == others and mine is not None and its is not None else None

    def as_norm(self) -> StateDict:
        """With all that batch norm has, where it was made to scale nothing."""
        like = self.tensors["running_mean"]
        return {"weight": torch.ones_like(like), "bias": torch.zeros_like(like)} | self.tensors


def chain(layers: Sequence[FileLayer], starts: Collection[int]) -> list[FileLayer]:
    """The layers in the order in which what one gives is what the next reads; the first reads as
    many numbers as one of `starts`. A `UserError` names the one that does not fit."""
    tries = iter(range(MOST_TRIES))  # a hostile file has more orders than anybody can wait for

    def after(done: list[FileLayer]) -> list[FileLayer] | None:
        if len(done) == len(layers) or next(tries, None) is None:
            return done
        left = [layer for layer in layers if layer not in done]
        fits = [x for x in left if (x.inputs == done[-1].size if done else x.inputs in starts)]
        alike = {(layer.inputs, layer.size): layer for layer in reversed(fits)}
        ways = (after([*done, layer]) for layer in fits if layer in alike.values())
        return next((way for way in ways if way is not None), None)

    found = after([]) if len(layers) <= MAX_HIDDEN + 1 else None
    if found is not None and len(found) < len(layers):
        found = None
    if found is None:
        sizes = {*starts, *(layer.size for layer in layers)}
        odd = next((layer for layer in layers if layer.inputs not in sizes), layers[-1])
        raise UserError("checkpoints.no_chain", key=odd.key, inputs=odd.inputs)
    if found and found[0].ndim == 4 and found[0].weight.shape[2:] == (1, 1):
        raise UserError("checkpoints.kernel", key=found[0].key)  # what comes after can't be seen
    return found


def with_biases(layers: list[StateDict]) -> list[StateDict]:
    """Layers that were made without biases have those that add nothing."""
    if any("bias" in tensors for tensors in layers):
        return layers
    return [t | {"bias": t["weight"].new_zeros(t["weight"].shape[0])} for t in layers]


def fold_norms(dense: Sequence[FileLayer], norms: Sequence[FileLayer]) -> list[StateDict]:
    """The layers' weights and biases, with these batch norms in them.

    Exact where a batch norm stands directly after a fully connected layer, the ReLU behind it, or
    directly before one, the ReLU before it; a `UserError` names one of which neither can be seen.
    """
    folded = with_biases(
        [
            {key: v.flatten(1) if key == "weight" else v for key, v in layer.tensors.items()}
            for layer in dense
        ]
    )
    for norm in norms:
        before = [(k, s) for k, x in enumerate(dense) if (s := x.stands_before(norm) or 0) > 0]
        after = [(k, s) for k, x in enumerate(dense) if (s := norm.stands_before(x) or 0) > 0]
        number, steps = min(before, key=lambda item: item[1], default=(-1, 0))
        following, until = min(after, key=lambda item: item[1], default=(-1, 0))
        if steps == 1 and until != 1 and dense[number].size == norm.size:
            folded[number] = _scaled_outputs(folded[number], norm)
        elif until == 1 and steps != 1 and dense[following].inputs % norm.size == 0:
            folded[following] = _scaled_inputs(folded[following], norm)
        else:
            raise UserError("checkpoints.norm_unclear", key=norm.name)
    return folded


def _scale_and_shift(norm: FileLayer) -> tuple[Tensor, Tensor]:
    """Batch norm in eval mode as one product and one sum, float64."""
    values = {key: value.double() for key, value in norm.as_norm().items()}
    scale = values["weight"] / (values["running_var"] + NORM_EPS).sqrt()
    return scale, values["bias"] - values["running_mean"] * scale


def _scaled_outputs(layer: StateDict, norm: FileLayer) -> StateDict:
    scale, shift = _scale_and_shift(norm)
    weight = layer["weight"]
    return {
        "weight": weight * scale[:, None].to(weight.dtype),
        "bias": (layer["bias"].double() * scale + shift).to(weight.dtype),
    }


def _scaled_inputs(layer: StateDict, norm: FileLayer) -> StateDict:
    scale, shift = _scale_and_shift(norm)
    weight = layer["weight"]
    places = weight.shape[1] // norm.size  # a norm of maps has one number for all of a map's places
    scale, shift = scale.repeat_interleave(places), shift.repeat_interleave(places)
    rows = torch.stack([row.double() @ shift for row in weight])  # a copy of a row at a time
    return {
        "weight": weight * scale.to(weight.dtype),
        "bias": (layer["bias"].double() + rows).to(weight.dtype),
    }

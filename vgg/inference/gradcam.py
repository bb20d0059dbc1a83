"""Why a network answers as it does: Grad-CAM, the check of a heat map, a look at each layer."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgg.errors import UserError
from vgg.network.config import MIN_SIDE
from vgg.network.vgg import VGG


class GradCAM:
    """Heat maps that show which places speak for a class (Selvaraju et al. 2017, section 3).

        with GradCAM(model) as cam:
            heat = cam(x, class_index)

    Within the block the network is in eval mode; after it each layer is in the mode it was in.
    Nothing else of the model changes: no hooks, no gradients of weights.

    A map is made of the last ReLU's output, before the last max-pool. Where the head reads several
    stages (`stages`) it is made of the outputs that it reads, as if they were one layer: each
    channel is weighed by the mean of its gradient, with the other stages held fixed, so that what
    stage 3 does by way of stage 5 is not counted twice; the sums are added up on the finest grid.

    With `frozen` the weights never change any more: what a map needs of them is then kept.
    """

    def __init__(self, model: VGG, *, frozen: bool = False) -> None:
        if model.config.num_classes == 0:
            raise UserError("inference.no_class_to_explain")
        self.model, self.frozen = model, frozen
        self._mode = ExitStack()
        self._sums: Tensor | None = None

    def __enter__(self) -> "GradCAM":
        self._mode.enter_context(eval_mode(self.model))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._mode.close()

    def __call__(self, x: Tensor, class_index: int | Sequence[int]) -> Tensor:
        """Heat of the class `class_index`, one for all pictures or one for each.

        `x`: (N, 3, H, W), normalised as the model takes it; it may lie on another device or have
        another precision than the model. Returns (N, H, W), float32 in [0, 1], on `x`'s device; 1
        is the hottest place of each picture. Where nothing speaks for the class a map is all 0;
        where the network's numbers overflow it is all NaN: `problem_with` tells.
        """
        return self.with_logits(x, class_index)[0]

    def with_logits(
        self, x: Tensor, class_index: int | Sequence[int] | None = None, *, flip: bool = False
    ) -> tuple[Tensor, Tensor]:
        """What a call gives, and the network's answer from the same pass: logits
        (N, num_classes), float32, on `x`'s device. Without a class it is each picture's most likely
        one.

        `flip` answers for picture and mirror image: both are the mean, the mirrored map turned
        back.
        """
        if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < MIN_SIDE:
            raise UserError("inference.gradcam_input", least=MIN_SIDE, shape=tuple(x.shape))
        if any(module.training for module in self.model.modules()):
            raise UserError("inference.gradcam_training")
        with torch.inference_mode(False):  # what is made in that mode can't be differentiated
            chosen = _chosen(class_index, len(x), self.model.config.num_classes)
            views = [self._pass(x), self._pass(x.flip(3))] if flip else [self._pass(x)]
            with torch.enable_grad():
                logits = torch.stack([view.logits for view in views]).mean(0)
                chosen = logits.argmax(1) if chosen is None else chosen.to(logits.device)
                score = logits.gather(1, chosen[:, None]).sum()
            evidence = views[0].evidence(score)
            if flip:
                evidence = evidence + views[1].evidence(score).flip(3)
            heat = F.interpolate(F.relu(evidence), x.shape[2:], mode="bilinear").squeeze(1)
            peak = heat.amax((1, 2), keepdim=True)
            heat = heat / peak.clamp_min(torch.finfo(heat.dtype).tiny)
            heat = heat.where(peak.isfinite(), torch.nan)
            return heat.to(x.device), logits.detach().to(x.device)

    def _pass(self, x: Tensor) -> "_Pass":
        model, classifier = self.model, self.model.classifier
        like = next(classifier.parameters())
        if like.is_inference():  # a model made in inference mode: only a copy can be differentiated
            classifier = copy.deepcopy(classifier)
        sums = self._channel_sums() if self.frozen else None
        with torch.no_grad():
            maps = model.maps_at(x.to(like.device, like.dtype), model.read_ends)
            read = model.pool_each(maps)
            if sums is not None:
                read = [classifier[0](model.join(read))]
        leaves = [part.float().clone().requires_grad_() for part in read]
        with torch.enable_grad():
            parts = [leaf.to(like.dtype, copy=True) for leaf in leaves]
            logits = classifier(model.join(parts)) if sums is None else classifier[1:](parts[0])
            return _Pass(maps, leaves, logits.float(), sums)

    def _channel_sums(self) -> Tensor | None:
        """Where the first fully connected layer reads many places of a channel: the sums of its
        weights over them, float32 (units, C). To sum them takes as long as one map."""
        head = self.model.head
        if self._sums is None and head.grid and not head.rooted and len(head.stages) == 1:
            weight = next(self.model.classifier.parameters()).detach()
            places = self.model.config.pool**2
            self._sums = weight.unflatten(1, (-1, places)).sum(2, dtype=torch.float32)
        return self._sums


@dataclass(frozen=True, eq=False)
class _Pass:
    """One pass through a network. `maps` are what its head reads; the logits (N, K) can be
    differentiated by `leaves`, float32: what the head pooled of each map, or, with `sums`, what
    its first layer made of that.

    No slope of a map is needed: a channel weighs the mean of its slopes (equation 1), and where a
    channel grew by 1 in all places, so would all that is pooled of it.
    """

    maps: list[Tensor]
    leaves: list[Tensor]
    logits: Tensor
    sums: Tensor | None

    def evidence(self, score: Tensor) -> Tensor:
        """The maps' channels, weighed by their slopes of the score and summed up:
        (N, 1, H', W') on the finest map's grid."""
        slopes = torch.autograd.grad(score, self.leaves, retain_graph=True)
        if self.sums is not None:
            slopes = (slopes[0] @ self.sums,)
        sums = []
        for maps, slope in zip(self.maps, slopes, strict=True):
            weights = slope.view(*maps.shape[:2], -1).sum(2)[..., None, None] / maps[0, 0].numel()
            sums.append((weights * maps.float()).sum(1, keepdim=True))  # equation 2
        grid = self.maps[0].shape[2:]
        return sums[0] + sum(F.interpolate(part, grid, mode="bilinear") for part in sums[1:])


def problem_with(heat: Tensor) -> UserError | None:
    """Why one heat map (H, W) should not be drawn; None where all is well."""
    if not heat.isfinite().all():
        return UserError("inference.overflowed")
    return None if heat.any() else UserError("inference.no_heat")


def _chosen(class_index: int | Sequence[int] | None, count: int, num_classes: int) -> Tensor | None:
    """The class of each of `count` pictures, int64 (count,); None where none is named."""
    if class_index is None:
        return None
    given = torch.as_tensor(class_index).clone()  # never one made in inference mode
    if given.is_floating_point() or given.dtype == torch.bool or given.shape not in ((), (count,)):
        raise UserError("inference.class_indices", count=count, value=class_index)
    if count and not 0 <= given.min() <= given.max() < num_classes:
        raise UserError("inference.class_index", last=num_classes - 1, value=class_index)
    return given.long().expand(count)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    learning = [module for module in model.modules() if module.training]
    try:
        for module in learning:
            module.training = False
        yield
    finally:
        for module in learning:
            module.training = True

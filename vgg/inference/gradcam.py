"""Why a network answers as it does: Grad-CAM, the check of a heat map, a look at each layer."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgg.data.transforms import normalise
from vgg.errors import UserError
from vgg.inference.predictor import Predictor
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
    """

    def __init__(self, model: VGG) -> None:
        if model.config.num_classes == 0:
            raise UserError("inference.no_class_to_explain")
        self.model = model
        self._mode = ExitStack()

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

    def with_logits(self, x: Tensor, class_index: int | Sequence[int]) -> tuple[Tensor, Tensor]:
        """What a call gives, and the network's answer from the same pass: logits
        (N, num_classes), float32, on `x`'s device."""
        if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < MIN_SIDE:
            raise UserError("inference.gradcam_input", least=MIN_SIDE, shape=tuple(x.shape))
        if any(module.training for module in self.model.modules()):
            raise UserError("inference.gradcam_training")
        with torch.inference_mode(False):  # what is made in that mode can't be differentiated
            chosen = _chosen(class_index, len(x), self.model.config.num_classes)
            evidence, logits = self._evidence(x, chosen)
            heat = F.interpolate(F.relu(evidence), x.shape[2:], mode="bilinear").squeeze(1)
            peak = heat.amax((1, 2), keepdim=True)
            heat = heat / peak.clamp_min(torch.finfo(heat.dtype).tiny)
            return heat.where(peak.isfinite(), torch.nan).to(x.device), logits.to(x.device)

    def _evidence(self, x: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sums of the maps (N, 1, H', W') on the finest map's grid, and logits."""
        model = self.model
        classifier = model.classifier
        like = next(classifier.parameters())
        if like.is_inference():  # a model made in inference mode: only a copy can be differentiated
            classifier = copy.deepcopy(classifier)
        with torch.no_grad():
            maps = model.maps_at(x.to(like.device, like.dtype), model.read_ends)
        # In half precision the many small gradients of a large map would become 0.
        leaves = [m.float().detach().requires_grad_() for m in maps]
        with torch.enable_grad():
            logits = classifier(model.pool_maps(leaves).to(like.dtype)).float()
            score = logits.gather(1, chosen.to(like.device)[:, None]).sum()
            slopes = torch.autograd.grad(score, leaves)
        evidence = torch.zeros((), device=like.device)
        for leaf, slope in zip(leaves, slopes, strict=True):
            weights = slope.mean((2, 3), keepdim=True)  # equation 1
            summed = (weights * leaf.detach()).sum(1, keepdim=True)  # equation 2
            evidence = evidence + F.interpolate(summed, leaves[0].shape[2:], mode="bilinear")
        return evidence, logits.detach()


def heat_maps(predictor: Predictor, pixels: Tensor, class_index: int | Sequence[int]) -> Tensor:
    """`GradCAM` of pictures as `predictor.prepare` gives them, uint8 (N, 3, size, size).

    Returns (N, size, size), float32, on the CPU.
    """
    x = normalise(pixels.to(predictor.device), predictor.config.pretrained_cfg, predictor.dtype)
    with GradCAM(predictor.model) as cam:
        return cam(x, class_index).cpu()


def problem_with(heat: Tensor) -> UserError | None:
    """Why one heat map (H, W) should not be drawn; None where all is well."""
    if not heat.isfinite().all():
        return UserError("inference.overflowed")
    return None if heat.any() else UserError("inference.no_heat")


def _chosen(class_index: int | Sequence[int], count: int, num_classes: int) -> Tensor:
    """The class of each of `count` pictures, int64 (count,)."""
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

"""Whether a heat map tells the truth: the deletion test (Petsiuk et al. 2018, RISE)."""

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from vgg.errors import UserError
from vgg.inference.gradcam import problem_with
from vgg.inference.predictor import Predictor

BLUR = 1 / 16  # standard deviation of the blur around what is hidden, in sides of the input


@dataclass(frozen=True)
class Faithfulness:
    """How a class's probability, from 0 to 1, falls where parts of the picture are hidden.

    `hidden_random` is the mean over several random places.
    """

    before: float
    hidden_marked: float
    hidden_random: float

    @property
    def score(self) -> float:
        """How much more the marked area takes away than a random one: near 0, the map tells
        nothing; below 0, it marks what speaks against the class."""
        return self.hidden_random - self.hidden_marked

    @property
    def sentence(self) -> str:
        before, marked, other = (
            f"{100 * p:.0f} %" for p in (self.before, self.hidden_marked, self.hidden_random)
        )
        return (
            f"hiding the marked area: {before} → {marked}; hiding random areas: {before} → {other}"
        )


def deletion_test(
    predictor: Predictor,
    pixels: Tensor,
    heat: Tensor,
    class_index: int,
    *,
    area: tuple[float, float, float, float] | None = None,
    trials: int = 5,
    share: float = 0.2,
    seed: int = 0,
) -> Faithfulness:
    """Check a heat map: hide the hottest `share` of the picture, and as much of it elsewhere.

    `pixels`: uint8 (3, H, W), one of `predictor.prepare`; `heat`: its map (H, W). `area`: where the
    picture lies in them, as `transforms.placement` gives it; the border beside it does not count.

    What is hidden takes the blurred colours around it. The random areas, `trials` of them, are the
    marked one shifted, what leaves at one side coming in at the other: same size, same shape.
    Places without any heat are never marked. A `ValueError` says where there is no map to check.
    """
    if pixels.ndim != 3 or pixels.shape[1:] != heat.shape:
        raise UserError("inference.heat_shape", pixels=tuple(pixels.shape), heat=tuple(heat.shape))
    if trials < 1 or not 0 < share < 1:
        raise UserError("inference.trials")
    height, width = heat.shape
    left, top, right, bottom = area or (0, 0, width, height)
    rows = slice(max(0, round(top)), min(height, round(bottom)))
    columns = slice(max(0, round(left)), min(width, round(right)))
    pixels, heat = pixels.cpu(), heat[rows, columns].cpu()
    if problem := problem_with(heat):
        raise problem
    marked = _hottest(heat, share)
    rng = Random(seed)
    shifts = [(rng.randrange(heat.shape[0]), rng.randrange(heat.shape[1])) for _ in range(trials)]
    masks = [marked, *(marked.roll(shift, (0, 1)) for shift in shifts)]
    variants = pixels.repeat(len(masks) + 1, 1, 1, 1)
    for variant, mask in zip(variants[1:], masks, strict=True):
        shown = variant[:, rows, columns]
        shown[:, mask] = _surroundings(shown, mask, BLUR * max(height, width))[:, mask]
    before, hidden, *others = predictor.probabilities(variants)[:, class_index].tolist()
    return Faithfulness(before, hidden, sum(others) / trials)


def _hottest(heat: Tensor, share: float) -> Tensor:
    """The mask (H, W) of the hottest `share` of all pixels, less those that are not hot at all."""
    flat = heat.flatten()
    best = flat.topk(max(1, round(share * len(flat)))).indices
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[best] = flat[best] > 0
    return mask.view_as(heat)


def _surroundings(pixels: Tensor, mask: Tensor, deviation: float) -> Tensor:
    """uint8 (3, H, W), blurred by a Gaussian that leaves the pixels of the mask (H, W) out.

    A plain blur would keep the colour of whatever is larger than it.
    """
    known = (~mask).float()
    summed = torch.cat([pixels * known, known[None]])
    for side, dim in ((mask.shape[0], 1), (mask.shape[1], 2)):
        at = torch.arange(side, dtype=torch.float32)
        weights = torch.exp(-((at[:, None] - at) ** 2) / (2 * deviation**2))
        summed = torch.tensordot(summed, weights, ([dim], [0])).movedim(-1, dim)
    return (summed[:3] / summed[3].clamp_min(torch.finfo().tiny)).round().byte()

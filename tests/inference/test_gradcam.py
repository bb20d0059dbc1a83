"""A heat map is the paper's formula, leaves the model as it was, and can be checked."""

import copy
import os
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from networks import with_values
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vgg.checkpoints.loading import load_model
from vgg.data import shapes
from vgg.data.figures import clean_figure
from vgg.data.images import read_image
from vgg.data.shapes import SHAPES, draw_shape
from vgg.data.transforms import normalise, placement, to_uint8
from vgg.device import memory_used
from vgg.inference.faithfulness import Faithfulness, deletion_test
from vgg.inference.feature_maps import feature_maps, first_filters
from vgg.inference.gradcam import GradCAM, problem_with
from vgg.inference.predictor import Predictor
from vgg.network.config import HEADS, Preprocessing
from vgg.network.vgg import ROOT_FLOOR, VGG

PLAIN = Preprocessing(
    mean=(0, 0, 0), std=(1, 1, 1), input_size=(3, 64, 64), crop_pct=1.0, crop_mode="border"
)


def small(head: str = "gap", *, batch_norm: bool = True) -> VGG:
    """A narrow VGG with four classes and random numbers everywhere, in eval mode."""
    return with_values(VGG(11, 4, batch_norm=batch_norm, head=head, width=0.1))


def patch_reader() -> VGG:
    """A network made by hand whose class 1 is: there is a pure red place. Class 0 reads nothing."""
    model = VGG(11, 2, batch_norm=False, head="gap", width=0.02).eval()
    with torch.no_grad():
        for values in model.parameters():
            values.zero_()
        for layer in model.features:
            if isinstance(layer, nn.Conv2d):
                layer.weight[0, 0, 1, 1] = 1  # hand the first channel on
        model.features[0].weight[0, 1:, 1, 1] = -0.5  # red, not white
        model.features[0].bias[0] = -0.5  # a blurred red does not count
        model.classifier[0].weight[1, 0] = 320
        model.classifier[0].bias[1] = -5
    model.config = replace(model.config, pretrained_cfg=PLAIN)
    return model


def grey_with_red(left: int, top: int) -> Tensor:
    """uint8 (3, 64, 64): grey with a red square of 16 pixels, on one cell of the last map."""
    pixels = torch.full((3, 64, 64), 120, dtype=torch.uint8)
    pixels[:, top : top + 16, left : left + 16] = torch.tensor([255, 0, 0]).view(3, 1, 1)
    return pixels


def evidence_by_hand(model: VGG, x: Tensor, index: int) -> Tensor:
    """The paper's equations 1 and 2 (H', W'), before the ReLU, from a graph of the whole network.

    With `stages` the logit is a function of three maps; equation 2 sums over all their channels.
    """
    maps, out = [], x.clone().requires_grad_()
    for position, layer in enumerate(model.features):
        out = F.relu(out) if isinstance(layer, nn.ReLU) else layer(out)
        if position in model.stage_ends:
            maps.append(out)
    weights, bias = model.classifier[-1].weight[index], model.classifier[-1].bias[index]
    match model.config.head:
        case "fc":
            maps = maps[-1:]
            logit = model.classifier(model.avgpool(out).flatten(1))[0, index]
        case "gap":
            maps = maps[-1:]
            logit = weights @ maps[0].mean((0, 2, 3)) + bias
        case "stages":
            maps = [m.detach().requires_grad_() for m in maps[2:]]
            roots = [torch.sqrt(m.mean((0, 2, 3)) + ROOT_FLOOR) for m in maps]
            logit = weights @ torch.cat([r / r.norm() for r in roots]) + bias
    evidence = torch.zeros(maps[0].shape[2:], dtype=x.dtype)
    for m, slope in zip(maps, torch.autograd.grad(logit, maps), strict=True):
        alpha = slope.mean((0, 2, 3))
        part = torch.einsum("k,kij->ij", alpha, m[0])[None, None]
        evidence = evidence + F.interpolate(part, evidence.shape, mode="bilinear")[0, 0]
    return evidence.detach()


def map_of(evidence: Tensor, size: torch.Size) -> Tensor:
    """Upsampled and scaled to 1."""
    heat = F.interpolate(evidence.relu()[None, None], size, mode="bilinear")[0, 0]
    return heat / heat.max()


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("head", HEADS)
def test_a_map_is_the_papers_formula(head: str, batch_norm: bool) -> None:
    model = small(head, batch_norm=batch_norm).double()
    x = torch.randn(1, 3, 96, 64, dtype=torch.float64)
    with GradCAM(model) as cam:
        maps = [cam(x, index)[0] for index in range(4)]
    drawn = [index for index in range(4) if maps[index].any()]
    assert drawn
    for index in drawn:
        expected = map_of(evidence_by_hand(model, x, index), x.shape[2:])
        torch.testing.assert_close(maps[index].double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_a_predictors_map_is_the_plain_networks_and_comes_with_the_very_answer(
    head: str, flip: bool
) -> None:
    """Mirrored, too: the sums of both, the mirrored one turned back."""
    model, cfg = small(head), Preprocessing(input_size=(3, 64, 64))
    model.config = replace(model.config, pretrained_cfg=cfg)
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    for precision in ("fp32", "bf16"):
        predictor = Predictor(model, "cpu", precision, flip=flip)
        best, logits = predictor.explain(pixels)
        assert logits.equal(predictor.logits(pixels))
        assert best.equal(predictor.explain(pixels, int(logits.argmax()))[0])
    exact, x = copy.deepcopy(model).double(), normalise(pixels, cfg).double()
    predictor = Predictor(model, "cpu", "fp32", flip=flip)
    for index in range(4):
        evidence = evidence_by_hand(exact, x, index)
        if flip:
            evidence += evidence_by_hand(exact, x.flip(3), index).flip(1)
        if evidence.max() > 0:
            heat = predictor.explain(pixels, index)[0][0].double()
            torch.testing.assert_close(heat, map_of(evidence, x.shape[2:]), atol=1e-3, rtol=0)


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("VGG_STUDIO_REAL"), reason="needs VGG_STUDIO_REAL")
def test_a_map_is_that_of_the_grad_cam_package() -> None:
    theirs = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    real = Path(os.environ["VGG_STUDIO_REAL"])
    trunk = load_model(str(real / "vgg16-oxford"))
    model = VGG(16, 10, batch_norm=False).eval()
    model.features = trunk.features
    files = sorted(real.glob("tux/*/*"))[::40][:10]
    assert len(files) == 10
    with GradCAM(model) as cam, theirs.GradCAM(model, [model.features[-2]]) as other:
        for number, file in enumerate(files):
            cfg = trunk.config.pretrained_cfg
            x = normalise(to_uint8(read_image(file), cfg)[None], cfg)
            heat = cam(x, number % 10)[0].numpy()
            expected = other(x, [targets.ClassifierOutputTarget(number % 10)])[0]
            assert np.corrcoef(heat.ravel(), expected.ravel())[0, 1] >= 0.99


@pytest.mark.parametrize("head", HEADS)
def test_a_map_has_the_size_of_the_input_and_its_hottest_place_is_1(head: str) -> None:
    model = small(head)
    with GradCAM(model) as cam:
        for size in [(32, 32), (33, 75), (160, 40)]:
            heat = cam(torch.randn(5, 3, *size), 2)
            assert heat.shape == (5, *size)
            assert heat.dtype == torch.float32
            assert heat.min() >= 0
            assert set(heat.amax((1, 2)).tolist()) <= {0.0, 1.0}
            assert heat.any()


@pytest.mark.parametrize("head", HEADS)
def test_the_networks_answer_comes_with_the_map(head: str) -> None:
    model, x = small(head), torch.randn(3, 3, 64, 64)
    with GradCAM(model) as cam:
        heat, logits = cam.with_logits(x, [0, 1, 2])
        assert torch.equal(heat, cam(x, [0, 1, 2]))
    with torch.no_grad():
        torch.testing.assert_close(logits, model(x), atol=1e-4, rtol=1e-4)
    assert not logits.requires_grad


@pytest.mark.parametrize("head", HEADS)
def test_classes_have_maps_of_their_own_and_a_batch_gives_what_single_pictures_do(
    head: str,
) -> None:
    model, x = small(head), torch.randn(4, 3, 64, 64)
    with GradCAM(model) as cam:
        together = cam(x, [3, 1, 0, 2])
        for number, index in enumerate([3, 1, 0, 2]):
            alone = cam(x[number : number + 1], index)[0]
            torch.testing.assert_close(together[number], alone, atol=1e-4, rtol=0)
        first = [cam(x[:1], index)[0] for index in range(4)]
    assert all((first[a] - first[b]).abs().max() > 0.1 for a in range(4) for b in range(a))


@pytest.mark.parametrize("head", HEADS)
def test_folded_batch_norm_frozen_weights_and_inference_mode_change_no_map(head: str) -> None:
    model, x = small(head), torch.randn(3, 3, 64, 64)
    with GradCAM(model) as cam:
        expected = cam(x, 1)
    folded = copy.deepcopy(model).fold_batch_norm()
    frozen = copy.deepcopy(model).requires_grad_(False)
    with torch.inference_mode():
        made_there = VGG.from_config(model.config, init_weights=False).eval()
        made_there.load_state_dict(model.state_dict())
        inputs = (x.clone(), torch.tensor([1, 1, 1]))
        for other in (model, folded, frozen, made_there):
            with GradCAM(other) as cam:
                torch.testing.assert_close(cam(*inputs), expected, atol=1e-4, rtol=0)
    with torch.no_grad(), GradCAM(frozen) as cam:
        heat = cam(x, 1)
    assert torch.equal(heat, expected)
    assert not heat.requires_grad
    assert not heat.is_inference()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", HEADS)
def test_half_precision_gives_nearly_the_same_map(head: str, dtype: torch.dtype) -> None:
    model, x = small(head), torch.randn(4, 3, 64, 64)
    with GradCAM(model) as cam:
        expected = cam(x, 1)
    with GradCAM(copy.deepcopy(model).to(dtype)) as cam:
        heat = cam(x, 1)
    assert heat.dtype == torch.float32
    assert (heat - expected).abs().mean() < 0.03
    assert heat.any()


@pytest.mark.parametrize("head", HEADS)
def test_a_map_leaves_the_model_as_it_was(head: str) -> None:
    model, x = small(head).train(), torch.randn(2, 3, 64, 64, requires_grad=True)
    model.features[0].eval()  # as one who freezes some layers does
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with GradCAM(model) as cam:
        assert torch.equal(cam(x, 0), cam(x, 0))
    with pytest.raises(KeyError), GradCAM(model):
        raise KeyError
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(values.grad is None and values.requires_grad for values in model.parameters())
    assert x.grad is None
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks


def test_maps_of_a_network_in_training_mode_are_refused() -> None:
    with pytest.raises(ValueError, match="with GradCAM"):
        GradCAM(small().train())(torch.zeros(1, 3, 32, 32), 0)


def test_two_hundred_maps_take_no_memory() -> None:
    models, x = [small(head) for head in HEADS], torch.randn(2, 3, 64, 64)

    def draw(count: int) -> None:
        for number in range(count):
            with GradCAM(models[number % 3]) as cam:
                cam(x, 0)

    draw(20)
    before = memory_used(torch.device("cpu"))[0]
    draw(200)
    grown = memory_used(torch.device("cpu"))[0] - before
    assert grown < 4_000_000  # the inputs alone, if they were kept, would be 20 MB


class Flops(TorchDispatchMode):
    """Counts the operations of convolutions and matrix products, backward ones too."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.count += formula(*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize("head", HEADS)
def test_an_answer_with_its_map_costs_at_most_1_6_answers(head: str) -> None:
    predictor = Predictor(VGG(16, 10, head=head, width=0.1), "cpu", "fp32")
    pixels = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    with torch.no_grad(), Flops() as prediction:
        predictor.model(normalise(pixels, predictor.config.pretrained_cfg))
    with Flops() as explanation:
        predictor.explain(pixels)
    assert 0 < prediction.count <= explanation.count <= 1.6 * prediction.count


@pytest.mark.parametrize(
    ("index", "said"),
    [(4, "between 0 and 3, not 4"), (-1, "between 0 and 3"), ([0], "2 of them"), (0.5, "whole")],
)
def test_a_class_that_is_none_is_refused(index: int | list[int], said: str) -> None:
    with GradCAM(small()) as cam, pytest.raises(ValueError, match=said):
        cam(torch.zeros(2, 3, 32, 32), index)


def test_a_trunk_and_a_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="trunk"):
        GradCAM(VGG(11, 0, head="gap", width=0.05))
    with GradCAM(small()) as cam, pytest.raises(ValueError, match=r"\(3, 64, 64\)"):
        cam(torch.zeros(3, 64, 64), 0)


def test_an_empty_map_stays_zero_and_is_said_and_so_is_one_of_overflowed_numbers() -> None:
    model = patch_reader()
    x = normalise(grey_with_red(16, 32)[None], PLAIN)
    with GradCAM(model) as cam:
        empty, red = cam(x, 0)[0], cam(x, 1)[0]
        with torch.no_grad():
            model.features[3].bias[0] = torch.inf
        overflowed = cam(x, 1)[0]
    assert not empty.any()
    assert overflowed.isnan().all()
    assert problem_with(red) is None
    assert "no place" in str(problem_with(empty))
    assert "overflowed" in str(problem_with(overflowed))


def test_the_map_of_a_network_that_reads_one_place_marks_that_place() -> None:
    predictor = Predictor(patch_reader(), "cpu", "fp32")
    heat = predictor.explain(grey_with_red(16, 32)[None], 1)[0][0]
    assert (heat == heat.max()).nonzero().float().mean(0).tolist() == pytest.approx(
        [39.5, 23.5], abs=1
    )
    assert heat[32:48, 16:32].min() > heat[heat > 0].median()


def starter(head: str) -> VGG:
    """The starter; for `stages`, its trunk with a last layer fitted to a few drawn shapes."""
    model = load_model("starter")
    if head == model.config.head:
        return model
    other = VGG.from_config(replace(model.config, head=head)).eval()
    other.features = model.features
    names, cfg = model.config.label_names, model.config.pretrained_cfg
    shapes = [draw_shape(name, Random(number)) for number in range(25) for name in names]
    pixels = torch.stack([to_uint8(shape, cfg) for shape in shapes])
    targets = torch.eye(len(names)).repeat(25, 1)
    with torch.no_grad():
        x = other.pool(normalise(pixels, cfg))
        # Ridge regression: small weights that point from the other classes to each class.
        centre = x.mean(0)
        gram = (x - centre).T @ (x - centre) + 0.1 * torch.eye(x.shape[1])
        weight = torch.linalg.solve(gram, (x - centre).T @ (targets - targets.mean(0))).T
        other.classifier[0].weight.copy_(weight)
        other.classifier[0].bias.copy_(-weight @ centre)
        assert (other.classifier(x).argmax(1) == targets.argmax(1)).float().mean() > 0.9
    return other


def draw_pair(left: str, right: str, rng: Random, size: int = 192) -> Image.Image:
    """Two clean shapes on one ground, each wholly within its half of a square picture."""
    grounds = shapes._ground_colours(rng)
    picture = shapes._ground(rng, grounds, size)
    for name, box in ((left, (0.0, 0.0, 0.5, 1.0)), (right, (0.5, 0.0, 1.0, 1.0))):
        figure = clean_figure(name, rng, box, least=0.7)
        shapes._paint(picture, figure, rng, shapes._ink(rng, grounds), grounds)
    return picture


@pytest.mark.parametrize("head", ["gap", "stages"])
def test_two_objects_side_by_side_have_their_maps_in_their_halves(head: str) -> None:
    predictor = Predictor(starter(head), "cpu", "fp32")
    pairs = [("circle", "star"), ("star", "circle")] * 50
    images = [draw_pair(*pair, Random(number)) for number, pair in enumerate(pairs)]
    pixels = predictor.prepare(images)
    for asked in ("circle", "star"):
        heat = predictor.explain(pixels, predictor.config.label_names.index(asked))[0]
        columns = torch.arange(heat.shape[2]) + 0.5
        middles = (heat.sum(1) * columns).sum(1) / heat.sum((1, 2))  # NaN where a map is empty
        own = [
            middle < 32 if pair[0] == asked else middle > 32
            for middle, pair in zip(middles.tolist(), pairs, strict=True)
        ]
        assert sum(own) >= 90, asked


def test_the_truth_of_an_untrained_network_is_about_zero() -> None:
    for head in HEADS:
        scores = []
        for seed in range(3):
            torch.manual_seed(seed)
            model = VGG(11, 5, head=head, width=0.1)
            model.config = replace(model.config, pretrained_cfg=PLAIN)
            predictor = Predictor(model, "cpu", "fp32")
            for number, name in enumerate(SHAPES[:5]):
                pixels = predictor.prepare([draw_shape(name, Random(number))])
                best = int(predictor.probabilities(pixels).argmax())
                heat = predictor.explain(pixels, best)[0][0]
                if problem_with(heat) is None:
                    scores.append(deletion_test(predictor, pixels[0], heat, best).score)
        assert len(scores) > 10
        assert abs(np.mean(scores)) < 0.03


def test_the_truth_of_a_network_that_reads_one_place_is_high() -> None:
    predictor = Predictor(patch_reader(), "cpu", "fp32")
    for left, top in [(0, 0), (32, 16), (48, 48)]:
        pixels = grey_with_red(left, top)
        heat = predictor.explain(pixels[None], 1)[0][0]
        truth = deletion_test(predictor, pixels, heat, 1)
        assert truth.before > 0.99
        assert truth.hidden_marked < 0.02
        assert truth.score > 0.8
        assert truth == deletion_test(
            predictor, pixels, heat, 1
        )  # the same places with the same seed
        elsewhere = heat.roll((32, 32), (0, 1))
        assert deletion_test(predictor, pixels, elsewhere, 1, trials=40).score < 0.01


def test_the_border_beside_the_picture_is_neither_marked_nor_hidden() -> None:
    predictor = Predictor(patch_reader(), "cpu", "fp32")
    pixels = grey_with_red(16, 48)  # in the border of a picture twice as wide as high
    area = placement((200, 100), PLAIN)
    heat = predictor.explain(pixels[None], 1)[0][0]
    heat[20:30, 20:30] = 0.5
    truth = deletion_test(predictor, pixels, heat, 1, area=area)
    assert truth.before == pytest.approx(truth.hidden_marked)
    assert truth.before == pytest.approx(truth.hidden_random)
    heat[16:48] = 0
    with pytest.raises(ValueError, match="no place"):
        deletion_test(predictor, pixels, heat, 1, area=area)


def test_the_hottest_fifth_is_a_fifth_of_the_picture_and_never_more() -> None:
    predictor = Predictor(patch_reader(), "cpu", "fp32")
    noise = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    seen = []
    answer = predictor.probabilities
    predictor.probabilities = lambda pixels: seen.append(pixels) or answer(pixels)  # type: ignore
    deletion_test(predictor, noise, torch.rand(64, 64), 1, trials=3)
    deletion_test(predictor, noise, torch.ones(64, 64), 1, trials=3, area=(0, 16, 64, 48))
    for pixels, whole in zip(seen, (64 * 64, 32 * 64), strict=True):
        assert pixels.shape == (5, 3, 64, 64)
        changed = (pixels != noise).any(1).sum((1, 2))
        assert changed[0] == 0
        assert all(0.98 * 0.2 * whole < count <= 0.2 * whole + 1 for count in changed[1:])


def test_the_truth_is_said_in_one_sentence() -> None:
    truth = Faithfulness(0.958, 0.114, 0.906)
    assert truth.score == pytest.approx(0.792)
    assert truth.sentence == (
        "hiding the marked area: 96 % → 11 %; hiding random areas: 96 % → 91 %"
    )


def test_the_strongest_feature_maps_come_first_and_are_the_layers_own() -> None:
    model, x = small(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        out = model.features[1](model.features[0](x))[0]  # before the ReLU that works in place
    model.train()
    found = feature_maps(model, x, 1, count=4)
    assert model.features[1].training
    means = out.clamp_min(0).mean((1, 2))
    assert list(found.channels) == means.argsort(descending=True)[:4].tolist()
    torch.testing.assert_close(found.maps, out[list(found.channels)])
    assert len(feature_maps(model, x, 1, count=99).channels) == 6
    with pytest.raises(ValueError, match="between 0 and 28, not 29"):
        feature_maps(model, x, 29)


def test_first_filters_are_pictures_of_the_first_weights() -> None:
    model = small()
    with torch.no_grad():
        model.features[0].weight[2] = 0
        model.features[0].weight[2, 0, 1, 2] = 0.25  # red, middle row, right column
        model.features[0].weight[2, 2, 0, 0] = -0.25
    pictures = first_filters(model)
    assert len(pictures) == 6
    assert {picture.size for picture in pictures} == {(3, 3)}
    assert pictures[2].getpixel((2, 1)) == (255, 128, 128)
    assert pictures[2].getpixel((0, 0)) == (128, 128, 0)
    assert isinstance(pictures[0], Image.Image)

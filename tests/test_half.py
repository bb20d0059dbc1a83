"""Fully connected layers with weights in half precision answer as the ordinary ones do."""

import copy

import pytest
import torch
from torch import Tensor, nn

from vgg import device
from vgg.gradcam import GradCAM
from vgg.half import HalfLinear, halved
from vgg.model import VGG
from vgg.predictor import Predictor

WIDE = 2048  # inputs and outputs of a layer that is large enough

pytestmark = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines,
    reason="this build of torch has no FBGEMM",
)


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor whose fastest precision is fp32."""
    monkeypatch.setattr(device, "_cpu_multiplies_bf16", lambda: False)


def wide(outputs: int = WIDE) -> nn.Linear:
    layer = nn.Linear(WIDE, outputs)
    nn.init.normal_(layer.weight, std=0.01)  # as VGG's
    return layer.requires_grad_(False)


def largest_difference(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("count", [1, 2, 33])
@pytest.mark.parametrize("outputs", [WIDE, WIDE + 5])
def test_it_equals_the_ordinary_layer_up_to_its_rounding(count: int, outputs: int) -> None:
    layer, x = wide(outputs), torch.randn(count, WIDE)
    y = HalfLinear(layer)(x)
    assert y.dtype == torch.float32
    assert largest_difference(y, layer(x)) < 1e-3
    rounded = nn.functional.linear(x, layer.weight.half().float(), layer.bias)
    assert largest_difference(y, rounded) < 1e-5, "only the weights are rounded"


def test_the_inputs_gradient_is_the_ordinary_layers() -> None:
    layer, x = wide(), torch.randn(3, WIDE, requires_grad=True)
    towards = torch.randn(3, WIDE)
    (gradient,) = torch.autograd.grad(HalfLinear(layer)(x), x, towards)
    torch.testing.assert_close(gradient, towards @ layer.weight)


def test_a_copy_answers_the_same() -> None:
    layer, x = HalfLinear(wide()), torch.randn(2, WIDE)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_layers_that_would_lose_more_than_digits_stay() -> None:
    assert isinstance(halved(wide()), HalfLinear)
    for spoil in (1e-6, 1e7, torch.inf, torch.nan):
        layer = wide()
        layer.weight[7] *= spoil
        assert halved(layer) is None, spoil
    layer = wide()
    layer.weight[7] = 0
    assert isinstance(halved(layer), HalfLinear), "a row of zeros loses nothing"
    assert halved(nn.Linear(WIDE, 8)) is None, "too small to gain"
    assert halved(wide().bfloat16()) is None
    assert halved(nn.ReLU()) is None


def test_where_torch_has_no_such_product_the_ordinary_layer_stays() -> None:
    before = torch.backends.quantized.engine
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("this build of torch has no other engine to try")
    torch.backends.quantized.engine = "qnnpack"
    try:
        assert halved(wide()) is None
    finally:
        torch.backends.quantized.engine = before


@pytest.mark.usefixtures("without_bf16")
def test_a_predictor_uses_it_unless_fp32_is_asked_for_and_finds_the_same() -> None:
    model = VGG(11, 10, batch_norm=False, width=0.5).eval()
    with torch.no_grad():
        model.classifier[-1].weight.mul_(3000)  # answers far apart, as a trained network's are
    before = copy.deepcopy(model.state_dict())
    exact, light = Predictor(model, "cpu", "fp32"), Predictor(model, "cpu")
    kinds = [type(layer).__name__ for layer in light.model.classifier]
    assert kinds == ["HalfLinear", "ReLU", "Dropout", "HalfLinear", "ReLU", "Dropout", "Linear"]
    assert not any(isinstance(layer, HalfLinear) for layer in exact.model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    pixels = torch.randint(0, 256, (6, 3, 224, 224), dtype=torch.uint8)
    probs, wanted = light.probabilities(pixels), exact.probabilities(pixels)
    assert wanted.amax(1).min() > 0.2, "without this the next line says little"
    assert torch.equal(probs.argmax(1), wanted.argmax(1))
    assert (probs - wanted).abs().max() < 2e-3
    x = torch.randn(2, 3, 224, 224)
    with GradCAM(light.model) as cam, GradCAM(exact.model) as reference:
        assert (cam(x, 3) - reference(x, 3)).abs().max() < 0.01

"""Convolutions with fewer multiplications give the answers of the ordinary ones."""

import pytest
import torch
from torch import Tensor, nn

from vgg.inference.predictor import Predictor
from vgg.network import winograd
from vgg.network.vgg import VGG
from vgg.network.winograd import WinogradConv2d, use_winograd


def _converted(model: VGG) -> list[int]:
    return [i for i, layer in enumerate(model.features) if isinstance(layer, WinogradConv2d)]


def _largest_difference(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("shape", [(1, 5, 4, 4), (3, 8, 29, 31), (2, 3, 1, 6), (5, 64, 28, 28)])
def test_it_equals_the_ordinary_convolution(shape: tuple[int, ...]) -> None:
    conv = nn.Conv2d(shape[1], 7, kernel_size=3, padding=1).requires_grad_(False)
    x = torch.randn(shape)
    for layout in (torch.contiguous_format, torch.channels_last):
        y = WinogradConv2d(conv)(x.contiguous(memory_format=layout))
        assert y.shape == conv(x).shape
        assert _largest_difference(y, conv(x)) < 1e-5


def test_a_batch_in_pieces_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = WinogradConv2d(nn.Conv2d(6, 4, kernel_size=3, padding=1))
    x = torch.randn(5, 6, 9, 9)
    whole = layer(x)
    monkeypatch.setattr(winograd, "CHUNK_BYTES", 2 * 36 * 9 * 6 * 4)  # room for two pictures
    # A processor may sum smaller batches in another order: a few units in the last place.
    torch.testing.assert_close(layer(x), whole, rtol=0, atol=4e-6)


def test_only_wide_layers_with_large_maps_are_replaced() -> None:
    model = VGG(11, 3, batch_norm=False, head="gap")
    use_winograd(model, 224)
    # 128→256 and 256→256 at 56 pixels, 256→512 and 512→512 at 28, 512→512 twice at 14.
    assert _converted(model) == [6, 8, 11, 13, 16, 18]
    for small, size in ((VGG(11, 3, head="gap", width=0.25), 224), (VGG(11, 3, head="gap"), 32)):
        use_winograd(small, size)
        assert _converted(small) == []


def test_a_predictor_in_fp32_answers_as_the_network_does() -> None:
    model = VGG(11, 10, batch_norm=True, head="gap").eval()
    for layer in model.features:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 2)
    predictor = Predictor(model, "cpu", "fp32")
    assert _converted(predictor.model)
    assert _converted(model) == []
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    cfg = model.config.pretrained_cfg
    with torch.inference_mode():
        x = (pixels / 255 - torch.tensor(cfg.mean).view(3, 1, 1)) / torch.tensor(cfg.std).view(
            3, 1, 1
        )
        expected = torch.softmax(model(x), dim=1)
    torch.testing.assert_close(predictor.probabilities(pixels), expected, rtol=0, atol=1e-5)

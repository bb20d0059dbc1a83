"""A CUDA device answers and explains as the processor does, in each precision."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from networks import NAMES, pictures, small
from torch import Tensor
from torch.nn import functional as F

from vgg.inference.predictor import Predictor
from vgg.network.vgg import VGG

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
# What a precision may be off by, in shares of the answers' spread; fp32 may be TF32 there.
OFF = {"fp32": 0.01, "fp16": 0.03, "bf16": 0.15}
HEADS = ("gap", "stages", "fc")


def some(count: int) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=chance)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """300 MB of the device's memory."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(3e8 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("precision", OFF)
@pytest.mark.parametrize("head", HEADS)
def test_logits_are_those_of_the_processor(head: str, precision: str) -> None:
    model = small(head)
    wanted = Predictor(model, "cpu", "fp32").logits(some(40))
    found = Predictor(model, DEVICE, precision).logits(some(40))
    assert (found - wanted).abs().max() <= OFF[precision] * wanted.std()


@pytest.mark.parametrize("head", HEADS)
def test_gradients_are_those_of_the_processor(head: str) -> None:
    given = small(head).double()

    def gradients(device: str) -> dict[str, Tensor]:
        model = copy.deepcopy(given).to(device).to(memory_format=torch.channels_last)
        x = some(8).to(device).double() / 255 - 0.5
        F.cross_entropy(model(x), torch.arange(8, device=device) % len(NAMES)).backward()
        return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}

    wanted, found = gradients("cpu"), gradients(DEVICE)
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("precision", OFF)
@pytest.mark.parametrize("head", HEADS)
def test_heat_maps_are_those_of_the_processor(head: str, precision: str) -> None:
    classes = [number % len(NAMES) for number in range(10)]
    model = small(head)
    wanted, _ = Predictor(model, "cpu", "fp32").explain(some(10), classes)
    ready = Predictor(model, DEVICE, precision)
    found, logits = ready.explain(some(10), classes)
    assert (found - wanted).abs().mean() <= OFF[precision]
    torch.testing.assert_close(logits, ready.logits(some(10)), rtol=0.05, atol=0.05)


def test_batches_under_way_side_by_side_get_the_answers_of_each_alone(tmp_path: Path) -> None:
    files = []
    for number, image in enumerate(pictures() * 9):
        files.append(tmp_path / f"{number:03d}.png")
        image.rotate(5 * number).save(files[-1])
    ready = Predictor(small(), DEVICE, "fp32", batch_size=4)
    side_by_side = [answer for answer, _ in ready.predict_files(files, top_k=1)]
    for file, answer in zip(files, side_by_side, strict=True):
        assert answer is not None
        (alone,) = ready.predict(file, top_k=1)
        assert answer.class_names == alone.class_names
        assert answer.probs == pytest.approx(alone.probs, abs=1e-3)


@pytest.mark.usefixtures("little_memory")
def test_where_memory_is_too_small_it_takes_half_as_many_at_a_time() -> None:
    pixels = some(4096)  # 400 MB after the first convolution
    model = small()
    ready = Predictor(model, DEVICE, "fp32", batch_size=4096)
    found = ready.logits(pixels)
    assert ready._most < 4096
    wanted = Predictor(model, DEVICE, "fp32").logits(pixels[-100:])
    torch.testing.assert_close(found[-100:], wanted, rtol=1e-2, atol=1e-2)


def test_a_compiled_network_answers_as_the_plain_one() -> None:
    pytest.importorskip("triton")
    ready = Predictor(small(), DEVICE, "fp32", batch_size=16)
    before = ready.logits(some(16))
    ready.compile()
    assert not isinstance(ready._network, VGG)
    torch.testing.assert_close(ready.logits(some(16)), before, rtol=1e-2, atol=1e-2)

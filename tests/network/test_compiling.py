"""A compiled network gives the answers of the plain one, and where there is none the plain one."""

import copy
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from networks import pictures, predictor, small, table
from torch import Tensor
from torch.nn import functional as F
from trainings import dark_and_bright, network

from vgg.network import compiling as module
from vgg.network.compiling import compiled
from vgg.network.vgg import VGG
from vgg.training.learner import Learner
from vgg.training.loop import TrainLoop
from vgg.training.recipe import Recipe

BATCH = 4


def some(count: int) -> Tensor:
    x = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


@pytest.fixture
def without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile up to the step that writes code, which takes a minute and a compiler."""
    monkeypatch.setattr(module.torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.slow
def test_it_learns_what_the_plain_one_learns_and_compiling_changes_nothing(
    without_code: None,
) -> None:
    plain = small().train()
    model = copy.deepcopy(plain)
    network = compiled(model, some(BATCH), learning=True)
    assert network is not model
    for (name, value), before in zip(
        model.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        assert value.equal(before), name
    assert all(parameter.grad is None for parameter in model.parameters())
    targets = torch.arange(BATCH) % 5
    for way in (network, plain):
        F.cross_entropy(way(some(BATCH)), targets).backward()
    for (name, mine), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            mine.grad, other.grad, atol=1e-5, rtol=1e-3, msg=lambda text, name=name: name + text
        )
    assert network(some(BATCH + 1)).shape == (BATCH + 1, 5)


def test_a_compiled_predictor_gives_the_same_probabilities(without_code: None) -> None:
    ready = predictor(batch_size=BATCH, flip=True)
    expected = table(ready.predict(pictures()))
    ready.compile()
    assert ready._network is not ready.model
    torch.testing.assert_close(table(ready.predict(pictures())), expected, atol=1e-5, rtol=0)


def test_where_it_can_not_be_compiled_the_model_itself_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(model: VGG, **options: Any) -> Any:
        def fails(x: Tensor) -> Tensor:
            model(x)  # gets as far as the batch norms, which note what they have seen
            raise RuntimeError("Cannot find a working triton installation.\nMore about it")

        return fails

    monkeypatch.setattr(module.torch, "compile", no_compiler)
    model = small().train()
    before = copy.deepcopy(model.state_dict())
    assert compiled(model, some(BATCH), learning=True) is model
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert "Cannot find a working triton installation.)" in caplog.text


def test_a_warning_while_compiling_is_told_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def warning(model: VGG, **options: Any) -> Any:
        def network(x: Tensor) -> Tensor:
            try:
                warnings.warn("Guards may run slower (on 3.13.0)", RuntimeWarning, stacklevel=1)
            except RuntimeWarning:  # as torch's compiler passes on what happens inside
                raise RuntimeError("internal error") from None
            return model(x)

        return network

    monkeypatch.setattr(module.torch, "compile", warning)
    model = small()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("error")
        assert compiled(model, some(BATCH), learning=False) is not model
    assert [str(warning.message) for warning in told] == ["Guards may run slower (on 3.13.0)"]


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each program that was made; the programs are Python's own."""
    made: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        made.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(module.torch, "compile", partial(torch.compile, backend=backend))
    return made


def test_what_a_predictor_has_compiled_fits_its_pictures(compilations: list[int]) -> None:
    ready = predictor(batch_size=len(pictures()))
    ready.compile()
    assert len(compilations) == 1
    ready.predict(pictures())
    assert len(compilations) == 1


def test_what_a_training_has_compiled_fits_its_batches(compilations: list[int]) -> None:
    some_pictures = dark_and_bright()
    learner = Learner(network(), some_pictures, 64, Recipe(batch_size=16))
    learner.compile()
    assert len(compilations) == 1
    TrainLoop(learner, some_pictures).one_epoch()
    assert len(compilations) == 1

"""What the training loop meets on GPUs: little memory, fp16 that overflows, another machine to go
on with. Shown on the CPU."""

import copy
import gc
import weakref
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from trainings import SmallMemory, dark_and_bright, network, run_fit

from vgg.network.vgg import VGG
from vgg.training import learner
from vgg.training.recipe import Recipe, TooLittleMemoryError, new_optimizer
from vgg.training.throughput import MEASURED_BATCHES, seconds_per_picture


class Forgetful(VGG):
    """Fails on more than 8 pictures, and holds that no failed batch is still in memory then."""

    failed: "weakref.ref[Tensor] | None" = None

    def forward(self, x: Tensor) -> Tensor:
        before = Forgetful.failed
        assert before is None or before() is None, "the batch that failed is still in memory"
        if self.training and len(x) > 8:
            maps = self.features[0](x)
            Forgetful.failed = weakref.ref(maps)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(x)


class Turns(AbstractContextManager[None]):
    """A lock that counts how often it was taken."""

    taken = 0

    def __enter__(self) -> None:
        self.taken += 1

    def __exit__(self, *_: object) -> None: ...


def test_the_average_of_a_large_network_follows_in_epochs_of_few_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learner, "MANY_WEIGHTS", 0)  # so that it looks at every fourth step
    assert run_fit(network(), 12, Recipe(batch_size=32)).accuracy == 1  # two steps an epoch


class NoMemory(VGG):
    def forward(self, x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_after_out_of_memory_nothing_of_the_failed_batch_stays() -> None:
    Forgetful.failed = None
    gc.disable()  # else a cycle of references would be found now and then, by chance
    try:
        fitted = run_fit(network(kind=Forgetful), 1, Recipe(batch_size=32))
    finally:
        gc.enable()
    assert fitted.epochs == 1
    assert Forgetful.failed is not None


def test_the_pace_is_measured_with_as_many_pictures_as_fit() -> None:
    SmallMemory.largest = 0
    turns = Turns()
    each = seconds_per_picture(
        network(kind=SmallMemory), Recipe(), torch.float32, dark_and_bright(32), lock=turns
    )
    assert SmallMemory.largest == 8
    assert turns.taken >= MEASURED_BATCHES, "each step takes its turn on the device"
    assert 0 < each < 1
    with pytest.raises(TooLittleMemoryError, match="smaller image size"):
        seconds_per_picture(network(kind=NoMemory), Recipe(batch_size=16), torch.float32)


def test_a_first_step_that_overflows_in_fp16_leaves_no_trace() -> None:
    pictures = dark_and_bright(16)
    x, targets = pictures.pixels / 255, pictures.targets

    def step(model: VGG, optimizer: torch.optim.Optimizer, times: float = 1.0) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
        optimizer.zero_grad()
        scaler.scale(times * F.cross_entropy(model(x), targets)).backward()
        scaler.step(optimizer)
        scaler.update()

    once, twice = network(batch_norm=False), network(batch_norm=False)
    optimizers = [new_optimizer(model, Recipe(), 0.1) for model in (once, twice)]
    step(twice, optimizers[1], torch.inf)
    for mine, start in zip(twice.parameters(), once.parameters(), strict=True):
        assert torch.equal(mine, start), "the step was left out"
        momentum = optimizers[1].state[mine]["momentum_buffer"]
        assert not momentum.any()
    step(once, optimizers[0])
    step(twice, optimizers[1])
    assert all(map(torch.equal, once.parameters(), twice.parameters()))


def test_a_training_in_fp16_goes_on_from_a_state_that_fp32_left() -> None:
    states, recipe = [], Recipe(batch_size=16)
    run_fit(network(), 4, recipe, on_epoch=lambda _, state: states.append(copy.deepcopy(state())))
    assert states[1]["scaler"] == {}
    fitted = run_fit(network(), 4, recipe, resume=states[1], dtype=torch.float16)
    assert fitted.epochs == 4
    assert fitted.accuracy == 1


def test_a_state_from_another_layout_is_laid_out_as_the_weights_are() -> None:
    states: list[dict[str, Any]] = []

    def keep(_: Any, state: Any) -> None:
        states.append(copy.deepcopy(state()))

    recipe = Recipe(batch_size=16)
    run_fit(network(), 3, recipe, on_epoch=keep)
    for state in states[0]["optimizer"]["state"].values():
        buffer = state["momentum_buffer"]
        if buffer.ndim == 4:
            state["momentum_buffer"] = buffer.contiguous(memory_format=torch.channels_last)
    model = network()
    run_fit(model, 3, recipe, on_epoch=keep, resume=states[0])
    assert states[3]["epoch"] == states[1]["epoch"] == 2
    for name, value in states[1]["model"].items():
        torch.testing.assert_close(states[3]["model"][name], value)

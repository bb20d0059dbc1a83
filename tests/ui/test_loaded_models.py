"""Models in memory: nobody waits for another's, and nobody's is thrown out by who asks once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from vgg import VGG, Predictor
from vgg.ui.server.loaded_models import HALF_LIFE, Loaded, LoadedModels


def load() -> Predictor:
    model = VGG(11, 2, head="gap", width=0.0625)
    return Predictor(model, "cpu", "fp32")


def room_for(count: int, clock: Callable[[], float] = lambda: 0.0) -> LoadedModels:
    one = Loaded(0)
    one.predictor.set_result(load())
    return LoadedModels(count * one.bytes, clock)


def test_a_model_is_loaded_once_and_those_who_use_another_do_not_wait_for_it() -> None:
    models, go, loads = room_for(3), threading.Event(), []

    def slowly() -> Predictor:
        loads.append(go.wait(60))
        return load()

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(models.get, "slow", 1, slowly) for _ in range(2)]
        other = pool.submit(models.get, "other", 1, load).result(60)
        assert models.get("other", 1, load) is other
        assert not any(future.done() for future in waiting)
        go.set()
        first, second = (future.result(60) for future in waiting)
    assert first is second
    assert loads == [True]


def test_who_asks_once_takes_nobodys_model_and_who_asks_often_gets_room() -> None:
    models = room_for(2)
    for name in ("a", "b", "a", "b", "a"):
        models.get(name, 1, load)
    models.get("rare", 1, load)
    assert [name in models for name in ("a", "b", "rare")] == [True, True, False]
    for _ in range(2):
        models.get("rare", 1, load)
    assert [name in models for name in ("a", "b", "rare")] == [True, False, True]


def test_a_use_counts_less_with_time() -> None:
    now = [0.0]
    models = room_for(1, lambda: now[0])
    for _ in range(8):
        models.get("of yesterday", 1, load)
    now[0] = 4 * HALF_LIFE
    models.get("of today", 1, load)
    assert "of today" in models
    assert "of yesterday" not in models


def test_a_model_that_was_trained_again_is_loaded_again() -> None:
    models = room_for(2)
    before = models.get("mine", 1, load)
    assert models.get("mine", 1, load) is before
    assert models.get("mine", 2, load) is not before


def test_a_model_that_can_not_be_loaded_is_tried_again() -> None:
    models = room_for(1)

    def fails() -> Predictor:
        raise ValueError("it is damaged")

    with pytest.raises(ValueError, match="damaged"):
        models.get("mine", 1, fails)
    assert models.get("mine", 1, load) is models.get("mine", 1, fails)

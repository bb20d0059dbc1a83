"""Models shared by visitors: nobody waits for another's, throws it out by asking once, or stops its
download."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from vgg import VGG, Predictor
from vgg.ui.server.loaded_models import HALF_LIFE, Loaded, LoadedModels
from vgg.ui.server.model_downloads import Downloads
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.settings import Settings


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


class SlowHub(ModelStore):
    """A store whose weights come until that is stopped."""

    def predictor(self, name: str, *, on_progress: Any = None) -> Any:
        while True:
            on_progress(1, 2)
            time.sleep(0.01)


def test_a_visitor_stops_no_download_that_another_waits_for() -> None:
    asking = ["ada's page"]
    downloads = Downloads(SlowHub(Settings(public=True), visitor=lambda: asking[0]))
    hers = downloads.start("vgg16")
    asking[0] = "mallory's page"
    downloads.stop("vgg16")
    assert downloads.start("vgg16") is hers
    downloads.stop("vgg16")
    assert not hers.stopped.is_set()
    asking[0] = "ada's page"
    downloads.stop("vgg16")
    assert hers.wait(10) == ("done", "Stopped. Choose the model again to go on.")

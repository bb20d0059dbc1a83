"""Visitors who wait for a GPU at the same time share a batch, and each gets the own answer."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from test_predictor import pictures, predictor, small
from torch import Tensor

from vgg.inference.predictor import Predictor, RunInfo
from vgg.ui.server.device_queue import FairLock
from vgg.ui.server.together import Together

LONG = 20  # seconds after which a thread that still waits has been forgotten


class SaysGpu(Predictor):
    """Works on the processor, and says that it is a GPU. Notes how many it was asked at once."""

    def __init__(self, head: str = "gap", batch_size: int = 32) -> None:
        super().__init__(small(head), "cpu", "fp32", batch_size=batch_size)
        self.device = torch.device("cuda")
        self.on_cpu = predictor(small(head))
        self.asked: list[int] = []

    def probabilities(self, pixels: Tensor) -> Tensor:
        self.asked.append(len(pixels))
        return self.on_cpu.probabilities(pixels)

    def _run_info(self, milliseconds: float) -> RunInfo:
        return RunInfo("a GPU", "fp32", 64, milliseconds, 0)


def waiting(turns: FairLock) -> int:
    """How many have come whose turn it is not yet."""
    return turns._given - turns._served - 1


def while_the_device_is_taken(turns: FairLock, asks: list[Callable[[], object]]) -> list[object]:
    """What each of them gets that comes while somebody else has the device."""
    with ThreadPoolExecutor(len(asks)) as pool:
        with turns:
            answers = [pool.submit(ask) for ask in asks]
            until = time.monotonic() + LONG
            while waiting(turns) < len(asks) and time.monotonic() < until:
                time.sleep(0.005)
        return [answer.exception(LONG) or answer.result() for answer in answers]


def probs_of(answer: object) -> tuple[float, ...]:
    assert isinstance(answer, tuple), answer
    return answer[0].probs


def test_those_who_wait_for_the_same_model_are_answered_in_one_batch() -> None:
    turns, first, second = FairLock(), SaysGpu(), SaysGpu("stages")
    together = Together(turns)
    images = pictures()
    asks = [(first if number % 3 else second, image) for number, image in enumerate(images)]

    def ask(predictor: Predictor, image: Image.Image) -> Callable[[], object]:
        return lambda: together.predict(predictor, image, 5)

    answers = while_the_device_is_taken(turns, [ask(*each) for each in asks])
    assert (first.asked, second.asked) == ([4], [3])
    for (model, image), answer in zip(asks, answers, strict=True):
        alone = model.on_cpu.predict(image)[0]
        assert answer[0].class_names == alone.class_names
        assert probs_of(answer) == pytest.approx(alone.probs, abs=1e-5)
        assert answer[1].device == "a GPU"


def test_a_batch_takes_no_more_than_the_model_can_and_nobody_is_forgotten() -> None:
    turns, model = FairLock(), SaysGpu(batch_size=2)
    together = Together(turns)
    asks = [lambda image=image: together.predict(model, image, 1) for image in pictures()]
    answers = while_the_device_is_taken(turns, asks)
    assert sorted(model.asked) == [1, 2, 2, 2]
    assert len([probs_of(answer) for answer in answers]) == len(pictures())


def test_an_error_reaches_all_of_the_batch_and_the_next_is_answered() -> None:
    turns, model = FairLock(), SaysGpu()
    together = Together(turns)
    works = model.probabilities

    def fails(pixels: Tensor) -> Tensor:
        raise RuntimeError("the device is gone")

    model.probabilities = fails
    asks = [lambda image=image: together.predict(model, image, 1) for image in pictures()[:3]]
    assert [str(e) for e in while_the_device_is_taken(turns, asks)] == ["the device is gone"] * 3
    model.probabilities = works
    assert together.predict(model, pictures()[0], 1)[0].class_names


def test_on_a_processor_each_is_answered_in_turn() -> None:
    turns, model = FairLock(), predictor()
    together, seen = Together(turns), []
    answer = model.probabilities

    def notes(pixels: Tensor) -> Tensor:
        seen.append(pixels)
        return answer(pixels)

    model.probabilities = notes
    with turns:
        threads = []
        for image in pictures()[:4]:
            threads.append(threading.Thread(target=together.predict, args=(model, image, 1)))
            threads[-1].start()
            until = time.monotonic() + LONG
            while waiting(turns) < len(threads) and time.monotonic() < until:
                time.sleep(0.005)
    for thread in threads:
        thread.join(LONG)
    assert torch.cat(seen).equal(model.prepare(pictures()[:4]))
    assert [len(pixels) for pixels in seen] == [1, 1, 1, 1]

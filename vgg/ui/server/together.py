"""Answers for visitors: those who wait for a GPU at the same time are answered in one batch."""

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from PIL import Image

from vgg.ui.server.device_queue import FairLock

if TYPE_CHECKING:
    from torch import Tensor

    from vgg.inference.predictor import Prediction, Predictor, RunInfo

    Asked = tuple[Tensor, Future[Tensor]]  # pixels (1, 3, size, size) → probabilities (1, classes)


class Together:
    """Whoever's turn it is on the device takes the pictures of all who wait for the same model.

    A GPU answers many in little more than the time of one. A processor does not: there everybody
    is answered in turn, and nobody waits for those who came later.
    """

    def __init__(self, turns: FairLock) -> None:
        self._turns = turns
        self._adding = threading.Lock()
        self._waiting: dict[Predictor, list[Asked]] = {}

    def predict(
        self, predictor: "Predictor", image: Image.Image, top_k: int
    ) -> "tuple[Prediction, RunInfo | None]":
        """The answer for one picture, and what it took."""
        if predictor.device.type == "cpu":
            with self._turns:
                return predictor.predict([image], top_k)[0], predictor.last_run
        mine: Future[Tensor] = Future()
        pixels = predictor.prepare([image])
        with self._adding:
            self._waiting.setdefault(predictor, []).append((pixels, mine))
        with self._turns:
            while not mine.done():  # else someone before me has taken my picture, too
                self._answer(predictor)
            run = predictor.last_run
        return predictor.top(mine.result(), top_k)[0], run

    def _answer(self, predictor: "Predictor") -> None:
        """Answer as many of those who wait for this model as it takes at once."""
        import torch

        with self._adding:
            waiting = self._waiting.pop(predictor)
            asked, later = waiting[: predictor.batch_size], waiting[predictor.batch_size :]
            if later:
                self._waiting[predictor] = later
        try:
            probs = predictor.measured(torch.cat([pixels for pixels, _ in asked]))
        except Exception as error:  # each gets it, or would wait for ever
            for _, answer in asked:
                answer.set_exception(error)
            return
        for (_, answer), row in zip(asked, probs.split(1), strict=True):
            answer.set_result(row)

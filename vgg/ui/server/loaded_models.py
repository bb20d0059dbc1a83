"""Models in memory, shared by all visitors: loaded once each, kept by how much they are used."""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vgg.inference.predictor import Predictor

HALF_LIFE = 600.0  # seconds after which a use counts half
USES_KEPT = 1000  # models whose use is known, loaded or not
LOADS_AT_ONCE = 2  # models that are being loaded


@dataclass(frozen=True)
class Loaded:
    """A model that is in memory, or on its way there. `version` changes with its weights."""

    version: int
    predictor: "Future[Predictor]" = field(default_factory=Future)

    @property
    def bytes(self) -> int:
        if not self.predictor.done() or self.predictor.exception():
            return 0
        network = self.predictor.result().model
        return sum(x.nbytes for x in (*network.parameters(), *network.buffers()))


@dataclass
class LoadedModels:
    """Who asks waits for the own model alone, while others are loaded.

    Over `most` bytes the least used model goes, be it the newest: who asks once for a rare one
    takes nobody's model away. What is in use lives on until its last answer.
    """

    most: int
    clock: Callable[[], float] = time.monotonic
    _models: dict[str, Loaded] = field(default_factory=dict)
    _uses: dict[str, tuple[float, float]] = field(default_factory=dict)  # (score, when)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _places: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(LOADS_AT_ONCE)
    )

    def get(self, name: str, version: int, load: Callable[[], "Predictor"]) -> "Predictor":
        """The model `name`; `load` makes it where this version of it is not here."""
        with self._lock:
            self._count_use(name)
            found = self._models.get(name)
            is_new = found is None or found.version != version
            if found is None or is_new:
                found = self._models[name] = Loaded(version)
        if is_new:
            self._load(name, found, load)
        return found.predictor.result()

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def _load(self, name: str, mine: Loaded, load: Callable[[], "Predictor"]) -> None:
        try:
            with self._places:
                mine.predictor.set_result(load())
        except BaseException as error:  # who waits for it gets it, too
            with self._lock:
                if self._models.get(name) is mine:
                    del self._models[name]
            mine.predictor.set_exception(error)
        with self._lock:
            while sum(model.bytes for model in self._models.values()) > self.most:
                del self._models[min(self._models, key=self._score)]

    def _count_use(self, name: str) -> None:
        self._uses[name] = self._score(name) + 1, self.clock()
        if len(self._uses) > USES_KEPT:
            del self._uses[min(self._uses, key=self._score)]

    def _score(self, name: str) -> float:
        score, when = self._uses.get(name, (0.0, 0.0))
        return score * math.exp2((when - self.clock()) / HALF_LIFE)

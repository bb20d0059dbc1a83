"""The models behind the page: what a name or a choice means, who may use it, and those loaded."""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg.checkpoints.file_names import CONFIG_FILE
from vgg.checkpoints.loading import (
    STARTER,
    ListedModel,
    available_models,
    default_weights_dir,
    find_config,
    find_weights,
    load_model,
    local_weights,
    own_models,
)
from vgg.downloads import cached_weights
from vgg.errors import UserError
from vgg.network.config import IMAGENET_NAMES, ModelConfig
from vgg.ui.server.choice import IMAGENET, NEW, Choice
from vgg.ui.server.device_queue import FairLock
from vgg.ui.server.loaded_models import LoadedModels
from vgg.ui.server.private_models import PrivateModels
from vgg.ui.server.settings import Settings

if TYPE_CHECKING:
    from PIL import Image

    from vgg.inference.predictor import Prediction, Predictor, RunInfo

log = logging.getLogger(__name__)

LITTLE_MEMORY = 8_000_000_000  # bytes that a machine is taken to have which does not tell


@dataclass
class ModelStore:
    """Finds configs and predictors for the page. Safe to use from many threads."""

    settings: Settings = field(default_factory=Settings)
    device_lock: FairLock = field(default_factory=FairLock)
    # The session that asks; None where it is no visitor but a thread of ours.
    visitor: Callable[[], str | None] = lambda: None
    private: PrivateModels = field(init=False)
    _loaded: LoadedModels | None = None
    _warming: threading.Thread | None = None
    _start_lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.private = PrivateModels(self.visitor)

    def own_models(self) -> list[str]:
        """Names of the trained models, newest first."""
        return own_models(self.settings.weights_dir)

    @property
    def home(self) -> Path:
        """The folder with models."""
        return Path(self.settings.weights_dir or default_weights_dir())

    def listed(self) -> list[ListedModel]:
        """All models that are on this machine."""
        found = available_models(self.settings.weights_dir)
        if self.first_name not in {*(model.name for model in found), *IMAGENET_NAMES}:
            with suppress(OSError, UserError):  # it has gone
                config = find_config(self.settings.model, weights_dir=self.settings.weights_dir)
                found.insert(0, ListedModel(self.first_name, config))
        return found

    @property
    def first_name(self) -> str:
        """The model of `--model` as visitors may see it: a folder's name without its path."""
        spec = self.settings.model
        if spec in (STARTER, *IMAGENET_NAMES):
            return spec
        name = Path(spec).name
        return f"{name} (given)" if name in (STARTER, *IMAGENET_NAMES) else name

    def choice_of(self, name: str) -> Choice:
        """The sidebar's state for a model by its name."""
        config = find_config(self.spec_of(name), weights_dir=self.settings.weights_dir)
        entry = IMAGENET if name in IMAGENET_NAMES else name
        return Choice(
            entry,
            config.depth,
            config.batch_norm,
            config.num_classes,
            config.width,
            config.head,
        )

    def lies_at(self, name: str) -> Path | None:
        """Where a model of this machine lies: its folder, or its file of weights."""
        return local_weights(self.spec_of(name), weights_dir=self.settings.weights_dir)

    def config(self, choice: Choice) -> ModelConfig:
        """What the chosen network is, trained or not; nothing is loaded. `ValueError` where the
        choice makes no sense."""
        if choice.model == NEW:
            if choice.num_classes < 1:
                raise UserError("ui.no_class")
            return ModelConfig(
                choice.architecture,
                choice.num_classes,
                head=choice.head,
                width=choice.width,
            )
        if choice.is_imagenet:
            config = find_config(choice.architecture, weights_dir=self.settings.weights_dir)
            if choice.num_classes == config.num_classes:
                return config
            if choice.num_classes < 1:
                raise UserError("ui.no_class")
            return config.with_classes(choice.num_classes)
        return find_config(self.spec_of(choice.model), weights_dir=self.settings.weights_dir)

    def name(self, choice: Choice) -> str:
        """The name of the chosen trained model."""
        return choice.architecture if choice.is_imagenet else choice.model

    def label(self, name: str) -> str:
        """What a person reads for a model's name."""
        path = self.private.path(name)
        return path.name if path else name

    def shows_pictures(self, name: str) -> bool:
        """Whether the pictures that a model was tested on may be shown to the session that asks: on
        a public page those of the server's own models are their owner's."""
        return not self.settings.public or name == STARTER or self.private.may_use(name)

    def spec_of(self, name: str) -> str:
        """What `load_model` takes for one of this machine's models; `ValueError` for another name:
        a visitor's text never becomes a path."""
        if name == self.first_name:
            return self.settings.model
        if path := self.private.path(name):
            if not (path / CONFIG_FILE).is_file():
                raise UserError("ui.not_ready")
            return str(path)
        known = [STARTER, *self.own_models()]
        if name not in known and name not in IMAGENET_NAMES:
            choices = (*known, IMAGENET_NAMES[-1])
            raise UserError("ui.no_model", name=name, choices=choices)
        return name

    def is_here(self, name: str) -> bool:
        """True where no download is needed."""
        if name not in IMAGENET_NAMES:
            return True
        return bool(
            local_weights(name, weights_dir=self.settings.weights_dir) or cached_weights(name)
        )

    def predictor(
        self, name: str, *, on_progress: Callable[[int, int], None] | None = None
    ) -> "Predictor":
        """The model `name`, loaded once and ready to predict."""
        spec = self.spec_of(name)
        # A download may take minutes and is told of, so it is no part of the loading.
        path = find_weights(spec, weights_dir=self.settings.weights_dir, on_progress=on_progress)
        written = max(p.stat().st_mtime_ns for p in (path, *path.glob("model.safetensors")))
        return self._models().get(name, written, partial(self._load, spec, path))

    def _load(self, spec: str, path: Path) -> "Predictor":
        from vgg.inference.predictor import Predictor

        model = load_model(spec, weights_dir=self.settings.weights_dir)
        if not self.settings.borrowed_gpu:
            return Predictor(model, self.settings.device, self.settings.precision)
        from vgg.ui.server.zerogpu import BorrowingPredictor

        return BorrowingPredictor(model, path, self.settings.precision)

    def _models(self) -> LoadedModels:
        """They may take half of a GPU's memory, or a quarter of the machine's."""
        with self._start_lock:
            if self._loaded is None:
                from vgg.device import choose_device, memory_used

                device = choose_device(self.settings.device)
                memory = memory_used(device)[1] or LITTLE_MEMORY
                share = memory // (4 if device.type == "cpu" else 2)
                self._loaded = LoadedModels(self.settings.limits.loaded_mb * 10**6 or share)
            return self._loaded

    def predict(
        self, predictor: "Predictor", image: "Image.Image", top_k: int
    ) -> "tuple[Prediction, RunInfo | None]":
        """The answer for one picture, and what it took, when the device is free."""
        pixels = predictor.prepare([image])
        with self.device_turn():
            probs, run = predictor.measured(pixels), predictor.last_run
        return predictor.top(probs, top_k)[0], run

    def device_turn(self) -> AbstractContextManager[Any]:
        """What an answer holds while it is on the device; a lent GPU is each answer's own."""
        return nullcontext() if self.settings.borrowed_gpu else self.device_lock

    def training_lock(self) -> AbstractContextManager[Any]:
        """What a training holds while a batch is on the device.

        On a GPU it takes its turn with the predictions. A processor can do both at once: one batch
        of a large network takes a hundred times as long as a small one's answer, so the training
        stands back (see `step_back`) instead of making the answers wait.
        """
        from vgg.device import choose_device

        is_cpu = choose_device(self.settings.device).type == "cpu"
        return nullcontext() if is_cpu else self.device_lock

    def warm_up(self) -> None:
        """Load torch and the first model in the background, once. Called when the first page has
        been answered: started earlier, it would slow that page down."""
        with self._start_lock:
            if self._warming is None:
                self._warming = threading.Thread(target=self._warm, name="warm-up", daemon=True)
                self._warming.start()

    @property
    def is_warm(self) -> bool:
        """True once torch is loaded."""
        return self._warming is not None and not self._warming.is_alive()

    def _warm(self) -> None:
        try:
            import torch

            import vgg.inference.predictor  # noqa: F401  so that the first picture does not wait for it

            if self.is_here(self.first_name):
                predictor = self.predictor(self.first_name)
                if predictor.device.type == "cuda":  # its libraries load with the first picture
                    size = predictor.config.pretrained_cfg.input_size
                    predictor.probabilities(torch.zeros(1, *size, dtype=torch.uint8))
        except ValueError as error:
            log.warning("%s can't be loaded: %s", self.first_name, error)
        except Exception:
            log.exception("the first model could not be loaded")

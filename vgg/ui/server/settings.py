"""How the page was started."""

from dataclasses import dataclass, field
from pathlib import Path

from vgg.inference.options import PredictOptions


@dataclass(frozen=True)
class Limits:
    """What one visitor, and all of them, may take. None: as this machine allows."""

    loaded_bytes: int | None = None  # of models in memory
    waiting: int = 256  # calls in the queue
    waiting_each: int = 16  # of them of one visitor; the page itself sends some at once


@dataclass(frozen=True)
class Settings:
    """How the page was started. `public`: strangers may reach it. `borrowed_gpu`: it is a ZeroGPU
    Space, which lends a GPU for one answer at a time."""

    model: str = PredictOptions.model
    device: str = PredictOptions.device
    precision: str = PredictOptions.precision
    weights_dir: Path | None = None
    public: bool = False
    borrowed_gpu: bool = False
    limits: Limits = field(default_factory=Limits)

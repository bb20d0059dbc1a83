"""How the page was started."""

from dataclasses import dataclass, field
from pathlib import Path

from vgg.checkpoints.loading import STARTER


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

    model: str = STARTER
    device: str = "auto"
    precision: str = "auto"
    weights_dir: Path | None = None
    public: bool = False
    borrowed_gpu: bool = False
    limits: Limits = field(default_factory=Limits)

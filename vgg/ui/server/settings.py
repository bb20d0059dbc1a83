"""How the page was started."""

from dataclasses import dataclass
from pathlib import Path

from vgg.checkpoints.loading import STARTER


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

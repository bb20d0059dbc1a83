"""How the page was started."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vgg.errors import UserError
from vgg.inference.options import PredictOptions


def limit(most: int, about: str) -> Any:
    """A field of `Limits`, which is an option of the page, too."""
    return field(default=most, metadata={"about": about})


@dataclass(frozen=True)
class Limits:
    """What one visitor, and all of them, may take of a public page."""

    upload_mb: int = limit(64, "megabytes of one file that is sent")
    uploads_mb: int = limit(4000, "megabytes that one address may send in an hour")
    pictures: int = limit(3000, "pictures of a training or evaluation")
    zip_mb: int = limit(2048, "megabytes in a zip of pictures, unpacked")
    seconds: int = limit(120, "seconds that may be asked for a training")
    epochs: int = limit(30, "epochs that may be asked for a training")
    job_seconds: int = limit(300, "seconds after which a training is stopped")
    jobs: int = limit(8, "trainings that wait; also on a page of one's own")
    jobs_each: int = limit(2, "of them of one visitor, with the one that runs")
    imports: int = limit(50, "models that visitors brought, and that are kept")
    export_mb: int = limit(200, "megabytes of an exported model")
    waiting: int = limit(256, "calls that wait; also on a page of one's own")
    waiting_each: int = limit(16, "of them of one visitor: the page itself sends some at once")
    calls: int = limit(600, "calls a minute of one visitor")
    logins: int = limit(10, "wrong logins a minute; then nobody is let in until it is over")
    loaded_mb: int = limit(0, "megabytes of models in memory; 0: a share of what there is")


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

    def clock(self) -> Callable[[], bool]:
        """What work on a stranger's pictures takes as `should_stop`: it says `UserError` once a
        public page has worked `limits.job_seconds` for them."""
        begun = time.monotonic()

        def is_over() -> bool:
            if self.public and time.monotonic() - begun > self.limits.job_seconds:
                raise UserError("ui.slow_pictures", seconds=self.limits.job_seconds)
            return False

        return is_over

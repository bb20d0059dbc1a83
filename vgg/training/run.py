"""One training under way: what was asked for, its clock, and its folder.

The folder holds events as they come and the state to go on from; at the end the model, what was
measured, and small copies of the held-out pictures.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vgg import distributed
from vgg.checkpoints.file_names import (
    CONFIG_FILE,
    COPIES_FOLDER,
    EVENTS_FILE,
    METRICS_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
)
from vgg.checkpoints.folder import is_half, replacing, save_checkpoint
from vgg.checkpoints.loading import model_name
from vgg.data.files import FileBytes, in_threads
from vgg.data.images import ImageError, read_image
from vgg.data.index import Skipped
from vgg.data.split import Split
from vgg.device import choose_device, choose_precision
from vgg.errors import StoppedError, UserError
from vgg.network.vgg import VGG
from vgg.training.event_log import TELL_EVERY, EventLog, TrainingEvent
from vgg.training.options import TrainOptions

log = logging.getLogger(__name__)

RunState = dict[str, Any]

COPY_SIDE = 256  # pixels of the shorter side of a held-out picture's copy
COPY_QUALITY = 85
NAME_LENGTH = 80  # letters of a copy's name: some systems take no more than 255 bytes
MAX_COPIES = 500  # the pictures that were answered wrongly come first
STATE_VERSION = 2  # a new one where the state's fields change
SAVE_SHARE = 0.1  # of the time that may go into saving states


class Run:
    """A training of `options` in the folder `out`.

    Without `resume` a folder that holds something is refused with a `ValueError`. Events go to
    `events.jsonl` and to `on_event`: see `EventLog`. `lock` is for the device: hold it
    for one batch at a time. `began` is when it was called, by `time.monotonic`. Of several
    processes the first alone reads and writes.
    """

    def __init__(
        self,
        out: Path,
        options: TrainOptions,
        *,
        began: float | None = None,
        resume: bool = False,
        on_event: Callable[[TrainingEvent], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.out, self.options = out, options
        self.began = time.monotonic() if began is None else began
        self.seconds = options.seconds
        self.device = choose_device(options.device)
        self.dtype = choose_precision(self.device, options.precision)
        self.should_stop = should_stop or bool
        self.lock = lock or nullcontext()
        self.notes: list[str] = []
        self.skipped: list[Skipped] = []
        self._told_at = 0.0
        self._begun: dict[str, tuple[float, int]] = {}  # when, and with how many done
        self._events = EventLog(out / EVENTS_FILE, on_event)
        self._saved_at = self._saving_took = 0.0
        distributed.run_on_rank_0(lambda: self._open(resume))

    def _open(self, resume: bool) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise UserError("training.out_file", name=self.out.name)
        if not resume and self.out.exists() and any(self.out.iterdir()):
            raise UserError("training.out_taken", name=self.out.name)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            events = self.out / EVENTS_FILE
            if events.is_file():  # a killed run may have left half a line
                whole, newline, _ = events.read_bytes().rpartition(b"\n")
                events.write_bytes(whole + newline)
        except OSError as error:
            raise UserError("training.out_disk", name=self.out.name, why=error.strerror) from error

    # The clock

    @property
    def elapsed(self) -> float:
        """Seconds since the call; of a run that was resumed, those of its earlier parts, too."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds left of the budget; infinite where epochs were chosen."""
        return float("inf") if self.seconds is None else self.seconds - self.elapsed

    def pause(self, seconds: float) -> None:
        """Take time out of the budget, such as that of a download."""
        self.began += seconds

    def check_stop(self) -> None:
        if self.should_stop():
            raise StoppedError("training.stopped")

    # Events

    def event(self, kind: str, **fields: Any) -> None:
        """Tell what happened, now."""
        if not distributed.is_rank_0():
            return
        self._events.add({"kind": kind, "seconds": round(self.elapsed, 3), **fields})

    def progress(self, kind: str, done: int, total: int) -> None:
        """An event of how far some work is, a few times a second at most."""
        now = time.monotonic()
        if kind not in self._begun or done == 1:
            self._begun[kind] = (now, done - 1)
        if done == total or now - self._told_at >= TELL_EVERY:
            self._told_at = now
            began, before = self._begun[kind]
            left = (now - began) / max(1, done - before) * (total - done)
            self.event(kind, done=done, total=total, seconds_left=round(left, 1))

    def tell_split(self, parts: Split) -> None:
        """Say what is held out; a `ValueError` where that is nothing."""
        if not parts.held_out:
            raise UserError("training.none_held_out")
        self.skipped += [Skipped(entry.file, entry.reason) for entry in parts.skipped]
        self.event(
            "split",
            train=len(parts.train),
            held_out=len(parts.held_out),
            hints=list(parts.hints),
        )

    def say(self, kind: str, sentence: str, **fields: Any) -> None:
        """An event with a sentence for people, which the result repeats."""
        self.notes.append(sentence)
        self.event(kind, message=sentence, **fields)

    # RunState, for a run that was killed

    def read_state(self) -> RunState | None:
        """The state that was saved last; None where there is none. A `ValueError` where it is of
        other choices."""
        state = distributed.run_on_rank_0(self._read_state)
        if state:
            self.began -= state["elapsed"]
            self.notes = state["notes"] + self.notes
        return state

    def _read_state(self) -> RunState | None:
        file = self.out / STATE_FILE
        if not file.is_file():
            return None
        try:
            state: RunState = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file makes of the reader
            log.warning("%s can't be read (%s)", file.name, type(error).__name__)
            return None
        if state.get("version") != STATE_VERSION:
            log.warning("%s is of another version of this program: it begins anew", file.name)
            return None
        check_same_choices(state["options"], self.options)
        return state

    def save_state(self, state: Callable[[], RunState]) -> None:
        """Save the state, unless saving a large network would take too much of the time."""
        began = time.monotonic()
        early = began - self._saved_at < self._saving_took / SAVE_SHARE
        if early or not distributed.is_rank_0():
            return
        with replacing(self.out / STATE_FILE) as part:
            content = {
                "version": STATE_VERSION,
                "options": asdict(self.options),
                "elapsed": self.elapsed,
                "notes": self.notes,
                **state(),
            }
            torch.save(content, part)
        self._saved_at = time.monotonic()
        self._saving_took = self._saved_at - began

    def forget_state(self) -> None:
        """The training is over: nothing is left to go on from."""
        for name in (STATE_FILE, f"{STATE_FILE}.part"):
            (self.out / name).unlink(missing_ok=True)

    def abandon(self) -> None:
        """Where there is nothing to go on from, leave no folder that would be refused next time."""
        if distributed.is_rank_0() and {path.name for path in self.out.iterdir()} <= {EVENTS_FILE}:
            (self.out / EVENTS_FILE).unlink(missing_ok=True)
            self.out.rmdir()

    # What is left

    def read_metrics(self) -> dict[str, Any] | None:
        """The metrics of a training that was finished in this folder."""
        parts = [self.out / name for name in (METRICS_FILE, WEIGHTS_FILE, CONFIG_FILE)]
        if not all(part.is_file() for part in parts):
            return None
        try:
            metrics: dict[str, Any] = json.loads(parts[0].read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return metrics

    def write_json(self, name: str, content: Any) -> None:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1)
        with replacing(self.out / name) as part:
            part.write_text(text + "\n", encoding="utf-8")

    def write_model(self, model: VGG) -> None:
        """A network whose weights are whole in half precision is saved so: half the file."""
        dtype = torch.float16 if is_half(model) else None
        save_checkpoint(model, self.out, dtype=dtype)

    def copy_pictures(
        self, pictures: Iterable[tuple[str, str, Path]], contents: FileBytes, white: int
    ) -> dict[str, str]:
        """Small copies of (name, class, file), to be looked at when the originals are gone.

        Returns the copies by name, as paths below this folder; a picture that can't be read has
        none.
        """
        copies: dict[str, str] = {}
        taken: set[str] = set()
        todo = []
        for name, class_name, file in pictures:
            stem = candidate = Path(name).stem[:NAME_LENGTH]
            number = 1
            while (copy := f"{COPIES_FOLDER}/{class_name}/{candidate}.jpg").lower() in taken:
                number += 1
                candidate = f"{stem} ({number})"
            taken.add(copy.lower())
            copies[name] = copy
            todo.append((name, file, self.out / copy))
            (self.out / copy).parent.mkdir(parents=True, exist_ok=True)
        made = in_threads(lambda item: _copy_small(contents, white, *item[1:]), todo)
        for (name, _, _), done in zip(todo, made, strict=True):
            if not done:
                del copies[name]
        return copies


def copies_of(held_out: int) -> int:
    """How many copies will be made of so many held-out pictures."""
    return min(held_out, MAX_COPIES)


def check_same_choices(before: dict[str, Any], options: TrainOptions) -> None:
    """Refuse to go on with a training under other choices: the result would be neither's."""
    for name, now in asdict(options).items():
        if (was := before.get(name, now)) != now:  # one that there was not then is as it was
            if name == "model":
                was, now = model_name(was or "none"), model_name(now or "none")
            raise UserError("training.other_choices", name=name, before=was, now=now)


def round_to_half(model: VGG) -> None:
    """Round the weights to half precision, in place, as the file will hold them: half its size.

    Biases and norms stay as they are, and so does a network with a weight that is too large.
    """
    weights = [parameter.data for parameter in model.parameters() if parameter.ndim > 1]
    if all(weight.half().isfinite().all() for weight in weights):
        for weight in weights:
            weight.copy_(weight.half())


def _copy_small(contents: FileBytes, white: int, file: Path, target: Path) -> bool:
    try:
        image = read_image(contents.read(file), min_side=COPY_SIDE, white=white)
        scale = COPY_SIDE / min(image.size)
        if scale < 1:
            width, height = (max(1, round(side * scale)) for side in image.size)
            image = image.resize((width, height))
        image.save(target, quality=COPY_QUALITY)
    except (ImageError, OSError) as error:
        log.warning("no copy of %s (%s)", file.name, type(error).__name__)
        return False
    return True

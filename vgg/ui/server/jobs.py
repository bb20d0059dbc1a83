"""Training jobs that outlive the browser tab: one runs, the others wait in a visible queue."""

import logging
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

from vgg.checkpoints.file_names import CONFIG_FILE
from vgg.checkpoints.library import PUBLIC_COST, check_cost, clean_name
from vgg.checkpoints.loading import STARTER, find_config
from vgg.data import temporary
from vgg.errors import StoppedError, UserError
from vgg.network.config import IMAGENET_NAMES, ModelConfig, architecture_name
from vgg.training.options import SCRATCH_HEAD, TrainOptions
from vgg.ui.server import job_records
from vgg.ui.server.device_queue import step_back
from vgg.ui.server.job import DONE, FAILED, RUNNING, STOPPED, UNFINISHED, WAITING, Job
from vgg.ui.server.model_store import ModelStore

log = logging.getLogger(__name__)

KEPT_JOBS = 100  # finished ones are forgotten after so many
KEPT_SECONDS = 3600  # for which none of them makes room for others
LOST_SECONDS = 24 * 3600
ALIVE = "page"  # the kind of a temporary folder
VISITORS = ".visitors"  # in the weights folder; a name with a dot is not listed


class Jobs:
    """The queue and the one thread that works on it."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._alive: Path | None = None
        temporary.remove_leftovers(store.home)
        for job in job_records.unfinished(store.home):
            self._jobs[job.id] = job
            if store.settings.public:
                store.private.restore(job.id, job.out, job.owner)
        if store.settings.public and not self._has_neighbours():
            self._forget_lost()

    def submit(self, folder: Path, name: str, options: TrainOptions, *, owned: bool = True) -> Job:
        """Queue a training; it starts at once where none runs. `ValueError` where too many wait, or
        the Space only borrows a GPU."""
        if self.store.settings.borrowed_gpu:
            raise UserError("ui.borrowed_gpu")
        if self.store.settings.public:
            self._check_cost(options)
        with self._changed:
            self._check_share()
            out, key = self.place_for(name)
            job = Job(folder, out, options, owned, id=key)
            if self.store.settings.public:  # visitors are strangers to each other
                job.owner = self.store.private.keep(key, out)
            job_records.begin(job, self.store.home)
            self._jobs[job.id] = job
            self._forget_old()
            self._wake()
            return job

    def _check_cost(self, options: TrainOptions) -> None:
        """A stranger's network costs no more than one that is brought in."""
        if options.model:
            config = find_config(options.model, weights_dir=self.store.settings.weights_dir)
        else:
            name = architecture_name(options.depth or 16, options.batch_norm is not False)
            head, width = options.head or SCRATCH_HEAD, options.width or 1.0
            config = ModelConfig(name, 2, head=head, width=width)
        check_cost(config, PUBLIC_COST, options.image_size)

    def _check_share(self) -> None:
        limits, visitor = self.store.settings.limits, self.store.visitor()
        if sum(job.state == WAITING for job in self._jobs.values()) >= limits.jobs:
            raise UserError("ui.queue", most=limits.jobs)
        if self.store.settings.public and visitor is not None:
            ahead = [job for job in self._jobs.values() if job.state in (WAITING, RUNNING)]
            if sum(job.owner.admits(visitor) for job in ahead) >= limits.jobs_each:
                raise UserError("ui.own_queue", most=limits.jobs_each)

    def _wake(self) -> None:
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="training", daemon=True)
            self._worker.start()
        self._changed.notify_all()

    def go_on(self, job: Job) -> None:
        """Go on with a training that a page left unfinished, from its last saved state."""
        with self._changed:
            if job.state == UNFINISHED:
                job.state, job.resume = WAITING, True
                self._wake()

    def give_up(self, job: Job) -> None:
        """Delete an unfinished training, with its pictures and what it had saved."""
        with self._changed:
            if job.state == UNFINISHED:
                del self._jobs[job.id]
                self.store.private.forget(job.id)
                job_records.end(job)
                shutil.rmtree(job.out, ignore_errors=True)

    def unfinished(self) -> list[Job]:
        """Those that the person at this machine sees, whichever browser started them."""
        if self.store.settings.public:
            return []
        return [job for job in self._jobs.values() if job.state == UNFINISHED]

    def place_for(self, name: str) -> tuple[Path, str]:
        """A new folder for a model, and a key that can't be guessed.

        On a public page visitors are strangers to each other: only the key leads to the model.
        """
        key = secrets.token_urlsafe(16)
        if self.store.settings.public:
            self._say_alive()
            return self.store.home / VISITORS / key / clean_name(name), key
        with self._changed:
            return self._free_folder(name), key

    def make_room(self) -> None:
        """For one more model that a stranger brings: only so many are kept, and the oldest goes.
        `ValueError` where even that one came a short while ago."""
        with self._changed:
            brought = [key for key in self.store.private if key not in self._jobs]
        for key in brought[: max(0, len(brought) + 1 - self.store.settings.limits.imports)]:
            folder = self.store.home / VISITORS / key
            if folder.exists() and time.time() - folder.stat().st_mtime < KEPT_SECONDS:
                raise UserError("ui.many_models")
            if self.store.private.forget(key):
                shutil.rmtree(folder, ignore_errors=True)

    def _say_alive(self) -> None:
        """Tell other pages on this weights folder that visitors have models here."""
        with self._changed:
            if self._alive is None:
                with suppress(OSError):  # which is said when the model is written
                    self.store.home.mkdir(parents=True, exist_ok=True)
                    self._alive = temporary.temporary_folder(ALIVE, beside=self.store.home)

    def _has_neighbours(self) -> bool:
        """Whether another page has visitors' models here; marks of dead ones are gone by now."""
        marks = self.store.home.glob(f".{temporary.PREFIX}{ALIVE}-*")
        return any(map(temporary.is_in_use, marks))

    def _forget_lost(self) -> None:
        """What visitors made before the page was started anew: no key leads to it any more."""
        for folder in (self.store.home / VISITORS).glob("*"):
            if (
                folder.name not in self.store.private
                and time.time() - folder.stat().st_mtime > LOST_SECONDS
            ):
                shutil.rmtree(folder, ignore_errors=True)

    def model(self, job: Job) -> str:
        """The name under which the page finds the model that a job has made; empty before, and
        where it has been deleted or renamed since."""
        out = self.store.private.lies_at(job.id) or job.out
        if not (job.is_over and job.result and (out / CONFIG_FILE).is_file()):
            return ""
        return job.id if job.id in self.store.private else job.name

    def find(self, handle: str | None) -> Job | None:
        """The job with this id or handle, where it is the visitor's own."""
        job_id, _, key = str(handle or "").partition(":")
        with self._changed:
            job = self._jobs.get(job_id)
        if job is None or not self.store.settings.public:
            return job
        return job if job.owner.admits(self.store.visitor(), key) else None

    def of(self, handles: Any) -> list[Job]:
        """The jobs of these handles, in their order; what is none is left out. The browser keeps
        them, so they may be anything."""
        known = [h for h in handles if isinstance(h, str)] if isinstance(handles, list) else []
        return [job for job in map(self.find, dict.fromkeys(known)) if job]

    def place(self, job: Job) -> int:
        """0 for a job that runs or is over; 1 for the next in the queue."""
        with self._changed:
            waiting = [j.id for j in self._jobs.values() if j.state == WAITING]
        return waiting.index(job.id) + 1 if job.id in waiting else 0

    def stop(self, job: Job) -> None:
        """Stop a job; one that runs keeps its best model so far."""
        with self._changed:
            job.stop.set()
            if job.state == WAITING:
                self._end(job, STOPPED)

    def _work(self) -> None:
        step_back()
        while True:
            with self._changed:
                while (job := self._next()) is None:
                    self._changed.wait()
                job.state, job.started = RUNNING, time.time()
            self._run(job)

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.state == WAITING), None)

    def _run(self, job: Job) -> None:
        from vgg.training.trainer import train

        state, begun = FAILED, time.monotonic()  # the clock on the wall may jump
        try:
            result = train(
                job.folder,
                out=job.out,
                options=job.options,
                weights_dir=self.store.settings.weights_dir,
                on_event=job.tell,
                resume=job.resume,
                should_stop=lambda: job.stop.is_set() or self._is_over_time(job, begun),
                lock=self.store.training_lock(),
            )
            job.result = result.to_json()
            state = STOPPED if job.stop.is_set() else DONE
        except StoppedError:  # before there was anything to keep
            state = STOPPED
        except UserError as error:
            job.error = str(error)
        except Exception as error:
            log.exception("training %s failed", job.name)
            job.error = f"the training failed ({type(error).__name__}); the server's log says more"
        with self._changed:
            self._end(job, state)

    def _is_over_time(self, job: Job, begun: float) -> bool:
        """On a public page nobody has the device for long, whatever was asked for."""
        settings = self.store.settings
        took = time.monotonic() - begun
        if settings.public and took > settings.limits.job_seconds:
            job.stop.set()
        return job.stop.is_set()

    def _end(self, job: Job, state: str) -> None:
        job_records.end(job)
        job.state, job.ended = state, time.time()

    def _forget_old(self) -> None:
        over = [job for job in self._jobs.values() if job.is_over]
        # Those without a model first: who starts and stops many pushes out nobody's work.
        over.sort(key=lambda job: job.result is not None)
        for job in over[: max(0, len(over) - KEPT_JOBS)]:
            del self._jobs[job.id]
            if self.store.private.forget(job.id):
                shutil.rmtree(self.store.home / VISITORS / job.id, ignore_errors=True)

    def _free_folder(self, name: str) -> Path:
        """A new folder for the model: `photos`, or `photos-2` where that is taken."""
        base = clean_name(name)
        taken = {job.out.name for job in self._jobs.values() if not job.is_over}
        number, out = 1, self.store.home / base
        while out.exists() or out.name in {*taken, STARTER, *IMAGENET_NAMES}:
            number += 1
            out = self.store.home / f"{base}-{number}"
        return out

"""The benchmark's rows on a busy machine: a prediction while a training runs, against its time
alone."""

import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from random import Random
from typing import Any

from vgg.bench.measuring import BenchPlan, Measure, Row, make_row, timed
from vgg.bench.page import ask, connect, our_command, running
from vgg.checkpoints.loading import STARTER, load_model
from vgg.data.shapes import draw_folder, draw_shape
from vgg.inference.predictor import Predictor
from vgg.network.vgg import VGG
from vgg.training.options import TrainOptions
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.settings import Settings

PATIENCE = 300.0  # seconds until a training has begun to learn
PAUSE = 0.02  # seconds between two predictions: they come at any time of a batch
LEAST = 6  # predictions of each kind
ENDLESS = 5000  # epochs: until it is stopped
COUNT, SIDE = 25, 64  # pictures a class, and their side in pixels


def busy_rows(plan: BenchPlan) -> Generator[Row]:
    """A small and a large model beside the training of a full VGG-16, and `/predict` beside that of
    a network that the page chooses. A quick run has the small one only."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        draw_folder(home / "shapes", count=COUNT, seed=0, size=SIDE)
        yield from _in_this_process(plan, home)
        if not plan.quick:
            yield _through_the_page(plan, home)


def _in_this_process(plan: BenchPlan, home: Path) -> Generator[Row]:
    device, precision = str(plan.device), plan.machine.precision
    store = ModelStore(Settings(device=device, precision=precision, weights_dir=home / "weights"))
    jobs = Jobs(store)
    picture = draw_shape("star", Random(0), size=256)
    options = TrainOptions(
        mode="scratch", depth=16, width=1.0, image_size=SIDE, epochs=ENDLESS,
        device=device, precision=precision,
    )  # fmt: skip
    for name in (STARTER,) if plan.quick else (STARTER, "vgg16"):
        model = load_model(STARTER) if name == STARTER else VGG(16, 1000)
        predictor = Predictor(model, device, precision)

        def predict(predictor: Predictor = predictor) -> None:
            with store.device_lock:
                predictor.predict([picture])

        values = _beside(plan, timed(predict), lambda: _training(jobs, home / "shapes", options))
        yield make_row(f"predict while training, {name}", "beside a training", "alone", values)


def _through_the_page(plan: BenchPlan, home: Path) -> Row:
    packed = shutil.make_archive(str(home / "shapes"), "zip", home / "shapes")
    picture = home / "picture.png"
    draw_shape("star", Random(0)).save(picture)
    command = [*our_command(plan)[:-1], "--weights-dir", str(home / "page"), "--port"]
    with running(command, home) as (port, _):
        client = connect(port)
        values = _beside(
            plan, timed(lambda: ask(client, picture)), lambda: _page_trains(client, packed)
        )
    return make_row("/predict while training, starter", "beside a training", "alone", values)


def _beside(
    plan: BenchPlan, measure: Measure, training: Callable[[], AbstractContextManager[None]]
) -> tuple[list[float], list[float]]:
    """What it takes beside a training, and alone: half of this before, half after."""
    measure()
    alone = _several(plan, measure)
    with training():
        beside = _several(plan, measure)
    return beside, alone + _several(plan, measure)


def _several(plan: BenchPlan, measure: Measure) -> list[float]:
    values: list[float] = []
    started = time.perf_counter()
    while len(values) < LEAST or time.perf_counter() - started < plan.row_seconds:
        values.append(measure())
        time.sleep(PAUSE)
    return values


@contextmanager
def _training(jobs: Jobs, folder: Path, options: TrainOptions) -> Iterator[None]:
    """A training in a thread of the page's own kind; begun when it learns, stopped at the end."""
    job = jobs.submit(folder, "busy", options, owned=False)
    try:
        _until(lambda: job.is_over or job.last("split") is not None)
        if job.is_over:
            raise RuntimeError(f"the training beside the predictions ended: {job.error}")
        yield
    finally:
        jobs.stop(job)
        _until(lambda: job.is_over)


@contextmanager
def _page_trains(client: Any, packed: str) -> Iterator[None]:
    from gradio_client import handle_file

    started = client.predict(handle_file(packed), mode="scratch", epochs=ENDLESS, api_name="/train")

    def state() -> dict[str, Any]:
        answer: dict[str, Any] = client.predict(started["job"], api_name="/job")
        return answer

    try:
        _until(lambda: (state()["event"] or {}).get("kind") in ("split", "epoch"))
        yield
    finally:
        client.predict(started["job"], api_name="/stop")
        _until(lambda: state()["state"] in ("stopped", "failed"))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("the training beside the predictions did not get on")
        time.sleep(0.2)

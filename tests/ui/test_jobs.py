"""Training jobs: one runs, others wait, each is found again by its id alone."""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vgg.checkpoints.library import clean_name
from vgg.checkpoints.loading import STARTER
from vgg.data.shapes import draw_folder
from vgg.training.options import TrainOptions
from vgg.ui.server.device_queue import FairLock
from vgg.ui.server.job import DONE, FAILED, RUNNING, STOPPED, WAITING, Job
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.settings import Limits, Settings
from vgg.ui.tabs import train_progress

QUICK = TrainOptions(
    mode="scratch", depth=11, width=0.05, head="gap", epochs=1, image_size=32, device="cpu"
)
LONG = TrainOptions(
    mode="scratch", depth=11, width=0.05, head="gap", epochs=500, image_size=32, device="cpu"
)
PATIENCE = 120.0  # seconds


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs") / "shapes"
    draw_folder(folder, count=6, seed=3, size=32)
    return folder


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setenv("VGG_STUDIO_CACHE", str(tmp_path / "cache"))
    return Jobs(ModelStore(Settings(weights_dir=tmp_path / "weights")))


def until(condition: Callable[[], bool]) -> None:
    """Wait for a fact; the bound only keeps a broken test from hanging."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.02)


def finished(job: Job) -> Job:
    until(lambda: job.is_over)
    return job


def test_a_job_makes_a_model_that_predicts(jobs: Jobs, drawn: Path) -> None:
    job = finished(jobs.submit(drawn, "my shapes", QUICK, owned=False))
    assert (job.state, job.error) == (DONE, "")
    assert jobs.store.own_models() == ["my-shapes"] == [jobs.model(job)]
    predictor = jobs.store.predictor("my-shapes")
    picture = next((drawn / "star").iterdir())
    assert set(predictor.predict([picture], top_k=8)[0].class_names) == set(
        predictor.config.label_names
    )
    assert drawn.is_dir(), "a folder that is not ours stays"


def test_one_runs_and_the_second_waits_with_its_place_shown(jobs: Jobs, drawn: Path) -> None:
    first = jobs.submit(drawn, "first", LONG, owned=False)
    second = jobs.submit(drawn, "second", QUICK, owned=False)
    until(lambda: first.last("epoch") is not None)
    assert (first.state, second.state, jobs.place(second)) == (RUNNING, WAITING, 1)
    assert "place 1 in the queue" in train_progress.status(jobs, second)
    jobs.stop(first)
    assert finished(first).state == STOPPED
    assert finished(second).state == DONE


def test_a_stopped_job_leaves_a_usable_model(jobs: Jobs, drawn: Path) -> None:
    job = jobs.submit(drawn, "stopped", LONG, owned=False)
    until(lambda: job.last("epoch") is not None)
    jobs.stop(job)
    assert finished(job).state == STOPPED
    assert jobs.model(job) == "stopped"
    assert jobs.store.predictor("stopped").config.trained


def test_a_waiting_job_that_is_stopped_never_starts(jobs: Jobs, drawn: Path) -> None:
    first = jobs.submit(drawn, "first", LONG, owned=False)
    second = jobs.submit(drawn, "second", QUICK, owned=False)
    jobs.stop(second)
    jobs.stop(first)
    finished(first)
    assert (second.state, second.started) == (STOPPED, None)


def test_stopped_before_anything_was_learned_is_stopped_not_failed(jobs: Jobs, drawn: Path) -> None:
    first = jobs.submit(drawn, "first", LONG, owned=False)
    second = jobs.submit(drawn, "second", LONG, owned=False)
    second.stop.set()  # in the moment in which it starts
    jobs.stop(first)
    assert (finished(second).state, second.error, second.result) == (STOPPED, "", None)
    assert "stopped before anything was learned" in train_progress.status(jobs, second)


def test_bad_pictures_end_the_job_with_a_sentence_and_not_the_queue(
    jobs: Jobs, drawn: Path, tmp_path: Path
) -> None:
    (tmp_path / "one class" / "only").mkdir(parents=True)
    shutil.copy(next((drawn / "star").iterdir()), tmp_path / "one class" / "only" / "star.png")
    bad = finished(jobs.submit(tmp_path / "one class", "bad", QUICK, owned=False))
    assert bad.state == FAILED
    assert "class" in bad.error
    assert jobs.model(bad) == ""
    assert finished(jobs.submit(drawn, "good", QUICK, owned=False)).state == DONE


def test_the_copy_of_an_upload_goes_when_its_job_ends(
    jobs: Jobs, drawn: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(drawn, tmp_path / "upload")
    finished(jobs.submit(copy, "upload", QUICK))
    assert not copy.exists()


def test_the_queue_has_an_end(jobs: Jobs, drawn: Path) -> None:
    first = jobs.submit(drawn, "long", LONG, owned=False)
    until(lambda: first.state == RUNNING)
    waiting = [
        jobs.submit(drawn, "more", QUICK, owned=False)
        for _ in range(jobs.store.settings.limits.jobs)
    ]
    with pytest.raises(ValueError, match="wait already"):
        jobs.submit(drawn, "one too many", QUICK, owned=False)
    for job in (*waiting, first):
        jobs.stop(job)
    finished(first)


def test_a_job_is_found_by_its_id_and_by_nothing_else(jobs: Jobs, drawn: Path) -> None:
    job = jobs.submit(drawn, "mine", QUICK, owned=False)
    assert jobs.find(job.id) is job
    assert [jobs.find(x) for x in ("", None, "mine", job.id[:-1])] == [None] * 4
    assert len(job.id) >= 20, "an id that can be guessed is no key"
    finished(job)


def test_on_a_public_page_only_the_jobs_id_leads_to_its_model(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_STUDIO_CACHE", str(tmp_path / "cache"))
    store = ModelStore(Settings(weights_dir=tmp_path / "weights", public=True))
    jobs = Jobs(store)
    job = finished(jobs.submit(drawn, "mine", QUICK, owned=False))
    assert store.own_models() == []
    assert jobs.model(job) == job.id
    assert store.predictor(job.id).config.num_classes == 8
    with pytest.raises(ValueError, match="no model"):
        store.spec_of("mine")
    assert store.label(job.id) == "mine"


def test_ids_that_the_browser_kept_may_be_anything(jobs: Jobs, drawn: Path) -> None:
    first = finished(jobs.submit(drawn, "first", QUICK, owned=False))
    second = finished(jobs.submit(drawn, "second", QUICK, owned=False))
    assert jobs.of([second.id, "x", None, {}, first.id, second.id]) == [second, first]
    assert [jobs.of(ids) for ids in (None, "", first.id, {}, 3)] == [[]] * 5


def test_a_deleted_model_is_no_longer_offered(jobs: Jobs, drawn: Path) -> None:
    job = finished(jobs.submit(drawn, "mine", QUICK, owned=False))
    assert jobs.model(job) == "mine"
    shutil.rmtree(job.out)
    assert jobs.model(job) == ""


def test_a_running_job_says_how_far_how_fast_and_how_long(jobs: Jobs, drawn: Path) -> None:
    job = Job(drawn, Path("photos"), replace(QUICK, epochs=None, budget_s=90), started=time.time())
    job.state = RUNNING
    assert "getting ready" in train_progress.status(jobs, job)
    job.events.append({"kind": "download", "done": 264e6, "total": 528e6, "seconds_left": 70})
    text = train_progress.status(jobs, job)
    assert "264 of 528 MB" in text
    assert "1 min 10 s left" in text
    assert "0 s of at most 1 min 30 s" in text
    job.events.append({"kind": "features", "done": 40, "total": 160, "seconds_left": 9.0})
    assert "40 of 160 pictures went through the network" in train_progress.status(jobs, job)
    epoch = {"number": 2, "epochs": 5, "held_out": 0.75, "loss": 1.0, "accuracy": 0.5}
    job.events.append(
        {"kind": "epoch", **epoch, "pictures_per_second": 123.4, "seconds_left": 20.0}
    )
    text = train_progress.status(jobs, job)
    assert "75 %" in text
    assert "epoch 2 of 5 · 123 pictures a second · 20 s left" in text
    assert train_progress.line(jobs, job) == "photos: 75 % so far"


def test_those_who_wait_for_the_device_are_served_in_order() -> None:
    """A training that asks again at once lets a prediction wait for one batch, not for many."""
    turns, batches, stop = FairLock(), [0], threading.Event()

    def training() -> None:
        while not stop.is_set():
            with turns:
                time.sleep(0.01)
                batches[0] += 1

    thread = threading.Thread(target=training)
    thread.start()
    try:
        waited = []
        for _ in range(10):
            before = batches[0]
            with turns:
                waited.append(batches[0] - before)
            time.sleep(0.003)
    finally:
        stop.set()
        thread.join()
    assert max(waited) <= 2


def test_on_a_processor_a_training_holds_no_lock_that_a_prediction_waits_for() -> None:
    store = ModelStore(Settings(device="cpu"))
    assert store.training_lock() is not store.device_lock


def test_on_a_public_page_a_job_belongs_to_its_session_and_to_who_has_its_key(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_STUDIO_CACHE", str(tmp_path / "cache"))
    asking = ["ada's page"]
    store = ModelStore(
        Settings(weights_dir=tmp_path / "weights", public=True), visitor=lambda: asking[0]
    )
    jobs = Jobs(store)
    job = jobs.submit(drawn, "mine", QUICK, owned=False)
    assert jobs.find(job.id) is job
    finished(job)
    assert store.label(job.id) == "mine"
    assert store.predictor(job.id)
    for asking[0] in ("mallory's page", ""):
        for handle in (job.id, f"{job.id}:", f"{job.id}:wrong", f":{job.owner.key}"):
            assert jobs.find(handle) is None
        assert store.label(job.id) == job.id
        with pytest.raises(ValueError, match="no model"):
            store.predictor(job.id)
    asking[0] = "ada's page, loaded again"
    assert jobs.find(job.handle) is job
    assert store.predictor(job.id)
    assert jobs.find(job.id) is job, "from now on this session is hers, too"


def test_a_visitor_has_a_share_of_the_trainings_and_another_comes_in_between(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_STUDIO_CACHE", str(tmp_path / "cache"))
    asking = ["ada's page"]
    settings = Settings(weights_dir=tmp_path / "weights", public=True, limits=Limits(jobs_each=2))
    jobs = Jobs(ModelStore(settings, visitor=lambda: asking[0]))
    hers = [jobs.submit(drawn, "hers", LONG, owned=False) for _ in range(2)]
    with pytest.raises(ValueError, match="2 trainings under way already"):
        jobs.submit(drawn, "one too many", QUICK, owned=False)
    asking[0] = "bob's page"
    his = jobs.submit(drawn, "his", QUICK, owned=False)
    for job in (*hers, his):
        jobs.stop(job)
    finished(hers[0])


def test_a_clock_that_jumps_ends_no_training(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(ModelStore(Settings(weights_dir=tmp_path / "weights", public=True)))
    job = jobs.submit(drawn, "mine", replace(QUICK, epochs=3), owned=False)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    assert finished(job).state == DONE


@pytest.mark.parametrize(
    "asked", [{"depth": 19, "width": 8.0, "image_size": 32}, {}, {"model": STARTER}]
)
def test_a_stranger_trains_no_network_that_takes_the_machine_from_all(
    asked: dict[str, Any], drawn: Path, tmp_path: Path
) -> None:
    jobs = Jobs(ModelStore(Settings(weights_dir=tmp_path, public=True)))
    options = TrainOptions(mode="scratch", **{"image_size": 2048, **asked})
    with pytest.raises(ValueError, match="multiplications"):
        jobs.submit(drawn, "mine", options, owned=False)


def test_a_space_that_borrows_its_gpu_trains_nothing(drawn: Path, tmp_path: Path) -> None:
    jobs = Jobs(ModelStore(Settings(weights_dir=tmp_path, public=True, borrowed_gpu=True)))
    with pytest.raises(ValueError, match="a GPU of its own"):
        jobs.submit(drawn, "mine", QUICK, owned=False)


def test_names_become_folder_names() -> None:
    assert clean_name("../../etc/passwd") == "etc-passwd"
    assert clean_name("Meine Hände ✋") == "Meine-Hände"
    assert clean_name("  ") == "model"
    assert len(clean_name("x" * 500)) == 60

"""What a killed page leaves: its trainings can be gone on with, everything else goes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT

from vgg.data import temporary
from vgg.data.shapes import draw_folder
from vgg.ui.server.job import DONE, UNFINISHED, Job
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.settings import Settings

SCRIPT = """
import sys, time
from pathlib import Path
from vgg.data import temporary
from vgg.training.options import TrainOptions
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.settings import Settings
home, folder, public = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "public"
store = ModelStore(Settings(weights_dir=home, public=public))
network = {"mode": "scratch", "depth": 11, "width": 0.05, "image_size": 32}
options = TrainOptions(**network, epochs=300, device="cpu")
temporary.temporary_folder("data")
temporary.temporary_folder("import", beside=home)
job = Jobs(store).submit(folder, "mine", options, owned=public)
while not job.last("epoch"):
    time.sleep(0.02)
print(job.handle, flush=True)
time.sleep(600)
"""


@pytest.fixture
def killed(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """The weights folder of a page that was killed while it trained, and the job's handle."""
    home, folder = tmp_path / "weights", tmp_path / "shapes"
    home.mkdir()
    draw_folder(folder, count=6, seed=3, size=32)
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, home, folder, request.param],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "VGG_STUDIO_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert child.stdout
    handle = child.stdout.readline().strip()
    assert handle, "it has begun to learn"
    others = Jobs(ModelStore(Settings(weights_dir=home)))
    assert others.unfinished() == [], "a page beside it leaves the training alone"
    child.kill()
    child.wait()
    child.stdout.close()
    return home, handle


def again(home: Path, monkeypatch: pytest.MonkeyPatch, *, public: bool = False) -> Jobs:
    monkeypatch.setattr(tempfile, "tempdir", str(home.parent))
    temporary.remove_leftovers()
    return Jobs(ModelStore(Settings(weights_dir=home, public=public)))


@pytest.mark.parametrize("killed", ["local"], indirect=True)
def test_the_next_page_goes_on_with_it_or_deletes_it(
    killed: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, handle = killed
    jobs = again(home, monkeypatch)
    (job,) = jobs.unfinished()
    assert (job.state, job.name, jobs.find(handle)) == (UNFINISHED, "mine", job)
    hidden = [p.name for p in home.iterdir() if p.name.startswith(".") and p != job.record]
    assert hidden == [], "nothing else of the dead page is left"
    assert not list(home.parent.glob(f"{temporary.PREFIX}*"))
    jobs.go_on(job)
    jobs.stop(_once_it_learns(job))
    _wait(job)
    assert job.result
    assert (home / "mine" / "model.safetensors").is_file()
    assert job.record is None
    assert [p.name for p in home.iterdir()] == ["mine"]


@pytest.mark.parametrize("killed", ["public"], indirect=True)
def test_a_visitors_training_is_found_by_its_key_alone_and_has_its_pictures(
    killed: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, handle = killed
    jobs = again(home, monkeypatch, public=True)
    monkeypatch.setattr(jobs.store, "visitor", lambda: "somebody")
    assert jobs.unfinished() == []
    job_id, _, _ = handle.partition(":")
    assert jobs.find(job_id) is None
    assert jobs.find(f"{job_id}:guessed") is None
    job = jobs.find(handle)
    assert job is not None
    assert len(list(job.folder.rglob("*.png"))) == 48
    jobs.give_up(job)
    assert not [p for p in home.rglob("*") if p.is_file()]


def _once_it_learns(job: Job) -> Job:
    while not job.last("epoch") and not job.is_over:
        time.sleep(0.02)
    return job


def _wait(job: Job) -> None:
    deadline = time.monotonic() + 120
    while not job.is_over:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert job.state != DONE or job.result


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_the_page_ends_within_five_seconds_and_leaves_nothing(
    tmp_path: Path, sign: signal.Signals
) -> None:
    child = subprocess.Popen(
        [sys.executable, "app.py", "--weights-dir", tmp_path / "weights"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert child.stdout
    while "http" not in child.stdout.readline():
        assert child.poll() is None
    child.send_signal(sign)
    began = time.monotonic()
    assert child.wait(20) == 0
    assert time.monotonic() - began < 10, "twice the five seconds"
    child.stdout.close()
    assert not list(tmp_path.glob(f"{temporary.PREFIX}*"))

"""A film shows where a network looked while it learned, and changes nothing of what it learns."""

import json
import shutil
import signal
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest
import torch
from conftest import ROOT, fingerprinted
from networks import same_weights
from trainings import TINY, events_in

import vgg.training.film_recorder
from vgg.checkpoints.file_names import FILM_FOLDER
from vgg.data.folder import scan_folder
from vgg.data.index import FolderIndex, Sample
from vgg.data.shapes import SHAPES, draw_folder
from vgg.data.split import Split, split
from vgg.inference.attention_film import MAP_SIDE, Film, read_film
from vgg.training import finetune
from vgg.training.dataset import Dataset
from vgg.training.film_recorder import film_pictures
from vgg.training.trainer import train

TUNED = 3  # epochs
pytestmark = pytest.mark.usefixtures("own_places")


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if trainings were long: these are over before a film fits into a part of their time."""
    monkeypatch.setattr(vgg.training.film_recorder, "SHARE", 1000.0)


def film_in(folder: Path) -> Film:
    film = read_film(folder)
    assert film is not None
    return film


def film_of(folder: Path) -> list[Sample]:
    """The pictures that a film of a training on this folder shows."""
    index, prints = fingerprinted(scan_folder(folder))
    return film_pictures(Dataset.of(index), split(index, prints))


@pytest.mark.usefixtures("plenty")
def test_a_film_has_a_map_and_a_probability_for_one_held_out_picture_of_each_class(
    drawn: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    train(drawn, out=out, epochs=3, **TINY)
    film = film_in(out)
    assert film.classes == tuple(range(8))
    assert [frame.epoch for frame in film.frames] == [1, 2, 3]
    held_out = json.loads((out / "split.json").read_text())["held_out"]
    shown = film_of(drawn)
    assert [sample.label for sample in shown] == list(range(8))
    assert {sample.name for sample in shown} <= set(held_out)
    for number in range(8):
        assert film.picture(number).size == (40, 40)
    for frame in film.frames:
        maps = film.maps(frame)
        assert maps.shape == (8, 32, 32)
        assert 0 <= maps.min() <= maps.max() <= 1
        assert len(frame.probabilities) == 8
        assert all(0 <= prob <= 1 for prob in frame.probabilities)
    assert any(not torch.equal(film.maps(film.frames[0])[k], film.maps(film.frames[2])[k])
               for k in range(8))  # fmt: skip
    first, middle, last = film.frames
    assert middle.truth is None
    for frame in (first, last):
        assert frame.truth is not None
        assert 0 < frame.checked <= 8
        assert all(0 <= value <= 1 for value in vars(frame.truth).values())


@pytest.mark.usefixtures("plenty")
def test_the_last_frames_probabilities_are_those_of_the_network_in_training(
    drawn: Path, tmp_path: Path
) -> None:
    from vgg.checkpoints.loading import load_model
    from vgg.inference.predictor import Predictor

    out = tmp_path / "model"
    train(drawn, out=out, epochs=2, precision="fp32", device="cpu", **TINY)
    model = load_model(out)
    temperature = model.config.temperature
    files = [sample.path for sample in film_of(drawn)]
    predictor = Predictor(model, "cpu", "fp32")
    logits = predictor.probabilities(predictor.prepare(files)).log() * temperature
    probs = torch.softmax(logits, dim=1).diagonal()
    found = torch.tensor(film_in(out).frames[-1].probabilities)
    torch.testing.assert_close(found, probs, atol=2e-3, rtol=0)  # those on disk are rounded


def test_the_weights_are_the_same_bit_for_bit_with_and_without_a_film(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, share in (("with", 1000.0), ("without", 0.0)):
        monkeypatch.setattr(vgg.training.film_recorder, "SHARE", share)
        train(drawn, out=tmp_path / name, epochs=3, head="fc", **TINY)
    assert film_in(tmp_path / "with").frames
    assert not (tmp_path / "without" / FILM_FOLDER).exists()
    assert same_weights(tmp_path / "with", tmp_path / "without")


@pytest.mark.slow
def test_a_tuned_network_has_a_film_and_the_weights_that_it_has_without(
    trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shapes"
    draw_folder(folder, count=20, size=32)
    for name in SHAPES[3:]:
        shutil.rmtree(folder / name)
    accuracies = cycle((0.0, 1.0))  # of the last layer alone, and tuned: which one is kept
    monkeypatch.setattr(finetune._Tuning, "_accuracy", lambda *_: next(accuracies))
    for name, share in (("with", 1000.0), ("without", 0.0)):
        monkeypatch.setattr(vgg.training.film_recorder, "SHARE", share)
        out = tmp_path / name
        result = train(folder, out=out, mode="finetune", model=str(trunk), epochs=TUNED)
        assert result.mode == "finetune", "without this, there is nothing to look at"
    film = film_in(tmp_path / "with")
    assert film.classes == (0, 1, 2)
    assert [frame.epoch for frame in film.frames] == list(range(1, TUNED + 1))
    assert not (tmp_path / "without" / FILM_FOLDER).exists()
    assert same_weights(tmp_path / "with", tmp_path / "without")


@pytest.mark.slow
@pytest.mark.usefixtures("plenty")
def test_where_the_last_layer_alone_is_kept_no_film_of_the_other_network_stays(
    drawn: Path, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(finetune, "RECIPE", replace(finetune.RECIPE, lr=0.0))  # nothing gets better
    out = tmp_path / "model"
    result = train(drawn, out=out, mode="finetune", model=str(trunk), epochs=2)
    assert result.mode == "probe"
    assert not (out / FILM_FOLDER).exists()


KILLED = """
import os, signal, sys
import vgg.training.film_recorder
from vgg.training.trainer import train

vgg.training.film_recorder.SHARE = 1000.0

def on_event(event):
    if event["kind"] == "epoch" and event["number"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)

train(sys.argv[1], out=sys.argv[2], epochs=5, head="fc", mode="scratch", depth=11, width=0.06,
      image_size=32, on_event=on_event)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.usefixtures("plenty")
def test_a_killed_training_goes_on_to_the_film_and_the_weights_of_an_unbroken_one(
    drawn: Path, tmp_path: Path
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    ended = subprocess.run([sys.executable, "-c", KILLED, drawn, killed], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (killed / "model.safetensors").exists()
    before = film_in(killed)
    assert [frame.epoch for frame in before.frames] == [1, 2, 3]
    with (killed / "events.jsonl").open("a") as file:
        file.write('{"kind": "epo')  # as a kill in the middle of a line leaves it
    resumed = train(drawn, out=killed, epochs=5, head="fc", resume=True, **TINY)
    unbroken = train(drawn, out=whole, epochs=5, head="fc", **TINY)
    numbers = [event["number"] for event in events_in(killed, "epoch")]
    assert numbers in ([1, 2, 3, 4, 5], [1, 2, 3, 3, 4, 5])  # the last may not have been saved
    mine, other = film_in(killed), film_in(whole)
    assert mine.frames == other.frames
    assert all(mine.maps(frame).equal(other.maps(frame)) for frame in mine.frames)
    assert mine.seconds > before.seconds
    assert same_weights(killed, whole)
    assert resumed.accuracy == unbroken.accuracy
    assert not (killed / "state.pt").exists()


@pytest.mark.usefixtures("plenty")
def test_a_stopped_training_keeps_the_film_so_far(drawn: Path, tmp_path: Path) -> None:
    epochs: list[int] = []
    out = tmp_path / "model"
    train(
        drawn,
        out=out,
        epochs=50,
        on_event=lambda event: epochs.append(1) if event["kind"] == "epoch" else None,
        should_stop=lambda: len(epochs) >= 2,
        **TINY,
    )
    assert [frame.epoch for frame in film_in(out).frames] == [1, 2]


@pytest.mark.usefixtures("plenty")
def test_a_picture_that_went_away_ends_the_film_and_not_the_training(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(tmp_path / "shapes")
    draw_folder(folder, count=4, size=40)
    gone = film_of(folder)[3].path
    out = tmp_path / "model"
    train(
        folder,
        out=out,
        epochs=2,
        on_event=lambda event: gone.unlink(missing_ok=True) if event["kind"] == "plan" else None,
        **TINY,
    )
    assert (out / "model.safetensors").is_file()


def test_many_classes_have_a_few_probes_evenly_spread(tmp_path: Path) -> None:
    samples = tuple(Sample(Path(f"{k}.png"), f"{k}.png", k // 2) for k in range(200))
    index = FolderIndex(tmp_path, samples, tuple(f"class {k}" for k in range(100)))
    parts = Split([], list(range(1, 200, 2)), torch.zeros(200).numpy())
    labels = [sample.label for sample in film_pictures(Dataset.of(index), parts)]
    assert len(labels) == 12
    assert labels == sorted(set(labels))
    assert labels[-1] > 90


@pytest.mark.parametrize(
    "content",
    [
        "not JSON",
        "[]",
        '{"classes": [], "seconds": 1, "frames": []}',
        '{"classes": [0, 1], "seconds": 1, "frames": [{"epoch": 1, "probabilities": [0.5], '
        '"truth": null, "checked": 0}]}',
        '{"classes": [0], "seconds": 1, "frames": [{"epoch": "../../x", "probabilities": [0.5], '
        '"truth": null, "checked": 0}]}',
    ],
)
def test_a_damaged_film_is_said(content: str, tmp_path: Path) -> None:
    (tmp_path / FILM_FOLDER).mkdir()
    (tmp_path / FILM_FOLDER / "film.json").write_text(content)
    with pytest.raises(ValueError, match="damaged"):
        read_film(tmp_path)


@pytest.mark.usefixtures("plenty")
def test_large_maps_are_kept_small(drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    train(drawn, out=out, epochs=1, **{**TINY, "image_size": 96})
    film = film_in(out)
    assert film.maps(film.frames[0]).shape == (8, MAP_SIDE, MAP_SIDE)

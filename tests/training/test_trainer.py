"""Facts about training: it learns, repeats itself bit for bit, survives a kill, and is honest."""

import json
import os
import random
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import same_weights
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from trainings import (
    TINY,
    SmallMemory,
    events_in,
    json_in,
    network,
    run_fit,
)

from vgg.checkpoints.loading import load_model
from vgg.data.augment import augment
from vgg.data.duplicates import group
from vgg.data.files import FileBytes
from vgg.data.folder import scan_folder
from vgg.data.reading import load_picture
from vgg.data.shapes import SHAPES, draw_folder
from vgg.data.split import folds
from vgg.errors import StoppedError
from vgg.inference.predictor import Predictor
from vgg.network.config import ModelConfig
from vgg.network.summary import count_macs
from vgg.network.vgg import VGG
from vgg.training.dataset import Dataset, read_pixels
from vgg.training.features import Trunk, extract
from vgg.training.logistic import fit_head
from vgg.training.options import TrainOptions
from vgg.training.probe import preprocessing_of as trunk_preprocessing
from vgg.training.probe import round_robin_by_class
from vgg.training.recipe import Epoch, Recipe, learning_rate
from vgg.training.run import Run
from vgg.training.scratch import (
    affordable,
    choose_network,
    narrowest,
    preprocessing_of,
    suitable_size,
)
from vgg.training.trainer import TrainResult, default_out, train

pytestmark = pytest.mark.usefixtures("own_places")


# The whole way, from scratch


def test_a_training_leaves_a_model_that_predicts_and_what_was_measured(
    drawn: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    seen: list[dict[str, Any]] = []
    result = train(drawn, out=out, epochs=2, on_event=seen.append, **TINY)
    assert {path.name for path in out.iterdir()} - {"film"} == {  # there is one if time allows
        *("model.safetensors", "config.json", "metrics.json", "events.jsonl"),
        *("split.json", "held_out"),
    }
    model = load_model(out)
    assert model.config.label_names == SHAPES == result.classes
    assert model.config.trained

    split, metrics = json_in(out, "split"), json_in(out, "metrics")
    held_out = split["held_out"]
    assert not set(split["train"]) & set(held_out)
    assert len(split["train"]) + len(held_out) == 80 == result.images
    assert len(held_out) == result.held_out
    assert right_share(model, drawn, held_out) == result.accuracy == metrics["accuracy"]
    assert {row["image"] for row in metrics["evaluation"]["pictures"]} == set(held_out)
    for name, copy in metrics["copies"].items():
        assert copy.split("/")[1] == name.split("/")[0]
        with Image.open(out / copy) as image:
            assert min(image.size) <= 256

    assert events_in(out) == json.loads(json.dumps(seen))
    kinds = [event["kind"] for event in seen]
    assert kinds[:2] == ["start", "scan"]
    assert kinds.count("epoch") == 2
    assert kinds[-1] == "done"
    assert TrainResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def right_share(model: VGG, folder: Path, names: list[str]) -> float:
    """The share of these pictures that the model names right."""
    answers = Predictor(model, "cpu").predict([folder / name for name in names], top_k=1)
    pairs = zip(answers, names, strict=True)
    return float(np.mean([a.class_names[0] == name.split("/")[0] for a, name in pairs]))


def test_the_same_seed_gives_the_same_weights_bit_for_bit(drawn: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"model {number}" for number in range(3)]
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)  # what others draw makes no difference
        train(drawn, out=outs[number], epochs=2, seed=seed, **TINY)
    assert same_weights(outs[0], outs[1])
    assert not same_weights(outs[0], outs[2])


def test_stop_keeps_the_best_model_so_far(drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    epochs: list[dict[str, Any]] = []
    result = train(
        drawn,
        out=out,
        epochs=50,
        on_event=lambda event: epochs.append(event) if event["kind"] == "epoch" else None,
        should_stop=lambda: len(epochs) >= 3,
        **TINY,
    )
    assert result.stopped
    assert len(epochs) == 3
    assert result.accuracy == pytest.approx(max(epoch["held_out"] for epoch in epochs))
    assert load_model(out).config.trained


def test_stop_before_anything_was_learned_leaves_no_model(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="stopped"):
        train(drawn, out=tmp_path / "model", epochs=5, should_stop=lambda: True, **TINY)
    assert not (tmp_path / "model").exists()


def test_a_folder_that_holds_something_is_refused(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match="--resume"):
        train(drawn, out=tmp_path / "model", epochs=1, **TINY)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["mine.txt"]


def test_resuming_what_is_finished_changes_nothing(drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    first = train(drawn, out=out, epochs=1, **TINY)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert train(drawn, out=out, epochs=1, resume=True, **TINY) == first
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="epochs 1, not 2"):
        train(drawn, out=out, epochs=2, resume=True, **TINY)


def test_bad_folders_leave_nothing_behind(own_shapes: Path, tmp_path: Path) -> None:
    for name in SHAPES[1:]:
        shutil.rmtree(own_shapes / name)
    with pytest.raises(ValueError, match="at least 2"):
        train(own_shapes, out=tmp_path / "model", epochs=1, **TINY)
    assert not (tmp_path / "model").exists()


def test_damaged_pictures_are_skipped_with_their_reason(own_shapes: Path, tmp_path: Path) -> None:
    damaged = own_shapes / "star" / "0003.png"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    result = train(own_shapes, out=tmp_path / "model", epochs=1, **TINY)
    assert [entry.file for entry in result.skipped] == ["star/0003.png"]
    assert result.images == 79


def test_pictures_that_go_away_while_it_trains_were_read_already(
    own_shapes: Path, tmp_path: Path
) -> None:
    def on_event(event: dict[str, Any]) -> None:
        if "counts" in event:
            (own_shapes / "heart" / "0001.png").unlink()

    result = train(own_shapes, out=tmp_path / "model", epochs=1, on_event=on_event, **TINY)
    assert result.images == 80


def test_what_memory_had_no_room_for_is_skipped_where_it_changed(
    own_shapes: Path, tmp_path: Path
) -> None:
    contents = FileBytes(0)
    dataset = Dataset.of(scan_folder(own_shapes, contents=contents), contents)
    (own_shapes / "heart" / "0001.png").unlink()
    shutil.copy(own_shapes / "star" / "0002.png", own_shapes / "star" / "0003.png")
    left, pixels, prints = read_pixels(run_for(tmp_path), dataset, preprocessing_of(32))
    assert [entry.reason.split(";")[0] for entry in left.index.skipped] == [
        "does not exist",
        "changed while it was read",
    ]
    assert len(left) == len(left.rows) == len(prints) == 78
    assert len(pixels) == 80
    assert left.samples[-1].name == dataset.samples[left.rows[-1]].name


def test_a_zip_is_trained_on_like_the_folder_in_it(drawn: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "shapes.zip", "w") as packed:
        for file in sorted(drawn.rglob("*.png")):
            packed.write(file, file.relative_to(drawn.parent))
    result = train(tmp_path / "shapes.zip", epochs=1, **TINY)
    assert result.images == 80
    assert Path(result.out).name == "shapes"


def test_names_of_files_are_classes_where_that_is_asked_for(drawn: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in drawn.rglob("*.png"):
        shutil.copy(file, flat / f"{file.parent.name}.{file.stem}.png")
    result = train(flat, out=tmp_path / "model", epochs=1, labels="names", **TINY)
    assert result.classes == SHAPES
    assert len(json_in(tmp_path / "model", "split")["train"]) == 64


def draw_arrows(folder: Path, count: int) -> Path:
    """Arrows to the left and to the right: of any length, place and colours."""
    for side, way in (("left", 1), ("right", -1)):
        (folder / side).mkdir(parents=True)
        for number in range(count):
            rng = random.Random(f"{side}{number}")
            picture = Image.new("RGB", (64, 64), tuple(rng.randrange(180, 256) for _ in range(3)))
            length, y = rng.uniform(25, 50), rng.uniform(16, 48)
            start, barb = rng.uniform(2, 62 - length), length * rng.uniform(0.15, 0.3)
            tip = start if way == 1 else start + length
            ink, width = tuple(rng.randrange(120) for _ in range(3)), rng.randint(2, 4)
            pen = ImageDraw.Draw(picture)
            pen.line([(start, y), (start + length, y)], ink, width)
            pen.line(
                [(tip + way * barb, y - barb), (tip, y), (tip + way * barb, y + barb)], ink, width
            )
            picture.save(folder / side / f"{number}.png")
    return folder


@pytest.mark.slow
def test_left_is_told_from_right_with_no_option_set(tmp_path: Path) -> None:
    folder = draw_arrows(tmp_path / "arrows", 60)
    result = train(folder, out=tmp_path / "model", mode="scratch", budget_s=60)
    assert result.accuracy >= 0.95
    assert any("'left' and 'right' are mirror images" in note for note in result.notes)


def test_mirror_images_are_left_out_while_learning_and_answering(
    drawn: Path, tmp_path: Path
) -> None:
    arrows = draw_arrows(tmp_path / "arrows", 15)
    for name, folder, choices, flip in (
        ("found", arrows, {}, False),
        ("told", drawn, {"mirror": False}, False),
        ("kept", arrows, {"mirror": True}, True),
        ("none", drawn, {}, True),
    ):
        result = train(folder, out=tmp_path / name, epochs=1, **TINY, **choices)
        assert load_model(tmp_path / name).config.extra.get("flip", False) is flip
        assert any("are mirror images" in note for note in result.notes) is (name == "found")


def test_a_new_model_is_named_as_its_pictures(tmp_path: Path) -> None:
    home = tmp_path / "weights"
    assert default_out(tmp_path / "birds" / "train", home) == home / "birds"
    (home / "birds").mkdir(parents=True)
    (home / "birds" / "config.json").write_text("{}")
    assert default_out(tmp_path / "birds", home) == home / "birds-2"
    assert default_out(tmp_path / "birds", home, resume=True) == home / "birds"
    assert default_out(tmp_path / "vgg16", home) == home / "vgg16-2"


# The probe


@pytest.mark.slow
def test_the_second_training_of_a_folder_does_not_run_the_trunk(
    drawn: Path, trunk: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / "first", tmp_path / "second"]
    for out in outs:
        train(drawn, out=out, model=str(trunk), mode="probe")
    assert [json_in(out, "metrics")["trunk_runs"] for out in outs] == [80, 0]
    assert same_weights(*outs)


def test_a_probe_leaves_the_trunk_as_it_was_and_beats_guessing(
    drawn: Path, trunk: Path, tmp_path: Path
) -> None:
    result = train(drawn, out=tmp_path / "model", model=str(trunk), mode="auto")
    assert result.mode == "probe"
    assert result.notes[0] == "a new last layer on the frozen trunk of trunk"  # not its place
    model = load_model(tmp_path / "model")
    assert model.config.head == "stages"
    assert model.config.pretrained_cfg.crop_mode == "border"
    assert model.config.temperature == result.temperature
    before, after = load_model(trunk).features.state_dict(), model.features.state_dict()
    assert all(value.equal(before[key]) for key, value in after.items())
    assert right_share(model, drawn, json_in(tmp_path / "model", "split")["train"]) > 0.5


def test_a_probe_that_is_stopped_learns_from_what_it_has_seen(
    drawn: Path, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_after(count: int) -> dict[str, Any]:
        """A Stop when it has been asked for so often since the folder was looked through."""
        events: list[dict[str, Any]] = []
        calls = iter(range(10_000))

        def should_stop() -> bool:
            return any("counts" in event for event in events) and next(calls) >= count

        return {"on_event": events.append, "should_stop": should_stop}

    choices = {"model": str(trunk), "mode": "probe"}
    result = train(drawn, out=tmp_path / "model", **choices, **stop_after(40))
    assert result.stopped
    assert 16 <= result.images < 80
    assert any("was stopped" in note for note in result.notes)
    monkeypatch.setenv("VGG_STUDIO_CACHE", str(tmp_path / "another cache"))
    with pytest.raises(StoppedError, match="nothing was learned"):
        train(drawn, out=tmp_path / "x", **choices, **stop_after(2))


def test_a_trunk_with_damaged_weights_is_refused(drawn: Path, trunk: Path, tmp_path: Path) -> None:
    state = load_file(trunk / "model.safetensors")
    state["features.0.bias"].fill_(torch.nan)
    save_file(state, trunk / "model.safetensors")
    with pytest.raises(ValueError, match="weights"):
        train(drawn, out=tmp_path / "model", model=str(trunk), mode="probe")
    assert not (tmp_path / "model").exists()


def test_without_weights_it_says_so_and_trains_from_scratch(drawn: Path, tmp_path: Path) -> None:
    result = train(drawn, out=tmp_path / "model", epochs=1, image_size=32)
    assert result.mode == "scratch"
    assert any("vgg16_bn can't be had" in note for note in result.notes)
    with pytest.raises(ValueError, match="not on this machine"):
        train(drawn, out=tmp_path / "other", epochs=1, mode="probe")


def test_pictures_are_taken_from_each_class_in_turn() -> None:
    labels = [0] * 50 + [1] * 5 + [2] * 20
    order = round_robin_by_class(labels, seed=0)
    assert sorted(order) == list(range(75))
    assert sorted(labels[number] for number in order[:15]) == [0] * 5 + [1] * 5 + [2] * 5
    assert order != round_robin_by_class(labels, seed=1)


# The last layer


def blobs(counts: tuple[int, ...], width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, width) around one centre a class, so many of each, and the classes (N,)."""
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(len(counts)), counts)
    centres = rng.normal(size=(len(counts), width))
    return (centres[targets] + 1.2 * rng.normal(size=(len(targets), width))), targets


@pytest.mark.parametrize("width", [20, 400])
def test_the_layer_is_scikit_learns_logistic_regression(width: int) -> None:
    x, y = blobs((60, 60, 60), width)
    head = fit_head(x, y, np.arange(len(y)), 3)
    scale = np.sqrt(np.mean((x - x.mean(0)) ** 2))
    reference = LogisticRegression(C=1 / (head.strength * len(y)), max_iter=5000, tol=1e-8)
    reference.fit((x - x.mean(0)) / scale, y)
    ours = torch.softmax(torch.from_numpy(x).float() @ head.weight.T + head.bias, dim=1)
    theirs = reference.predict_proba((x - x.mean(0)) / scale)
    assert np.allclose(ours.numpy(), theirs, atol=2e-3)


def test_a_rare_class_is_found_too() -> None:
    x, y = blobs((300, 12))
    head = fit_head(x, y, np.arange(len(y)), 2)
    found = head.logits.argmax(1)[y == 1] == 1
    plain = LogisticRegression(C=0.01).fit(x, y)
    assert found.mean() > (plain.predict(x)[y == 1] == 1).mean()
    assert found.mean() > 0.5


def test_copies_of_a_picture_do_not_choose_the_regularisation() -> None:
    rng = np.random.default_rng(0)
    noise, y = rng.normal(size=(60, 50)), np.arange(60) % 2
    x, y, groups = np.tile(noise, (3, 1)), np.tile(y, 3), np.tile(np.arange(60), 3)
    honest = fit_head(x, y, groups, 2)
    fooled = fit_head(x, y, np.arange(180), 2)
    assert (fooled.logits.argmax(1) == y).mean() > 0.95  # it has seen each picture before
    assert (honest.logits.argmax(1) == y).mean() < 0.7


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("VGG_STUDIO_REAL"), reason="needs VGG_STUDIO_REAL")
def test_of_drawings_that_no_layer_has_seen_at_least_87_in_100_are_right() -> None:
    """416 drawings of 7 classes: five folds hold each of them out once."""
    real = Path(os.environ["VGG_STUDIO_REAL"])
    index, model = scan_folder(real / "tux"), load_model(real / "vgg16-oxford")
    trunk = Trunk(model, "stages", trunk_preprocessing(model, None), device=torch.device("cpu"))
    files = [sample.path for sample in index.samples]
    pictures = [load_picture(file, trunk.cfg, with_fingerprint=True) for file in files]
    names = [file.name for file in files]
    seen = list(extract(trunk, list(zip(names, pictures, strict=True))))
    features = np.stack([item.features for item in seen]).astype(np.float32)
    prints = np.array([item.picture.fingerprint for item in seen])
    groups, answers = group(prints, features), np.zeros(len(files), int)
    for learned, measured in folds(index.labels, groups, seed=0):
        head = fit_head(features[learned], index.labels[learned], groups[learned], 7)
        logits = torch.from_numpy(features[measured]) @ head.weight.T + head.bias
        answers[measured] = logits.argmax(1).numpy()
    assert len(files) == 416
    assert (answers == index.labels).mean() >= 0.87


# The loop


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_learns_what_is_easy(dtype: torch.dtype) -> None:
    assert run_fit(network(), 6, Recipe(batch_size=16), dtype=dtype).accuracy == 1


def test_the_learning_rate_rises_then_falls_to_almost_nothing() -> None:
    rates = [learning_rate(progress, 0.2) for progress in np.linspace(0, 1, 101)]
    assert np.argmax(rates) == 20
    assert max(rates) == pytest.approx(1)
    assert rates == sorted(rates[:21]) + sorted(rates[21:], reverse=True)
    assert 0 < rates[0] <= 0.001
    assert 0 < rates[-1] <= 0.001


def test_a_loss_that_diverges_is_noticed_and_explained() -> None:
    told: list[str] = []
    model = network(batch_norm=False)
    first = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="its loss diverged"):
        run_fit(model, 4, Recipe(lr=1e8, batch_size=16), on_warning=told.append)
    assert "learning rate" in told[0]
    assert first.keys() == model.state_dict().keys()


def test_after_the_loss_diverged_the_best_so_far_is_kept() -> None:
    model, told = network(), []

    def poison(epoch: Epoch, state: Callable[[], Any]) -> None:
        if epoch.number == 3:
            with torch.no_grad():
                model.features[0].weight.fill_(torch.nan)

    fitted = run_fit(model, 8, Recipe(batch_size=16), on_epoch=poison, on_warning=told.append)
    assert len(told) == 1
    assert "no number" in told[0]
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert fitted.accuracy == 1


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    told: list[str] = []
    fitted = run_fit(network(kind=SmallMemory), 3, Recipe(batch_size=32), on_warning=told.append)
    assert fitted.epochs == 3
    assert SmallMemory.largest == 8
    assert [sentence.split()[-4] for sentence in told] == ["16", "8"]


def test_a_deadline_ends_the_training_and_a_new_plan_says_how_many_epochs() -> None:
    epochs: list[Epoch] = []
    began = time.monotonic()
    fitted = run_fit(
        network(), 100_000, deadline=began + 1.5, on_epoch=lambda epoch, _: epochs.append(epoch)
    )
    assert time.monotonic() - began < 15
    assert fitted.epochs == len(epochs) < 10_000
    assert epochs[0].epochs < 100_000
    assert not fitted.stopped


# What is chosen


def test_pictures_changed_at_random_stay_pictures() -> None:
    pixels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    changed = augment(pixels, torch.Generator().manual_seed(1), fill=(0, 0.5, 1), cutout=0)
    assert changed.shape == pixels.shape
    assert changed.dtype == torch.uint8
    inner = changed[:, :, 8:24, 8:24]
    for before, after in zip(pixels, inner, strict=True):  # some shift, mirrored or not
        windows = before.unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4)
        same_as = [(windows == view).all(dim=(2, 3, 4)).any() for view in (after, after.flip(2))]
        assert any(same_as)
    again = augment(pixels, torch.Generator().manual_seed(1), fill=(0, 0.5, 1), cutout=0)
    assert torch.equal(changed, again)
    same_way = augment(
        pixels, torch.Generator().manual_seed(1), fill=(0, 0.5, 1), cutout=0, mirror=False
    )
    mirrored = (changed != same_way).flatten(1).any(1)
    assert torch.equal(changed[mirrored], same_way[mirrored].flip(3))
    assert 10 < mirrored.sum() < 30
    hidden = augment(pixels, torch.Generator().manual_seed(1), fill=(0, 0.5, 1), cutout=0.25)
    colour = torch.tensor([0, 128, 255]).view(1, 3, 1, 1)
    share = (hidden == colour).all(1).float().mean()
    assert 0.02 < share < 0.07


def run_for(tmp_path: Path, **choices: Any) -> Run:
    return Run(tmp_path / "run", TrainOptions(mode="scratch", **choices), resume=True)


def test_the_image_size_comes_from_the_pictures(drawn: Path, tmp_path: Path) -> None:
    draw_folder(tmp_path / "large", count=2, size=100)
    for folder, size in ((drawn, 48), (tmp_path / "large", 96)):  # tiny ones are enlarged
        assert suitable_size(run_for(tmp_path), Dataset.of(scan_folder(folder))) == size


def test_more_time_gives_a_wider_network_and_less_a_smaller_picture() -> None:
    start = ModelConfig("vgg11_bn", 2, "gap", 0.25, pretrained_cfg=preprocessing_of(96))

    def chosen(seconds: float, **free: bool) -> tuple[int, float]:
        def epochs_of(config: ModelConfig) -> float:  # ten thousand million operations a second
            return seconds * 1e10 / (3 * 1000 * count_macs(config))

        free = {"free_size": True, "free_width": True, **free}
        config = affordable(start, 1000, epochs_of, **free)
        return config.pretrained_cfg.size, config.width

    assert chosen(10) == (32, 0.25)
    assert chosen(10, free_size=False) == (96, 0.25)
    assert chosen(5000) == (96, 0.5)
    assert chosen(100_000) == (96, 1.0)
    assert chosen(100_000, free_width=False) == (96, 0.25)
    choices = [chosen(seconds) for seconds in (3, 10, 30, 100, 300, 1000, 3000, 10_000)]
    assert choices == sorted(choices)


def test_many_classes_get_a_wider_network_to_begin_with() -> None:
    assert [512 * narrowest(classes) for classes in (2, 32, 33, 1000)] == [64, 64, 128, 128]


def test_plain_deep_networks_from_scratch_are_warned_of(drawn: Path, tmp_path: Path) -> None:
    for depth in (13, 16):
        run = run_for(tmp_path, epochs=1, depth=depth, batch_norm=False, width=0.06)
        choose_network(run, Dataset.of(scan_folder(drawn)), None)
        assert any(f"take vgg{depth}_bn" in note for note in run.notes)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"mode": "fast"}, "unknown mode"),
        ({"epochs": 3, "budget_s": 5}, "not both"),
        ({"epochs": 0}, "epochs must be"),
        ({"budget_s": -1}, "budget must be"),
        ({"image_size": 20}, "image size"),
        ({"model": "vgg16", "depth": 11}, "either a model"),
        ({"head": "top"}, "unknown head"),
        ({"depth": 12}, "num_layers"),
        ({"width": 0}, "width"),
    ],
)
def test_choices_that_make_no_sense_are_refused(choices: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TrainOptions(**choices)

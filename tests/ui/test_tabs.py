"""What the Train, Evaluate and Inside tabs make of what a person gives them."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from vgg.checkpoints.loading import STARTER
from vgg.data.images import read_image
from vgg.data.shapes import draw_folder
from vgg.training.options import TrainOptions
from vgg.training.trainer import train
from vgg.ui import plots
from vgg.ui.server import picture_sets
from vgg.ui.server.choice import IMAGENET, NEW
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.settings import Limits, Settings
from vgg.ui.tabs import (
    evaluate,
    evaluate_cell,
    inside,
    inside_film,
    train_done,
    train_options,
    train_pictures,
)
from vgg.ui.words import duration

OWNER, STRANGER = Settings(), Settings(public=True)
STARTER_INPUTS = (STARTER, 11, True, 8, 0.25, "gap")
NEW_INPUTS = (NEW, 19, True, 7, 1.0, "fc")
VALUES = ("Automatic", "2 min", None, None, None, True, 0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tabs") / "shapes"
    draw_folder(folder, count=5, seed=5, size=32)
    return folder


@pytest.fixture(scope="module")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store with a model that was trained for one epoch."""
    home = tmp_path_factory.mktemp("weights")
    options = TrainOptions(
        mode="scratch", depth=11, width=0.05, head="gap", epochs=1, image_size=32, device="cpu"
    )
    train(drawn, out=home / "mine", options=options)
    return ModelStore(Settings(weights_dir=home))


def packed(folder: Path, into: Path) -> str:
    return shutil.make_archive(str(into / "photos"), "zip", folder)


# Pictures


def test_a_zip_becomes_classes_outside_of_what_gradio_serves(drawn: Path, tmp_path: Path) -> None:
    found = picture_sets.from_zip(OWNER, packed(drawn, tmp_path))
    assert found is not None
    assert found.index.counts == dict.fromkeys(sorted(p.name for p in drawn.iterdir()), 5)
    assert (found.owned, found.name) == (True, "photos")
    assert "gradio" not in found.folder.parts
    picture_sets.forget(found)
    assert not found.folder.exists()


def test_classes_may_come_from_the_names_of_files(drawn: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in drawn.rglob("*.png"):
        shutil.copy(file, flat / f"{file.parent.name}_{file.stem}.png")
    zipped = packed(flat, tmp_path)
    with pytest.raises(ValueError, match="--labels names"):
        picture_sets.from_zip(OWNER, zipped)
    found = train_pictures.from_zip_or_folder(OWNER, zipped, "", "File names")
    assert found is not None
    assert found.index.counts == dict.fromkeys(sorted(p.name for p in drawn.iterdir()), 5)
    assert found.told == {"labels": "names"}
    picture_sets.forget(found)


def test_a_zip_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("../cat/1.png", b"x")
    with pytest.raises(ValueError, match=r"bad\.zip"):
        picture_sets.from_zip(OWNER, str(bad))


def test_boxes_become_classes_under_their_names(drawn: Path) -> None:
    files = {name: [(str(p), None) for p in (drawn / name).iterdir()] for name in ("star", "heart")}
    found = picture_sets.from_boxes(
        OWNER, [("my/star", files["star"]), (" heart ", files["heart"]), ("", None)]
    )
    assert found is not None
    assert found.index.counts == {"heart": 5, "my-star": 5}
    picture_sets.forget(found)


def test_a_box_without_a_name_is_pointed_at(drawn: Path) -> None:
    some = [(str(p), None) for p in (drawn / "star").iterdir()]
    with pytest.raises(ValueError, match="class 2 has pictures but no name"):
        picture_sets.from_boxes(OWNER, [("star", some), ("", some)])
    with pytest.raises(ValueError, match="same name"):
        picture_sets.from_boxes(OWNER, [("star", some), ("star", some)])


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(pictures=9), "at most 9 pictures, not 10"),
        (Limits(zip_mb=0), "at most 0 MB of pictures"),
        (Limits(job_seconds=-1), "at most -1 seconds on pictures"),
    ],
)
def test_what_a_stranger_names_in_boxes_is_bounded_before_and_while_it_is_looked_through(
    limits: Limits, said: str, drawn: Path
) -> None:
    one = [(str(next((drawn / "star").iterdir())), None)]
    settings = Settings(public=True, limits=limits)
    with pytest.raises(ValueError, match=said):
        picture_sets.from_boxes(settings, [("star", 5 * one), ("heart", 5 * one)])


def test_an_evaluation_for_a_stranger_ends(drawn: Path) -> None:
    found = picture_sets.from_folder(OWNER, str(drawn))
    assert found is not None
    store = ModelStore(Settings(public=True, limits=Limits(job_seconds=-1)))
    with pytest.raises(ValueError, match="works for at most"):
        evaluate.measure(store, STARTER, found)


def test_a_public_page_takes_no_path_of_its_server(drawn: Path) -> None:
    assert picture_sets.from_folder(OWNER, str(drawn)) is not None
    with pytest.raises(ValueError, match="upload a zip instead"):
        picture_sets.from_folder(STRANGER, str(drawn))


def test_counts_hints_and_skipped_files_are_shown_and_names_escaped(
    drawn: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(drawn, tmp_path / "with trouble")
    (home / "star").rename(home / "<b>star")
    (home / "heart" / "broken.png").write_text("no picture")
    found = picture_sets.from_folder(OWNER, str(home))
    assert found is not None
    text = train_pictures.describe(found)
    assert "40 pictures in 8 classes" in text
    assert "1 file skipped" in text
    assert "broken.png" in text
    assert "&lt;b&gt;star" in text
    assert "<b>star" not in text


# How


def test_the_starter_left_alone_means_from_scratch_and_a_head_only_its_trunk() -> None:
    store = ModelStore(OWNER)
    choice = store.choice_of(STARTER)
    assert train_options.start_from(store, choice, "auto")["mode"] == "scratch"
    assert train_options.start_from(store, choice, "probe") == {"mode": "probe", "model": "starter"}
    imagenet = store.choice_of("vgg13_bn")
    assert imagenet.model == IMAGENET
    assert train_options.start_from(store, imagenet, "auto") == {
        "mode": "auto",
        "model": "vgg13_bn",
    }


def test_strangers_get_less_time(drawn: Path) -> None:
    store, stranger = ModelStore(OWNER), ModelStore(STRANGER)
    choice = store.choice_of(STARTER)
    long = ("Automatic", "10 min", None, None, None, True, 0)
    assert train_options.options_of(store, choice, *long).seconds == 600
    with pytest.raises(ValueError, match="at most 120 seconds"):
        train_options.options_of(stranger, choice, *long)


def test_where_the_training_starts_is_named() -> None:
    store = ModelStore(OWNER)
    assert "A new network like <b>Starter</b>, VGG-11" in train_options.origin(
        store, "Automatic", *STARTER_INPUTS
    )
    assert "Start from <b>Starter</b>" in train_options.origin(store, "Head only", *STARTER_INPUTS)
    assert "A new network, VGG-19" in train_options.origin(store, "Automatic", *NEW_INPUTS)
    imagenet = (IMAGENET, 13, False, 1000, 1.0, "fc")
    assert "Start from <b>ImageNet&#x27;s vgg13</b>, VGG-13." in train_options.origin(
        store, "Automatic", *imagenet
    )


def test_a_step_folds_to_a_line_that_says_what_was_chosen(drawn: Path) -> None:
    found = picture_sets.from_folder(OWNER, str(drawn))
    assert found is not None
    assert train_pictures.headline(found) == "shapes: 40 pictures in 8 classes"
    assert train_options.headline(TrainOptions(mode="probe", budget_s=100)) == (
        "Head only, at most 1 min 40 s"
    )
    assert train_options.headline(TrainOptions(mode="scratch", epochs=1)) == "From scratch, 1 epoch"


def test_durations_are_words() -> None:
    assert [duration(s) for s in (0.2, 59.7, 60, 100)] == [
        "0 s",
        "1 min",
        "1 min",
        "1 min 40 s",
    ]


def test_a_job_learns_from_links_that_outlive_the_set_and_the_set_outlives_them(
    drawn: Path, tmp_path: Path
) -> None:
    found = picture_sets.from_zip(OWNER, packed(drawn, tmp_path))
    assert found is not None
    with picture_sets.lent(found) as folder:
        assert len(list(folder.rglob("*.png"))) == 40
    shutil.rmtree(folder)
    assert all(sample.path.is_file() for sample in found.index.samples)
    with pytest.raises(RuntimeError), picture_sets.lent(found) as folder:
        raise RuntimeError
    assert not folder.exists(), "it goes where no job comes of it"
    with picture_sets.lent(found) as folder:
        picture_sets.forget(found)
    assert len(list(folder.rglob("*.png"))) == 40
    shutil.rmtree(folder)
    own = picture_sets.from_folder(OWNER, str(drawn))
    assert own is not None
    with picture_sets.lent(own) as folder:
        assert folder == drawn, "a person's own folder is read where it is"


def test_the_plan_says_what_will_happen(drawn: Path) -> None:
    store = ModelStore(OWNER)
    found = picture_sets.from_folder(store.settings, str(drawn))
    text = train_options.plan(store, found, VALUES, NEW_INPUTS)
    assert "VGG-19 with batch norm learns from scratch" in text
    assert "8 of 40 pictures are held out" in text
    assert "8 classes" in text


# Evaluate


def test_held_out_figures_are_those_of_the_training(trained: ModelStore) -> None:
    found = evaluate_cell.held_out(trained, "mine")
    home = trained.settings.weights_dir
    assert home is not None
    metrics = json.loads((home / "mine" / "metrics.json").read_text())
    assert found.document["accuracy"] == metrics["accuracy"]
    assert f"of {metrics['held_out']} pictures" in evaluate.summary(found.document)


def test_an_evaluation_takes_its_turn_on_the_device(
    trained: ModelStore, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, lock = trained.predictor("mine"), trained.device_lock
    answer, turns = predictor.probabilities, []

    def watched(pixels: Tensor) -> Tensor:
        turns.append(lock._given - lock._served)  # those who have it or wait for it
        return answer(pixels)

    monkeypatch.setattr(predictor, "probabilities", watched)
    found = picture_sets.from_folder(OWNER, str(drawn))
    assert found is not None
    evaluate.measure(trained, "mine", found)
    assert turns == [1] * -(-len(found.index.samples) // predictor.batch_size)


def test_a_cell_opens_its_pictures_the_surest_mistake_first(trained: ModelStore) -> None:
    found = evaluate_cell.held_out(trained, "mine")
    matrix, classes = found.document["confusion"], found.document["classes"]
    row, column = next((i, j) for i in range(8) for j in range(8) if i != j and matrix[i][j])
    text = evaluate_cell.read_cell(trained, found, row, column).html()
    assert f" of {classes[row]}, answered {classes[column]}; the surest first" in text
    assert text.count("<figure") == matrix[row][column]
    assert text.count("<img") == matrix[row][column], "copies of the held-out pictures are there"
    wrong = [
        p["probability"]
        for p in found.document["pictures"]
        if (p["class"], p["answer"]) == (classes[row], classes[column])
    ]
    shown = [text.index(f"{100 * p:.1f} %") for p in sorted(wrong, reverse=True)]
    assert shown == sorted(shown)


def test_right_answers_come_with_the_least_sure_first(trained: ModelStore) -> None:
    found = evaluate_cell.held_out(trained, "mine")
    for place in range(8):
        sure = [picture["probability"] for picture in found.cell(place, place)]
        assert sure == sorted(sure)
        assert len(sure) == found.document["confusion"][place][place]


def test_heat_maps_come_after_the_pictures_one_for_each(trained: ModelStore) -> None:
    found = evaluate_cell.held_out(trained, "mine")
    matrix = found.document["confusion"]
    place = next((i, j) for i in range(8) for j in range(8) if matrix[i][j])
    count = matrix[place[0]][place[1]]
    cell = evaluate_cell.read_cell(trained, found, *place)
    before = cell.html()
    assert before.count("heat map …") == min(count, evaluate_cell.MAPPED_PICTURES)
    *_, after_all = evaluate_cell.add_maps(trained, cell)
    assert "heat map …" not in after_all
    drawn = after_all.count("alt='heat map for ")
    assert drawn + after_all.count("No heat map:") == min(count, evaluate_cell.MAPPED_PICTURES)


def test_a_cell_without_its_model_keeps_its_pictures(trained: ModelStore) -> None:
    found = replace(evaluate_cell.held_out(trained, "mine"), model="gone")
    matrix = found.document["confusion"]
    place = next((i, j) for i in range(8) for j in range(8) if matrix[i][j])
    cell = evaluate_cell.read_cell(trained, found, *place)
    (text,) = evaluate_cell.add_maps(trained, cell)
    assert text.count("<img") == matrix[place[0]][place[1]]
    assert "heat map" not in text


def test_see_why_shows_the_surest_right_answer(
    trained: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    shown = train_done.held_out_picture(trained, "mine")
    assert shown is not None
    ((path, caption),) = shown
    found = evaluate_cell.held_out(trained, "mine")
    picture = next(
        p
        for p in found.document["pictures"]
        if found.picture(p["image"]).read_bytes() == Path(path).read_bytes()
    )
    assert caption == f"held out: {picture['class']}"
    right = [p for p in found.document["pictures"] if p["class"] == p["answer"]]
    assert not right or picture in right
    assert all(p["probability"] <= picture["probability"] for p in right)
    assert read_image(path).size == (32, 32)
    assert Path(path).is_relative_to(tmp_path), "a copy, where Gradio serves files"


def test_a_model_without_held_out_pictures_says_so() -> None:
    with pytest.raises(ValueError, match="no held-out pictures of its own"):
        evaluate.held_out_of_choice(ModelStore(OWNER), *STARTER_INPUTS)
    with pytest.raises(ValueError, match="not been trained"):
        evaluate.held_out_of_choice(ModelStore(OWNER), *NEW_INPUTS)


def test_the_matrix_shades_by_share_and_escapes_names() -> None:
    text = plots.confusion([[3, 1], [0, 4]], ["<cat>", "dog"])
    assert "&lt;cat&gt;" in text
    assert "<cat>" not in text
    assert 'class="wrong" style="--share:0.250"' in text
    assert 'data-row="1" data-column="0"' not in text, "an empty cell opens nothing"


def test_a_curve_has_a_point_an_epoch() -> None:
    line = plots.Line("held out", plots.BLUE, [(1, 0.2), (2, 0.6), (3, 0.9)])
    text = plots.curves([line], title="Accuracy", x_name="epoch", percent=True)
    assert text.count("<circle") == 3
    assert plots.curves([], title="Accuracy", x_name="epoch") == ""


def test_a_curve_of_many_epochs_has_200_points_from_the_first_to_the_last() -> None:
    points = [(float(epoch), 1 / (1 + epoch)) for epoch in range(1, 10_001)]
    kept = plots.thinned(points)
    assert (kept[0], kept[-1], len(set(kept))) == (points[0], points[-1], 200)
    text = plots.curves([plots.Line("loss", plots.BLUE, points)], title="Loss", x_name="epoch")
    assert text.count("<circle") == 200
    assert len(text) < 25_000


def test_calibration_has_a_dot_for_each_tenth_that_has_answers() -> None:
    text = plots.reliability([(0.95, True), (0.97, True), (0.93, False), (0.31, False)])
    assert text.count("<circle") == 2
    assert "3 pictures answered with 95 % on average: 67 % of them right" in text
    assert "1 picture answered with 31 % on average: 0 % of them right" in text


# Inside


def test_the_stages_show_shapes_and_weights_of_the_formula() -> None:
    text = inside.row_of_stages(ModelStore(OWNER).config(ModelStore(OWNER).choice_of("vgg16")), 0)
    assert "224 x 224 x 3" in text
    assert "112 x 112 x 64" in text
    assert "38.7 k weights" in text
    assert text.count("aria-pressed='true'") == 1


def test_an_untrained_network_shows_no_maps() -> None:
    text = inside.maps_of_stage(ModelStore(OWNER), lambda read: None, 0, *NEW_INPUTS)
    assert "has not been trained" in text


def test_the_race_says_where_weights_come_from(tmp_path: Path) -> None:
    store = ModelStore(Settings(weights_dir=tmp_path))
    said = next(inside.race(store, lambda read: None))
    assert "No ImageNet weights are on this machine" in said


def test_a_film_shows_its_pictures_without_paths_and_with_escaped_names(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "vgg.training.film_recorder.SHARE", 1000.0
    )  # so short a training has no time for a film
    pictures_of = shutil.copytree(drawn, tmp_path / "shapes")
    (pictures_of / "star").rename(pictures_of / "<b>star")
    home = tmp_path / "weights"
    options = TrainOptions(mode="scratch", width=0.05, epochs=2, image_size=32, device="cpu")
    train(pictures_of, out=home / "mine", options=options)
    store, inputs = (
        ModelStore(Settings(weights_dir=home, public=True)),
        ("mine", 11, True, 8, 0.05, "gap"),
    )
    assert "no film" in inside_film.Handlers(store).open_film(*inputs)[0], (
        "its owner's pictures are not shown"
    )
    store.private.keep("mine", home / "mine")
    text, slider, play = inside_film.Handlers(store).open_film(*inputs)
    assert "<b>After epoch 1</b> of 2" in text
    assert text.count("<img") == 8
    assert "&lt;b&gt;star" in text
    assert "<b>star" not in text
    assert str(tmp_path) not in text
    assert (slider.maximum, slider.visible, play.visible) == (2, True, True)
    (home / "mine" / "film" / "frame-00001.png").write_bytes(b"no picture")
    text, slider, _ = inside_film.Handlers(store).open_film(*inputs)
    assert "frame-00001.png" in text
    assert str(tmp_path) not in text
    assert slider.visible is False


def test_a_model_without_a_film_says_which_trainings_make_one(trained: ModelStore) -> None:
    for inputs in (STARTER_INPUTS, NEW_INPUTS):
        text, slider, _ = inside_film.Handlers(trained).open_film(*inputs)
        assert "This model has no film" in text
        assert slider.visible is False
    text, *_ = inside_film.Handlers(trained).open_film("../mine", 11, True, 8, 0.05, "gap")
    assert "no model" in text


def _a_picture(folder: Path) -> Path:
    draw_folder(folder / "one", count=1, seed=1, size=32)
    return folder / "one" / "star" / "0000.png"

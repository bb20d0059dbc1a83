"""Facts about the figures: they are scikit-learn's, and classes are matched by name."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from sklearn import metrics

from vgg.data.shapes import draw_shape
from vgg.inference.calibration import apply_temperature, calibration_error, fit_temperature
from vgg.inference.evaluation import accuracy_interval, evaluate, evaluate_probabilities
from vgg.inference.predictor import Predictor
from vgg.network.config import Preprocessing
from vgg.network.vgg import VGG

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")


def some_answers(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, 7) of a model that is often right, and the classes (N,)."""
    rng = np.random.default_rng(0)
    targets = rng.choice(7, count, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.09, 0.01])
    logits = rng.normal(size=(count, 7)) + 1.5 * np.eye(7)[targets]
    return apply_temperature(logits, 1.0), targets


def test_figures_equal_those_of_scikit_learn() -> None:
    probs, targets = some_answers()
    answers = probs.argmax(1)
    got = evaluate_probabilities(probs, targets, NAMES)
    assert got.accuracy == metrics.accuracy_score(targets, answers)
    assert got.top5 == metrics.top_k_accuracy_score(targets, probs, k=5, labels=range(7))
    assert got.balanced_accuracy == pytest.approx(
        metrics.balanced_accuracy_score(targets, answers), abs=1e-12
    )
    assert np.array_equal(got.confusion, metrics.confusion_matrix(targets, answers))
    report = metrics.classification_report(
        targets, answers, target_names=NAMES, output_dict=True, zero_division=0
    )
    for name in NAMES:
        score = got.per_class[name]
        assert (score.precision, score.recall, score.f1, score.support) == tuple(
            report[name][key] for key in ("precision", "recall", "f1-score", "support")
        )


def test_a_class_that_is_never_answered_scores_zero_without_a_warning() -> None:
    probs = np.tile([0.9, 0.1], (4, 1))
    got = evaluate_probabilities(probs, np.array([0, 0, 0, 1]), ("a", "b"))
    assert got.per_class["b"].precision == got.per_class["b"].recall == 0
    assert got.confusion.tolist() == [[3, 0], [1, 0]]


def test_the_interval_is_wilsons() -> None:
    # Newcombe 1998, table I: 81 of 263.
    low, high = accuracy_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert accuracy_interval(0, 0) == (0.0, 1.0)
    low, high = accuracy_interval(20, 20)
    assert low < 1
    assert high == 1


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    probs = np.tile([0.75, 0.25], (4, 1))
    assert calibration_error(probs, np.array([0, 0, 0, 1])) == pytest.approx(0, abs=1e-7)
    assert calibration_error(probs, np.array([1, 1, 1, 1])) == pytest.approx(0.75)


def test_the_temperature_undoes_what_made_a_model_too_sure() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=2, size=(4000, 5))
    targets = np.array([rng.choice(5, p=row / row.sum()) for row in apply_temperature(logits, 1.0)])
    assert fit_temperature(3 * logits, targets) == pytest.approx(3, rel=0.1)
    assert fit_temperature(logits / 4, targets) == pytest.approx(0.25, rel=0.1)


def test_a_temperature_changes_no_answer() -> None:
    probs, _ = some_answers()
    logits = np.log(probs)
    assert np.array_equal(apply_temperature(logits, 7.0).argmax(1), probs.argmax(1))


def test_with_many_classes_the_matrix_holds_those_that_occur() -> None:
    names = tuple(f"class {k}" for k in range(500))
    probs = np.zeros((3, 500))
    probs[[0, 1, 2], [7, 7, 400]] = 1
    got = evaluate_probabilities(probs, np.array([7, 20, 400]), names)
    assert got.classes == ("class 7", "class 20", "class 400")
    assert got.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]


def brightness_model(names: tuple[str, ...]) -> Predictor:
    """Answers with the first class for a dark picture and with the second for a bright one."""
    model = VGG(11, len(names), width=0.01, head="gap", init_weights=False)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("weight") and value.ndim == 4:
                value.zero_()
                value[:, :, 1, 1] = 1 / value.shape[1]
            elif value.is_floating_point():
                value.fill_(1.0 if name.endswith(("running_var", "1.weight")) else 0.0)
        for module in model.features:
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.fill_(1.0)
        model.classifier[-1].weight.zero_()
        model.classifier[-1].weight[1] = 1.0
        model.classifier[-1].bias[0] = 0.5
    cfg = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), input_size=(3, 32, 32), crop_pct=1.0)
    model.config = type(model.config)(
        "vgg11_bn", len(names), "gap", 0.01, names, True, pretrained_cfg=cfg
    )
    return Predictor(model.eval(), "cpu", "fp32")


def write_pictures(folder: Path, shade: int, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        picture = draw_shape("circle", Random(number), size=40)
        picture.paste((shade, shade, shade), (0, 0, 40, 40))
        picture.save(folder / f"{number}.png")


def test_classes_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a bright", 250, 3)
    write_pictures(tmp_path / "z dark", 5, 2)
    got = evaluate(brightness_model(("z dark", "a bright", "never seen")), tmp_path)
    assert got.accuracy == 1
    assert got.images == 5
    assert got.classes == ("z dark", "a bright", "never seen")
    assert got.confusion.tolist() == [[2, 0, 0], [0, 3, 0], [0, 0, 0]]
    assert set(got.paths) == {f"a bright/{k}.png" for k in range(3)} | {
        "z dark/0.png",
        "z dark/1.png",
    }
    assert np.allclose(got.probs.sum(1), 1, atol=1e-6)


def test_classes_that_the_model_does_not_know_are_counted_apart(tmp_path: Path) -> None:
    write_pictures(tmp_path / "bright", 250, 3)
    write_pictures(tmp_path / "striped", 120, 4)
    got = evaluate(brightness_model(("dark", "bright")), tmp_path)
    assert got.images == 3
    assert got.unknown == {"striped": 4}
    assert any("striped" in hint and "4 pictures" in hint for hint in got.hints)
    with pytest.raises(ValueError, match="knows none of the classes"):
        evaluate(brightness_model(("cat", "dog")), tmp_path)


def test_an_unreadable_picture_is_skipped_with_its_reason(tmp_path: Path) -> None:
    write_pictures(tmp_path / "bright", 250, 2)
    write_pictures(tmp_path / "dark", 5, 2)
    whole = (tmp_path / "dark" / "0.png").read_bytes()
    (tmp_path / "dark" / "0.png").write_bytes(whole[:-30])
    got = evaluate(brightness_model(("dark", "bright")), tmp_path)
    assert got.images == 3
    assert [file for file, _ in got.skipped] == ["dark/0.png"]
    assert got.to_json()["skipped"][0]["reason"]


def test_the_document_names_each_picture_with_its_probabilities(tmp_path: Path) -> None:
    write_pictures(tmp_path / "bright", 250, 1)
    document = evaluate(brightness_model(("dark", "bright")), tmp_path).to_json()
    (row,) = document["pictures"]
    assert row["image"] == "bright/0.png"
    assert row["class"] == row["answer"] == "bright"
    assert row["probability"] == row["class_probability"] == row["probabilities"][1]
    assert document["images"] == 1
    assert document["accuracy_interval"][0] < 1

"""One answer explained: which class, where on the picture, and what the check finds."""

from pathlib import Path
from random import Random

import pytest
from PIL import Image

from vgg.checkpoints.loading import load_model
from vgg.data.shapes import draw_shape
from vgg.inference.heatmap import check, explain, overlaid, shown_size, write_heatmap
from vgg.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(load_model("starter"), "cpu", "fp32")


@pytest.fixture(scope="module")
def star() -> Image.Image:
    return draw_shape("star", Random("13/star"), size=256)


def test_the_most_likely_class_is_explained_unless_another_is_asked_for(
    predictor: Predictor, star: Image.Image
) -> None:
    assert explain(predictor, star).name == "star"
    other = predictor.config.label_names.index("circle")
    found = explain(predictor, star, other)
    assert (found.name, found.index) == ("circle", other)
    assert not found.heat.equal(explain(predictor, star).heat)


def test_the_marked_area_matters_more_than_others(predictor: Predictor) -> None:
    scores = []
    for name in ("star", "heart", "triangle", "cross"):
        picture = draw_shape(name, Random(f"7/{name}"), size=128)
        truth = check(predictor, explain(predictor, picture))
        assert truth is not None
        scores.append(truth.score)
    assert sum(scores) / len(scores) > 0.1


def test_a_class_that_is_not_there_is_refused(predictor: Predictor, star: Image.Image) -> None:
    with pytest.raises(ValueError, match="class 8 is not one of this model's 8 classes"):
        explain(predictor, star, 8)


def test_the_overlay_keeps_the_shape_of_the_picture(predictor: Predictor) -> None:
    wide = Image.new("RGB", (400, 100), "white")
    wide.paste(draw_shape("heart", Random(1), size=96), (152, 2))
    found = explain(predictor, wide)
    assert overlaid(found).size == shown_size(wide) == (448, 112)


def test_files_of_one_name_get_a_map_each(
    predictor: Predictor, star: Image.Image, tmp_path: Path
) -> None:
    found = explain(predictor, star)
    written = [write_heatmap(found, "photo", tmp_path) for _ in range(2)]
    assert [path.name for path in written if path] == ["photo (star).png", "photo (star) 2.png"]
    assert not list(tmp_path.glob("*.part"))
    with Image.open(written[0]) as opened:
        assert opened.size == (448, 448)

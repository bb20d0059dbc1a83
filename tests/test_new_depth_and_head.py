"""A depth and a head that are added to their tables, and nowhere else, are the whole program's."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vgg import GradCAM, Predictor, load_model, train
from vgg.checkpoints.key_conversion import infer_config
from vgg.checkpoints.loading import available_models
from vgg.cli import build_parser
from vgg.data.shapes import draw_folder
from vgg.export.bundle import export_bundle
from vgg.export.model_card import fits_timm, model_card
from vgg.network.config import IMAGENET_NAMES, STAGES, ModelConfig
from vgg.network.heads import HEADS
from vgg.network.summary import count_parameters, stages_of
from vgg.network.vgg import VGG
from vgg.ui.server.model_downloads import Downloads
from vgg.ui.server.model_store import IMAGENET, NEW, ModelStore
from vgg.ui.sidebar import Handlers
from vgg.ui.tabs.inside import layer_table


@pytest.fixture(autouse=True)
def _added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`added_head` is all that is added."""
    monkeypatch.setenv("VGG_STUDIO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VGG_STUDIO_WEIGHTS_DIR", str(tmp_path / "weights"))
    importlib.reload(importlib.import_module("added_head"))
    yield
    del STAGES[14], HEADS["max"]


def test_they_train_predict_explain_are_exported_with_proof_and_come_back(tmp_path: Path) -> None:
    shapes = tmp_path / "shapes"
    draw_folder(shapes, count=3, seed=0)
    small = {"depth": 14, "head": "max", "width": 0.0625, "image_size": 32}
    scratch = train(shapes, out=tmp_path / "scratch", mode="scratch", epochs=1, **small)
    tuned = train(
        shapes, out=tmp_path / "tuned", model=scratch.out, head="max", mode="finetune", epochs=1
    )
    assert (scratch.architecture, scratch.head, tuned.head) == ("vgg14_bn", "max", "max")
    model = load_model(tuned.out)
    assert (model.config.depth, model.config.head) == (14, "max")
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        largest = model.features[:-1](x).amax((2, 3))  # of all but the last max-pool
        torch.testing.assert_close(model(x), model.classifier(largest))
    with GradCAM(model) as cam:
        heat, logits = cam.with_logits(x, 0)
    assert heat.shape == (2, 32, 32)
    torch.testing.assert_close(logits, model(x), atol=1e-5, rtol=0)
    bundle = export_bundle(tuned.out, tmp_path / "bundle")
    assert bundle.largest_difference < 1e-4
    pictures = sorted(shapes.rglob("*.png"))[:4]
    answers = []
    for folder in (tuned.out, bundle.folder):
        predictor = Predictor(load_model(folder), "cpu", "fp32")
        answers.append(predictor.probabilities(predictor.prepare(pictures)))
    assert torch.equal(*answers)


def test_counts_rows_options_and_words_know_them() -> None:
    config = ModelConfig("vgg14_bn", 5, head="max", width=0.125)
    model = VGG.from_config(config)
    assert count_parameters(config) == sum(p.numel() for p in model.parameters())
    assert [len([r for r in s.layers if r.name.startswith("conv")]) for s in stages_of(config)] == [
        1, 2, 2, 3, 3, 0,
    ]  # fmt: skip
    assert "global max pooling: one number a channel" in layer_table(config, 5)
    assert "(global maximum)" in model_card(config)
    assert infer_config(model.state_dict()).architecture == "vgg14_bn"
    parsed = build_parser().parse_args(["train", "photos", "--depth", "14", "--head", "max"])
    assert (parsed.depth, parsed.head) == (14, "max")


def test_a_new_depth_has_no_pretrained_weights_in_any_list(tmp_path: Path) -> None:
    assert not [name for name in IMAGENET_NAMES if "14" in name]
    assert not [model.name for model in available_models() if "14" in model.name]
    assert not fits_timm(ModelConfig("vgg14", 1000))
    with pytest.raises(ValueError, match="no model 'vgg14'; choose starter, vgg11, "):
        load_model("vgg14")
    draw_folder(tmp_path / "shapes", count=3, seed=0)
    with pytest.raises(ValueError, match="no pretrained weights of depth 14"):
        train(tmp_path / "shapes", depth=14, mode="probe", out=tmp_path / "out")
    page = Handlers(ModelStore(), Downloads(ModelStore()))
    shown = page.part_changed(IMAGENET, 14, True, 1000, 1.0, "fc")
    assert shown[0] == NEW  # on the page another depth of ImageNet's is a new network
    shown = page.model_changed(IMAGENET, 14, True, 5, 1.0, "fc")
    assert shown[1] in (11, 13, 16, 19)

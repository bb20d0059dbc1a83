"""The model card says what is known of a model, and nothing of this machine."""

import json
from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from vgg.checkpoints.library import accuracy_of
from vgg.export.model_card import fits_timm, model_card, open_metrics
from vgg.network.config import ModelConfig

CONFIG = ModelConfig(
    "vgg11_bn", 2, head="gap", width=0.25, label_names=("cat", "dog"), trained=True
)
METRICS: dict[str, Any] = {
    "out": "/home/me/secret/pets",
    "mode": "probe",
    "images": 100,
    "held_out": 20,
    "accuracy": 0.9,
    "accuracy_interval": [0.699, 0.972],
    "seconds": 12.3,
    "epochs": 0,
    "skipped": [{"file": "holiday/broken.jpg", "reason": "is empty"}],
    "notes": ["a new last layer on the frozen trunk of /home/me/secret/old"],
    "options": {"model": "/home/me/secret/old", "seed": 0},
    "evaluation": {
        "accuracy": 0.9,
        "per_class": {"cat": {"support": 12, "recall": 1.0, "precision": 0.8571}},
        "pictures": [{"image": "cat/holiday.jpg"}],
    },
    "copies": {"cat/holiday.jpg": "held_out/cat/holiday.jpg"},
}


def test_the_front_matter_is_read_by_the_hubs_own_reader() -> None:
    data = ModelCard(model_card(CONFIG, metrics=METRICS, repo_id="me/pets")).data
    assert data.pipeline_tag == "image-classification"
    assert data.license == "unknown"
    assert data.library_name == "vgg-studio"
    assert {"vgg", "vgg11_bn", "image-classification"} <= set(data.tags)
    assert data.metrics == ["accuracy"]


def test_the_card_says_data_split_and_accuracy_with_count_and_interval() -> None:
    card = model_card(CONFIG, metrics=METRICS, repo_id="me/pets")
    assert "100 pictures in 2 classes" in card
    assert "20 pictures were held out" in card
    assert "80 learned from" in card
    assert "90.0 % of 20 held-out pictures are named right" in card
    assert "95 % interval 69.9 to 97.2 %" in card
    assert "| cat | 12 | 100.0 % | 85.7 % |" in card
    assert "frozen trunk of `old`" in card
    assert 'load_model("hf-hub:me/pets")' in card


def test_without_metrics_the_config_knows_the_accuracy() -> None:
    training = {key: METRICS[key] for key in ("mode", "images", "held_out", "accuracy")}
    training["accuracy_interval"] = METRICS["accuracy_interval"]
    config = replace(CONFIG, extra={"training": training})
    assert "90.0 % of 20 held-out pictures" in model_card(config)
    assert accuracy_of(config) == (0.9, 20, (0.699, 0.972))
    assert accuracy_of(replace(CONFIG, extra={"training": {"accuracy": "high"}})) is None


def test_no_path_and_no_file_name_of_this_machine_leaves_it() -> None:
    told = model_card(CONFIG, metrics=METRICS) + json.dumps(open_metrics(METRICS))
    assert "secret" not in told
    assert "holiday" not in told
    assert open_metrics(METRICS)["trained_from"] == "old"
    assert "frozen trunk of `old`" in model_card(CONFIG, metrics=open_metrics(METRICS))


def test_an_untrained_network_claims_nothing() -> None:
    card = model_card(replace(CONFIG, trained=False), metrics=METRICS)
    assert "has not been trained" in card
    assert "%" not in card.partition("## Preprocessing")[0].partition("## Classes")[0]
    assert "named right" not in card


@pytest.mark.parametrize(
    ("base", "license"),
    [("vgg16_bn", "bsd-3-clause"), ("starter", "mit"), ("hf-hub:x/y", "unknown")],
)
def test_the_trunks_licence_is_named(base: str, license: str) -> None:
    metrics = {**METRICS, "options": {"model": base}}
    assert ModelCard(model_card(CONFIG, metrics=metrics)).data.license == license
    metrics["mode"] = "scratch"  # nothing of the trunk is left
    assert ModelCard(model_card(CONFIG, metrics=metrics)).data.license == "unknown"


def test_markup_in_a_class_name_is_text() -> None:
    config = replace(CONFIG, label_names=("<b>owl</b>|x", "two\nlines"))
    card = model_card(config, metrics=METRICS)
    assert r"\<b\>owl\</b\>\|x" in card
    assert "two lines" in card


def test_the_papers_network_is_timms_too() -> None:
    paper = ModelConfig("vgg16", 1000, trained=True)
    assert fits_timm(paper)
    assert not fits_timm(replace(paper, head="gap"))
    assert not fits_timm(replace(paper, width=0.5))
    card = model_card(paper, repo_id="me/vgg")
    assert ModelCard(card).data.library_name == "timm"
    assert 'timm.create_model("hf-hub:me/vgg", pretrained=True)' in card
    assert "timm" not in model_card(paper), "a folder of ours has our names in it"


def test_the_onnx_file_is_explained_where_there_is_one() -> None:
    assert "onnx" not in model_card(CONFIG)
    assert "predict.py photo.jpg" in model_card(CONFIG, onnx=True)

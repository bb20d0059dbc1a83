"""Configs say what is wrong with them, whoever wrote them; sizes by formula are the true ones."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vgg.network.config import (
    IMAGENET_NAMES,
    STAGES,
    ModelConfig,
    Preprocessing,
    architecture_name,
    check_network,
    default_names,
    depth_and_norm,
    dump_config,
    pooled_sizes,
    read_config,
)
from vgg.network.summary import count_macs, count_parameters, describe_count

# What timm writes for its own VGGs, fields that we do not read included.
TIMM: dict[str, Any] = {
    "architecture": "vgg16_bn",
    "num_classes": 1000,
    "num_features": 4096,
    "pretrained_cfg": {
        "tag": "tv_in1k",
        "custom_load": False,
        "input_size": [3, 224, 224],
        "fixed_input_size": False,
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": 1000,
        "pool_size": [7, 7],
        "first_conv": "features.0",
        "classifier": "head.fc",
    },
}
OURS: dict[str, Any] = {
    "architecture": "vgg11",
    "num_classes": 3,
    "head": "gap",
    "width": 0.25,
    "label_names": ["cat", "dog", "owl"],
    "trained": True,
    "dropout": 0.5,
    "pretrained_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "input_size": [3, 64, 64],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "border",
    },
    "temperature": 1.5,
    "trained_on": {"pictures": 416, "folder": "pets"},
}
# Weights and biases in millions, as torchvision's own documentation gives them (`num_params`).
PARAMETERS = {
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
}
MACS = {11: 7.609e9, 13: 11.308e9, 16: 15.470e9, 19: 19.632e9}  # torchvision's `_ops`


def changed(data: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """A copy with one field set; `a.b` is field b inside a."""
    copied = json.loads(json.dumps(data))
    *outer, last = field.split(".")
    inside = copied
    for name in outer:
        inside = inside[name]
    inside[last] = value
    return copied


@pytest.mark.parametrize("depth", STAGES)
def test_depth_counts_convolutions_and_three_fully_connected_layers(depth: int) -> None:
    assert sum(STAGES[depth]) + 3 == depth


@pytest.mark.parametrize("name", IMAGENET_NAMES)
def test_parameters_and_macs_by_formula_are_those_of_the_paper(name: str) -> None:
    config = ModelConfig(name, 1000)
    assert count_parameters(config) == PARAMETERS[name]
    assert count_macs(config) == pytest.approx(MACS[config.depth], rel=1e-3)


def test_architecture_names_and_their_parts_belong_together() -> None:
    for name in IMAGENET_NAMES:
        assert architecture_name(*depth_and_norm(name)) == name


def test_stages_head_of_vgg16_reads_1280_numbers() -> None:
    assert sum(pooled_sizes(ModelConfig("vgg16", head="stages"))) == 1280


def test_an_unknown_depth_is_answered_with_the_four_that_there_are() -> None:
    with pytest.raises(ValueError, match="11, 13, 16 or 19, not 12"):
        check_network(12, 2, "fc", 1.0)


@pytest.mark.parametrize(
    ("place", "values"),
    [
        (0, ["16", True, [16]]),  # depth
        (1, [-1, 2.0, True, 10**9]),  # classes
        (2, ["mlp", ["fc"]]),  # head
        (3, [0, -1.0, math.nan, math.inf, 10**400, "1"]),  # width
        (4, [1.0, -0.1]),  # dropout
        (5, [[4096], (4096, 0), (10,) * 17]),  # hidden layers
        (6, [0, 8]),  # places that pooling leaves
    ],
)
def test_what_is_no_vgg_is_refused(place: int, values: list[Any]) -> None:
    for value in values:
        network: list[Any] = [16, 2, "fc", 1.0, 0.5, (512, 512), 1]
        network[place] = value
        with pytest.raises(ValueError, match=r"must|unknown"):
            check_network(*network)


def test_sizes_that_a_head_does_not_read_are_refused_by_name_and_not_kept() -> None:
    with pytest.raises(ValueError, match="head gap does not read hidden"):
        check_network(16, 2, "gap", 1.0, 0.5, (512,))
    with pytest.raises(ValueError, match="head stages does not read pool"):
        check_network(16, 2, "stages", 1.0, 0.5, pool=1)
    own = ModelConfig("vgg16", head="fc", hidden=(512,), pool=1)
    assert replace(own, head="gap") == ModelConfig("vgg16", head="gap")


def test_a_heads_own_sizes_stand_in_the_config_where_they_are_not_the_papers() -> None:
    own = ModelConfig("vgg16", head="fc", hidden=(512,), pool=1)
    assert (own.to_json()["hidden"], own.to_json()["pool"]) == ([512], 1)
    assert ModelConfig.from_json(json.loads(dump_config(own))) == own
    assert not {"hidden", "pool"} & ModelConfig("vgg16").to_json().keys()
    for wrong in ({"hidden": 4096}, {"hidden": ["4096"]}, {"pool": 8}, {"pool": True}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be"):
            ModelConfig.from_json({"architecture": "vgg16", **wrong})


def test_a_config_comes_back_from_json_as_it_went() -> None:
    config = ModelConfig.from_json(OURS)
    assert config.label_names == ("cat", "dog", "owl")
    assert config.pretrained_cfg.size == 64
    assert config.temperature == 1.5
    assert config.extra["trained_on"] == {"pictures": 416, "folder": "pets"}
    assert config.to_json() == OURS
    assert ModelConfig.from_json(json.loads(dump_config(config))) == config


def test_timms_config_is_read_and_its_other_fields_are_kept() -> None:
    config = ModelConfig.from_json(TIMM)
    assert (config.depth, config.batch_norm, config.num_classes) == (16, True, 1000)
    assert (config.head, config.width, config.trained) == ("fc", 1.0, True)
    assert config.pretrained_cfg == Preprocessing()
    assert config.to_json()["num_features"] == 4096


def test_classes_without_names_are_numbered() -> None:
    assert ModelConfig(num_classes=3).label_names == ("class 0", "class 1", "class 2")
    assert default_names(0) == ()


def test_another_class_count_means_a_new_untrained_last_layer() -> None:
    config = ModelConfig.from_json(OURS).with_classes(7)
    assert config.num_classes == len(config.label_names) == 7
    assert not config.trained
    assert config.temperature == 1.0
    assert (config.width, config.head, config.pretrained_cfg.size) == (0.25, "gap", 64)


@pytest.mark.parametrize("value", [0, -2, "hot", None, float("nan"), float("inf"), 10**400, True])
def test_a_temperature_that_means_nothing_counts_as_1(value: Any) -> None:
    assert ModelConfig(extra={"temperature": value}).temperature == 1.0


NOT_TRIPLES = [0.5, "abc", [0.5, 0.5], [0.5, 0.5, None], {"r": 1, "g": 1, "b": 1}]
WRONG: list[tuple[str, str, list[Any]]] = [
    ("architecture", "architecture", [None, ["vgg16"]]),
    ("architecture", "resnet50", ["resnet50"]),
    ("num_classes", "num_classes", ["3", 3.0, -3, 10**30, None]),
    ("num_classes", "label_names has 3 names for 4 classes", [4]),
    ("head", "head", ["mlp", {}]),
    ("width", "width", [0, 9, "wide", math.nan, 10**400]),
    ("dropout", "dropout", [1]),
    ("trained", "trained", ["yes", None]),
    ("label_names", "same name twice", [["cat", "cat", "owl"]]),
    ("label_names", "label_names", ["cat", 5, {"0": "cat"}, ["cat", "", "owl"]]),
    ("label_names", "label_names", [["cat", None, "owl"], ["cat", ["dog"], "owl"]]),
    ("pretrained_cfg", "pretrained_cfg", ["bilinear", [1]]),
    ("pretrained_cfg.mean", "mean", [*NOT_TRIPLES, [0.5, 0.5, math.nan], [0.5, 0.5, 10**400]]),
    ("pretrained_cfg.std", "std", [[0.2, 0, 0.2], [0.2, 1e-300, 0.2], [0.2, -0.2, 0.2]]),
    ("pretrained_cfg.input_size", "input_size", [224, [3, 224, 200], [1, 224, 224]]),
    ("pretrained_cfg.input_size", "input_size", [[3, 224.0, 224.0], [3, [224], [224]]]),
    ("pretrained_cfg.input_size", "between 32 and 2048", [[3, 16, 16], [3, 10**6, 10**6]]),
    ("pretrained_cfg.interpolation", "lanczos", ["lanczos"]),
    ("pretrained_cfg.interpolation", "interpolation", [None]),
    ("pretrained_cfg.crop_pct", "crop_pct", [0, 1.5, None]),
    ("pretrained_cfg.crop_mode", "crop_mode", ["middle"]),
]


@pytest.mark.parametrize(("field", "named", "values"), WRONG)
def test_a_wrong_field_is_named(field: str, named: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=named) as caught:
            ModelConfig.from_json(changed(OURS, field, value))
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("data", [None, [], ["vgg16"], "vgg16", 16, {}, {"width": 1}])
def test_what_is_no_config_at_all_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"config\.json"):
        ModelConfig.from_json(data)


def junk(rng: random.Random, depth: int = 0) -> Any:
    """A JSON value of any kind, NaN, infinities and huge numbers among them."""
    deep = [lambda: [junk(rng, depth + 1) for _ in range(rng.randrange(5))]]
    deep += [lambda: {rng.choice("abc"): junk(rng, depth + 1) for _ in range(rng.randrange(4))}]
    flat = [None, True, False, 0, 1, -1, 3, 224, 10**400, -(10**400), 0.5, 1e308, 5e-324, -0.0]
    flat += [float("nan"), float("inf"), "", "vgg16", "gap", "center", "x" * 100_000, "\ud800"]
    flat += [[0.5] * 3, [3, 64, 64], ["a", "b", "c"], list(range(9999))]
    return rng.choice(deep)() if depth < 4 and rng.random() < 0.3 else rng.choice(flat)


def spoiled(rng: random.Random, data: Any) -> Any:
    """The same JSON with something changed, dropped or added somewhere."""
    if rng.random() < 0.2 or not isinstance(data, dict | list) or not data:
        return junk(rng)
    if isinstance(data, list):
        place = rng.randrange(len(data))
        return [*data[:place], spoiled(rng, data[place]), *data[place + rng.randrange(2) :]]
    key = rng.choice(sorted(data))
    action = rng.randrange(4)
    if action == 0:
        return {name: value for name, value in data.items() if name != key}
    if action == 1:
        return data | {rng.choice(["extra", "classifier", "temperature"]): junk(rng)}
    return data | {key: spoiled(rng, data[key])}


def test_no_config_whatever_its_content_ends_in_anything_but_a_value_error() -> None:
    rng = random.Random(0)
    accepted, messages = 0, []
    for _ in range(2000):
        data = rng.choice([OURS, TIMM])
        for _ in range(rng.randrange(1, 4)):
            data = spoiled(rng, data)
        try:
            config = ModelConfig.from_json(data)
        except ValueError as error:
            messages.append(str(error))
        else:
            assert ModelConfig.from_json(config.to_json()).num_classes == config.num_classes
            assert config.temperature > 0
            accepted += 1
    assert min(accepted, len(messages)) > 200  # both ways were tried
    assert max(map(len, messages)) < 400


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"architecture: vgg16",
        b'{"architecture": "vgg16"',
        b"[" * 200_000,
        b'{"architecture": "vgg16", "num_classes": ' + b"9" * 10_000 + b"}",
        b"null",
    ],
)
def test_a_file_that_is_no_config_is_refused_by_its_name_alone(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        read_config(file)
    assert str(tmp_path) not in str(caught.value)


def test_a_config_that_is_missing_is_reported_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json can't be read") as caught:
        read_config(tmp_path / "config.json")
    assert str(tmp_path) not in str(caught.value)


def test_counts_for_people_have_three_digits_at_most() -> None:
    counts = {0: "0", 999: "999", 7634: "7.63 k", 999_999: "1 M", 138_357_544: "138 M"}
    assert {count: describe_count(count) for count in counts} == counts
    assert describe_count(15.47e9) == "15.5 G"

"""Other people's checkpoints answer as their networks do in plain torch, whatever their names."""

import argparse
import math
import random
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vgg.checkpoints import known_files
from vgg.checkpoints.folder import Checkpoint, build_model, read_checkpoint
from vgg.checkpoints.known_files import KnownFile, imagenet_classes
from vgg.checkpoints.layers import recognise
from vgg.checkpoints.loading import find_config, load_model, local_weights
from vgg.errors import UserError
from vgg.network.vgg import VGG

# Configuration A (VGG-11) and D (VGG-16), sixteen times narrower; M is a max-pool.
SLIM = {
    11: [4, "M", 8, "M", 16, 16, "M", 32, 32, "M", 32, 32, "M"],
    16: [4, 4, "M", 8, 8, "M", 16, 16, 16, "M", 32, 32, 32, "M", 32, 32, 32, "M"],
}
LAST = 32  # channels of the last maps
DTYPES = (torch.float32, torch.float16, torch.int64, torch.bool)


def trunk(
    depth: int = 11, *, norm: bool = False, colours: int = 3, bias: bool = True
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for entry in SLIM[depth]:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(colours, entry, 3, padding=1, bias=bias))
        layers += [nn.BatchNorm2d(entry)] if norm else []
        layers.append(nn.ReLU())
        colours = entry
    return layers


def dense(*sizes: int, before: type[nn.Module] | None = None) -> list[nn.Module]:
    """Linear layers of these sizes with a ReLU between two; perhaps a dropout before each."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers += [nn.ReLU()] if number else []
        layers += [before()] if before else []
        layers.append(nn.Linear(inputs, outputs))
    return layers


class Plain(nn.Module):
    """`features`, average pooling to so many places a side, `classifier`."""

    def __init__(self, features: list[nn.Module], classifier: nn.Module, pool: int = 7) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.pool = nn.AdaptiveAvgPool2d(pool)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


class Blocks(nn.Module):
    """Names of its own: blocks with one convolution each, `fc1`, `fc2` and `out`."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [x for x in trunk(16, norm=True) if isinstance(x, nn.Conv2d)]
        self.blocks = nn.ModuleList()
        for convolution in convolutions:
            block = nn.Module()
            block.conv = convolution
            block.bn = nn.BatchNorm2d(convolution.out_channels)
            self.blocks.append(block)
        self.out = nn.Linear(20, 4)  # registered before what it comes after
        self.fc1 = nn.Linear(LAST, 50)
        self.fc2 = nn.Linear(50, 20)

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks, start=1):
            x = torch.relu(block.bn(block.conv(x)))
            if number in (2, 4, 7, 10, 13):
                x = torch.max_pool2d(x, 2)
        return self.out(torch.relu(self.fc2(torch.relu(self.fc1(x.mean((2, 3)))))))


class OfJohnson(Plain):
    """Its first module, a reshape, moves the classifier's numbers: 1, 4 and 7."""

    def __init__(self) -> None:
        one, two, three = (nn.Linear(*sizes) for sizes in ((LAST * 49, 64), (64, 64), (64, 9)))
        gap = [nn.ReLU(), nn.Dropout()]
        classifier = nn.Sequential(nn.Flatten(), one, *gap, two, *gap, three)
        super().__init__(trunk(16), classifier)


def parallel(model: Plain) -> Plain:
    model.features = nn.DataParallel(model.features)
    return model


CIFAR = {"size": 32, "pool": 1, "side": 32}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "torchvision": (lambda: Plain(trunk(16), nn.Sequential(*dense(LAST * 49, 256, 256, 5))), {}),
    "with batch norm": (
        lambda: Plain(trunk(11, norm=True), nn.Sequential(*dense(LAST * 49, 256, 256, 5))), {},
    ),
    "jcjohnson": (OfJohnson, {"hidden": (1024, 1024)}),
    "cifar, one layer": (
        lambda: Plain(trunk(16, norm=True), nn.Linear(LAST, 10), 1), {"hidden": (), **CIFAR},
    ),
    "cifar, three layers, parallel trunk": (
        lambda: parallel(
            Plain(trunk(11), nn.Sequential(*dense(LAST, LAST, LAST, 10, before=nn.Dropout)), 1)
        ),
        {"hidden": (512, 512), **CIFAR},
    ),
    "flattened at 64 pixels": (
        lambda: Plain(trunk(11), nn.Sequential(*dense(LAST * 4, 30, 6)), 2),
        {"hidden": (480,), "size": 64, "pool": 2, "side": 64},
    ),
    "own head, pooled to one": (
        lambda: Plain(trunk(11, norm=True), nn.Sequential(*dense(LAST, 100, 50, 20, 3)), 1),
        {"hidden": (1600, 800, 320), "pool": 1, "side": 224},
    ),
    "one layer on 7 x 7": (lambda: Plain(trunk(11), nn.Linear(LAST * 49, 3)), {"hidden": ()}),
    "own names": (Blocks, {"hidden": (800, 320), "pool": 1, "side": 224}),
    "without biases": (
        lambda: Plain(trunk(11, norm=True, bias=False), nn.Linear(LAST, 10, bias=False), 1),
        {"hidden": (), **CIFAR},
    ),
    "batch norm before the ReLU": (
        lambda: Plain(
            trunk(11),
            nn.Sequential(
                nn.Linear(LAST * 49, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Dropout(),
                nn.Linear(40, 5), nn.BatchNorm1d(5),
            ),
        ),
        {"hidden": (640,)},
    ),
    "batch norm after the ReLU": (
        lambda: Plain(
            trunk(11, norm=True),
            nn.Sequential(
                nn.BatchNorm1d(LAST * 49), nn.Linear(LAST * 49, 40), nn.ReLU(),
                nn.BatchNorm1d(40), nn.Linear(40, 5),
            ),
        ),
        {"hidden": (640,)},
    ),
}  # fmt: skip


def alive(model: nn.Module) -> nn.Module:
    """In eval mode, with batch norms that have seen something, and logits of some size."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for values in (layer.weight, layer.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            for values in (layer.bias, layer.running_mean):
                nn.init.normal_(values, 0, 0.1)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, 0, math.sqrt(2 / fan_in))
    return model.eval()


def assert_same_answers(model: nn.Module, original: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        expected, found = original(x), model(x)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_logits_are_those_of_the_original_network(tmp_path: Path, kind: str, suffix: str) -> None:
    make, facts = NETWORKS[kind]
    original, file = alive(make()), tmp_path / f"theirs{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(original.state_dict(), file)
    model = load_model(file)
    config = model.config
    assert (config.width, config.head) == (0.0625, "fc")
    assert config.hidden == facts.get("hidden", (4096, 4096))
    assert config.pool == facts.get("pool", 7)
    assert config.pretrained_cfg.size == facts.get("side", 224)
    assert_same_answers(model, original, torch.randn(2, 3, *[facts.get("size", 96)] * 2))


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "best.pth.tar": lambda state: {
        "epoch": 90, "arch": "vgg11", "state_dict": {f"module.{k}": v for k, v in state.items()},
        "best_acc1": torch.tensor(71.2), "optimizer": optimiser(state),
    },
    "last.ckpt": lambda state: {
        "state_dict": {f"model.{k}": v for k, v in state.items()},
        "hyper_parameters": {"lr": 0.1, "folder": Path("/data")}, "optimizer_states": [{}],
        "callbacks": {}, "loops": {"epoch": 3}, "pytorch-lightning_version": "2.1.0",
    },
    "ckpt.t7": lambda state: {
        "net": {f"module.{k}": v for k, v in state.items()}, "acc": np.float64(93.1), "epoch": 5,
    },
    "BEST.PTH": lambda state: {
        "args": argparse.Namespace(lr=0.1, data="photos"), "history": defaultdict(list, loss=[1.0]),
        "cnn": {f"cnn.{k}": v for k, v in state.items()},
    },
    "pytorch.bin": lambda state: [3, {f"backbone.{k}": v for k, v in state.items()}, 0.9],
    "epoch=3.ckpt": lambda state: {
        "state_dict": {f"net.{k}": v for k, v in state.items()}
        | {"criterion.weight": torch.ones(5), "val_acc.tp": torch.zeros(5, dtype=torch.long)},
    },
    "weights": lambda state: {f"_orig_mod.net.{k}": v for k, v in state.items()},
    "parts.pt": lambda state: {
        "step": 7,
        "trunk": {k.removeprefix("features."): v for k, v in state.items() if "feat" in k},
        "top": {k: v for k, v in state.items() if "feat" not in k},
    },
}  # fmt: skip


def optimiser(state: dict[str, Tensor]) -> dict[str, Any]:
    moments = {k: {"exp_avg": v * 0, "exp_avg_sq": v * 0} for k, v in enumerate(state.values())}
    return {"state": moments, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}


@pytest.mark.parametrize("name", WRAPPED)
def test_weights_are_found_in_what_trainings_save_under_any_name(tmp_path: Path, name: str) -> None:
    original = alive(Plain(trunk(11), nn.Sequential(*dense(LAST * 49, 64, 5))))
    torch.save(WRAPPED[name](original.state_dict()), tmp_path / name)
    for spec in (tmp_path / name, tmp_path):  # the file, or the folder that holds it alone
        assert_same_answers(load_model(spec), original, torch.randn(1, 3, 64, 64))


def test_a_bare_trunk_needs_no_prefix(tmp_path: Path) -> None:
    features = alive(nn.Sequential(*trunk(16, norm=True)))
    torch.save(features.state_dict(), tmp_path / "trunk.pth")
    model = load_model(tmp_path / "trunk.pth")
    assert (model.config.num_classes, model.config.trained) == (0, False)
    assert_same_answers(model.features, features, torch.randn(2, 3, 64, 64))


def test_a_network_for_grey_pictures_answers_the_same_for_grey_and_as_pillow_for_colours(
    tmp_path: Path,
) -> None:
    original = alive(Plain(trunk(11, colours=1), nn.Linear(LAST * 49, 3)))
    torch.save(original.state_dict(), tmp_path / "grey.pth")
    model, grey = load_model(tmp_path / "grey.pth"), torch.randn(2, 1, 64, 64)
    cfg = model.config.pretrained_cfg
    assert (len({*cfg.mean}), len({*cfg.std})) == (1, 1)
    colours = torch.randn(2, 3, 64, 64)
    as_grey = (colours * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    with torch.no_grad():
        for x, same in ((grey.expand(-1, 3, -1, -1), grey), (colours, as_grey)):
            torch.testing.assert_close(model(x), original(same), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "field",
    [
        {"class_to_idx": {"owl": 2, "cat": 0, "dog": 1}},
        {"meta": {"CLASSES": ("cat", "dog", "owl")}},
        {"args": argparse.Namespace(categories=["cat", "dog", "owl"])},
        {"classes": np.array(["cat", "dog", "owl"]), "saved": datetime.now()},
        {"idx_to_class": {0: "cat", 1: "dog", 2: "owl"}, "classes": [0, 1, 2]},
    ],
)
def test_class_names_come_from_the_file_itself(tmp_path: Path, field: dict[str, Any]) -> None:
    state = Plain(trunk(11), nn.Linear(LAST * 49, 3)).state_dict()
    torch.save({"state_dict": state, **field}, tmp_path / "pets.pth")
    assert load_model(tmp_path / "pets.pth").config.label_names == ("cat", "dog", "owl")
    torch.save({"state_dict": state, "classes": ["too", "few"]}, tmp_path / "few.pth")
    assert load_model(tmp_path / "few.pth").config.label_names[0] == "class 0"


def changed(key: str, value: Tensor | None, *, norm: bool = False) -> dict[str, Tensor]:
    state = Plain(trunk(16, norm=norm), nn.Sequential(*dense(LAST * 49, 64, 5))).state_dict()
    if value is None:
        return {name: tensor for name, tensor in state.items() if not name.startswith(key)}
    return state | {key: value}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            changed("features.24.weight", torch.zeros(36, 32, 3, 3)),
            r"features\.24\.weight is \(36, 32, 3, 3\), where the nearest one, vgg16 at width "
            r"0\.0625, has \(32, 32, 3, 3\)",
        ),
        (
            changed("features.0.weight", torch.zeros(4, 4, 3, 3)),
            r"features\.0\.weight is \(4, 4, 3, 3\), where .* has \(4, 3, 3, 3\)",
        ),
        (
            changed("features.14.weight", torch.zeros(16, 16, 1, 1)),
            r"features\.14\.weight is \(16, 16, 1, 1\), where .* has \(16, 16, 3, 3\)",
        ),
        (changed("features.28.", None), r"after features\.26\.weight .* another convolution"),
        (
            changed("features.30.weight", torch.zeros(32, 32, 3, 3)),
            r"features\.30\.weight is one convolution more than .* vgg16 at width 0\.0625, has",
        ),
        (changed("gate.weight", torch.zeros(4)), r"gate\.weight is in the file, but vgg16"),
        (changed("aux.weight", torch.zeros(5, 77)), r"aux\.weight reads 77 numbers, which neither"),
        (changed("features.4.", None, norm=True), r"some .* such as features\.1, and others none"),
        (
            {
                **changed("classifier.", None),
                **nn.Sequential(
                    *[nn.Identity()] * 2, nn.BatchNorm1d(LAST * 49), nn.Dropout(),
                    nn.Linear(LAST * 49, 5),
                ).state_dict(prefix="classifier."),
            },
            r"whether the batch norm classifier\.2 stands before or after its ReLU can't be seen",
        ),
    ],
)  # fmt: skip
def test_what_is_no_vgg_is_refused_by_the_layer_that_differs(
    tmp_path: Path, state: dict[str, Tensor], words: str
) -> None:
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"^other\\.pth: .*{words}"):
        load_model(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1\x0d\0\0\0nn.Sequential", "is a file of Lua Torch"),
        (b"\x89HDF\r\n\x1a\n", "is a file of Keras"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "is a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\x1f\x8b\x08", "is a packed archive"),
    ],
)
def test_files_of_other_kinds_are_called_by_their_name(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match=f"weights.pth {words}"):
        load_model(tmp_path / "weights.pth")


def test_a_config_of_something_else_is_passed_over_with_a_note(tmp_path: Path) -> None:
    original = alive(Plain(trunk(11), nn.Linear(LAST * 49, 3)))
    torch.save(original.state_dict(), tmp_path / "cats.pth")
    for config in ('{"model_type": "bert"}', "no JSON", '{"architecture": "vgg16", "head": "gap"}'):
        (tmp_path / "config.json").write_text(config)
        read = read_checkpoint(tmp_path / "cats.pth")
        assert "passed over" in str(read.notes[0])
        assert find_config(tmp_path / "cats.pth") == read.config
        assert read.config.num_classes == 3


# Damaged weights, and weights that everybody has


def test_numbers_that_are_none_are_refused_or_leave_a_trunk(tmp_path: Path) -> None:
    model = VGG(11, 3, head="gap", width=0.05)
    state = model.state_dict()
    torch.save(state | {"classifier.0.bias": torch.tensor([0, math.nan, 0])}, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")
    assert (read.config.num_classes, read.config.trained) == (0, False)
    assert "taken as a trunk" in str(read.notes[0])
    state["features.4.weight"][0, 0] = math.inf
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"features\.4\.weight holds numbers that are infinite"):
        load_model(tmp_path / "b.pth")


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, KnownFile], None]:
    """Makes a small file one that everybody has."""
    monkeypatch.setattr(known_files, "LEAST_BYTES", 0)
    monkeypatch.setattr(known_files, "KNOWN", {})

    def add(file: Path, what: KnownFile) -> None:
        status = file.stat()
        digest = known_files._digest(file, status.st_size, status.st_mtime_ns)
        known_files.KNOWN[digest] = what

    return add


def test_known_files_are_known_by_their_content(
    tmp_path: Path, known: Callable[[Path, KnownFile], None]
) -> None:
    model = alive(VGG(16, 1000, batch_norm=False, width=0.02))
    for name in ("vgg16-397923af.pth", "vgg16-my-cats.pth", "vgg16-00b39a1b.pth"):
        torch.save({"state_dict": model.state_dict(), "from": name}, tmp_path / name)
    assert local_weights("vgg16", weights_dir=tmp_path) is None  # by their names alone
    caffes = known_files._CAFFES
    known(tmp_path / "vgg16-00b39a1b.pth", KnownFile("vgg16", caffes, blue_first=True))
    assert local_weights("vgg16", weights_dir=tmp_path) is None
    known(tmp_path / "vgg16-397923af.pth", KnownFile("vgg16"))
    mine = (tmp_path / "vgg16-397923af.pth").rename(tmp_path / "zzz")
    assert local_weights("vgg16", weights_dir=tmp_path) == mine
    assert load_model(mine).config.label_names == imagenet_classes()
    from_caffe = load_model(tmp_path / "vgg16-00b39a1b.pth")
    rgb = torch.rand(1, 3, 64, 64)
    cfg = from_caffe.config.pretrained_cfg
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (cfg.mean, cfg.std))
    bgr = 255 * rgb.flip(1) - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(from_caffe((rgb - mean) / std), model(bgr), atol=1e-3, rtol=1e-5)


def test_no_state_dict_ends_in_anything_but_a_model_or_a_sentence() -> None:
    rng = random.Random(0)
    base = Plain(trunk(11, norm=True), nn.Sequential(*dense(LAST * 49, 64, 5))).state_dict()
    sentences: list[str] = []
    for _ in range(300):
        state = dict(base)
        for _ in range(rng.randrange(1, 4)):
            key = rng.choice(list(state))
            kind = rng.choice(("weight", "bias", "running_mean", "num_batches_tracked", ""))
            shape = [rng.choice((0, 1, 3, LAST)) for _ in range(rng.randrange(6))]
            new = f"{rng.choice(('features.', 'classifier.', ''))}{rng.randrange(40)}.{kind}"
            state[rng.choice((key, new))] = torch.zeros(shape, dtype=rng.choice(DTYPES))
            state.pop(rng.choice((key, "")), None)
        try:
            build_model(Checkpoint(recognise(state).state, recognise(state).config))
        except UserError as error:
            sentences.append(str(error))
    assert 100 < len(sentences) < 300
    assert all(20 < len(sentence) < 400 for sentence in sentences)

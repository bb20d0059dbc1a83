"""Checkpoints come back as they went, foreign layouts too, and nothing bad gets through."""

import json
import os
import pickle
import random
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from networks import random_values, same_weights
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vgg.checkpoints.contents import state_dicts
from vgg.checkpoints.folder import (
    Checkpoint,
    build_model,
    read_checkpoint,
    read_state,
    replacing,
    save_checkpoint,
)
from vgg.checkpoints.key_conversion import infer_config, to_ours
from vgg.network.config import IMAGENET_NAMES, ModelConfig, Preprocessing
from vgg.network.heads import HEADS
from vgg.network.vgg import VGG

MAPS = Path("/proc/self/maps")
PICTURES = (2, 3, 48, 48)


def small(depth: int = 11, num_classes: int = 3, **options: Any) -> VGG:
    """A narrow VGG in eval mode whose batch norm has seen something."""
    model = VGG(depth, num_classes, **({"width": 0.05, "head": "gap"} | options))
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return model.eval()


def answers(model: nn.Module, shape: tuple[int, ...] = PICTURES) -> Tensor:
    """Logits for pictures that are the same in every call."""
    with torch.no_grad():
        return model(torch.randn(shape, generator=torch.Generator().manual_seed(5)))


def load(path: Path) -> VGG:
    return build_model(read_checkpoint(path))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Our own folders


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_model_comes_back_exactly(tmp_path: Path, head: str, batch_norm: bool) -> None:
    model = small(13, head=head, batch_norm=batch_norm)
    folder = save_checkpoint(model, tmp_path / "new" / "folder")
    assert sorted(files(folder)) == ["config.json", "model.safetensors"]
    loaded = load(folder)
    assert loaded.config == model.config
    assert not loaded.training
    assert same_weights(loaded, model)
    assert torch.equal(answers(loaded), answers(model))
    assert load_file(folder / "model.safetensors").keys() == model.state_dict().keys()


def test_all_that_the_config_says_comes_back(tmp_path: Path) -> None:
    config = ModelConfig(
        "vgg11",
        2,
        head="stages",
        width=0.05,
        label_names=("Käse", "🦉 owl"),
        trained=True,
        pretrained_cfg=Preprocessing(input_size=(3, 64, 64), crop_mode="border", crop_pct=1.0),
        extra={"temperature": 2.5, "mode": "probe"},
    )
    save_checkpoint(VGG.from_config(config), tmp_path)
    assert load(tmp_path).config == config


def test_half_precision_halves_the_file_and_hardly_changes_an_answer(tmp_path: Path) -> None:
    model = small(width=0.2)
    model.features[1].running_var[0] = 1e5  # more than float16 can hold
    save_checkpoint(model, tmp_path / "whole")
    save_checkpoint(model, tmp_path / "half", dtype=torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.05)
    loaded = load(tmp_path / "half")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert loaded.features[1].running_var[0] == 1e5
    torch.testing.assert_close(answers(loaded), answers(model), atol=2e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_is_built_in_the_precision_asked_for(tmp_path: Path, dtype: torch.dtype) -> None:
    save_checkpoint(small(), tmp_path)
    model = build_model(read_checkpoint(tmp_path), dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.features[1].num_batches_tracked.dtype == torch.long


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(small(num_classes=2), tmp_path)
    before = files(tmp_path)
    (tmp_path / "config.json.part").mkdir()  # the second file of the two can't be written
    with pytest.raises(OSError, match=r"config\.json\.part"):
        save_checkpoint(small(num_classes=5), tmp_path)
    (tmp_path / "config.json.part").rmdir()
    assert files(tmp_path) == before


def test_a_write_that_is_broken_off_leaves_nothing_of_itself(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    file.write_text("old")

    def write_half() -> None:
        with replacing(file) as part:
            part.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert files(tmp_path) == {"metrics.json": b"old"}
    with replacing(file) as part:
        part.write_text("new")
    assert files(tmp_path) == {"metrics.json": b"new"}


def test_a_model_without_its_batch_norm_is_not_saved_as_if_it_had_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"features\.1\.weight is missing"):
        save_checkpoint(small().fold_batch_norm(), tmp_path / "folded")
    assert not (tmp_path / "folded").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_training_a_loaded_model_leaves_its_file_alone(tmp_path: Path, name: str) -> None:
    model = small()
    save_checkpoint(model, tmp_path)
    if name.endswith(".pth"):
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / name)
    before = files(tmp_path)
    loaded = load(tmp_path).train()
    loaded(torch.randn(PICTURES)).sum().backward()
    torch.optim.SGD(loaded.parameters(), lr=1.0).step()
    assert not torch.equal(loaded.features[0].weight, model.features[0].weight)
    assert files(tmp_path) == before


@pytest.mark.skipif(not MAPS.is_file(), reason="only Linux tells what is mapped")
@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
@pytest.mark.parametrize("windows", [False, True])
def test_no_file_is_mapped_on_windows_where_none_could_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, windows: bool
) -> None:
    monkeypatch.setattr("vgg.checkpoints.contents.ON_WINDOWS", windows)
    model = small()
    if name.endswith(".pth"):
        torch.save(model.state_dict(), tmp_path / name)
    else:
        save_checkpoint(model, tmp_path)
    state = read_state(tmp_path / name)
    assert (str(tmp_path / name) in MAPS.read_text()) is not windows
    assert all(value.equal(model.state_dict()[key]) for key, value in state.items())


# Files without a config


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_a_bare_file_is_enough(tmp_path: Path, suffix: str) -> None:
    model = small(16, 4, head="stages")
    file = tmp_path / f"mine{suffix}"
    if suffix == ".safetensors":
        save_file(model.state_dict(), file)
    else:
        torch.save(model.state_dict(), file)
    loaded = load(file)
    assert loaded.config == ModelConfig(
        "vgg16_bn", 4, head="stages", width=0.05, trained=True, pretrained_cfg=Preprocessing()
    )
    assert torch.equal(answers(loaded), answers(model))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", IMAGENET_NAMES)
def test_keys_and_shapes_tell_the_network(name: str, head: str) -> None:
    for width in (1.0, 0.333) if name == "vgg13_bn" else (1 / 7, 0.02, 0.001):
        config = ModelConfig(name, 7, head=head, width=width, trained=True)
        with torch.device("meta"):
            state = VGG.from_config(config, init_weights=False).state_dict()
        found = infer_config(state)
        assert replace(found, width=width) == config
        with torch.device("meta"):
            again = VGG.from_config(found, init_weights=False).state_dict()
        assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in state.items()}
        assert found.width == width or width in (1 / 7, 0.001)  # others round to the same counts


def test_files_from_before_batch_norm_counted_are_read(tmp_path: Path) -> None:
    model = small()
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "old.safetensors")
    assert torch.equal(answers(load(tmp_path / "old.safetensors")), answers(model))


# Other people's layouts


class LessonVGG(nn.Module):
    """The layout of the lesson: `conv_layers`, `fc_layers`, and numbers that depend on what its
    author counts as a layer."""

    def __init__(self, ours: VGG, *, relu: bool, dropout_first: bool) -> None:
        super().__init__()
        kept = [m for m in ours.features if relu or not isinstance(m, nn.ReLU)]
        self.conv_layers = nn.Sequential(*kept)
        linear = [m for m in ours.classifier if isinstance(m, nn.Linear)]
        layers: list[nn.Module] = [nn.Flatten()] if dropout_first else []
        for layer in linear:
            layers += [nn.Dropout(), layer] if dropout_first else [layer]
        self.fc_layers = nn.Sequential(*layers)


@pytest.mark.parametrize("name", ["vgg11", "vgg16_bn"])
def test_timms_network_gives_the_same_logits_at_224(name: str) -> None:
    with torch.device("meta"):
        reference = timm.create_model(name, num_classes=5).eval()
    state = random_values(reference.state_dict())
    assert state["pre_logits.fc1.weight"].shape == (4096, 512, 7, 7)
    reference.load_state_dict(state, assign=True)
    ours = to_ours(state)
    model = build_model(Checkpoint(ours, infer_config(ours)))
    assert (model.config.architecture, model.config.num_classes) == (name, 5)
    expected = answers(reference, (1, 3, 224, 224))
    assert expected.std() > 0.1
    torch.testing.assert_close(answers(model, (1, 3, 224, 224)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("relu", "dropout_first"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("around", ["", "module.", "model.", "_orig_mod.module."])
def test_the_lessons_network_gives_the_same_logits_at_224(
    tmp_path: Path, batch_norm: bool, relu: bool, dropout_first: bool, around: str
) -> None:
    model = small(16, 6, batch_norm=batch_norm, head="fc", width=0.04)
    lesson = LessonVGG(model, relu=relu, dropout_first=dropout_first)
    state = {f"{around}{key}": value for key, value in lesson.state_dict().items()}
    assert f"{around}fc_layers.{1 + dropout_first}.weight" in state
    torch.save(state, tmp_path / "lesson.pth")
    shape = (1, 3, 224, 224)
    assert torch.equal(answers(load(tmp_path / "lesson.pth"), shape), answers(model, shape))


def test_an_envelope_in_an_envelope_is_opened_and_one_that_holds_itself_once() -> None:
    weights = {"features.0.weight": torch.zeros(1)}
    endless: dict[str, Any] = {"epoch": 1, "state_dict": {"model": OrderedDict(weights)}}
    endless["model"] = [endless]
    assert state_dicts(endless) == [weights]


# Files that do not fit


def test_the_first_wrong_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    model = small(num_classes=3)
    save_checkpoint(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"num_classes": 4, "label_names": ["a", "b", "c", "d"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = (
        r"classifier\.0\.weight is \(3, 26\) in the file, but "
        r"vgg11_bn with 4 classes, head gap and width 0\.05 makes it \(4, 26\)"
    )
    with pytest.raises(ValueError, match=expected):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("features.4.bias"), r"features\.4\.bias is missing"),
        (lambda s: s.pop("features.1.running_var"), r"features\.1\.running_var is missing"),
        (lambda s: s.update({"head.weight": torch.zeros(2)}), r"head\.weight is in the file"),
        (lambda s: s.update({"features.99.weight": torch.zeros(2)}), r"features\.99\.weight is in"),
        (lambda s: s.update({"features.0.bias": torch.zeros(3, dtype=torch.int8)}), "int8"),
        (lambda s: s.update({"features.0.bias": torch.zeros(3, 1)}), r"\(3, 1\) in the file"),
        (lambda s: s.update({"features.0.bias": torch.tensor(0.0)}), r"\(\) in the file"),
    ],
)
def test_missing_and_surplus_keys_and_wrong_kinds_are_named(
    tmp_path: Path, change: Any, message: str
) -> None:
    model = small()
    state = model.state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        build_model(Checkpoint(state, model.config))


def test_other_networks_are_refused_by_what_they_are(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    for state, message in (
        (
            {"layer1.0.conv1.weight": torch.zeros(4, 4, 3, 3)},
            r"layer1\.0\.conv1\.weight is \(4, 4, 3, 3\), where the nearest one, vgg\d\d at width "
            r"0\.0625, has \(4, 3, 3, 3\)",
        ),
        ({f"features.{i}.weight": torch.zeros(0, 4, 3, 3) for i in range(8)}, "0 convolutions of"),
        ({"features.0.weight": torch.tensor(1.0)}, "0 convolutions of 3 x 3 found"),
        ({"classifier.0.weight": torch.zeros(0, 0)}, "0 convolutions of 3 x 3 found"),
    ):
        save_file(state, file)
        with pytest.raises(ValueError, match=message):
            load(file)


def test_tensors_without_plain_numbers_are_refused(tmp_path: Path) -> None:
    for odd in (torch.eye(3).to_sparse(), torch.empty(3, device="meta")):
        with pytest.raises(ValueError, match=r"'features\.0\.bias' is no plain tensor"):
            state_dicts({"features.0.bias": odd})
    for empty in ({}, [], None, 5, {"features.0.bias": [1, 2]}):
        with pytest.raises(ValueError, match="holds no weights"):
            state_dicts(empty)


# Files that are broken or hostile


class Hostile:
    """Unpickling it would make a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'echo "{self.mark}" > "{self.mark}"',)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_does_not_run(
    tmp_path: Path, protocol: int, zipped: bool
) -> None:
    file, mark = tmp_path / "hostile.pth", tmp_path / "mark"
    content = {"state_dict": {"features.0.weight": Hostile(mark)}}
    if zipped:
        torch.save(content, file, pickle_protocol=protocol)
    else:
        file.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match=r"hostile\.pth (holds more than weights|is damaged)"):
        read_state(file)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Hostile(mark)))
    assert mark.exists()  # it would have


def test_a_pickled_module_is_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"could run code .* save the state dict alone"):
        read_state(tmp_path / "whole.pth")


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    model = small(width=0.02)
    whole, cut = tmp_path / "whole", tmp_path / "cut.pth"
    if kind == "safetensors":
        cut = cut.with_suffix(".safetensors")
        save_file(model.state_dict(), whole)
    else:
        torch.save(model.state_dict(), whole, _use_new_zipfile_serialization=kind == "zip")
    content = whole.read_bytes()
    cut.write_bytes(content)
    assert len(read_state(cut)) == len(model.state_dict())
    for length in [0, 1, 2, 7, 8, 9, 100, len(content) // 3, len(content) // 2, len(content) - 1]:
        cut.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.\w+ is damaged, cut off or no file of weights"):
            read_state(cut)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_no_damage_ends_in_anything_but_a_value_error(tmp_path: Path, kind: str) -> None:
    model = small(width=0.02)
    file = tmp_path / ("bad.safetensors" if kind == "safetensors" else "bad.pth")
    if kind == "safetensors":
        save_file(model.state_dict(), file)
    else:
        torch.save(model.state_dict(), file, _use_new_zipfile_serialization=kind == "zip")
    content = file.read_bytes()
    rng, refused = random.Random(0), 0
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 4, 16))):
            damaged[rng.randrange(min(len(content), 5000))] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            build_model(read_checkpoint(file))
        except ValueError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("content", [b"hello, this is a text", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"other{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.\w+ is damaged, cut off or no file of weights"):
        read_state(file)


def test_paths_that_hold_no_weights_are_reported_without_their_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.pth").touch()
    (tmp_path / "two" / "b.pth").touch()
    (tmp_path / "notes.txt").touch()
    for name, message in {
        "empty": "empty holds no model.safetensors",
        "two": "two holds several files of weights",
        "notes.txt": "notes.txt is damaged, cut off or no file of weights",
        "gone.pth": "gone.pth can't be read",
    }.items():
        with pytest.raises(ValueError, match=message.replace(".", r"\.")) as caught:
            read_checkpoint(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


def test_a_broken_config_beside_good_weights_is_reported(tmp_path: Path) -> None:
    save_checkpoint(small(), tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "vgg11_bn", "width": "wide"}')
    with pytest.raises(ValueError, match=r"^model\.safetensors: width must be"):
        read_checkpoint(tmp_path)

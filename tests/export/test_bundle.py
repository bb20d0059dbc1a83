"""What is exported answers as the app does, and what does not is not handed over."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from vgg import VGG, Predictor, load_model
from vgg.checkpoints.folder import save_checkpoint
from vgg.cli import main
from vgg.data.images import read_image
from vgg.data.shapes import SHAPES, draw_shape
from vgg.export.bundle import drawn_pictures, export_bundle, write_files
from vgg.export.bundle_predict import read
from vgg.export.onnx_graph import IR_VERSION, OPSET, build_onnx, check_exportable
from vgg.export.onnx_nodes import Nodes
from vgg.export.onnx_resize import resized
from vgg.export.verification import TOLERANCE, Proof, answers_of_files, check_bundle, compare
from vgg.network.config import CROP_MODES, INTERPOLATIONS, ModelConfig, Preprocessing

EDGES = [
    (1, 1), (1, 60), (60, 1), (5, 500), (500, 5), (31, 33), (64, 64), (63, 64), (224, 224),
    (480, 640), (641, 480), (1500, 1100),
]  # fmt: skip
SIXTY_SIZES = EDGES + [
    (Random(n).randint(1, 400), Random(-n - 1).randint(1, 400)) for n in range(48)
]
# Modes that files have, with the kind of file that keeps them.
MODES = {
    "1": "png", "L": "png", "LA": "png", "P": "png", "P see-through": "png", "RGB": "png",
    "RGBA": "png", "I;16": "png", "I": "tif", "F": "tif", "CMYK": "tif", "YCbCr": "jpg",
}  # fmt: skip


def saved_in_mode(picture: Image.Image, mode: str, folder: Path) -> Path:
    """A file with the RGB picture in a mode of Pillow's."""
    file = folder / f"{mode.replace(';', '-')}.{MODES[mode]}"
    grey, options = picture.convert("L"), {}
    if mode in ("I;16", "I"):
        made = grey.convert("I").point(lambda value: value * 257)
        made = made.convert(mode)
    elif mode == "F":
        made = grey.convert("F").point(lambda value: value * (1 / 255) + 0)
    elif mode in ("LA", "RGBA"):
        made = picture.convert(mode)
        made.putalpha(grey)
    elif mode == "P see-through":
        made, options = picture.convert("P"), {"transparency": 0}
    else:
        made = picture.convert(mode)
    made.save(file, **options)
    return file


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Sixty pictures of as many sizes, each third of them noise."""
    noise = np.random.default_rng(0)
    made = []
    for number, (width, height) in enumerate(SIXTY_SIZES):
        picture = draw_shape(SHAPES[number % 8], Random(number), size=192).resize((width, height))
        if number % 3 == 2:
            pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels)
        made.append(picture)
    return made


def session_of(model: VGG) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(build_onnx(model).SerializeToString())


def check_same_answers(model: VGG, pictures: list[Image.Image]) -> float:
    """The file's answers are the app's; returns the largest difference of a probability."""
    predictor = Predictor(model, "cpu", "fp32")
    pixels = predictor.prepare(pictures)
    app = torch.cat([predictor.probabilities(p) for p in pixels.split(16)]).numpy()
    session = session_of(model)
    file = np.stack([session.run(None, {"picture": np.asarray(p)})[0] for p in pictures])
    assert file.dtype == np.float32
    assert (file.argmax(1) == app.argmax(1)).all()
    largest = float(np.abs(file - app).max())
    assert largest <= TOLERANCE
    return largest


def with_preprocessing(model: VGG, **changes: Any) -> VGG:
    model.config = replace(
        model.config, pretrained_cfg=replace(model.config.pretrained_cfg, **changes)
    )
    return model


def small(
    head: str, *, batch_norm: bool = True, size: int = 64, classes: int = 5, **sizes: Any
) -> VGG:
    """A narrow network with random weights, that says that it is trained, and is sure enough of
    its answers that a mistake would show."""
    model = VGG(13, classes, batch_norm=batch_norm, head=head, width=0.0625, **sizes)
    if batch_norm:  # its running averages are of noise, not 0 and 1
        with torch.no_grad():
            model(torch.randn(16, 3, size, size))
    model.eval()
    model.config = replace(
        model.config,
        trained=True,
        label_names=tuple("abcdefgh"[:classes]),
        pretrained_cfg=Preprocessing(input_size=(3, size, size)),
    )
    with torch.no_grad():
        logits = model(torch.randn(16, 3, size, size))
    spread = float(logits.std(0).mean())
    model.config = replace(model.config, extra={"temperature": max(spread, 1e-4)})
    return model


# The graph


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_pictures_of_sixty_sizes_are_answered_as_by_the_app(
    pictures: list[Image.Image], crop_mode: str, interpolation: str
) -> None:
    model = with_preprocessing(
        load_model("starter"),
        crop_mode=crop_mode,
        interpolation=interpolation,
        crop_pct=0.8,
        mean=(0.3, 0.9, 0.5),
    )
    check_same_answers(model, pictures)


def test_the_starter_as_it_is_is_answered_as_by_the_app(pictures: list[Image.Image]) -> None:
    check_same_answers(load_model("starter"), pictures)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize(("head", "size"), [("fc", 224), ("fc", 96), ("gap", 64), ("stages", 64)])
def test_every_head_is_answered_as_by_the_app(
    pictures: list[Image.Image], head: str, size: int, batch_norm: bool
) -> None:
    largest = check_same_answers(small(head, batch_norm=batch_norm, size=size), pictures[::4])
    assert largest < TOLERANCE / 2


@pytest.mark.parametrize(("hidden", "pool"), [((), 1), ((512,), 2), ((64, 32, 16), 5)])
def test_a_classifier_of_any_sizes_is_answered_as_by_the_app(
    pictures: list[Image.Image], hidden: tuple[int, ...], pool: int
) -> None:
    model = small("fc", size=96, hidden=hidden, pool=pool)
    assert check_same_answers(model, pictures[::8]) < TOLERANCE / 2


@pytest.mark.parametrize(
    ("before", "after"), [((700, 2600), (80, 300)), ((32, 32), (48, 48)), ((107, 55), (64, 33))]
)
@pytest.mark.parametrize(("interpolation", "most"), [("bilinear", 0), ("bicubic", 2)])
def test_a_picture_is_resized_as_by_pillow(
    interpolation: str, most: int, before: tuple[int, int], after: tuple[int, int]
) -> None:
    model = with_preprocessing(load_model("starter"), interpolation=interpolation)
    nodes, kinds = Nodes(), onnx.TensorProto
    target = nodes.integers(after)
    nodes.add(
        "Cast", resized(nodes, "x", target, model.config.pretrained_cfg), to=kinds.INT64, name="y"
    )
    nodes.proto.input.append(onnx.helper.make_tensor_value_info("x", kinds.UINT8, [1, 3, *before]))
    nodes.proto.output.append(onnx.helper.make_tensor_value_info("y", kinds.INT64, [1, 3, *after]))
    opset = [onnx.helper.make_opsetid("", OPSET)]
    graph = onnx.helper.make_model(nodes.proto, ir_version=IR_VERSION, opset_imports=opset)
    noise = np.random.default_rng(1).integers(0, 256, (*before, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (got,) = session.run(None, {"x": noise.transpose(2, 0, 1)[None]})
    by_pillow = Image.fromarray(noise).resize(
        after[::-1], getattr(Image.Resampling, interpolation.upper())
    )
    assert np.abs(got[0].transpose(1, 2, 0) - np.asarray(by_pillow)).max() <= most


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_graph_has_no_branches_and_no_double_precision(
    crop_mode: str, interpolation: str
) -> None:
    model = with_preprocessing(
        load_model("starter"), crop_mode=crop_mode, interpolation=interpolation
    )
    graph = onnx.shape_inference.infer_shapes(build_onnx(model), data_prop=True).graph
    assert not {node.op_type for node in graph.node} & {"If", "Loop", "Scan", "CumSum"}
    kinds = {value.type.tensor_type.elem_type for value in graph.value_info}
    kinds |= {weights.data_type for weights in graph.initializer}
    assert onnx.TensorProto.DOUBLE not in kinds


def test_a_model_that_is_asked_about_mirror_images_too_is_answered_as_by_the_app(
    pictures: list[Image.Image],
) -> None:
    model = load_model("starter")
    model.config = replace(model.config, extra={**model.config.extra, "flip": True})
    check_same_answers(model, pictures)


def test_the_file_says_its_classes_and_takes_a_raw_picture_of_any_size() -> None:
    session = session_of(load_model("starter"))
    notes = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(notes["class_names"])) == load_model("starter").config.label_names
    assert json.loads(notes["preprocessing"])["crop_mode"] == "border"
    (picture,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (picture.name, picture.type) == ("picture", "tensor(uint8)")
    assert (picture.shape[2], answer.shape) == (3, [8])
    assert all(isinstance(side, str) for side in picture.shape[:2]), "no size is fixed"
    probs = session.run(None, {"picture": np.zeros((20, 30, 3), np.uint8)})[0]
    assert probs.sum() == pytest.approx(1, abs=1e-5)


def test_the_graph_holds_nothing_that_it_does_not_use() -> None:
    for crop_mode in CROP_MODES:
        graph = build_onnx(with_preprocessing(load_model("starter"), crop_mode=crop_mode)).graph
        used = {name for node in graph.node for name in node.input}
        assert [weights.name for weights in graph.initializer if weights.name not in used] == []


def test_export_changes_nothing_in_the_model() -> None:
    model = load_model("starter")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    build_onnx(model)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ModelConfig("vgg11", 0), "trunk without a classifier"),
        (ModelConfig("vgg11", 3), "has not been trained"),
        (ModelConfig("vgg16", 10, width=2.5, trained=True), "one ONNX file holds 2 GB"),
    ],
)
def test_what_has_no_answers_to_export_is_refused(config: ModelConfig, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_exportable(config)


# The bundle


def prove(folder: Path, pictures: list[Path]) -> Proof:
    """The check of a starter's bundle, but in this process: starting another takes seconds."""
    predictor = Predictor(load_model("starter"), "cpu", "fp32")
    return compare(answers_of_files(folder, pictures), predictor, pictures)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the starter, written and not proved."""
    folder = tmp_path_factory.mktemp("bundle") / "starter"
    write_files(load_model("starter"), folder)
    return folder


@pytest.fixture
def tampered(bundle: Path, tmp_path: Path) -> Callable[[Callable[[VGG], None]], Path]:
    """Makes a bundle whose ONNX file is of a changed model."""

    def make(change: Callable[[VGG], None]) -> Path:
        folder = tmp_path / "bundle"
        write_files(load_model("starter"), folder)
        model = load_model("starter")
        change(model)
        (folder / "model.onnx").write_bytes(build_onnx(model).SerializeToString())
        return folder

    return make


@pytest.fixture
def drawn(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "drawn"
    folder.mkdir()
    return drawn_pictures(folder)


def test_a_bundle_is_proved_and_lies_there_as_folder_and_zip(
    tmp_path: Path, drawn: list[Path]
) -> None:
    told: list[str] = []
    home = tmp_path / "out"
    made = export_bundle("starter", home / "shapes", on_event=lambda e: told.append(e["message"]))
    assert set(made.files) == {
        "README.md", "config.json", "model.onnx", "model.safetensors", "predict.py",
    }  # fmt: skip
    assert {p.name for p in made.folder.iterdir()} == set(made.files)
    assert (made.images, made.held_out) == (len(drawn), 0)
    assert made.largest_difference <= TOLERANCE
    assert any("fresh process" in message for message in told)
    with zipfile.ZipFile(made.zip) as archive:
        assert set(archive.namelist()) == {f"shapes/{name}" for name in made.files}
        assert archive.testzip() is None
    assert load_model(made.folder).config == load_model("starter").config
    assert sorted(p.name for p in home.iterdir()) == ["shapes", "shapes.zip"]


def test_the_bundles_program_names_a_picture_without_this_project(
    bundle: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "star.png"
    draw_shape("star", Random(4), size=128).save(picture)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, bundle / "predict.py", picture],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stderr == ""
    best = Predictor(load_model("starter"), "cpu", "fp32").predict(picture, top_k=1)[0]
    assert ran.stdout.split()[1] == best.class_names[0] == "star"
    assert len(ran.stdout.splitlines()) == 5


def test_the_bundles_program_reads_files_of_every_mode_as_the_app_does(
    bundle: Path, tmp_path: Path
) -> None:
    drawn = draw_shape("heart", Random(3), size=150).resize((150, 90))
    files = [saved_in_mode(drawn, mode, tmp_path) for mode in MODES]
    large = drawn.resize((1500, 900))
    turned = large.getexif()
    turned[274] = 6
    large.save(tmp_path / "turned.jpg", exif=turned)
    files.append(tmp_path / "turned.jpg")
    for file in files:
        wanted = np.asarray(read_image(file, min_side=64)).astype(int)
        got = read(str(file), 64).astype(int)
        assert got.shape == wanted.shape, file.name
        assert np.abs(got - wanted).max() <= 1, file.name
    assert got.shape == (188, 113, 3), "upright, and decoded at an eighth"
    assert prove(bundle, files).largest_difference <= TOLERANCE


def test_a_swapped_class_order_is_caught(drawn: list[Path], tampered: Any) -> None:
    def swap(model: VGG) -> None:  # two outputs change places, their names do not
        with torch.no_grad():
            for values in (model.classifier[0].weight, model.classifier[0].bias):
                values[[0, 1]] = values[[1, 0]]

    with pytest.raises(ValueError, match=r"model\.onnx does not answer as the app does: on \d+ of"):
        prove(tampered(swap), drawn)


def test_swapped_names_are_caught(drawn: list[Path], tampered: Any) -> None:
    def swap(model: VGG) -> None:
        names = model.config.label_names
        model.config = replace(model.config, label_names=(names[1], names[0], *names[2:]))

    with pytest.raises(ValueError, match=r"model\.onnx has other classes, or in another order"):
        prove(tampered(swap), drawn)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": (0.0, 0.0, 0.0)},
        {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        {"mean": (0.406, 0.456, 0.485)},  # blue first
        {"crop_mode": "squash"},
        {"interpolation": "nearest"},
    ],
)
def test_other_preprocessing_is_caught_with_the_numbers(
    drawn: list[Path], tampered: Any, change: dict[str, Any]
) -> None:
    folder = tampered(lambda model: with_preprocessing(model, **change))
    with pytest.raises(ValueError, match=r"off by up to 0\.\d+ \(at most 0\.01 may be\)"):
        prove(folder, drawn)


def test_a_wrong_mean_in_the_config_is_caught_too(tmp_path: Path, drawn: list[Path]) -> None:
    folder = tmp_path / "bundle"
    write_files(load_model("starter"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0, 0, 0]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"model\.safetensors does not answer"):
        prove(folder, drawn)


@pytest.mark.slow
def test_a_file_that_does_not_load_is_caught(tmp_path: Path, drawn: list[Path]) -> None:
    folder = tmp_path / "bundle"
    write_files(load_model("starter"), folder)
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[: len(whole) // 2])
    predictor = Predictor(load_model("starter"), "cpu", "fp32")
    with pytest.raises(ValueError, match="can't be loaded in a fresh process"):
        check_bundle(folder, predictor, drawn)


@pytest.mark.slow
def test_where_the_proof_fails_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: VGG) -> onnx.ModelProto:
        return build_onnx(with_preprocessing(model, mean=(0.0, 0.0, 0.0)))

    monkeypatch.setattr("vgg.export.onnx_graph.build_onnx", wrong)
    with pytest.raises(ValueError, match="does not answer as the app does"):
        export_bundle("starter", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out.zip").write_text("mine")
    with pytest.raises(ValueError, match=r"'out\.zip' is there already"):
        export_bundle("starter", tmp_path / "out")
    assert (tmp_path / "out.zip").read_text() == "mine"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="'full' is there already"):
        export_bundle("starter", tmp_path / "full")


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vgg.export.bundle.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install onnx onnxruntime"):
        export_bundle("starter", "anywhere")


# The command line


@pytest.mark.slow
def test_the_command_asks_about_the_models_own_held_out_pictures_and_tells_no_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, out = tmp_path / "mine", tmp_path / "out"
    save_checkpoint(load_model("starter"), home)
    (home / "held_out" / "star").mkdir(parents=True)
    draw_shape("star", Random(1), size=96).save(home / "held_out" / "star" / "1.jpg")
    (home / "metrics.json").write_text(json.dumps({"out": "/home/me", "accuracy": 1.0}))
    assert main(["export", "--model", str(home), "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["held_out"] == 1
    assert document["largest_difference"] <= document["tolerance"] == TOLERANCE
    assert Path(document["zip"]).is_file()
    told = "".join((out / name).read_text() for name in ("metrics.json", "README.md"))
    assert "/home/me" not in told
    assert not (out / "held_out").exists(), "pictures stay where they are"


def test_the_command_says_in_one_line_what_can_be_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(VGG(11, 3, head="gap", width=0.0625), tmp_path / "fresh")
    out = tmp_path / "out"
    assert main(["export", "--model", str(tmp_path / "fresh"), "--out", str(out)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "has not been trained" in told.err.splitlines()[-1]
    assert not out.exists()

"""Models as a person keeps them: renamed, deleted, brought in; never half of it."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import same_weights
from safetensors.torch import save

from vgg import VGG, load_model
from vgg.checkpoints.class_names import class_names_of
from vgg.checkpoints.folder import save_checkpoint
from vgg.checkpoints.library import (
    PUBLIC_COST,
    bytes_of,
    check_cost,
    clean_name,
    delete_model,
    facts_of,
    import_model,
    losses,
    plain_name,
    rename_model,
)
from vgg.checkpoints.loading import own_models
from vgg.data.zips import ZipLimits
from vgg.network.config import IMAGENET_NAMES, ModelConfig, Preprocessing, dump_config
from vgg.network.summary import Cost, cost_of


@pytest.fixture
def model() -> VGG:
    made = VGG(11, 3, head="gap", width=0.0625).eval()
    made.config = replace(made.config, label_names=("a", "b", "c"), trained=True)
    return made


@pytest.fixture
def home(tmp_path: Path, model: VGG) -> Path:
    save_checkpoint(model, tmp_path / "weights" / "pets")
    return tmp_path / "weights"


def test_a_renamed_model_is_the_same_model(home: Path, model: VGG) -> None:
    renamed = rename_model(home / "pets", "my pets!")
    assert own_models(home) == ["my-pets"] == [renamed.name]
    assert load_model("my-pets", weights_dir=home).config == model.config


@pytest.mark.parametrize(
    ("name", "words"),
    [("starter", "everybody has"), ("vgg16_bn", "everybody has"), ("other", "there already"),
     ("  ", "write the new name")],
)  # fmt: skip
def test_a_name_that_is_taken_is_refused(home: Path, model: VGG, name: str, words: str) -> None:
    save_checkpoint(model, home / "other")
    with pytest.raises(ValueError, match=words):
        rename_model(home / "pets", name)
    assert set(own_models(home)) == {"pets", "other"}


def test_a_name_never_leaves_the_folder(home: Path) -> None:
    assert rename_model(home / "pets", "../../elsewhere") == home / "elsewhere"
    assert clean_name("../../etc/passwd") == "etc-passwd"
    assert clean_name("Con.1") == "_Con.1"


def test_what_is_lost_is_named_before_it_is(home: Path, model: VGG) -> None:
    training = {"accuracy": 0.9, "held_out": 20, "accuracy_interval": [0.7, 0.97]}
    model.config = replace(model.config, extra={"training": training})
    folder = save_checkpoint(model, home / "pets")
    (folder / "held_out" / "a").mkdir(parents=True)
    (folder / "held_out" / "a" / "1.jpg").write_bytes(b"x")
    (folder / "events.jsonl").touch()
    told = "; ".join(losses(folder))
    assert "0.2 MB of weights" in told
    assert "90.0 % of 20 pictures" in told
    assert "1 small copy of a held-out picture" in told
    assert "the record of its training" in told


def test_a_deleted_model_leaves_nothing(home: Path) -> None:
    delete_model(home / "pets")
    assert list(home.iterdir()) == []


def test_the_facts_count_every_file(home: Path, model: VGG) -> None:
    facts = facts_of(model.config, home / "pets")
    assert facts.bytes == sum(p.stat().st_size for p in (home / "pets").iterdir())
    assert facts.bytes == bytes_of(home)
    assert facts.changed == (home / "pets" / "config.json").stat().st_mtime
    assert facts.accuracy is None


# Brought in


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_bare_file_of_weights_tells_its_network(
    home: Path, model: VGG, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"given{suffix}"
    if suffix == ".safetensors":
        (home / "pets" / "model.safetensors").rename(file)
    else:
        torch.save(model.state_dict(), file)
    made = load_model(import_model(file, home / "new"))
    assert same_weights(made, model)
    assert made.config.label_names == ("class 0", "class 1", "class 2")


def test_a_zip_of_a_folder_of_ours_comes_in_with_its_names(
    home: Path, model: VGG, tmp_path: Path
) -> None:
    file = tmp_path / "pets.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for part in (home / "pets").iterdir():
            archive.write(part, f"pets/{part.name}")
        archive.writestr("pets/metrics.json", json.dumps({"evaluation": "<script>"}))
        archive.writestr("pets/model.onnx", b"x")
        archive.writestr("__MACOSX/._model.safetensors", b"x")
    out = import_model(file, home / "new", pickles=False)
    assert load_model(out).config == model.config
    assert same_weights(load_model(out), model)
    assert {p.name for p in out.iterdir()} == {"config.json", "model.safetensors"}
    assert {p.name for p in home.iterdir()} == {"pets", "new"}


def refused(home: Path, file: Path, words: str, **options: object) -> None:
    before = sorted(p.name for p in home.iterdir())
    with pytest.raises(ValueError, match=words):
        import_model(file, home / "new", **options)
    assert sorted(p.name for p in home.iterdir()) == before, "nothing half-made is left"


def test_weights_that_do_not_fit_their_config_are_refused(home: Path, tmp_path: Path) -> None:
    config = json.loads((home / "pets" / "config.json").read_text())
    file = tmp_path / "bad.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(home / "pets" / "model.safetensors", "model.safetensors")
        archive.writestr("config.json", json.dumps(config | {"architecture": "vgg19_bn"}))
    refused(home, file, "missing from the file; vgg19_bn")


def test_other_files_are_refused_with_a_sentence(home: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    refused(home, text, "notes.txt is damaged, cut off or no file of weights")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not weights")
    refused(home, broken, "damaged, cut off or no file of weights")
    pictures = tmp_path / "pictures.zip"
    with zipfile.ZipFile(pictures, "w") as archive:
        archive.writestr("cat/1.png", b"x")
    refused(home, pictures, "holds no file that ends in")
    no_zip = tmp_path / "no.zip"
    no_zip.write_bytes(b"PK nothing")
    refused(home, no_zip, "is no zip")


def test_a_pickle_that_runs_code_is_not_opened(home: Path, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "harm"),))

    file = tmp_path / "harm.pth"
    torch.save({"weights": Harm()}, file)
    refused(home, file, "could run code")
    assert not (tmp_path / "harm").exists()


def test_a_page_for_strangers_takes_no_pickle_at_all(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "given.pth"
    torch.save({}, file)
    refused(home, file, "no .safetensors file; a public page opens no other", pickles=False)
    file = file.rename(file.with_suffix(".safetensors"))  # what it is called changes nothing
    refused(home, file, "no .safetensors file; a public page opens no other", pickles=False)
    packed = tmp_path / "given.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(file, "given.pth")
    refused(home, packed, "no file that ends in .safetensors", pickles=False)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(file, "given.safetensors")
    refused(home, packed, "no .safetensors file; a public page opens no other", pickles=False)


def test_a_zip_that_grows_is_stopped_by_its_real_bytes(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "bomb.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.safetensors", bytes(30_000_000))
    refused(home, file, "would grow to more than", limits=ZipLimits(max_bytes=20_000_000))


def test_a_zip_that_leads_out_is_refused(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../model.safetensors", b"x")
    refused(home, file, "leads out of it")


def test_class_names_are_given_where_the_file_has_none(
    home: Path, model: VGG, tmp_path: Path
) -> None:
    file = tmp_path / "given.pth.tar"
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, file)
    assert plain_name(file) == "given"
    out = import_model(file, home / "new", class_names=("cat", "dog", "owl"))
    assert load_model(out).config.label_names == ("cat", "dog", "owl")
    shutil.rmtree(out)
    refused(home, file, "2 names for 3 classes", class_names=("cat", "dog"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "\ufeffcat\ndog\n\nowl\n"),
        ("names.json", '["cat", "dog", "owl"]'),
        ("names.json", '{"owl": 2, "cat": 0, "dog": 1}'),
        ("names.json", '{"0": "cat", "1": "dog", "2": "owl"}'),
    ],
)
def test_class_names_are_read_as_people_write_them(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert class_names_of(str(tmp_path / name)) == ("cat", "dog", "owl")
    assert class_names_of("cat, dog,owl") == ("cat", "dog", "owl")
    (tmp_path / name).write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name} holds no class names"):
        class_names_of(str(tmp_path / name))


@pytest.mark.parametrize(
    ("network", "size"),
    [({"width": 3.5}, 224), ({"num_layers": 19, "head": "gap"}, 2048)],
)
def test_a_strangers_model_is_bounded_by_what_it_would_cost_before_it_is_made(
    home: Path, tmp_path: Path, network: dict[str, Any], size: int
) -> None:
    with torch.device("meta"):
        huge = VGG(num_classes=3, init_weights=False, batch_norm=False, **network)
    config = replace(
        huge.config, trained=True, pretrained_cfg=Preprocessing(input_size=(3, size, size))
    )
    with zipfile.ZipFile(tmp_path / "huge.zip", "w") as archive:
        archive.writestr("config.json", dump_config(config))
        archive.writestr("model.safetensors", save({"features.0.weight": torch.zeros(1)}))
    words = "this model would take .* MB and .* a public page takes up to 700 MB and 25"
    refused(home, tmp_path / "huge.zip", words, most=PUBLIC_COST, pickles=False)


@pytest.mark.parametrize("name", IMAGENET_NAMES)
def test_every_vgg_of_the_paper_is_within_a_public_pages_bounds(name: str) -> None:
    check_cost(ModelConfig(name, 1000), PUBLIC_COST)


def test_the_cost_of_an_answer_is_its_weights_its_largest_layer_and_its_multiplications() -> None:
    cost = cost_of(ModelConfig("vgg16", 1000))
    assert cost == Cost(4 * (138_357_544 + 2 * 64 * 224 * 224), 15_470_264_320)

"""A push: all of a model arrives, or nothing that can be seen; with the caller's own token alone.

One child process does the pushing, see `ask` in conftest.py.
"""

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from conftest import Ask
from fake_hub import FakeHub, Faults, hub_environment
from safetensors.torch import load_file

from vgg.checkpoints.folder import read_checkpoint, save_checkpoint
from vgg.checkpoints.key_conversion import to_ours, to_timm
from vgg.checkpoints.loading import load_model
from vgg.data.images import read_image
from vgg.data.shapes import SHAPES, draw_shape
from vgg.data.transforms import normalise, to_uint8
from vgg.export.hub import push, timm_config, write_model
from vgg.inference.predictor import Predictor
from vgg.network.config import IMAGENET_NAMES, ModelConfig, Preprocessing, depth_and_norm
from vgg.network.vgg import VGG

TRAINING = {"mode": "scratch", "images": 60, "held_out": 12, "accuracy": 0.75,
            "accuracy_interval": [0.468, 0.911]}  # fmt: skip
METRICS = {
    **TRAINING,
    "out": "/home/ada/weights/pets",
    "options": {"model": None},
    "evaluation": {"pictures": [{"image": "cat/secret.jpg"}]},
}


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained model with head `gap`."""
    folder = tmp_path_factory.mktemp("models") / "pets"
    return save(folder, head="gap", width=0.125)


def save(folder: Path, seed: int = 1, **options: Any) -> Path:
    torch.manual_seed(seed)
    model = VGG(11, 3, **options)
    for layer in model.modules():  # as after a training: no batch norm stands at its start
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 2)
    model.config = replace(
        model.config,
        label_names=("cat", "dog & bone", "owl"),
        trained=True,
        pretrained_cfg=Preprocessing(input_size=(3, 64, 64), crop_mode="border", crop_pct=1.0),
        extra={"temperature": 0.5, "training": TRAINING},
    )
    save_checkpoint(model, folder)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "held_out").mkdir()
    (folder / "held_out" / "secret.jpg").write_bytes(b"a picture")
    return folder


def pushed(model: Path, to: str, **options: Any) -> str:
    """The line of Python that pushes."""
    return f"push({str(model)!r}, {to!r}, **{options!r})"


def names(hub: FakeHub, to: str) -> set[str]:
    repo = hub.repo(to)
    return {e["path"] for e in hub.entries(repo)} - {".gitattributes"} if repo else set()


# What arrives


def test_a_pushed_model_comes_back_the_same(hub: FakeHub, ask: Ask, pets: Path) -> None:
    url = ask(pushed(pets, "ada/pets", token="hf_ada"))["value"]
    assert url == f"{hub.url}/ada/pets"
    assert names(hub, "ada/pets") == {"README.md", "config.json", "model.safetensors"}
    loaded = "load_model('hf-hub:ada/pets')"
    ours = read_checkpoint(pets)
    assert ask(f"{loaded}.config.to_json()")["value"] == ours.config.to_json()
    weight = ask(f"{loaded}.classifier[0].weight.tolist()")["value"]
    assert weight == ours.state["classifier.0.weight"].tolist()


def test_it_goes_in_one_commit_and_its_weights_by_lfs(
    hub: FakeHub, ask: Ask, tmp_path: Path
) -> None:
    model = save(tmp_path / "new", seed=2, head="gap", width=0.125)
    ask(pushed(model, "ada/one-commit", token="hf_ada"))
    asked = [f"{r.method} {r.path}" for r in hub.requests]
    assert sum("/commit/" in line for line in asked) == 1
    assert any(line.startswith("PUT /lfs/") for line in asked)
    assert {r.token for r in hub.requests if r.token} == {"hf_ada"}


def test_a_private_model_is_seen_by_its_owner_only(hub: FakeHub, ask: Ask, pets: Path) -> None:
    ask(pushed(pets, "ada/own", token="hf_ada", private=True))
    assert hub.repo("ada/own").private


def test_a_second_push_is_a_new_commit_of_the_same_repository(
    hub: FakeHub, ask: Ask, pets: Path, tmp_path: Path
) -> None:
    ask(pushed(pets, "ada/again", token="hf_ada"))
    before = hub.sha(hub.repo("ada/again"))
    other = save(tmp_path / "other", head="stages", width=0.125)
    assert "value" in ask(pushed(other, "ada/again", token="hf_ada"))
    assert hub.sha(hub.repo("ada/again")) != before
    config = json.loads((hub.repo("ada/again").folder / "config.json").read_text())
    assert config["head"] == "stages"


# Who may not, and what they are told


@pytest.mark.parametrize(
    ("to", "token", "said"),
    [
        ("ada/new", None, "a token of yours that may write is needed"),
        ("ada/new", "  ", "a token of yours that may write is needed"),
        ("ada/new", "hf_wrong", "does not know this token"),
        ("ada/new", "hf_ada_reads", "this token may only read"),
        ("bob/new", "hf_ada", "may not write to bob/new"),
        ("new", "hf_ada", "write OWNER/NAME"),
        ("ada/../new", "hf_ada", "write OWNER/NAME"),
        ("ada/new one", "hf_ada", "write OWNER/NAME"),
    ],
)
def test_a_push_that_may_not_be_is_told_in_a_sentence_and_makes_nothing(
    hub: FakeHub, ask: Ask, pets: Path, to: str, token: str | None, said: str
) -> None:
    error = ask(pushed(pets, to, token=token))["error"]
    assert said in error
    assert "\n" not in error
    assert not token or token not in error, "a token is never shown"
    assert hub.repo("ada/new") is None
    assert not any("/create" in r.path and r.token == "hf_ada_reads" for r in hub.requests)


def test_the_library_never_takes_the_token_of_its_machine(
    hub: FakeHub, ask: Ask, pets: Path
) -> None:
    ask("__import__('os').environ.update(HF_TOKEN='hf_ada')")
    try:
        assert "a token of yours" in ask(pushed(pets, "ada/taken-token"))["error"]
        assert hub.repo("ada/taken-token") is None
        # At the command line the person at the machine is its owner.
        arguments = ["push", "--model", str(pets), "--to", "ada/by-command"]
        status, out, err = ask(f"cli(*{arguments!r})")["value"]
        assert (status, out) == (
            0, f"{hub.url}/ada/by-command: load it with --model hf-hub:ada/by-command\n"
        )  # fmt: skip
        assert "sending 3 files" in err
    finally:
        ask("__import__('os').environ.pop('HF_TOKEN')")


def test_the_command_line_says_in_one_line_what_is_missing(ask: Ask, pets: Path) -> None:
    arguments = ["push", "--model", str(pets), "--to", "ada/none"]
    status, out, err = ask(f"cli(*{arguments!r})")["value"]
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "a token of yours that may write is needed" in err


def test_a_name_that_holds_something_else_is_refused_and_left_as_it_was(
    hub: FakeHub, ask: Ask, pets: Path
) -> None:
    repo = hub.add_model("ada/bert", {"config.json": b'{"model_type": "bert"}', "x.txt": b"x"})
    before = hub.sha(repo)
    assert "is taken" in ask(pushed(pets, "ada/bert", token="hf_ada"))["error"]
    assert hub.sha(repo) == before


def test_a_private_model_never_goes_where_all_can_see_it(
    hub: FakeHub, ask: Ask, pets: Path
) -> None:
    ask(pushed(pets, "ada/open", token="hf_ada"))
    before = hub.sha(hub.repo("ada/open"))
    error = ask(pushed(pets, "ada/open", token="hf_ada", private=True))["error"]
    assert "public" in error
    assert hub.sha(hub.repo("ada/open")) == before


AGAIN = pytest.mark.slow  # the client itself tries a large file five times, for half a minute


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(Faults(cut_after_bytes=9, only="PUT /lfs/"), id="upload", marks=AGAIN),
        pytest.param(
            Faults(cut_after_bytes=9, only="PUT /lfs/", reset=True), id="reset", marks=AGAIN
        ),
        pytest.param(Faults(cut_after_bytes=9, only="POST /ada"), id="address", marks=AGAIN),
        pytest.param(Faults(cut_after_bytes=100, only="/commit/"), id="commit"),
        pytest.param(
            Faults(cut_after_bytes=9, only="/preupload/", reset=True), id="preupload", marks=AGAIN
        ),
        pytest.param(Faults(status=503, only="/commit/"), id="overloaded"),
    ],
)
def test_a_push_that_is_cut_shows_nothing_and_a_second_try_works(
    hub: FakeHub, ask: Ask, tmp_path: Path, request: pytest.FixtureRequest, faults: Faults
) -> None:
    to = f"ada/cut-{request.node.callspec.id}"
    pets = save(tmp_path / "pets", seed=hash(to), head="gap", width=0.125)  # not sent before
    hub.faults = faults
    error = ask(pushed(pets, to, token="hf_ada"))["error"]
    assert "try again" in error
    assert names(hub, to) == set()
    hub.faults = Faults()
    assert "value" in ask(pushed(pets, to, token="hf_ada"))
    assert len(names(hub, to)) == 3


@pytest.mark.slow
def test_a_hub_that_is_not_there_is_told_within_seconds(pets: Path, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hub = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options = ["--model", pets, "--to", "a/b", "--token", "hf_x"]
        ran = subprocess.run(
            [sys.executable, "-m", "vgg", "push", *options],
            env=hub_environment(hub, tmp_path),
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"vgg: nothing was sent: {hub} ")
    assert ran.stderr.count("\n") == 1


def test_a_push_without_a_model_says_what_there_is() -> None:
    with pytest.raises(ValueError, match="no model 'nothing'"):
        push("nothing", "ada/nothing", token="hf_ada")


# timm's layout


@pytest.mark.parametrize("name", IMAGENET_NAMES)
def test_what_is_written_has_timms_own_names_and_shapes(name: str) -> None:
    timm = pytest.importorskip("timm")
    depth, norm = depth_and_norm(name)
    with torch.device("meta"):
        ours = VGG(depth, 7, batch_norm=norm, init_weights=False).state_dict()
        theirs = timm.create_model(name, num_classes=7).state_dict()
    assert {k: v.shape for k, v in to_timm(ours).items()} == {k: v.shape for k, v in theirs.items()}


def test_timms_layout_and_back_is_the_same_but_for_the_temperature() -> None:
    state = VGG(11, 3, width=0.05).state_dict()
    back = to_ours(to_timm(state, temperature=4.0))
    assert back.keys() == state.keys()
    for key, value in state.items():
        wanted = value / 4 if key.startswith("classifier.6.") else value
        assert torch.equal(back[key], wanted), key


def test_timms_config_has_what_timm_reads_and_what_we_read() -> None:
    config = ModelConfig("vgg13", 3, label_names=("a", "b", "c"), trained=True,
                         extra={"temperature": 2.0, "note": "kept"})  # fmt: skip
    data = timm_config(config)
    assert (data["architecture"], data["num_classes"]) == ("vgg13", 3)
    assert data["pretrained_cfg"]["classifier"] == "head.fc"
    back = ModelConfig.from_json(json.loads(json.dumps(data)))
    assert back == replace(config, extra={"note": "kept"})
    assert back.temperature == 1


def test_a_narrow_fc_model_keeps_our_layout_because_timm_has_no_width(tmp_path: Path) -> None:
    model = save(tmp_path / "narrow", head="fc", width=0.05)
    write_model(model, tmp_path / "out", name="narrow", repo_id="ada/narrow")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert "classifier.6.weight" in written
    card = (tmp_path / "out" / "README.md").read_text()
    assert "create_model" not in card
    assert "timm can't load it" in card


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """A VGG-11 as in the paper, of full size: its last layer tells five drawings apart."""
    torch.manual_seed(0)
    model = VGG(11, 5, batch_norm=True, head="fc").eval()
    names = ("star", "circle", "arrow", "heart", "cross")
    model.config = replace(
        model.config,
        label_names=names,
        trained=True,
        pretrained_cfg=Preprocessing(crop_mode="border", crop_pct=1.0),
        extra={"temperature": 0.7},
    )
    pixels = torch.stack([to_uint8(read_image(shapes / f"{name}.png"), model.config.pretrained_cfg)
                          for name in names])  # fmt: skip
    with torch.inference_mode():
        seen = model.classifier[:-1](model.pool(normalise(pixels, model.config.pretrained_cfg)))
        apart = seen - seen.mean(0)
        model.classifier[-1].weight.copy_(apart / apart.norm(dim=1, keepdim=True) ** 2)
        model.classifier[-1].bias.copy_(-model.classifier[-1].weight @ seen.mean(0))
    return save_checkpoint(model, tmp_path_factory.mktemp("paper") / "paper")


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty drawings of unlike shapes, not all of them square."""
    folder = tmp_path_factory.mktemp("drawings")
    files = []
    for number in range(20):
        name = SHAPES[number % len(SHAPES)]
        picture = draw_shape(name, Random(number), size=200)
        files.append(folder / f"{number:02d}.png")
        picture.resize((200, 140) if number % 3 else (200, 200)).save(files[-1])
    return files


TIMM = """
import timm, sys, json
from PIL import Image
model = timm.create_model("hf-hub:ada/paper", pretrained=True).eval()
data = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**data, is_training=False)
names = model.pretrained_cfg["label_names"]
for file in sys.argv[1:]:
    probs = model(transform(Image.open(file).convert("RGB"))[None]).softmax(1)[0]
    print(json.dumps([names[int(probs.argmax())], float(probs.max())]))
"""
TRANSFORMERS = """
import sys, json
from transformers import pipeline
classify = pipeline("image-classification", model="ada/paper")
for file in sys.argv[1:]:
    best = classify(file)[0]
    print(json.dumps([best["label"], best["score"]]))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the importing of others' packages warns of
@pytest.mark.parametrize(("package", "script"), [("timm", TIMM), ("transformers", TRANSFORMERS)])
def test_others_load_a_pushed_model_and_give_the_same_answers(
    hub: FakeHub, ask: Ask, paper: Path, drawings: list[Path], tmp_path: Path,
    package: str, script: str,
) -> None:  # fmt: skip
    pytest.importorskip(package)
    assert "value" in ask(pushed(paper, "ada/paper", token="hf_ada"))
    ran = subprocess.run(
        [sys.executable, "-c", script, *drawings],
        env=hub_environment(hub, tmp_path),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    theirs = [json.loads(line) for line in ran.stdout.splitlines()]
    predictor = Predictor(load_model(paper), device="cpu", precision="fp32")
    ours = [(p.class_names[0], p.probs[0]) for p in predictor.predict(drawings, top_k=1)]
    assert [name for name, _ in theirs] == [name for name, _ in ours]
    assert len({name for name, _ in ours}) >= 3, "one and the same answer would prove nothing"
    assert max(abs(a - b) for (_, a), (_, b) in zip(theirs, ours, strict=True)) < 0.01

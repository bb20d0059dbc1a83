"""One string finds a model: on this machine, in the Hub's cache, or on a Hub.

The Hub's client reads its environment when it is imported, so whatever asks a Hub runs in a process
of its own, against the fake Hub.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from fake_hub import FakeHub, Faults, asking
from networks import same_weights
from safetensors.torch import save

from vgg.checkpoints import loading
from vgg.checkpoints.folder import save_checkpoint
from vgg.checkpoints.key_conversion import to_timm
from vgg.checkpoints.known_files import imagenet_classes
from vgg.checkpoints.loading import (
    default_weights_dir,
    find_config,
    load_model,
    local_weights,
    own_models,
)
from vgg.downloads import HubUnavailableError
from vgg.network.config import IMAGENET_NAMES, ModelConfig
from vgg.network.vgg import VGG

REACHED_WITHIN = 5.0  # seconds


def small(num_classes: int = 3, **options: Any) -> VGG:
    return VGG(11, num_classes, **({"width": 0.02, "head": "gap"} | options)).eval()


# Where models are kept


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose own weights/ can't be written, as on a Space; a model of ours is in it."""
    shipped = tmp_path / "project" / "weights"
    model = small()
    model.config = replace(model.config, trained=True)
    save_checkpoint(model, shipped / "pets")
    monkeypatch.setattr("vgg.checkpoints.loading.SHIPPED", shipped)
    monkeypatch.setattr("vgg.checkpoints.loading.os.access", lambda place, mode: place != shipped)
    monkeypatch.delenv("VGG_STUDIO_WEIGHTS_DIR", raising=False)
    loading._folder_of_the_user.cache_clear()
    yield shipped
    loading._folder_of_the_user.cache_clear()


def test_where_the_project_can_not_be_written_models_are_kept_with_the_user(
    read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    home = default_weights_dir()
    assert home == tmp_path / "data" / "vgg-studio" / "weights"
    assert home.is_dir()
    save_checkpoint(small(), home / "birds")
    os.utime(read_only / "pets" / "config.json", (0, 0))
    assert own_models() == ["birds", "pets"], "what was shipped is seen, too"
    assert local_weights("pets") == read_only / "pets"
    assert local_weights("birds") == home / "birds"


def test_without_a_home_models_are_kept_in_a_temporary_folder_of_this_process(
    read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    home = default_weights_dir()
    assert home.parent == tmp_path
    assert default_weights_dir() == home


# ImageNet's class names


def test_imagenets_classes_are_torchvisions_and_all_differ() -> None:
    categories = torchvision.models.VGG16_Weights.IMAGENET1K_V1.meta["categories"]
    assert list(imagenet_classes()) == categories
    assert len(set(imagenet_classes())) == 1000


# On this machine


@pytest.fixture
def weights_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights, and a working directory beside it."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("VGG_STUDIO_WEIGHTS_DIR", str(tmp_path / "weights"))
    return tmp_path / "weights"


def test_a_folder_or_a_file_is_taken_by_its_path(weights_dir: Path) -> None:
    model = small()
    save_checkpoint(model, Path("mine"))
    torch.save(model.state_dict(), "mine.pth")
    spaced = save_checkpoint(model, weights_dir.parent / "with space" / "ünï")
    for spec in ("mine", "./mine", Path("mine"), "mine/model.safetensors", "mine.pth", spaced):
        assert same_weights(load_model(spec), model), spec
        assert not load_model(spec).training


def test_a_trained_model_is_found_by_the_name_of_its_folder(weights_dir: Path) -> None:
    model = small()
    save_checkpoint(model, weights_dir / "pets")
    assert default_weights_dir() == weights_dir
    assert same_weights(load_model("pets"), model)
    Path("pets").mkdir()  # the pictures that it learned from
    assert same_weights(load_model("pets"), model)
    save_checkpoint(small(5), Path("pets"))  # but a model here comes before one there
    assert load_model("pets").config.num_classes == 5


def test_a_weights_folder_that_is_named_wins_over_the_environment(tmp_path: Path) -> None:
    save_checkpoint(small(), tmp_path / "owls")
    assert load_model("owls", weights_dir=tmp_path).config.num_classes == 3


def test_models_are_listed_newest_first(weights_dir: Path) -> None:
    for age, name in enumerate(["new", "older", "oldest", "vgg16", "starter", ".hidden"]):
        save_checkpoint(small(), weights_dir / name)
        os.utime(weights_dir / name / "config.json", (1e9 - age, 1e9 - age))
    (weights_dir / "empty").mkdir()
    assert own_models() == ["new", "older", "oldest"]
    assert own_models(weights_dir / "nowhere") == []
    with pytest.raises(ValueError, match="choose starter, new, older, oldest, vgg11, "):
        load_model("newest")


@pytest.mark.parametrize(
    "spec",
    ["vgg15", "resnet50", "", "gone.pth", "a/b/c", "~nobody-here/x", "a" * 5000, "zero\0byte", "*"],
)
def test_what_names_no_model_is_answered_with_what_there_is(weights_dir: Path, spec: str) -> None:
    with pytest.raises(ValueError, match=r"no model .*; choose starter, vgg11, .* hf-hub:owner/na"):
        load_model(spec)


@pytest.mark.parametrize("repository", ["", "vgg", "a/b/c", "a b/c", "../x", "a/b\n", "@main"])
def test_what_names_no_repository_is_refused_without_asking(repository: str) -> None:
    with pytest.raises(ValueError, match=r"names no repository; write hf-hub:owner/name"):
        load_model(f"hf-hub:{repository}")


def test_the_device_and_the_precision_asked_for_are_given(tmp_path: Path) -> None:
    save_checkpoint(small(), tmp_path)
    model = load_model(tmp_path, device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert load_model(tmp_path, device=torch.device("cpu")).config == model.config
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        load_model(tmp_path, device="gpu")


def test_errors_name_the_file_and_not_its_folder(tmp_path: Path) -> None:
    save_checkpoint(small(), tmp_path / "pets")
    state = small(num_classes=4).state_dict()
    (tmp_path / "pets" / "model.safetensors").write_bytes(save(state))
    with pytest.raises(ValueError, match=r"^pets: classifier\.0\.weight is \(4, 10\)") as caught:
        load_model(tmp_path / "pets")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("place", ["vgg11_bn/", "vgg11_bn.pth"])
def test_imagenet_weights_are_found_in_the_weights_folder(weights_dir: Path, place: str) -> None:
    model = small(1000, head="fc")
    if place.endswith("/"):
        save_checkpoint(model, weights_dir / place)
    else:
        torch.save(model.state_dict(), weights_dir / place)
        torch.save(small(7).state_dict(), weights_dir / "vgg11-8a719046.pth")  # not this one
    loaded = load_model("vgg11_bn")
    assert same_weights(loaded, model)
    assert loaded.config.label_names == imagenet_classes()
    assert loaded.config.trained
    assert find_config("vgg11_bn") == loaded.config
    assert local_weights("vgg13") is None


def test_names_of_ones_own_are_kept_in_place_of_imagenets(weights_dir: Path) -> None:
    names = tuple(f"thing {index}" for index in range(1000))
    model = VGG.from_config(ModelConfig("vgg11", 1000, "gap", 0.02, label_names=names))
    save_checkpoint(model, weights_dir / "vgg11")
    assert load_model("vgg11").config.label_names == names


def test_imagenet_models_are_described_without_their_weights(weights_dir: Path) -> None:
    for name in IMAGENET_NAMES:
        config = find_config(name)
        assert (config.architecture, config.label_names) == (name, imagenet_classes())
        assert config.trained


def test_offline_the_three_ways_on_are_said_at_once(weights_dir: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(HubUnavailableError, match="HF_HUB_OFFLINE is set") as caught:
        load_model("vgg16")
    assert time.perf_counter() - started < REACHED_WITHIN
    assert_says_the_ways_on(str(caught.value), "vgg16")


def assert_says_the_ways_on(message: str, name: str) -> None:
    assert message.startswith(f"the weights of {name} are not on this machine and ")
    for way in ("train now", f"weights/{name.rpartition('/')[2]}.", "HF_TOKEN", "HF_ENDPOINT"):
        assert way in message
    assert "\n" not in message


# On a Hub

CHILD = """
import time
from vgg.checkpoints.loading import *

class Stop(Exception):
    pass

def told(spec, stop_at=None):
    calls = []
    def on_progress(received, expected):
        calls.append([received, expected])
        if stop_at is not None and received >= stop_at:
            raise Stop
    find_weights(spec, on_progress=on_progress)
    return calls

def facts(spec):
    import torch
    model = load_model(spec)
    with torch.no_grad():
        logits = model(torch.arange(3 * 40 * 40).view(1, 3, 40, 40) % 7 / 7.0)
    return {"logits": logits[0].tolist(), "config": model.config.to_json()}

def answer_to(line):
    started = time.perf_counter()
    answer = {"value": None, "error": "", "text": ""}
    try:
        answer["value"] = eval(line)
    except Exception as error:
        answer |= {"error": type(error).__name__, "text": str(error)}
    return answer | {"seconds": time.perf_counter() - started}
"""
Ask = Callable[[str], SimpleNamespace]  # value, error and its text, seconds


@contextmanager
def child(hub: FakeHub | str, home: Path, **environment: str) -> Iterator[Ask]:
    """A process with `vgg.checkpoints.loading` in reach that evaluates one line at a time."""
    with asking(CHILD, hub, home, VGG_STUDIO_WEIGHTS_DIR=str(home), **environment) as evaluate:
        yield lambda line: SimpleNamespace(**evaluate(line))


@pytest.fixture(scope="module")
def ask(running_hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    with child(running_hub, tmp_path_factory.mktemp("home")) as asking:
        yield asking


def publish(hub: FakeHub, repo_id: str, model: VGG | None = None, **about: Any) -> None:
    """Put a model there as timm does: its own names, and a config with little of ours."""
    model = model or small(head="fc", batch_norm=False)
    config = {
        "architecture": model.config.architecture,
        "num_classes": model.config.num_classes,
        "width": model.config.width,
        "pretrained_cfg": {"input_size": [3, 96, 96], "crop_mode": "border"},
    }
    files = {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": save(to_timm(model.state_dict())),
    }
    hub.add_model(repo_id, files, **about)


def paths(hub: FakeHub) -> list[str]:
    return [request.path.rpartition("/")[2] for request in hub.requests]


def test_a_model_from_the_hub_gives_the_answers_of_the_one_put_there(
    hub: FakeHub, ask: Ask
) -> None:
    model = small(1000, head="fc", batch_norm=False)
    publish(hub, "timm/tiny_vgg.tv_in1k", model)
    found = ask("facts('hf-hub:timm/tiny_vgg.tv_in1k')").value
    with torch.no_grad():
        logits = model(torch.arange(3 * 40 * 40).view(1, 3, 40, 40) % 7 / 7.0)[0]
    torch.testing.assert_close(torch.tensor(found["logits"]), logits, atol=1e-6, rtol=0)
    assert found["config"]["label_names"] == list(imagenet_classes())
    assert found["config"]["pretrained_cfg"]["crop_mode"] == "border"


def test_an_imagenet_name_means_timms_repository(hub: FakeHub, ask: Ask) -> None:
    publish(hub, "timm/vgg13.tv_in1k", small(1000, head="fc", batch_norm=False))
    assert ask("cached_weights('vgg13')").value is None
    assert ask("find_weights('vgg13')").value.endswith("model.safetensors")
    assert {request.path.split("/")[2] for request in hub.requests} == {"vgg13.tv_in1k"}
    assert ask("cached_weights('vgg13')").value == ask("find_weights('vgg13')").value
    assert len(ask("find_config('vgg13').label_names").value) == 1000


def test_what_a_model_of_the_hub_is_costs_its_small_config_alone(hub: FakeHub, ask: Ask) -> None:
    publish(hub, "ada/seen")
    assert ask("find_config('hf-hub:ada/seen').pretrained_cfg.size").value == 96
    assert "model.safetensors" not in paths(hub)
    hub.requests.clear()
    assert ask("find_config('hf-hub:ada/seen').width").value == 0.02
    assert hub.requests == []


def test_progress_grows_to_the_size_of_the_file(hub: FakeHub, ask: Ask) -> None:
    publish(hub, "ada/large", small(head="fc", width=0.1))  # 5 MB
    size = (hub.repo("ada/large").folder / "model.safetensors").stat().st_size
    calls = ask("told('hf-hub:ada/large')").value
    received = [call[0] for call in calls]
    assert received == sorted(received)
    assert (received[0], received[-1]) == (0, size)
    assert {call[1] for call in calls} == {size}


def test_the_second_time_no_request_is_made(hub: FakeHub, ask: Ask) -> None:
    publish(hub, "ada/again")
    first = ask("find_weights('hf-hub:ada/again')").value
    assert {"config.json", "model.safetensors"} <= {*paths(hub)}
    hub.requests.clear()
    assert ask("find_weights('hf-hub:ada/again')").value == first
    assert hub.requests == []


def test_a_model_in_the_cache_is_loaded_when_the_hub_has_gone(tmp_path: Path) -> None:
    with FakeHub(tmp_path / "hub") as hub:
        publish(hub, "ada/kept")
        with child(hub, tmp_path / "home") as ask:
            found = ask("find_weights('hf-hub:ada/kept')").value
            hub.__exit__()
            assert ask("find_weights('hf-hub:ada/kept')").value == found
            gone = ask("find_weights('hf-hub:ada/other')")
            assert gone.error == "HubUnavailableError"
            hub.__enter__()
        with child(hub.url, tmp_path / "home", HF_HUB_OFFLINE="1") as ask:
            assert ask("find_weights('hf-hub:ada/kept')").value == found


def test_older_repositories_with_a_pickle_are_read(hub: FakeHub, ask: Ask, tmp_path: Path) -> None:
    model = small(2)
    torch.save(model.state_dict(), tmp_path / "weights")
    config = json.dumps(model.config.to_json()).encode()
    files = {"config.json": config, "pytorch_model.bin": tmp_path / "weights"}
    hub.add_model("ada/old", files)
    assert ask("facts('hf-hub:ada/old')").value["config"] == model.config.to_json()


def test_the_token_goes_with_every_request(hub: FakeHub, ask: Ask, tmp_path: Path) -> None:
    publish(hub, "ada/secret", private=True)
    without = ask("find_weights('hf-hub:ada/secret')")
    assert without.error == "HubUnavailableError"
    assert "it is private: check the name, or set HF_TOKEN" in without.text
    hub.requests.clear()
    with child(hub, tmp_path, HF_TOKEN="hf_ada") as ask_with_token:
        assert ask_with_token("find_weights('hf-hub:ada/secret')").value
    assert {request.token for request in hub.requests} == {"hf_ada"}


def test_a_gated_repository_says_what_opens_it(hub: FakeHub, ask: Ask) -> None:
    publish(hub, "ada/gated", gated=True)
    answer = ask("find_weights('hf-hub:ada/gated')")
    assert answer.error == "HubUnavailableError"
    assert answer.text == (
        "ada/gated is gated on the Hub: accept its terms there, then set HF_TOKEN"
    )


@pytest.mark.parametrize("spec", ["ada/nowhere", "ada/there@v9"])
def test_what_the_hub_does_not_have_is_said(hub: FakeHub, ask: Ask, spec: str) -> None:
    publish(hub, "ada/there")
    answer = ask(f"find_weights('hf-hub:{spec}')")
    assert answer.error == "HubUnavailableError"
    assert f"repository for {spec}" in answer.text
    assert answer.seconds < REACHED_WITHIN


@pytest.mark.parametrize("files", [{"README.md": b"#"}, {"config.json": b"{}"}])
def test_a_repository_without_a_model_is_reported(
    hub: FakeHub, ask: Ask, files: dict[str, bytes]
) -> None:
    repo_id = f"ada/lacks-{len(next(iter(files)))}"
    hub.add_model(repo_id, files)
    answer = ask(f"find_weights('hf-hub:{repo_id}')")
    assert answer.error == "HubUnavailableError"
    assert "has no model.safetensors and config.json" in answer.text


def test_a_cut_connection_is_taken_up_where_it_broke(hub: FakeHub, ask: Ask) -> None:
    publish(hub, "ada/cut", small(head="fc", width=0.2))  # 20 MB; the client takes 10 at a time
    hub.faults = Faults(cut_after_bytes=12_000_000, only="GET /ada/cut/resolve", times=1)
    found = ask("find_weights('hf-hub:ada/cut')").value
    published = hub.repo("ada/cut").folder / "model.safetensors"
    assert Path(found).read_bytes() == published.read_bytes()
    assert "bytes=10485760-" in [request.byte_range for request in hub.requests]


@pytest.mark.slow
@pytest.mark.parametrize("faults", [Faults(status=500), Faults(cut_after_bytes=0)])
def test_a_download_that_breaks_off_says_the_ways_on_and_is_not_kept(
    hub: FakeHub, ask: Ask, faults: Faults
) -> None:
    repo_id = "ada/cut-for-good" if faults.status is None else "ada/refused"
    publish(hub, repo_id)
    faults.only = f"GET /{repo_id}/resolve"
    hub.faults = faults
    answer = ask(f"find_weights('hf-hub:{repo_id}')")
    assert answer.error == "HubUnavailableError"
    assert "the download broke off" in answer.text
    assert_says_the_ways_on(answer.text, repo_id)
    hub.faults = Faults()
    assert ask(f"find_weights('hf-hub:{repo_id}')").value  # later all is well


def test_raising_from_on_progress_ends_the_download(hub: FakeHub, ask: Ask) -> None:
    publish(hub, "ada/stopped", small(head="fc", width=0.2))
    size = (hub.repo("ada/stopped").folder / "model.safetensors").stat().st_size
    answer = ask("told('hf-hub:ada/stopped', stop_at=1)")
    assert answer.error == "Stop"
    assert ask("cached_weights('ada/stopped')").value is None
    assert ask("told('hf-hub:ada/stopped')").value[-1] == [size, size]


def test_offline_is_said_without_asking(hub: FakeHub, tmp_path: Path) -> None:
    publish(hub, "ada/there")
    with child(hub, tmp_path, HF_HUB_OFFLINE="1") as ask:
        answer = ask("find_weights('hf-hub:ada/there')")
    assert "HF_HUB_OFFLINE is set" in answer.text
    assert_says_the_ways_on(answer.text, "ada/there")
    assert answer.seconds < 2
    assert hub.requests == []


def test_an_unreachable_hub_is_reported_within_5_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for endpoint in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid", "no address"):
        with child(endpoint, tmp_path) as ask:
            answer = ask("find_weights('vgg16')")
        assert answer.error == "HubUnavailableError"
        assert f"{endpoint} can't be reached" in answer.text
        assert_says_the_ways_on(answer.text, "vgg16")
        assert answer.seconds < REACHED_WITHIN


@pytest.mark.slow
def test_a_hub_that_hangs_is_reported_within_5_seconds(hub: FakeHub, ask: Ask) -> None:
    publish(hub, "ada/slow")
    hub.faults = Faults(delay_s=60)
    answer = ask("find_weights('hf-hub:ada/slow')")
    assert answer.error == "HubUnavailableError"
    assert f"{hub.url} " in answer.text
    assert_says_the_ways_on(answer.text, "ada/slow")
    assert answer.seconds < REACHED_WITHIN


def test_a_hub_that_fails_is_reported_with_its_status(hub: FakeHub, ask: Ask) -> None:
    hub.faults = Faults(status=503)
    answer = ask("find_weights('hf-hub:ada/failing')")
    assert "answers with an error (503)" in answer.text
    assert_says_the_ways_on(answer.text, "ada/failing")

"""The page without a browser: how it starts, its endpoints, and its handlers as plain functions."""

import csv
import inspect
import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from conftest import ROOT, Server, serving
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from pictures import encoded, lossless_jpeg, picture
from PIL import Image

import app
from vgg.cli import main as command_line
from vgg.network.config import IMAGENET_NAMES, STAGES
from vgg.network.summary import count_parameters
from vgg.ui import sidebar
from vgg.ui.app import device_line, launch_options
from vgg.ui.server.choice import IMAGENET, NEW, Choice, choice_from_inputs, imagenet_choice
from vgg.ui.server.model_downloads import Downloads
from vgg.ui.server.model_store import (
    ModelStore,
)
from vgg.ui.server.settings import Limits, Settings
from vgg.ui.tabs import predict, predict_answers, predict_input

# The design, section 2. All other events are private.
ENDPOINTS = {"/predict", "/explain", "/train", "/job", "/stop", "/models", "/evaluate"}
STARTER_INPUTS = ("starter", 11, True, 8, 0.25, "gap")


@contextmanager
def connected(server: Server) -> Iterator[Client]:
    client = Client(server.url, verbose=False, download_files=False, analytics_enabled=False)
    yield client
    client.close()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with connected(server) as opened:
        yield opened


@pytest.fixture
def store(own_models: Path) -> ModelStore:
    return ModelStore(Settings(weights_dir=own_models))


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


# How it starts


HERE = (None, "127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8")
EVERYWHERE = ("0.0.0.0", "::", "192.168.1.20", "studio.example.org")


@pytest.mark.parametrize(
    ("hosts", "share", "environment", "public"),
    [
        (HERE, False, {}, False),
        (EVERYWHERE, False, {}, True),
        ((None,), True, {}, True),
        ((None,), False, {"GRADIO_SHARE": "True"}, True),
        ((None,), False, {"GRADIO_SERVER_NAME": "0.0.0.0"}, True),
        (("127.0.0.1",), False, {"GRADIO_SERVER_NAME": "0.0.0.0"}, False),
        ((None,), False, {"SPACE_ID": "ada/studio"}, True),
        (("127.0.0.1",), False, {"SYSTEM": "spaces"}, True),
    ],
)
def test_a_page_is_public_where_others_than_the_person_at_the_machine_can_reach_it(
    monkeypatch: pytest.MonkeyPatch, hosts: tuple[str | None, ...], share: bool,
    environment: dict[str, str], public: bool,
) -> None:  # fmt: skip
    for name in ("GRADIO_SHARE", "GRADIO_SERVER_NAME", "SPACE_ID", "SYSTEM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert {app.is_public(host, share) for host in hosts} == {public}


def test_auth_is_a_user_and_a_password_that_may_hold_colons() -> None:
    assert app.split_auth(None) is None
    assert app.split_auth("ada:se:cret") == ("ada", "se:cret")


def test_after_wrong_tries_the_door_stays_shut_for_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("app.time.monotonic", lambda: now[0])
    door = app.Door("ada", "sécret", 3)
    assert door.opens("ada", "sécret")
    assert [door.opens("ada", f"guess {number}") for number in range(3)] == [False] * 3
    assert not door.opens("ada", "sécret")
    now[0] = 61.0
    assert door.opens("ada", "sécret")


def test_each_limit_of_a_public_page_is_an_option() -> None:
    given = app.limits_of(app.build_parser().parse_args(["--most-seconds", "60"]))
    assert given == Limits(seconds=60)
    assert launch_options(Settings(public=True, limits=Limits(upload_mb=5)))["max_file_size"] == (
        "5mb"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--most-jobs", "0"], "--most-jobs must be 1 or more"),
        (["--auth", "ada"], "USER:PASSWORD"),
        (["--auth", ":secret"], "USER:PASSWORD"),
        (["--auth", "ada:"], "USER:PASSWORD"),
        (["--port", "high"], "invalid int value"),
        (["--model", "vgg15"], "no model 'vgg15'"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--device", "cuda:999"], "cuda"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_a_start_that_makes_no_sense_ends_with_status_2_and_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert app.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith("vgg: ")
    assert err.count("\n") == 1


def test_launch_options_are_those_of_this_gradio_and_keep_things_private() -> None:
    known = inspect.signature(gr.Blocks.launch).parameters
    for public in (False, True):
        options = launch_options(Settings(public=public))
        assert set(options) <= set(known)
        assert options["run_history"] is False
        assert options["enable_monitoring"] is False
        assert options["show_error"] is False
        assert options["ssr_mode"] is False
        assert "allowed_paths" not in options
    sizes = [int(launch_options(Settings(public=p))["max_file_size"][:-2]) for p in (True, False)]
    assert sizes[0] < sizes[1]


@pytest.fixture(scope="module")
def public_server(tmp_path_factory: pytest.TempPathFactory, own_models: Path) -> Iterator[Server]:
    """A page that others can reach, started with a model that lies in some folder."""
    folder = tmp_path_factory.mktemp("private-place") / "birds.v2"
    shutil.copytree(own_models / "older", folder)
    with serving(
        tmp_path_factory.mktemp("public"), "--host", "0.0.0.0", "--model", folder
    ) as running:
        yield running


@pytest.mark.slow
def test_a_model_of_some_folder_is_named_without_its_path(
    public_server: Server, shapes: Path
) -> None:
    sent = get(public_server.url + "/config")
    assert "birds.v2 · VGG-13 · 2 classes" in sent
    assert "private-place" not in sent
    with connected(public_server) as client:
        assert client.predict(api_name="/models")[0]["name"] == "birds.v2"
        answer = client.predict(handle_file(shapes / "star.png"), "birds.v2", api_name="/predict")
    assert {place["class"] for place in answer["top"]} == {"no", "yes"}


@pytest.mark.slow
def test_odd_pictures_of_strangers_are_answered_or_refused_and_the_page_lives(
    public_server: Server, tmp_path: Path
) -> None:
    good = encoded(picture(), "WEBP")
    files = {"grey.jpg": lossless_jpeg(), "whole.webp": good, "cut.webp": good[:-20]}
    with connected(public_server) as client:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        for name in ("grey.jpg", "whole.webp", "whole.webp"):
            assert client.predict(handle_file(tmp_path / name), api_name="/predict")["top"]
        refused = client.predict(handle_file(tmp_path / "cut.webp"), api_name="/predict")
        assert "open it elsewhere" in refused["error"] or "cut off" in refused["error"]
        assert client.predict(handle_file(tmp_path / "grey.jpg"), api_name="/predict")["top"]


@pytest.mark.parametrize("public", [False, True])
def test_the_first_page_is_there_before_torch(public: bool) -> None:
    code = (
        "import sys, app; from vgg.ui.app import build; "
        "from vgg.ui.server.settings import Settings; "
        f"build(Settings(public={public})); print('torch' in sys.modules); "
        # Strangers' pictures are decoded apart.
        "from vgg.data.decoding import wants_worker; print(wants_worker(b'BM', None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["False", str(public)], done.stderr


@pytest.mark.slow  # the real thing: it waits for Gradio's servers, which no test may reach
@pytest.mark.parametrize("auth", [(), ("--auth", "ada:secret")])
def test_where_no_link_can_be_made_the_page_goes_on_and_says_why(
    tmp_path: Path, auth: tuple[str, ...]
) -> None:
    # Whatever this machine reaches: through a proxy that is not there, nothing.
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    with serving(tmp_path, "--share", *auth, HF_HOME=str(tmp_path), **nowhere) as running:
        assert running.url in running.wait_for("No link could be made")
        assert "VGG Studio" in get(running.url + "/") or auth
        if auth:
            with pytest.raises(urllib.error.HTTPError, match="401"):
                get(running.url + "/config")
        assert any("open to anyone" in line for line in running.before) is not bool(auth)


# What programs may call


def test_only_the_named_endpoints_can_be_seen(client: Client) -> None:
    api = client.view_api(return_format="dict", print_info=False)
    assert api["unnamed_endpoints"] == {}
    assert {"/predict", "/models"} <= set(api["named_endpoints"]) <= ENDPOINTS


def test_predict_over_http_answers_as_the_command_line_does(
    client: Client,
    shapes: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(shapes)
    names = ["star.png", "crescent.png"]
    command_line(["predict", *names, "--json", "--top-k", "3"])
    expected = json.loads(capsys.readouterr().out)
    for name, row in zip(names, expected, strict=True):
        answer = client.predict(handle_file(name), "starter", 3, api_name="/predict")
        assert answer["image"] == row["image"] == name
        assert answer["error"] is row["error"] is None
        assert [p["class"] for p in answer["top"]] == [p["class"] for p in row["top"]]
        assert [p["probability"] for p in answer["top"]] == pytest.approx(
            [p["probability"] for p in row["top"]], abs=1e-6
        )
        assert answer["top"][0]["class"] == Path(name).stem


def test_predict_needs_the_picture_only(client: Client, shapes: Path) -> None:
    answer = client.predict(handle_file(shapes / "heart.png"), api_name="/predict")
    assert answer["top"][0]["class"] == "heart"
    assert len(answer["top"]) == 5


def test_an_unreadable_picture_is_a_row_with_its_error(client: Client, tmp_path: Path) -> None:
    bad = tmp_path / "notes.png"
    bad.write_text("not a picture at all")
    answer = client.predict(handle_file(bad), api_name="/predict")
    assert answer["image"] == "notes.png"
    assert answer["top"] == []
    assert "notes.png" in answer["error"]
    assert "/" not in answer["error"]


@pytest.mark.parametrize(
    "model",
    [
        *("vgg15", "../../etc", "/etc", str(ROOT / "weights" / "starter"), "hf-hub:a/b"),
        *(NEW, IMAGENET, "", ".", "..", "pets/../starter", "a" * 5000, "nul\0byte"),
    ],
)
def test_a_model_is_a_name_and_never_a_path(client: Client, shapes: Path, model: str) -> None:
    with pytest.raises(AppError, match="no model") as refused:
        client.predict(handle_file(shapes / "star.png"), model, api_name="/predict")
    assert "choose starter, pets, older" in str(refused.value)


@pytest.mark.parametrize("top_k", [0, -1, 2.5, True, None, "three"])
def test_a_top_k_that_makes_no_sense_is_refused_with_a_sentence(
    client: Client, shapes: Path, top_k: Any
) -> None:
    with pytest.raises(AppError, match="top_k must be a whole number from 1 up"):
        client.predict(handle_file(shapes / "star.png"), "starter", top_k, api_name="/predict")


def test_weights_that_can_not_be_had_are_said_with_the_ways_on(
    client: Client, shapes: Path
) -> None:
    with pytest.raises(AppError, match=r"weights of vgg11 are not on this machine.*Three ways on"):
        client.predict(handle_file(shapes / "star.png"), "vgg11", api_name="/predict")


def call(server: Server, endpoint: str, *data: Any) -> str:
    """What a plain HTTP client gets: the stream of events, as text."""
    address = f"{server.url}/gradio_api/call/{endpoint}"
    body = json.dumps({"data": data}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        event = json.load(answer)["event_id"]
    return get(f"{address}/{event}")


@pytest.mark.parametrize(
    "path", ["/etc/hostname", str(ROOT / "app.py"), "app.py", "../../etc/hostname"]
)
def test_a_file_of_the_server_is_not_taken_for_an_upload(server: Server, path: str) -> None:
    for mark in ({"meta": {"_type": "gradio.FileData"}}, {"meta": {}}, {}):
        sent = {"path": path, "orig_name": "a.png", **mark}
        for endpoint, more in (("predict", ["starter", 5]), ("explain", ["starter", ""])):
            events = call(server, endpoint, sent, *more)
            assert events.startswith("event: error")
            assert '"top"' not in events
            assert "heatmap" not in events


def test_a_broken_call_leaves_one_short_line_in_the_log(server: Server) -> None:
    begun = len(server.log.read_text())
    with pytest.raises(urllib.error.HTTPError):
        call(server, "a" * 50_000)
    call(server, "predict")
    call(server, "predict", {"path": "a" * 100_000, "meta": {"_type": "gradio.FileData"}})
    log = server.log.read_text()[begun:].splitlines()
    assert len(log) == 3
    assert all("failed: " in line and len(line) < 200 for line in log)


def test_a_picture_of_the_server_is_not_shown_by_its_path(server: Server, shapes: Path) -> None:
    picture = str(shapes / "star.png")
    events = call(server, "predict", {"path": picture}, "starter", 5)
    assert "was not uploaded" in events
    assert '"top"' not in events


def test_models_lists_what_is_here_newest_first(client: Client) -> None:
    listed = client.predict(api_name="/models")
    assert [model["name"] for model in listed] == ["starter", "pets", "older"]
    assert listed[0]["config"] == json.loads((ROOT / "weights/starter/config.json").read_text())
    assert listed[1]["config"]["label_names"] == ["cat", "dog & bone", "<b>owl</b>"]


def test_nothing_that_the_page_sends_names_a_place_on_the_server(
    server: Server, own_models: Path
) -> None:
    for address in ("/", "/config", "/gradio_api/info"):
        sent = get(server.url + address)
        assert len(sent) > 500
        for place in (str(ROOT), str(own_models), sys.prefix, str(Path.home()) + "/"):
            assert place not in sent, address


# The sidebar: what a choice means


def shown(store: ModelStore, *inputs: Any) -> dict[str, Any]:
    """`show`'s updates by name."""
    names = ("model", "depth", "batch_norm", "num_classes", "width", "head")
    names += ("more", "facts", "line")
    return dict(zip(names, inputs, strict=True))


def after(store: ModelStore, event: str, *inputs: Any) -> dict[str, Any]:
    """What the sidebar shows after one of its events."""
    return shown(store, *getattr(sidebar.Handlers(store, Downloads(store)), event)(*inputs))


def test_the_list_has_the_starter_own_models_newest_first_imagenet_and_a_new_network(
    store: ModelStore,
) -> None:
    assert sidebar.entries(store) == [
        ("Starter", "starter"),
        ("pets", "pets"),
        ("older", "older"),
        ("ImageNet (1000 classes)", IMAGENET),
        ("New network", NEW),
    ]


def test_an_own_model_may_have_the_name_of_an_entry(own_models: Path, tmp_path: Path) -> None:
    for name in ("new", "imagenet"):
        shutil.copytree(own_models / "older", tmp_path / name)
    store = ModelStore(Settings(weights_dir=tmp_path))
    for name in ("new", "imagenet"):
        state = after(store, "model_changed", name, *STARTER_INPUTS[1:])
        assert (state["model"], state["num_classes"]) == (name, 2)


def test_a_model_file_with_the_name_of_an_imagenet_model_stays_what_it_is(
    own_models: Path, tmp_path: Path
) -> None:
    for name in ("vgg16", "starter"):
        folder = tmp_path / name
        shutil.copytree(own_models / "older", folder)
        given = ModelStore(Settings(model=str(folder), weights_dir=own_models))
        choice = given.choice_of(given.first_name)
        assert given.config(choice).label_names == ("no", "yes")
        assert (f"{name} (given)", f"{name} (given)") in sidebar.entries(given)
        assert f"{name} (given)" in [model.name for model in given.listed()]


def test_the_starter_is_what_depth_batch_norm_and_classes_show(store: ModelStore) -> None:
    state = after(store, "model_changed", "starter", 19, False, 1000, 1.0, "fc")
    assert tuple(state.values())[:6] == STARTER_INPUTS
    assert state["line"] == "Starter · VGG-11 · 8 shapes"


@pytest.mark.parametrize(
    "changed",
    [
        ("starter", 19, True, 8, 0.25, "gap"),
        ("starter", 11, False, 8, 0.25, "gap"),
        ("starter", 11, True, 7, 0.25, "gap"),
        ("pets", 19, False, 3, 0.0625, "gap"),
        ("pets", 13, False, 4, 0.0625, "gap"),
    ],
)
def test_a_change_of_a_finished_model_means_a_new_network(
    store: ModelStore, changed: tuple[Any, ...]
) -> None:
    state = after(store, "part_changed", *changed)
    assert state["model"] == NEW
    assert tuple(state.values())[1:6] == changed[1:]
    assert sidebar.UNTRAINED in state["facts"]
    assert sidebar.UNTRAINED in state["line"]
    assert "has not been trained" in predict_answers.obstacle(store, NEW, *changed[1:])


def test_the_starters_own_values_leave_it_chosen(store: ModelStore) -> None:
    assert after(store, "part_changed", *STARTER_INPUTS)["model"] == "starter"


@pytest.mark.parametrize("depth", STAGES)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_imagenet_has_eight_forms_with_1000_classes(
    store: ModelStore, depth: int, batch_norm: bool
) -> None:
    state = after(store, "model_changed", IMAGENET, depth, batch_norm, 8, 0.25, "gap")
    assert tuple(state.values())[:4] == (IMAGENET, depth, batch_norm, 1000)
    config = store.config(choice_from_inputs(*tuple(state.values())[:6]))
    assert config.architecture in IMAGENET_NAMES
    assert (config.depth, config.batch_norm, config.trained) == (depth, batch_norm, True)
    assert config.label_names[0] == "tench"
    assert sidebar.UNTRAINED not in state["facts"]


def test_imagenet_with_another_class_count_keeps_the_trunk_and_is_untrained(
    store: ModelStore,
) -> None:
    state = after(store, "part_changed", IMAGENET, 16, True, 7, 1.0, "fc")
    assert (state["model"], state["num_classes"]) == (IMAGENET, 7)
    config = store.config(Choice(IMAGENET, 16, True, 7))
    assert (config.architecture, config.num_classes, config.trained) == ("vgg16_bn", 7, False)
    assert sidebar.UNTRAINED in state["facts"]
    back = after(store, "part_changed", IMAGENET, 16, True, 1000, 1.0, "fc")
    assert sidebar.UNTRAINED not in back["facts"]


@pytest.mark.parametrize("depth", STAGES)
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("num_classes", [1, 2, 1000])
def test_a_new_network_is_described_by_formula(
    store: ModelStore, depth: int, batch_norm: bool, num_classes: int
) -> None:
    state = after(store, "part_changed", NEW, depth, batch_norm, num_classes, 0.5, "stages")
    config = store.config(Choice(NEW, depth, batch_norm, num_classes, 0.5, "stages"))
    assert (config.depth, config.batch_norm, config.num_classes) == (depth, batch_norm, num_classes)
    assert (config.width, config.head, config.trained) == (0.5, "stages", False)
    assert f"{4 * count_parameters(config) / 1e6:.3g} MB" in state["facts"]


def test_facts_of_vgg_16_are_the_papers(store: ModelStore) -> None:
    text = sidebar.facts(store.config(Choice(IMAGENET, 16, False, 1000)))
    for fact in ("138 M", "553 MB", "15.5 GMAC"):
        assert f"<dd>{fact}</dd>" in text
    assert "<details class='names'>" in text  # 1000 names are folded


def test_facts_say_an_accuracy_only_with_its_count(store: ModelStore) -> None:
    config = store.config(store.choice_of("older"))
    assert "Accuracy" not in sidebar.facts(config)
    training = {"training": {"accuracy": 0.9312, "held_out": 83}}
    assert "93.1 % of 83 pictures" in sidebar.facts(replace(config, extra=training))


def test_markup_in_class_names_is_shown_and_not_run(store: ModelStore, shapes: Path) -> None:
    inputs = ("pets", 13, False, 3, 0.0625, "gap")
    text, *_ = answer(store, [(str(shapes / "star.png"), None)], 3, *inputs)
    facts = sidebar.facts(store.config(store.choice_of("pets")))
    for html in (text, facts, predict_answers.empty_state(store, *inputs)):
        assert "<b>" not in html
        assert "&lt;b&gt;owl&lt;/b&gt;" in html
        assert "dog &amp; bone" in html


@pytest.mark.parametrize(
    "inputs",
    [
        ("starter", 12, True, 8, 1.0, "fc"),
        ("starter", None, True, 8, 1.0, "fc"),
        ("starter", 11, True, None, 1.0, "fc"),
        ("starter", 11, True, 2.5, 1.0, "fc"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(inputs: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"unknown architecture|number of classes"):
        choice_from_inputs(*inputs)


@pytest.mark.parametrize(
    "inputs",
    [
        (NEW, 11, True, 0, 1.0, "fc"),
        (NEW, 11, True, 10**9, 1.0, "fc"),
        (NEW, 11, True, 2, 0, "fc"),
        (NEW, 11, True, 2, 99, "fc"),
        (NEW, 11, True, 2, 1.0, "tail"),
        (IMAGENET, 11, True, 0, 1.0, "fc"),
    ],
)
def test_a_network_that_can_not_be_is_said_in_its_place_and_the_page_goes_on(
    store: ModelStore, inputs: tuple[Any, ...]
) -> None:
    assert "class='problem'" in after(store, "part_changed", *inputs)["facts"]
    assert "untrained" in predict_answers.obstacle(store, *inputs)
    downloads = Downloads(store)
    assert [text for text, _ in sidebar.Handlers(store, downloads).bring(*inputs)] == [""]


def test_a_model_that_has_gone_is_said(store: ModelStore) -> None:
    for event in ("model_changed", "part_changed"):
        with pytest.raises(gr.Error, match="No model 'gone'"):
            after(store, event, "gone", *STARTER_INPUTS[1:])


def test_weights_that_can_not_be_fetched_are_said_with_the_ways_on(store: ModelStore) -> None:
    inputs = (IMAGENET, 16, False, 1000, 1.0, "fc")
    told = [text for text, _ in sidebar.Handlers(store, Downloads(store)).bring(*inputs)]
    assert "class='problem'" in told[-1]
    assert "Three ways on" in told[-1]
    assert "are not here" in predict_answers.obstacle(store, *inputs)


# The store


def test_a_model_trained_again_under_its_name_is_loaded_again(
    own_models: Path, tmp_path: Path, shapes: Path
) -> None:
    from vgg.checkpoints.folder import save_checkpoint
    from vgg.checkpoints.loading import load_model

    shutil.copytree(own_models / "older", tmp_path / "mine")
    store = ModelStore(Settings(weights_dir=tmp_path))
    before = store.predictor("mine")
    assert store.predictor("mine") is before
    model = load_model("mine", weights_dir=tmp_path)
    model.config = replace(model.config, label_names=("cold", "warm"))
    save_checkpoint(model, tmp_path / "mine")
    again = store.predictor("mine")
    assert again.config.label_names == ("cold", "warm")


def test_names_are_the_only_way_to_a_model(store: ModelStore, own_models: Path) -> None:
    assert store.spec_of("pets") == "pets"
    for name in ("", ".", "..", "/etc", str(own_models / "pets"), "pets/", "hf-hub:a/b", NEW):
        with pytest.raises(ValueError, match="no model"):
            store.spec_of(name)


def test_imagenet_weights_in_the_folder_need_no_download(store: ModelStore, tmp_path: Path) -> None:
    assert store.is_here("pets")
    assert not store.is_here("vgg16")
    (tmp_path / "vgg16.pth").touch()
    assert ModelStore(Settings(weights_dir=tmp_path)).is_here("vgg16")


def test_the_header_says_what_it_runs_on_or_what_is_wrong(store: ModelStore) -> None:
    assert "Getting ready" in device_line(store)
    store.warm_up()
    assert store._warming is not None
    store._warming.join()
    assert re.search(r"(fp32|bf16|fp16) · [\d.]+ of \d+ GB", device_line(store))
    wrong = ModelStore(Settings(device="cuda:9999"))
    wrong.warm_up()
    assert wrong._warming is not None
    wrong._warming.join()
    assert "cuda" in device_line(wrong)


# The Predict tab


def answer(store: ModelStore, *given: Any) -> tuple[str, Any, Any]:
    return predict.Handlers(store).answer_pictures(*given)[:3]


def updated(component: gr.blocks.Block) -> dict[str, Any]:
    """What a handler's update says. Outside of a running page it is a component of its own."""
    return component.constructor_args


def pictures(*paths: Path) -> list[tuple[str, None]]:
    return [(str(path), None) for path in paths]


def test_one_picture_gives_bars_with_one_decimal_best_first_and_a_quiet_line(
    store: ModelStore, shapes: Path
) -> None:
    text, table, download = answer(store, pictures(shapes / "star.png"), 5, *STARTER_INPUTS)
    names = re.findall(r"<span class='name'>(.*?)</span>", text)
    percents = re.findall(r"<span class='percent'>([\d.]+) %</span>", text)
    assert names[0] == "star"
    assert len(names) == len(percents) == 5
    assert all(re.fullmatch(r"\d+\.\d", percent) for percent in percents)
    assert [float(p) for p in percents] == sorted(map(float, percents), reverse=True)
    assert re.search(r"<p class='quiet'>\d+ ms on .*, (fp32|bf16|fp16), 64 × 64 pixels</p>", text)
    assert updated(table)["visible"] is updated(download)["visible"] is False


def test_several_pictures_give_a_table_and_a_csv_as_the_command_line_writes_it(
    store: ModelStore,
    shapes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad = tmp_path / "a & b.png"
    bad.write_text("not a picture at all")
    asked = [shapes / "star.png", bad, shapes / "heart.png"]
    text, table, download = answer(store, pictures(*asked), 2, *STARTER_INPUTS)
    assert "3 pictures" in text
    rows = updated(table)["value"]
    assert [row[0] for row in rows] == [1, 2, 3]
    assert [row[2] for row in rows] == ["star.png", "a & b.png", "heart.png"]
    assert [row[3] for row in rows] == ["star", "not read", "heart"]
    assert "a & b.png" in rows[1][5]
    assert updated(download)["visible"] is True
    command_line(["predict", *map(str, asked), "--top-k", "2", "--csv", str(tmp_path / "out.csv")])
    capsys.readouterr()
    with (
        Path(updated(download)["value"]).open(newline="", encoding="utf-8-sig") as ours,
        (tmp_path / "out.csv").open(newline="", encoding="utf-8-sig") as theirs,
    ):
        expected = [[Path(row[0]).name, *row[1:]] for row in csv.reader(theirs)]
        assert list(csv.reader(ours)) == expected


def test_more_pictures_than_a_page_takes_are_said(
    store: ModelStore, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "MAX_PICTURES", 2)
    three = pictures(*[shapes / "star.png"] * 3)
    with pytest.warns(UserWarning, match="Only the first 2 of 3 pictures"):
        _, table, _ = answer(store, three, 5, *STARTER_INPUTS)
    assert len(updated(table)["value"]) == 2


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((NEW, 19, True, 7, 1.0, "fc"), "has not been trained"),
        ((IMAGENET, 16, True, 7, 1.0, "fc"), "has not been trained"),
        ((IMAGENET, 16, True, 1000, 1.0, "fc"), "weights of vgg16_bn are not here"),
    ],
)
def test_what_can_not_answer_shows_no_percentages(
    store: ModelStore, shapes: Path, inputs: tuple[Any, ...], said: str
) -> None:
    drawing = "data:image/png;base64,"
    for text in (
        answer(store, pictures(shapes / "star.png"), 5, *inputs)[0],
        predict.Handlers(store).answer_drawing(drawing, 5, *inputs)[0],
        predict_answers.empty_state(store, *inputs),
    ):
        assert said in text
        assert "%" not in text


def test_a_picture_that_browsers_do_not_show_appears_as_a_copy_with_the_same_pixels(
    store: ModelStore, tmp_path: Path, shapes: Path
) -> None:
    with Image.open(shapes / "star.png") as star:
        star.convert("RGB").save(tmp_path / "star.tiff")
        expected = star.convert("RGB").tobytes()
    (tmp_path / "bad.heic").write_bytes(b"nothing of the kind")
    given = pictures(shapes / "heart.png", tmp_path / "star.tiff", tmp_path / "bad.heic")
    with pytest.warns(UserWarning, match=r"bad\.heic"):
        copies = updated(predict_input.shown_copies(given))["value"]
    (heart, _), (copy, caption) = copies
    assert heart == given[0][0]
    assert caption == "star.tiff"
    assert copy.endswith(predict_input.SHOWN_BY_BROWSERS)
    with Image.open(copy) as opened:
        assert opened.tobytes() == expected
    _, table, _ = answer(store, copies, 5, *STARTER_INPUTS)
    assert [row[2] for row in updated(table)["value"]] == ["heart.png", "star.tiff"]


@pytest.mark.parametrize(
    "drawing",
    [
        "data:image/png;base64,AAAA",
        "data:image/png;base64,%%%",
        "data:text/html;base64,AAAA",
        "/etc/passwd",
        "data:image/png;base64," + "A" * predict_input.MAX_DRAWING,
    ],
)
def test_a_drawing_that_is_none_is_refused(store: ModelStore, drawing: str) -> None:
    with pytest.raises(gr.Error, match=r"(?i)drawing can't be read|the picture is"):
        predict.Handlers(store).answer_drawing(drawing, 5, *STARTER_INPUTS)


def test_the_slider_ends_at_the_class_count_and_not_over_20(store: ModelStore) -> None:
    assert predict_answers.most_answers(store, *STARTER_INPUTS) == 8
    assert predict_answers.most_answers(store, IMAGENET, 16, True, 1000, 1.0, "fc") == 20
    assert predict_answers.most_answers(store, NEW, 16, True, 1, 1.0, "fc") == 2


def test_the_invitation_says_what_the_model_knows(store: ModelStore) -> None:
    starter = store.choice_of("starter")
    imagenet = imagenet_choice(starter)
    pets = store.choice_of("pets")
    assert "draw a shape" in predict_answers.invitation(starter, store.config(starter))
    assert "1000 things" in predict_answers.invitation(imagenet, store.config(imagenet))
    assert "cat, dog & bone" in predict_answers.invitation(pets, store.config(pets))

"""The Models tab: what each visitor sees and may do; in a browser with `pytest -m browser`."""

import contextlib
import contextvars
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import gradio as gr
import onnxruntime
import pytest
from browsing import PHONE, go, pale_texts, too_wide
from conftest import Ask, Server, serving
from fake_hub import FakeHub
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from vgg import VGG
from vgg.checkpoints.folder import save_checkpoint
from vgg.checkpoints.loading import STARTER
from vgg.ui import api, sidebar
from vgg.ui.server import picture_sets
from vgg.ui.server.choice import NEW, Choice
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.settings import Limits, Settings
from vgg.ui.server.uploads import uploaded
from vgg.ui.tabs import (
    evaluate_cell,
    model_actions,
    model_snippets,
    model_takeaway,
    predict_input,
)


def make_model(folder: Path, *names: str) -> Path:
    model = VGG(11, len(names), head="gap", width=0.0625).eval()
    model.config = replace(model.config, label_names=names, trained=True)
    return save_checkpoint(model, folder)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    make_model(tmp_path / "weights" / "pets", "cat", "dog")
    return tmp_path / "weights"


@pytest.fixture
def owner(weights: Path) -> ModelStore:
    return ModelStore(Settings(weights_dir=weights))


@pytest.fixture
def strangers(weights: Path) -> ModelStore:
    """A public page with one model of its server's, and one of a visitor, known by a key."""
    store = ModelStore(Settings(weights_dir=weights, public=True))
    birds = make_model(weights / ".visitors" / "key-of-ada" / "birds", "hen", "owl")
    store.private.keep("key-of-ada", birds)
    return store


def silent(event: object) -> None:
    pass


def fresh(model: str = NEW) -> Choice:
    return Choice(model, 13, False, 5, 0.5, "gap")


# What is seen


def test_the_owner_sees_all_and_the_disk(owner: ModelStore) -> None:
    found = model_actions.rows(owner, [])
    assert [row.label for row in found] == ["pets", "starter"]
    text = model_actions.table(found, "pets")
    assert "VGG-11" in text
    assert "100.0 % of 2400" in text, "accuracies come with their count"
    assert re.search(r"data-key='pets' aria-pressed='true'", text)
    assert "1 model of your own takes 0.2 MB" in model_actions.disk_use(owner, found)
    assert "free" in model_actions.disk_use(owner, found)


def test_names_are_text_and_no_markup(owner: ModelStore, weights: Path) -> None:
    make_model(weights / "<b>x</b>".replace("/", "-"), "a", "b")
    assert "&lt;b&gt;" in model_actions.table(model_actions.rows(owner, []), "")
    assert "<b>" not in model_actions.table(model_actions.rows(owner, []), "")


def test_lists_stand_that_models_come_and_go_under(owner: ModelStore, weights: Path) -> None:
    for name in ("gone", "hidden"):
        make_model(weights / name, "cat", "dog")
    over, seen = threading.Event(), set()

    def come_and_go() -> None:
        while not over.is_set():
            for name in ("gone", "hidden"):
                (weights / name).rename(weights / f".{name}")
                (weights / f".{name}").rename(weights / name)

    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(come_and_go)
        try:
            for _ in range(100):
                names = [row.label for row in model_actions.rows(owner, [])]
                assert {"pets", "starter"} <= set(names)
                assert {"pets", "starter"} <= {model.name for model in owner.listed()}
                assert {"pets", "starter"} <= {value for _, value in sidebar.entries(owner)}
                model_actions.disk_use(owner, model_actions.rows(owner, []))
                seen.add(len(names))
        finally:
            over.set()
        moving.result()
    assert len(seen) > 1, "some had gone while others were read"


def test_visitors_see_their_own_and_what_all_have(strangers: ModelStore, weights: Path) -> None:
    mine = model_actions.rows(strangers, ["key-of-ada"])
    assert [row.label for row in mine] == ["birds", "pets", "starter"]
    others = model_actions.rows(strangers, ["key-of-eve"])
    assert [row.label for row in others] == ["pets", "starter"]
    told = model_actions.table(others, "") + model_actions.disk_use(strangers, others)
    assert "birds" not in told
    assert "free" not in told, "the server's disk is nobody's business"
    assert str(weights) not in model_actions.table(mine, "") + model_actions.disk_use(
        strangers, mine
    )


# What may be done


def test_strangers_change_nothing_but_their_own(strangers: ModelStore, weights: Path) -> None:
    for name in ("pets", STARTER):
        choice = strangers.choice_of(name)
        for attempt in (
            lambda c=choice: model_actions.rename(strangers, c, "mine"),
            lambda c=choice: model_actions.delete(strangers, c),
            lambda c=choice: model_actions.question(strangers, c),
        ):
            with pytest.raises(ValueError, match="no model of your own"):
                attempt()
    with pytest.raises(ValueError, match="no model of your own"):
        model_actions.delete(strangers, fresh("birds"))  # its name is no key
    assert (weights / "pets" / "config.json").is_file()
    with pytest.raises(ValueError, match="your own models and the starter"):
        model_actions.export(strangers, strangers.choice_of("pets"), silent)


def test_who_has_the_key_renames_and_deletes(strangers: ModelStore, weights: Path) -> None:
    choice = strangers.choice_of("key-of-ada")
    assert model_actions.rename(strangers, choice, "fowl") == "key-of-ada"
    assert strangers.label("key-of-ada") == "fowl"
    assert strangers.predictor("key-of-ada").config.label_names == ("hen", "owl")
    assert "weights" in model_actions.question(strangers, choice)
    model_actions.delete(strangers, choice)
    assert list((weights / ".visitors").iterdir()) == []
    with pytest.raises(ValueError, match="no model"):
        strangers.spec_of("key-of-ada")


def test_the_owner_renames_and_deletes_but_not_what_all_have(owner: ModelStore) -> None:
    assert model_actions.rename(owner, owner.choice_of("pets"), "animals") == "animals"
    model_actions.delete(owner, owner.choice_of("animals"))
    assert owner.own_models() == []
    for choice in (owner.choice_of(STARTER), fresh()):
        with pytest.raises(ValueError, match="no model of your own"):
            model_actions.delete(owner, choice)


def test_the_model_of_the_start_stays(weights: Path) -> None:
    store = ModelStore(Settings(model="pets", weights_dir=weights))
    with pytest.raises(ValueError, match="started with this model"):
        model_actions.delete(store, store.choice_of("pets"))


def test_an_import_on_a_public_page_is_found_by_its_key_alone(
    strangers: ModelStore, weights: Path
) -> None:
    key = model_actions.bring_in(
        strangers, Jobs(strangers), str(weights / "pets" / "model.safetensors"), "copy"
    )
    assert len(key) >= 20
    assert strangers.label(key) == "copy"
    assert strangers.own_models() == ["pets"]
    assert [row.label for row in model_actions.rows(strangers, [key])] == [
        "copy",
        "pets",
        "starter",
    ]


def test_a_model_is_its_owners_even_for_who_knows_its_name(weights: Path) -> None:
    asking = ["ada's page"]
    store = ModelStore(Settings(weights_dir=weights, public=True), visitor=lambda: asking[0])
    jobs = Jobs(store)
    key = model_actions.bring_in(store, jobs, str(weights / "pets" / "model.safetensors"), "mine")
    handle, hers = store.private.handle(key), replace(fresh(), model=key)
    asking[0] = "mallory's page"
    for handles in ([key], [f"{key}:"], [f"{key}:wrong"], [None, 3], "text", None):
        assert store.private.opened(handles) == []
    assert [row.label for row in model_actions.rows(store, [key])] == ["pets", "starter"]
    for attempt in (
        lambda: model_actions.rename(store, hers, "stolen"),
        lambda: model_actions.delete(store, hers),
        lambda: model_actions.export(store, hers, silent),
        lambda: model_actions.push(store, hers, "mallory/x", "hf_mallory", False, silent),
    ):
        with pytest.raises(ValueError, match="no model"):
            attempt()
    asking[0] = "ada's page, loaded again"
    assert store.private.opened([handle]) == [key]
    model_actions.delete(store, hers)
    assert not list((weights / ".visitors").iterdir())


def test_a_private_model_that_is_not_there_is_said_without_its_path(weights: Path) -> None:
    store = ModelStore(Settings(weights_dir=weights, public=True))
    store.private.keep("key", weights / ".visitors" / "key" / "photos")
    with pytest.raises(ValueError, match="not ready yet") as refused:
        store.predictor("key")
    assert str(weights) not in str(refused.value)


def test_on_a_public_page_the_owners_pictures_are_not_shown(
    strangers: ModelStore, owner: ModelStore, weights: Path
) -> None:
    assert owner.shows_pictures("pets")
    assert not strangers.shows_pictures("pets")
    assert strangers.shows_pictures("key-of-ada")
    assert strangers.shows_pictures(STARTER)
    with pytest.raises(ValueError, match="its owner's"):
        evaluate_cell.held_out(strangers, "pets")


def test_what_visitors_left_behind_a_day_ago_goes_when_the_page_starts(weights: Path) -> None:
    lost, fresh_one = (weights / ".visitors" / name for name in ("lost", "fresh"))
    for folder in (lost, fresh_one):
        folder.mkdir(parents=True)
    os.utime(lost, (1, 1))
    Jobs(ModelStore(Settings(weights_dir=weights)))
    assert lost.exists()
    Jobs(ModelStore(Settings(weights_dir=weights, public=True)))
    assert not lost.exists()
    assert fresh_one.exists()


def test_a_second_page_leaves_the_visitors_of_the_first_their_old_models(weights: Path) -> None:
    store = ModelStore(Settings(weights_dir=weights, public=True))
    key = model_actions.bring_in(
        store, Jobs(store), str(weights / "pets" / "model.safetensors"), "copy"
    )
    os.utime(weights / ".visitors" / key, (1, 1))
    Jobs(ModelStore(Settings(weights_dir=weights, public=True)))
    assert store.predictor(key)


def test_only_what_was_uploaded_passes_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, secret = tmp_path / "served", tmp_path / "secret.png"
    served.mkdir()
    Image.new("RGB", (40, 40)).save(secret)
    Image.new("RGB", (40, 40)).save(served / "mine.png")
    with contextlib.suppress(OSError):  # links need rights on Windows
        (served / "link.png").symlink_to(secret)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(served))
    assert uploaded(str(served / "mine.png")) == served / "mine.png"
    for path in (str(secret), f"{served}/../secret.png", f"{served}/link.png", "", None, 3, "\0"):
        with pytest.raises(ValueError, match="was not uploaded"):
            uploaded(path)
    with pytest.raises(ValueError, match="was not uploaded"):
        predict_input.current_picture("picture", [(str(secret), None)], None, Image.open)
    with pytest.raises(ValueError, match="was not uploaded"):
        picture_sets.from_boxes(
            Settings(), [("a", [(str(secret), None)]), ("b", [(str(secret), None)])]
        )
    with pytest.raises(ValueError, match="was not uploaded"):
        picture_sets.from_zip(Settings(), str(secret))
    store = ModelStore(Settings(weights_dir=tmp_path / "weights", public=True))
    with pytest.raises(ValueError, match="was not uploaded"):
        model_actions.bring_in(store, Jobs(store), str(secret), "taken")
    with pytest.raises(gr.Error, match="was not uploaded"):
        predict_input.shown_copies([(str(secret), None)])
    with pytest.raises(gr.Error, match="was not uploaded"):
        api._file({"path": str(secret)})


def test_what_a_thread_does_for_a_visitor_is_asked_as_the_visitor() -> None:
    asking: contextvars.ContextVar[str] = contextvars.ContextVar("asking", default="nobody")
    asking.set("ada's page")
    told = list(model_takeaway.watched(lambda _tell: asking.get(), lambda: None))
    assert told[-1] == ("", "ada's page")


def test_an_import_on_ones_own_machine_gets_a_free_name(owner: ModelStore, weights: Path) -> None:
    file = str(weights / "pets" / "model.safetensors")
    assert model_actions.bring_in(owner, Jobs(owner), file, "pets") == "pets-2"
    assert set(owner.own_models()) == {"pets", "pets-2"}


def test_class_names_are_typed_where_the_file_has_none(
    owner: ModelStore, weights: Path, tmp_path: Path
) -> None:
    bare = str(shutil.copy(weights / "pets" / "model.safetensors", tmp_path / "birds"))
    made = model_actions.bring_in(owner, Jobs(owner), bare, "", class_names="hen\nbarn owl")
    assert made == "birds"
    assert owner.config(owner.choice_of(made)).label_names == ("hen", "barn owl")


def test_of_the_imports_of_strangers_only_so_many_are_kept(
    strangers: ModelStore, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers.settings = replace(strangers.settings, limits=Limits(imports=2))
    monkeypatch.setattr("vgg.ui.server.jobs.KEPT_SECONDS", 0)
    jobs = Jobs(strangers)
    file = str(weights / "pets" / "model.safetensors")
    keys = [model_actions.bring_in(strangers, jobs, file, "x") for _ in range(3)]
    assert [*strangers.private] == keys[1:]
    assert {p.name for p in (weights / ".visitors").iterdir()} == set(keys[1:])
    monkeypatch.setattr(
        "vgg.ui.server.jobs.KEPT_SECONDS", 60
    )  # nobody pushes out what came just now
    with pytest.raises(ValueError, match="in an hour"):
        model_actions.bring_in(strangers, jobs, file, "x")
    assert [*strangers.private] == keys[1:]


def test_nothing_is_pushed_with_the_machines_own_token(
    owner: ModelStore, strangers: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_server")
    for store in (owner, strangers):
        with pytest.raises(ValueError, match="token of your own"):
            model_actions.push(store, store.choice_of(STARTER), "me/shapes", "  ", True, silent)
    with pytest.raises(ValueError, match="your own models and the starter"):
        model_actions.push(strangers, strangers.choice_of("pets"), "me/pets", "hf_x", True, silent)


@pytest.mark.slow
def test_the_tabs_push_reaches_the_hub_with_the_typed_token(
    hub: FakeHub, ask: Ask, weights: Path
) -> None:
    line = (
        "(o := __import__('vgg.ui.tabs.model_actions', fromlist=['push']), "
        "s := __import__('vgg.ui.server.model_store', fromlist=['ModelStore']), "
        f"p := __import__('pathlib').Path({str(weights)!r}), "
        "store := s.ModelStore(s.Settings(weights_dir=p)), "
        "o.push(store, store.choice_of('pets'), 'ada/tab', ' hf_ada ', True, o.words))[-1]"
    )
    assert ask(line)["value"] == f"{hub.url}/ada/tab"
    assert hub.repo("ada/tab").private
    assert {r.token for r in hub.requests if r.token} == {"hf_ada"}


def test_what_is_not_trained_is_not_taken_away(owner: ModelStore) -> None:
    with pytest.raises(ValueError, match="has not been trained"):
        model_actions.export(owner, fresh(), silent)
    with pytest.raises(ValueError, match="owner/name"):
        model_actions.push(owner, owner.choice_of(STARTER), " ", "hf_x", True, silent)


# Snippets


def test_the_snippets_name_the_model_in_hand(
    owner: ModelStore, strangers: ModelStore, weights: Path
) -> None:
    starter = owner.choice_of(STARTER)
    assert 'load_model("starter")' in model_snippets.python(owner, starter)
    assert "--model starter" in model_snippets.command_line(owner, starter)
    program = model_snippets.program(owner, starter, "https://pets.example:8443")
    assert 'Client("https://pets.example:8443")' in program
    assert model_snippets.LOCAL in model_snippets.program(owner, starter, 'http://x"); import os #')
    for code in (
        model_snippets.python(owner, starter),
        program,
        model_snippets.python(owner, fresh()),
    ):
        compile(code, "snippet", "exec")
    scope: dict[str, VGG] = {}
    exec(model_snippets.python(owner, fresh()), scope)
    assert scope["model"].config.depth == 13
    assert "--depth 13 --no-batch-norm" in model_snippets.command_line(owner, fresh())
    mine = strangers.choice_of("key-of-ada")
    assert 'model="key-of-ada"' in model_snippets.program(strangers, mine, None)
    told = model_snippets.python(strangers, mine) + model_snippets.command_line(strangers, mine)
    assert 'load_model("birds")' in told
    assert str(weights) not in told


# In a browser


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A page with models that may be changed."""
    home = tmp_path_factory.mktemp("changed")
    for name in ("pets", "spare"):
        make_model(home / name, "cat", "dog")
    with serving(tmp_path_factory.mktemp("studio"), "--weights-dir", home) as running:
        yield running


def open_tab(page: Page, studio: Server) -> None:
    go(page, studio)
    page.get_by_role("tab", name="Models").click()
    expect(page.locator("#models-table tbody tr")).not_to_have_count(0)


def row(page: Page, name: str) -> Locator:
    return page.locator("#models-table").get_by_role("button", name=name, exact=True)


@pytest.mark.browser
def test_a_row_is_chosen_renamed_and_deleted(blank: Page, studio: Server) -> None:
    page = blank
    open_tab(page, studio)
    expect(page.locator("#model-rename")).to_be_disabled()
    row(page, "pets").click()
    expect(page.locator("#model input")).to_have_value("pets")
    expect(row(page, "pets")).to_have_attribute("aria-pressed", "true")
    field = page.locator("#new-name textarea, #new-name input")
    expect(field).to_have_value("pets")
    field.fill("animals")
    page.locator("#model-rename").click()
    expect(page.locator("#model input")).to_have_value("animals")
    expect(row(page, "animals")).to_be_visible()
    expect(row(page, "pets")).to_have_count(0)
    page.locator("#model-delete").click()
    expect(page.locator("#delete-losses")).to_contain_text("MB of weights")
    page.locator("#delete-no").click()
    expect(page.locator("#delete-question")).to_have_count(0)
    page.locator("#model-delete").click()
    page.locator("#delete-yes").click()
    expect(row(page, "animals")).to_have_count(0)
    expect(page.locator("#model input")).to_have_value("Starter")
    page.reload()
    page.get_by_role("tab", name="Models").click()
    expect(row(page, "spare")).to_be_visible()
    expect(row(page, "animals")).to_have_count(0)


@pytest.mark.browser
def test_an_export_is_proved_downloaded_and_comes_in_again(
    blank: Page,
    studio: Server,
    tmp_path: Path,
) -> None:
    page = blank
    open_tab(page, studio)
    page.locator("#model-export").click()
    expect(page.locator("#export-status")).to_contain_text("fresh process", timeout=60_000)
    expect(page.locator("#model-download")).to_contain_text("starter.zip", timeout=120_000)
    expect(page.locator("#export-status")).to_contain_text("every best class is the same")
    with page.expect_download() as downloading:
        page.locator("#model-download").click()
    file = tmp_path / "starter.zip"
    shutil.copy(downloading.value.path(), file)
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path)
    onnxruntime.InferenceSession(tmp_path / "starter" / "model.onnx")
    page.locator("#model-import input[type=file]").set_input_files(file)
    expect(page.locator("#model-import")).to_contain_text("starter")
    page.locator("#import-button").click()
    expect(page.locator("#model input")).to_have_value("starter-2")
    expect(row(page, "starter-2")).to_be_visible()
    expect(page.locator("#model-download")).to_have_count(0)


@pytest.mark.browser
def test_on_a_phone_nothing_of_the_tab_is_cut_off(
    blank: Page,
    studio: Server,
) -> None:
    page = blank
    page.set_viewport_size(PHONE)
    go(page, studio)
    page.get_by_role("tab", name="Models").click()
    expect(row(page, "spare")).to_be_visible()
    # Lines of code scroll in their box; a tab that is behind the dots is out of sight.
    out_of_sight = ("cm-", "ͼ", "contenteditable", '<button tabindex="-1"')
    assert [p for p in too_wide(page) if not any(mark in p for mark in out_of_sight)] == []


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_the_tabs_text_stands_out_from_its_ground(
    blank: Page,
    studio: Server,
    dark: bool,
) -> None:
    go(blank, studio, dark=dark)
    blank.get_by_role("tab", name="Models").click()
    row(blank, "spare").click()
    expect(blank.locator("#model-delete")).to_be_enabled()
    blank.locator("#model-delete").click()
    expect(blank.locator("#delete-losses")).to_contain_text("MB of weights")
    blank.locator("#push-box button").first.click()
    expect(blank.locator("#model-push")).to_be_visible()
    assert pale_texts(blank) == []

"""Training and measuring as a person does it, in a real Chromium: `pytest -m browser`."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import PHONE, answer_is, example, go, pale_texts, too_wide, upload
from conftest import PATIENCE, Server, serving
from playwright.sync_api import Browser, Page, expect

from vgg.data.shapes import draw_folder

pytestmark = pytest.mark.browser

expect.set_options(timeout=PATIENCE)
A_TRAINING = 120_000  # milliseconds
ENDLESS = "5000"  # epochs: until it is stopped


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page with an empty weights folder of its own."""
    home = tmp_path_factory.mktemp("studio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VGG_STUDIO_CACHE", str(home / "cache"))
        with serving(home, "--weights-dir", home / "weights", "--device", "cpu") as running:
            yield running


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve small drawings a class, and a file that is none."""
    folder = tmp_path_factory.mktemp("drawings") / "doodles"
    draw_folder(folder, count=12, seed=4, size=32)
    (folder / "star" / "broken.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def packed(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(
        shutil.make_archive(str(tmp_path_factory.mktemp("zip") / "doodles"), "zip", drawings)
    )


def open_tab(page: Page, name: str) -> None:
    page.locator("#tabs").get_by_role("tab", name=name, exact=True).click()


def choose(page: Page, *, epochs: str, size: str = "32") -> None:
    """Epochs instead of a time, and small pictures."""
    page.locator("#budget").get_by_text("Epochs", exact=True).click()
    page.locator("#epochs input").fill(epochs)
    if not page.locator("#image-size input").is_visible():
        page.locator("#train-more").get_by_role("button").first.click()
    page.locator("#image-size input").fill(size)
    page.locator("#image-size input").press("Tab")
    expect(page.locator("#plan")).to_contain_text(f"{epochs} epoch")


def take_zip(page: Page, packed: Path) -> None:
    open_tab(page, "Train")
    page.locator("#train-zip input[type=file]").set_input_files(packed)
    expect(page.locator("#train-pictures")).to_contain_text("96 pictures in 8 classes")


def begin(page: Page) -> None:
    """Press Train; both steps before it fold to a line."""
    page.locator("#train").click()
    expect(page.locator("#job-status .state")).to_be_visible()
    expect(page.locator("#train")).to_be_hidden()
    expect(page.locator("#train-pictures")).to_be_hidden()


def state_is(page: Page, state: str, *, within: int = PATIENCE) -> None:
    expect(page.locator("#job-status .job")).to_have_attribute("data-state", state, timeout=within)


def points(page: Page) -> int:
    """How many epochs the first curve shows of the held-out pictures."""
    return page.locator("#curve figure").first.locator("circle").count() // 2


_MORE_POINTS = """before =>
  document.querySelectorAll("#curve figure:first-child circle").length / 2 > before"""


def chosen_is(page: Page, name: str) -> None:
    expect(page.locator("#model input")).to_have_value(name)


def test_from_the_sample_shapes_to_the_mistakes_of_a_model(
    blank: Page, studio: Server, shapes: Path
) -> None:
    page = blank
    go(page, studio)
    open_tab(page, "Train")
    page.locator("#step-pictures").get_by_role("tab", name="Sample").click()
    page.locator("#train-sample").click()
    expect(page.locator("#train-pictures")).to_contain_text("1600 pictures in 8 classes")
    expect(page.locator("#train-pictures .strip")).to_have_count(2)
    choose(page, epochs="6")
    begin(page)

    # It learns, and the curve grows.
    expect(page.locator("#curve circle").first).to_be_visible(timeout=A_TRAINING)
    before = points(page)
    expect(page.locator("#job-status")).to_contain_text("pictures a second")
    expect(page.locator("#job-status .big")).to_contain_text("of 320 held-out pictures so far")
    page.wait_for_function(_MORE_POINTS, arg=before)

    # A reload comes back to it, and a prediction answers meanwhile.
    page.reload()
    expect(page.locator("#job-status")).to_contain_text("is learning")
    assert points(page) > before
    expect(page.locator("#step-pictures")).to_contain_text("1600 pictures in 8 classes")
    expect(page.locator("#step-how")).to_contain_text("From scratch, 6 epochs")
    open_tab(page, "Predict")
    example(page, "star").click()
    answer_is(page, "star")
    open_tab(page, "Train")
    state_is(page, "running")

    # It is done: the model is chosen, and predicts.
    state_is(page, "done", within=A_TRAINING)
    chosen_is(page, "shapes")
    expect(page.locator("#job-status .big")).to_contain_text("95 % interval")
    expect(page.locator("#take-away")).to_be_visible()
    page.locator("#use-it").click()
    upload(page, shapes / "star.png")
    expect(page.locator("#prediction .bars li")).to_have_count(5)
    expect(page.locator("#prediction .quiet")).to_contain_text("32 × 32 pixels")

    # A cell of the confusion matrix opens its pictures, then their heat maps.
    open_tab(page, "Train")
    page.locator("#see-mistakes").click()
    cell = page.locator("#confusion .wrong button").first
    count = int(re.match(r"\d+", cell.inner_text()).group())
    cell.click()
    cards = page.locator("#mistakes figure")
    expect(cards).to_have_count(min(count, 24))
    assert all(len(re.findall(r"\d+\.\d %", text)) == 2 for text in cards.all_inner_texts())
    maps = page.locator("#mistakes img[alt^='heat map'], #mistakes .gone")
    expect(maps).to_have_count(min(count, 12))
    expect(page.locator("#mistakes")).not_to_contain_text("heat map …")
    assert page.locator("#mistakes img").evaluate_all("all => all.every(i => i.naturalWidth > 0)")

    # One of its held-out pictures, and what speaks for the answer.
    open_tab(page, "Train")
    page.locator("#see-why").click()
    expect(page.locator("#image")).to_contain_text("held out:")
    expect(page.locator("#prediction .bars li").first).to_be_visible()
    expect(page.locator("#heatmap")).to_contain_text("What speaks for")


def test_a_zip_by_upload_is_learned_and_its_faults_are_said(
    blank: Page, studio: Server, packed: Path
) -> None:
    page = blank
    go(page, studio)
    take_zip(page, packed)
    skipped = page.locator("#train-pictures .skipped")
    expect(skipped.locator("summary")).to_have_text("1 file skipped")
    skipped.locator("summary").click()
    expect(skipped).to_contain_text("star/broken.png")
    choose(page, epochs="2")
    assert pale_texts(page) == []
    begin(page)
    state_is(page, "done", within=A_TRAINING)
    chosen_is(page, "doodles")
    assert pale_texts(page) == []

    # The pictures are still there for another training; a step that was folded opens again.
    page.locator("#step-how").get_by_role("button").first.click()
    choose(page, epochs="1")
    begin(page)
    state_is(page, "done", within=A_TRAINING)
    chosen_is(page, "doodles-2")

    # After a reload all models are listed, and the last one's result stands there.
    page.reload()
    chosen_is(page, "doodles-2")
    page.locator("#model input").click()
    for name in ("doodles", "doodles-2"):
        expect(page.get_by_role("option", name=name, exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    open_tab(page, "Train")
    expect(page.locator("#step-watch")).to_contain_text("doodles-2")

    # Measured on the same pictures, all of them this time.
    open_tab(page, "Evaluate")
    expect(page.locator("#figures")).to_contain_text("95 % interval")
    page.get_by_text("Other pictures").click()
    page.locator("#evaluate-zip input[type=file]").set_input_files(packed)
    expect(page.locator("#evaluate-zip")).to_contain_text("doodles.zip")
    page.locator("#evaluate").click()
    expect(page.locator("#figures")).to_contain_text("of 96 pictures")
    page.locator("#confusion .right button").first.click()
    expect(page.locator("#mistakes h3")).to_contain_text("answered right; the least sure first")
    expect(page.locator("#mistakes")).not_to_contain_text("heat map …")
    assert pale_texts(page) == []
    page.set_viewport_size(PHONE)
    page.reload()
    expect(page.locator("#model-line")).to_contain_text("doodles-2")
    for name, shown in (("Train", "#job-status"), ("Evaluate", "#confusion table")):
        open_tab(page, name)
        expect(page.locator(shown)).to_be_visible()
        assert too_wide(page) == []


def test_stopped_in_the_middle_it_leaves_a_model_that_predicts(
    blank: Page, studio: Server, packed: Path, shapes: Path
) -> None:
    page = blank
    go(page, studio)
    take_zip(page, packed)
    choose(page, epochs=ENDLESS)
    page.locator("#model-name textarea, #model-name input").fill("stopped")
    begin(page)
    expect(page.locator("#curve circle").first).to_be_visible(timeout=A_TRAINING)
    page.locator("#stop").click()
    state_is(page, "stopped")
    expect(page.locator("#job-status")).to_contain_text("the best so far is kept")
    chosen_is(page, "stopped")
    page.locator("#use-it").click()
    upload(page, shapes / "heart.png")
    expect(page.locator("#prediction .bars li")).to_have_count(5)


def test_of_two_browsers_the_second_waits_and_runs_when_the_first_is_over(
    blank: Page, browser: Browser, studio: Server, packed: Path
) -> None:
    first = blank
    go(first, studio)
    take_zip(first, packed)
    choose(first, epochs=ENDLESS)
    begin(first)
    state_is(first, "running")
    other = browser.new_context()
    other.set_default_timeout(PATIENCE)
    second = other.new_page()
    go(second, studio)
    take_zip(second, packed)
    choose(second, epochs="1")
    begin(second)
    state_is(second, "waiting")
    expect(second.locator("#job-status")).to_contain_text("place 1 in the queue")
    second.reload()
    state_is(second, "waiting")

    # The first one's browser queues another, too, and finds both.
    first.locator("#step-how").get_by_role("button").first.click()
    choose(first, epochs="1")
    begin(first)
    expect(first.locator("#job-status")).to_contain_text("place 2 in the queue")
    first.locator("#other-jobs button").click()
    state_is(first, "running")
    first.locator("#stop").click()
    state_is(second, "done", within=A_TRAINING)
    first.locator("#other-jobs button").click()
    state_is(first, "done", within=A_TRAINING)
    other.close()


def test_classes_are_filled_one_by_one_or_named_as_a_folder(
    blank: Page, studio: Server, drawings: Path
) -> None:
    page = blank
    go(page, studio)
    open_tab(page, "Train")
    page.locator("#train").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("Choose pictures first")
    page.locator("#step-pictures").get_by_role("tab", name="By class").click()
    page.locator("#add-class").click()
    for number, name in enumerate(("star", "heart", "cross"), start=1):
        page.locator(f"#class-name-{number}").get_by_role("textbox").fill(name)
        files = sorted((drawings / name).glob("00*.png"))[:3]
        box = page.locator(f"#class-pictures-{number}")
        box.locator("input[type=file]").first.set_input_files(files)
        expect(box.locator(".thumbnail-item, .thumbnail-lg")).to_have_count(3)
    page.locator("#train-boxes").click()
    expect(page.locator("#train-pictures")).to_contain_text("9 pictures in 3 classes")
    page.locator("#step-pictures").get_by_role("tab", name="Folder").click()
    page.locator("#train-folder").get_by_role("textbox").fill(str(drawings))
    page.locator("#use-folder").click()
    expect(page.locator("#train-pictures")).to_contain_text("96 pictures in 8 classes")


def test_an_untrained_network_leads_to_the_train_tab(blank: Page, studio: Server) -> None:
    page = blank
    go(page, studio)
    page.locator("#depth").get_by_text("13", exact=True).click()
    page.locator("#prediction").get_by_role("button", name="Train it").click()
    expect(page.locator("#origin")).to_contain_text("A new network, VGG-13")

"""The page as a person meets it, in a real Chromium: `pytest -m browser`."""

import csv
import json
import math
import re
import time
from pathlib import Path

import pytest
from browsing import PHONE, answer_is, choose_model, example, go, pale_texts, too_wide, upload
from conftest import Server
from PIL import Image
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture
def page(blank: Page, server: Server) -> Page:
    """The page, open on a desktop."""
    go(blank, server)
    return blank


def draw(page: Page, points: list[tuple[float, float]]) -> None:
    """Draw through points given in fractions of the pad's side."""
    pad = page.locator("#draw canvas")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box
    place = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*place[0])
    page.mouse.down()
    for x, y in place[1:]:
        page.mouse.move(x, y, steps=4)
    page.mouse.up()


def copy_picture(page: Page) -> None:
    """Put a red disc on white into the clipboard, as a screenshot tool does."""
    page.evaluate(
        """async () => {
          const canvas = document.createElement("canvas");
          canvas.width = canvas.height = 200;
          const pen = canvas.getContext("2d");
          pen.fillStyle = "#fff"; pen.fillRect(0, 0, 200, 200);
          pen.fillStyle = "#c00"; pen.beginPath(); pen.arc(100, 100, 80, 0, 7); pen.fill();
          const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }"""
    )


# Pictures in


def test_an_example_is_answered_on_the_first_click(page: Page) -> None:
    for name in ("star", "heart"):
        example(page, name).click()
        answer_is(page, name)
    assert page.locator("#prediction .bars li").count() == 5
    expect(page.locator("#prediction .quiet")).to_contain_text("64 × 64 pixels")


def test_a_picture_is_answered_when_it_is_uploaded(page: Page, shapes: Path) -> None:
    upload(page, shapes / "cross.png")
    answer_is(page, "cross")
    page.locator("#image").get_by_role("button", name="Clear").click()
    expect(page.locator("#prediction")).to_contain_text("The answer appears here")


def test_several_pictures_give_a_table_a_csv_and_rows_that_open_their_picture(
    page: Page, shapes: Path
) -> None:
    names = ["star", "heart", "arrow"]
    upload(page, *[shapes / f"{name}.png" for name in names])
    table = page.locator("#predictions")
    expect(page.locator("#prediction")).to_contain_text("3 pictures")
    for name in names:
        row = table.get_by_role("row").filter(has_text=f"{name}.png")
        expect(row.get_by_text(name, exact=True)).to_be_visible()
    with page.expect_download() as downloading:
        page.locator("#download-csv").click()
    assert downloading.value.suggested_filename == "predictions.csv"
    with downloading.value.path().open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"{name}.png" for name in names]
    assert [row["class_1"] for row in rows] == names
    assert all(0 < float(row["prob_1"]) <= 1 for row in rows)
    table.get_by_text("heart.png").last.click()
    opened = page.get_by_test_id("detailed-image")
    expect(opened).to_be_visible()
    assert "heart.png" in (opened.get_attribute("src") or "")


def test_an_unreadable_picture_is_reported_and_the_others_go_on(
    page: Page, shapes: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "notes.png"
    bad.write_text("not a picture at all")
    upload(page, shapes / "star.png", bad, shapes / "heart.png")
    expect(page.locator("#prediction")).to_contain_text("3 pictures")
    rows = page.locator("#predictions").get_by_role("row")
    expect(rows.filter(has_text="notes.png")).to_contain_text("not read")
    expect(rows.filter(has_text="heart.png")).to_contain_text("heart")


def test_a_heic_appears_and_is_answered_under_its_name(
    page: Page, shapes: Path, tmp_path: Path
) -> None:
    import pillow_heif

    heic = tmp_path / "IMG_0001.HEIC"
    with Image.open(shapes / "square.png") as square:
        pillow_heif.from_pillow(square.convert("RGB")).save(heic, quality=95)
    upload(page, heic)
    answer_is(page, "square")
    shown = page.locator("#image .thumbnail-item img")
    expect(shown).to_have_attribute("src", re.compile(r"\.png$"))
    expect(shown).to_have_js_property("naturalWidth", 256)


def test_a_picture_is_pasted_with_the_button_and_with_the_keyboard(page: Page) -> None:
    copy_picture(page)
    page.locator("#image").get_by_role("button", name="Paste from clipboard").click()
    answer_is(page, "circle")
    page.locator("#image").get_by_role("button", name="Clear").click()
    expect(page.locator("#prediction")).to_contain_text("The answer appears here")
    page.keyboard.press("Control+V")
    answer_is(page, "circle")


def test_a_picture_is_taken_with_the_camera(page: Page) -> None:
    page.locator("#image").get_by_role("button", name="Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#image video')?.videoWidth > 0")
    page.locator("#image").get_by_role("button", name="capture photo").click()
    expect(page.locator("#prediction .bars li").first).to_be_visible()


# Drawing


def test_a_circle_and_a_square_drawn_with_the_mouse_are_named(page: Page) -> None:
    page.get_by_role("tab", name="Draw").click()
    circle = [
        (0.5 + 0.32 * math.cos(math.tau * i / 40), 0.5 + 0.3 * math.sin(math.tau * i / 40))
        for i in range(41)
    ]
    draw(page, circle)
    answer_is(page, "circle")
    page.locator(".pad-clear").click()
    expect(page.locator("#prediction")).to_contain_text("The answer appears here")
    draw(page, [(0.2, 0.22), (0.8, 0.2), (0.79, 0.8), (0.21, 0.79), (0.2, 0.2)])
    answer_is(page, "square")
    page.locator(".pad-undo").click()
    expect(page.locator(".pad-hint")).to_be_visible()


def test_the_answer_belongs_to_the_open_tab(page: Page) -> None:
    example(page, "star").click()
    answer_is(page, "star")
    page.get_by_role("tab", name="Draw").click()
    expect(page.locator("#prediction")).to_contain_text("The answer appears here")
    example(page, "heart").click()
    answer_is(page, "heart")
    expect(page.get_by_role("tab", name="Picture")).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="Draw").click()
    expect(page.locator("#prediction")).to_contain_text("The answer appears here")
    page.get_by_role("tab", name="Picture").click()
    answer_is(page, "heart")


# Choosing a model


def test_another_depth_and_class_count_is_called_untrained_and_shows_no_percentages(
    page: Page,
) -> None:
    example(page, "star").click()
    answer_is(page, "star")
    page.locator("#depth").get_by_text("19", exact=True).click()
    expect(page.locator("#model input")).to_have_value("New network")
    classes = page.locator("#num-classes input[type=number]")
    classes.fill("7")
    classes.press("Tab")
    expect(page.locator("#facts")).to_contain_text("not trained yet")
    expect(page.locator("#prediction")).to_contain_text("has not been trained")
    expect(page.locator("#prediction")).not_to_contain_text("%")
    expect(page.locator("#top-k input[type=range]")).to_have_attribute("max", "7")
    page.locator("#predict").click()
    expect(page.locator("#prediction")).not_to_contain_text("%")
    choose_model(page, "Starter")
    answer_is(page, "star")
    expect(page.locator("#depth label.selected")).to_have_text("11")


def test_imagenet_without_a_hub_says_the_ways_on_and_the_page_stays_usable(page: Page) -> None:
    example(page, "star").click()
    answer_is(page, "star")
    started = time.monotonic()
    choose_model(page, "ImageNet (1000 classes)")
    # While the Hub is asked, the starter's answer does not stand there as if it were this model's.
    expect(page.locator("#prediction")).to_contain_text("are not here")
    expect(page.locator("#model-status")).to_contain_text("Three ways on")
    assert time.monotonic() - started < 6
    expect(page.locator("#model-status")).to_contain_text("HF_TOKEN")
    expect(page.locator("#num-classes input[type=number]")).to_have_value("1000")
    expect(page.locator("#examples")).to_be_hidden()
    choose_model(page, "Starter")
    answer_is(page, "star")
    expect(page.locator("#examples")).to_be_visible()


def test_an_own_model_answers_and_markup_in_its_names_is_text(page: Page, shapes: Path) -> None:
    choose_model(page, "pets")
    expect(page.locator("#facts")).to_contain_text("cat, dog & bone, <b>owl</b>")
    expect(page.locator("#prediction")).to_contain_text("one of: cat, dog & bone, <b>owl</b>")
    upload(page, shapes / "star.png")
    bars = page.locator("#prediction .bars .name")
    expect(bars).to_have_count(3)
    assert sorted(bars.all_inner_texts()) == ["<b>owl</b>", "cat", "dog & bone"]
    upload(page, shapes / "heart.png")
    expect(page.locator("#prediction")).to_contain_text("2 pictures")
    assert page.locator("#predictions b, #facts b, #prediction b").count() == 0


def test_top_k_is_chosen_with_the_slider(page: Page) -> None:
    example(page, "star").click()
    answer_is(page, "star")
    slider = page.locator("#top-k input[type=range]")
    assert slider.get_attribute("max") == "8"
    slider.focus()
    slider.press("End")
    expect(page.locator("#prediction .bars li")).to_have_count(8)


# Everybody


def test_on_a_phone_the_sidebar_is_closed_and_nothing_is_cut_off(
    blank: Page, server: Server, shapes: Path
) -> None:
    page = blank
    page.set_viewport_size(PHONE)
    go(page, server)
    sidebar = page.locator("#sidebar")
    line = page.locator("#model-line")
    expect(line).to_have_text("Starter · VGG-11 · 8 shapes")
    assert "open" not in (sidebar.get_attribute("class") or "").split()
    example(page, "star").click()
    answer_is(page, "star")
    assert too_wide(page) == []
    upload(page, shapes / "heart.png")
    expect(page.locator("#prediction")).to_contain_text("2 pictures")
    assert too_wide(page) == []
    page.get_by_role("tab", name="Draw").click()
    expect(page.locator("#draw canvas")).to_be_visible()
    assert too_wide(page) == []
    line.click()
    expect(sidebar).to_have_class(re.compile(r"\bopen\b"))
    expect(page.locator("#model input")).to_be_in_viewport()
    choose_model(page, "pets")
    sidebar.locator(".toggle-button").click()
    expect(line).to_have_text("pets · VGG-13 · 3 classes")


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground_at_least_4_5_to_1(
    blank: Page, server: Server, dark: bool
) -> None:
    """Contrast as WCAG 2.2 defines it, success criterion 1.4.3; large text needs 3 to 1."""
    page = blank
    go(page, server, dark=dark)
    assert pale_texts(page) == []
    example(page, "star").click()
    answer_is(page, "star")
    assert pale_texts(page) == []
    page.locator("#depth").get_by_text("19", exact=True).click()
    expect(page.locator("#prediction")).to_contain_text("has not been trained")
    assert pale_texts(page) == []


def test_everything_is_reached_with_the_keyboard(page: Page) -> None:
    page.locator("#model input").focus()
    reached: list[str] = []
    for _ in range(60):
        reached.append(
            page.evaluate(
                "() => document.activeElement"
                ".closest('[id]:not([id^=component]):not([id^=html])').id"
            )
        )
        if reached[-1] == "predict":
            break
        page.keyboard.press("Tab")
    order = [name for name in dict.fromkeys(reached) if name in WANTED]
    assert order == WANTED
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.keyboard.press("Enter")
    expect(page.locator("#prediction")).to_contain_text("The answer appears here")
    example(page, "star").focus()
    page.keyboard.press("Enter")
    answer_is(page, "star")


WANTED = ["model", "depth", "batch-norm", "num-classes", "image", "examples", "top-k", "predict"]


def test_depth_is_changed_with_the_keyboard(page: Page) -> None:
    page.locator("#depth input").nth(1).focus()
    page.keyboard.press("Space")
    expect(page.locator("#depth label.selected")).to_have_text("13")
    expect(page.locator("#model input")).to_have_value("New network")


def test_the_page_asks_no_other_machine_for_anything(blank: Page, server: Server) -> None:
    asked: list[str] = []
    blank.on("request", lambda request: asked.append(request.url))
    go(blank, server)
    assert asked
    assert [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []


def test_gradio_keeps_no_history_in_the_browser(page: Page) -> None:
    example(page, "star").click()
    answer_is(page, "star")
    kept = json.dumps(page.evaluate("() => ({ ...localStorage, ...sessionStorage })"))
    assert "star" not in kept

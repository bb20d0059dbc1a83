"""Heat maps and the Inside tab in a real Chromium: `pytest -m browser`."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from browsing import PHONE, answer_is, choose_model, example, go, pale_texts
from conftest import Server, serving
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def inside_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page with a model that has a film, and small stand-ins for two of the ImageNet models."""
    import vgg.training.film_recorder
    from vgg.checkpoints.folder import save_checkpoint
    from vgg.checkpoints.known_files import imagenet_classes
    from vgg.data.shapes import draw_folder
    from vgg.network.config import Preprocessing
    from vgg.network.vgg import VGG
    from vgg.training.trainer import train

    weights, pictures = (tmp_path_factory.mktemp(name) for name in ("weights", "pictures"))
    for depth, norm, name in ((11, False, "vgg11"), (16, True, "vgg16_bn")):
        model = VGG(depth, 1000, batch_norm=norm, head="gap", width=0.0625)
        names, cfg = imagenet_classes(), Preprocessing(input_size=(3, 32, 32))
        model.config = replace(model.config, label_names=names, pretrained_cfg=cfg, trained=True)
        save_checkpoint(model, weights / name)
    draw_folder(pictures / "shapes", count=4, size=48)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            vgg.training.film_recorder, "SHARE", 1000.0
        )  # so short a training has no time for a film
        train(
            pictures / "shapes",
            out=weights / "learned",
            mode="scratch",
            width=0.06,
            image_size=48,
            epochs=3,
        )
    with serving(tmp_path_factory.mktemp("server"), "--weights-dir", weights) as running:
        yield running


@pytest.fixture
def page(blank: Page, inside_server: Server) -> Page:
    go(blank, inside_server)
    return blank


def open_inside(page: Page) -> None:
    page.get_by_role("tab", name="Inside").click()
    expect(page.locator("#layers h3")).to_be_visible()


def sources(images: Locator) -> list[str]:
    return images.evaluate_all("images => images.map((image) => image.src)")


def heat_of(page: Page, name: str) -> str:
    """The map that is shown for this class, once it is there."""
    expect(page.locator("#heatmap figcaption")).to_have_text(f"What speaks for {name}")
    return page.locator("#heatmap .heat-layer").get_attribute("src") or ""


def test_the_map_of_the_answer_appears_and_another_class_changes_it(page: Page) -> None:
    example(page, "star").click()
    answer_is(page, "star")
    first = heat_of(page, "star")
    expect(page.locator("#truth")).to_contain_text("hiding the marked area")
    second_bar = page.locator("#prediction .bars li").nth(1)
    name = second_bar.locator(".name").inner_text()
    second_bar.locator("button").click()
    second = heat_of(page, name)
    assert first.startswith("data:image/")
    assert second.startswith("data:image/")
    assert first != second


def test_opacity_and_side_by_side_change_what_is_seen_without_the_server(page: Page) -> None:
    example(page, "heart").click()
    heat_of(page, "heart")
    layer, alone = page.locator("#heatmap .heat-layer"), page.locator("#heatmap .heat-plain")
    expect(alone).to_be_hidden()
    page.locator("#heatmap input[name=beside]").check()
    expect(alone).to_be_visible()
    page.locator("#heatmap input[name=opacity]").fill("0")
    expect(layer).to_have_css("opacity", "0")


def test_a_stage_shows_its_layers_and_its_strongest_channels_on_the_picture(page: Page) -> None:
    example(page, "star").click()
    answer_is(page, "star")
    open_inside(page)
    expect(page.locator("#blocks")).to_contain_text("64 x 64 x 16 →")
    maps = page.locator("#feature-maps .maps img")
    expect(maps).to_have_count(16)  # the picture itself comes first
    expect(page.locator("#feature-maps .filters img")).to_have_count(16)
    before = sources(maps)
    page.locator("#blocks button", has_text="Stage 3").click()
    expect(page.locator("#layers h3")).to_have_text("Stage 3")
    expect(page.locator("#feature-maps .quiet")).to_contain_text("stage 3")
    after = sources(maps)
    assert before[0] == after[0]
    assert not set(before[1:]) & set(after[1:])
    page.locator("#blocks button", has_text="Classifier").click()
    expect(page.locator("#layers")).to_contain_text("fully connected, 128 → 8")


def test_the_film_is_folded_away_and_its_slider_changes_the_pictures(page: Page) -> None:
    choose_model(page, "learned")
    open_inside(page)
    expect(page.locator("#film")).to_have_count(0)
    page.get_by_role("button", name=re.compile("Film")).click()
    cards = page.locator("#film figure")
    expect(cards).to_have_count(8)
    expect(page.locator("#film .film-epoch")).to_have_text("After epoch 1 of 3")
    names = page.locator("#film figcaption").all_inner_texts()
    assert [name.split()[0] for name in names] == sorted(name.split()[0] for name in names)
    assert all(re.search(r"\d+ %", name) for name in names)
    expect(page.locator("#film .truth p")).to_have_count(2)
    expect(page.locator("#film .truth")).to_contain_text("hiding the marked area")
    first = sources(cards.locator("img"))
    slider = page.locator("#film-frame input[type=range]")
    slider.focus()
    slider.press("End")
    expect(page.locator("#film .film-epoch")).to_have_text("After epoch 3 of 3")
    last = sources(cards.locator("img"))
    assert first != last
    assert {source.partition(",")[0] for source in first + last} == {"data:image/webp;base64"}


def test_the_film_plays_to_its_end(page: Page) -> None:
    choose_model(page, "learned")
    open_inside(page)
    page.get_by_role("button", name=re.compile("Film")).click()
    expect(page.locator("#film .film-epoch")).to_have_text("After epoch 1 of 3")
    page.locator("#film-play").click()
    expect(page.locator("#film .film-epoch")).to_have_text("After epoch 3 of 3")
    expect(page.locator("#film-play")).to_have_text("Play")


def test_a_model_without_a_film_says_which_trainings_make_one(page: Page) -> None:
    open_inside(page)
    page.get_by_role("button", name=re.compile("Film")).click()
    expect(page.locator("#film")).to_contain_text("This model has no film")
    expect(page.locator("#film")).to_contain_text("From scratch")
    expect(page.locator("#film-frame")).to_have_count(0)
    choose_model(page, "learned")
    expect(page.locator("#film figure")).to_have_count(8)
    expect(page.locator("#film-frame")).to_be_visible()


def test_the_race_fills_its_table_depth_by_depth(page: Page) -> None:
    example(page, "star").click()
    answer_is(page, "star")
    open_inside(page)
    page.get_by_role("button", name=re.compile("Depth race")).click()
    page.locator("#race").click()
    rows = page.locator("#race-table tbody tr")
    expect(rows).to_have_count(2)
    expect(page.locator("#race-table")).not_to_contain_text("at the start")
    for row, name in zip(rows.all(), ("vgg11", "vgg16_bn"), strict=True):
        cells = row.locator("td")
        expect(cells).to_have_count(7)
        expect(cells.first).to_have_text(name)
        expect(row).to_contain_text(re.compile(r"\d+\.\d %"))
        expect(row).to_contain_text(re.compile(r"\d+ ms"))
        expect(cells.nth(3)).to_have_text(re.compile(r"^–?$"))


@pytest.mark.parametrize("dark", [False, True])
def test_the_tab_is_readable_in_light_and_dark(
    blank: Page,
    inside_server: Server,
    dark: bool,
) -> None:
    page = blank
    go(page, inside_server, dark=dark)
    example(page, "star").click()
    answer_is(page, "star")
    choose_model(page, "learned")
    open_inside(page)
    page.get_by_role("button", name=re.compile("Film")).click()
    expect(page.locator("#film figure")).to_have_count(8)
    assert pale_texts(page) == []


def test_on_a_phone_the_tab_is_not_wider_than_the_window(
    blank: Page,
    inside_server: Server,
) -> None:
    page = blank
    page.set_viewport_size(PHONE)
    go(page, inside_server)
    page.locator("#model-line").click()
    choose_model(page, "learned")
    page.locator("#sidebar .toggle-button").click()
    page.get_by_role("tab", name="Inside").click()
    expect(page.locator("#layers h3")).to_be_visible()
    page.get_by_role("button", name=re.compile("Film")).click()
    expect(page.locator("#film figure")).to_have_count(8)
    width, scrolled = page.evaluate(
        "() => [document.documentElement.clientWidth, document.documentElement.scrollWidth]"
    )
    assert scrolled <= width

"""What a person does with the page in a browser, and what is seen there."""

import re
from pathlib import Path
from typing import Any

from conftest import PATIENCE, Server
from playwright.sync_api import Locator, Page, expect

PHONE = {"width": 390, "height": 844}
expect.set_options(timeout=PATIENCE)


def go(page: Page, server: Server, *, dark: bool = False) -> None:
    """Open the page and wait until it listens."""
    page.goto(f"{server.url}/?__theme={'dark' if dark else 'light'}")
    expect(page.locator("#examples img").first).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#device")).to_contain_text("GB")


def example(page: Page, name: str) -> Locator:
    return page.locator(f"#examples button[data-example='{name}']")


def answer_is(page: Page, name: str) -> None:
    """The best answer is `name`, with one decimal of a percent."""
    best = page.locator("#prediction .bars li").first
    expect(best.locator(".name")).to_have_text(name)
    expect(best.locator(".percent")).to_have_text(re.compile(r"^\d{1,3}\.\d %$"))


def upload(page: Page, *files: Path) -> None:
    page.locator("#image input[type=file]").first.set_input_files(list(files))


def choose_model(page: Page, label: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=label, exact=True).click()


def too_wide(page: Page) -> list[str]:
    """Visible elements that stand out of the window, or make it scroll sideways."""
    return page.evaluate(
        """() => {
          const width = document.documentElement.clientWidth;
          const found = [...document.querySelectorAll("#header *, #tabs *, #tabs, footer *")]
            .filter((element) => !element.closest("#sidebar, #predictions"))
            .filter((element) => element.checkVisibility({ visibilityProperty: true }))
            .filter((element) => element.getBoundingClientRect().right > width + 1)
            .map((element) => element.outerHTML.slice(0, 120));
          const whole = document.documentElement.scrollWidth;
          return whole > width ? [`${whole} pixels wide`, ...found] : found;
        }"""
    )


def pale_texts(page: Page) -> list[Any]:
    """Visible texts with too little contrast: [text, ratio]."""
    page.mouse.move(1, 1)
    return page.evaluate(_PALE_TEXTS)


_PALE_TEXTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((c, i) => c * a + below[i] * (1 - a));
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const layers = [];
    for (let node = element; node; node = node.parentElement) {
      const bar = node.matches(".bars li") ? node.querySelector(".bar") : null;
      if (bar && !element.matches(".percent")) layers.push(bar);  // it lies under the name
      layers.push(node);
    }
    let colour = [255, 255, 255];
    for (const layer of layers.reverse()) {
      const style = getComputedStyle(layer);
      const [r, g, b, a] = rgba(style.backgroundColor);
      colour = over([r, g, b, a * (layer.matches(".bar") ? Number(style.opacity) : 1)], colour);
    }
    return colour;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!/[\\p{L}\\p{N}]/u.test(text) || element.closest("script, style, canvas")) continue;
    if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const style = getComputedStyle(element);
    const below = ground(element);
    const [a, b] = [light(over(rgba(style.color), below)), light(below)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push([text.slice(0, 60), Number(ratio.toFixed(2))]);
  }
  return found;
}"""

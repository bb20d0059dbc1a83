"""The page: header, sidebar, tabs, wiring; nothing else."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import LocalContext
from starlette.middleware import Middleware

from vgg.data.decoding import decode_apart
from vgg.ui import api, sidebar
from vgg.ui.events import QUIET
from vgg.ui.page import Page, begin_session
from vgg.ui.server.fair_queue import FairQueue
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.quiet_log import QuietBlocks, quiet_web_server
from vgg.ui.server.settings import Settings
from vgg.ui.server.upload_share import UploadShare
from vgg.ui.tabs import evaluate, inside, models, predict, train
from vgg.ui.words import told

TITLE = "VGG Studio"
DEVICE_SECONDS = 5  # between two looks at the device's memory
MAX_FILE_SIZE = "256mb"


def build(settings: Settings) -> gr.Blocks:
    """The whole page, ready to launch."""
    decode_apart(settings.public)
    store = ModelStore(settings, visitor=visitor)
    store.choice_of(store.first_name)  # a model that is none is said before anything is built
    jobs = Jobs(store)
    blocks = QuietBlocks(
        title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)
    )
    blocks.traces = not settings.public
    quiet_web_server()
    with blocks:
        api.build(store, jobs)  # first of all: a private event of the same name would take it
        with gr.Row(elem_id="header"):
            gr.HTML(f"<h1>{TITLE}</h1>", elem_id="title")
            device = gr.HTML(device_line(store), elem_id="device")
        side = sidebar.build(store)
        session = begin_session()
        # A model that was just trained or picked is chosen at once, and the tabs follow.
        sidebar.choose_named(side, session.finished, session.picked)
        if not store.is_here(store.first_name):
            side.changes.append(
                blocks.load(side.handlers.bring, side.choice, side.progress, **QUIET)
            )
        with gr.Tabs(elem_id="tabs") as tabs:
            _build_tabs(Page(blocks, tabs, store, jobs, side, session))
        clock = gr.Timer(DEVICE_SECONDS)

        def look() -> str:
            store.warm_up()
            return device_line(store)

        gr.on([blocks.load, clock.tick], look, None, device, queue=False, **QUIET)
        # A model that was trained since the start is listed after a reload.
        blocks.load(lambda: gr.Dropdown(sidebar.entries(store)), None, side.choice[0], **QUIET)
    blocks.queue(api_open=False)
    blocks._queue = FairQueue(blocks, settings)
    return blocks


def _build_tabs(page: Page) -> None:
    prediction, training = predict.PredictTab(page), train.TrainTab(page)
    evaluation, insight = evaluate.EvaluateTab(page), inside.InsideTab(page)
    listing = models.ModelsTab(page)
    train.wire(page, training, prediction.picture)  # first: its buttons change the sidebar, too
    evaluate.wire(page, evaluation)
    inside.wire(page, insight, prediction.picture)
    models.wire(page, listing)
    predict.wire(page, prediction)


def visitor() -> str | None:
    """The session that asks: an open page, or a program's client. None in threads of our own."""
    request = LocalContext.request.get(None)
    return None if request is None else request.session_hash or ""


def device_line(store: ModelStore) -> str:
    """`NVIDIA H100 · bf16 · 3.1 of 80 GB`."""
    if not store.is_warm:
        return "<span>Getting ready …</span>"
    if store.settings.borrowed_gpu:
        return "<span>ZeroGPU, lent for each answer</span>"
    from vgg.device import (
        choose_device,
        choose_precision,
        device_name,
        memory_used,
        precision_name,
    )

    try:
        device = choose_device(store.settings.device)
    except ValueError as error:
        return escape(told(error))
    precision = precision_name(choose_precision(device, store.settings.precision))
    used, total = memory_used(device)
    memory = f" · {used / 1e9:.1f} of {total / 1e9:.0f} GB" if used and total else ""
    return f"<span>{device_name(device)} · {precision}{memory}</span>"


def launch_options(settings: Settings) -> dict[str, Any]:
    """What `launch` gets, here and on a Space: no analytics, no history, nothing of the disk."""
    share = Middleware(UploadShare, most=settings.limits.uploads_mb * 10**6)
    style, head = (Path(__file__).with_name(name) for name in ("style.css", "head.html"))
    return {
        "app_kwargs": {"middleware": [share]} if settings.public else None,
        "theme": _theme(),
        "css": style.read_text("utf-8"),
        "head": head.read_text("utf-8"),
        "footer_links": ["api", "settings"],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "show_error": False,
        "max_file_size": f"{settings.limits.upload_mb}mb" if settings.public else MAX_FILE_SIZE,
    }


def _theme() -> gr.themes.Base:
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    accent = gr.themes.Color(
        "#eef5fb", "#d6e7f5", "#afd0ea", "#7fb4dc", "#4a94c9", "#1f78b4",
        "#0b62a0", "#084f83", "#083f68", "#07304f", "#051f33",
    )  # fmt: skip
    return gr.themes.Base(
        primary_hue=accent,
        neutral_hue=gr.themes.colors.slate,
        font=fonts,
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
        spacing_size=gr.themes.sizes.spacing_md,
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_600",
        block_label_text_size="*text_sm",
        body_text_color_subdued="*neutral_600",  # the theme's own is too pale to read
        block_info_text_color="*neutral_600",
    )

"""The film in the Inside tab: where a network looked while it learned, frame by frame."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from vgg.checkpoints.loading import local_weights
from vgg.network.config import ModelConfig
from vgg.ui.heatmap import data_url, legend_line
from vgg.ui.server.model_store import ModelStore, choice_from_inputs
from vgg.ui.sidebar import Sidebar

if TYPE_CHECKING:
    from vgg.inference.attention_film import Film, Frame

SIDE = 176  # pixels of the longer side of a picture
OPACITY = 0.5
SECONDS = 0.8  # a frame, when it plays
NO_FILM = (
    "This model has no film. One is made while a network learns from nothing (“From scratch” in "
    "the Train tab), and while its last stages are tuned (“Whole network”), where that is kept and "
    "there is time for it: it takes less than 5 % of the training."
)
ABOUT = (
    "Pictures that the network did not learn from, one of each class. Bright is where something "
    "speaks for the true class; the percentage is how likely the network finds that class."
)


def film_of(store: ModelStore, *inputs: Any) -> "tuple[Film, ModelConfig] | None":
    """The film of the chosen model, and its config; None where it has none."""
    choice = choice_from_inputs(*inputs)
    config = store.config(choice)
    if not config.trained or choice.is_imagenet or not store.shows_pictures(choice.model):
        return None
    path = local_weights(store.spec_of(store.name(choice)), weights_dir=store.settings.weights_dir)
    if path is None or not _has_film(path):
        return None
    from vgg.inference.attention_film import read_film

    film = read_film(path)
    if film is None or max(film.classes) >= config.num_classes or min(film.classes) < 0:
        return None
    return film, config


def _has_film(folder: Path) -> bool:
    """Whether it is worth loading torch for."""
    return (folder / "film").is_dir()


def show(film: "Film", config: ModelConfig, number: int) -> str:
    """Frame `number`, from 1, as HTML: each picture with its map, its class, its probability."""
    frame = film.frames[number - 1]
    maps = film.maps(frame)
    cards = "".join(
        _card(film, config, picture, maps[picture], frame.probabilities[picture])
        for picture in range(len(film.classes))
    )
    return (
        f"<p class='quiet'>{escape(ABOUT)}</p>"
        f"<p class='film-epoch'><b>After epoch {frame.epoch}</b> of {film.frames[-1].epoch}</p>"
        f"<div class='cards film-cards'>{cards}</div>{legend_line()}{_truths(film)}"
    )


def _card(film: "Film", config: ModelConfig, number: int, heat: Any, probability: float) -> str:
    from vgg.data.transforms import placement
    from vgg.inference.heatmap import on_picture, overlay

    picture = film.picture(number)
    name = config.label_names[film.classes[number]]
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    kept = len(heat) / config.pretrained_cfg.size  # a map is kept smaller than the input
    left, top, right, bottom = placement(picture.size, config.pretrained_cfg)
    place = (left * kept, top * kept, right * kept, bottom * kept)
    shown = overlay(picture.resize(size), on_picture(heat, place, size), opacity=OPACITY)
    note = "" if heat.any() else " · nothing speaks for it"
    alt = f"where the network sees {name}"
    return (
        f"<figure><img alt='{escape(alt)}' src='{data_url(shown)}'><figcaption>{escape(name)} "
        f"<b>{100 * probability:.0f} %</b>{note}</figcaption></figure>"
    )


def _truths(film: "Film") -> str:
    """The checks of the first and the last frame, in a sentence each."""
    frames = dict.fromkeys([film.frames[0], film.frames[-1]])
    lines = "".join(_truth(frame) for frame in frames if frame.truth)
    return f"<div class='truth'>{lines}</div>" if lines else ""


def _truth(frame: "Frame") -> str:
    assert frame.truth
    count = "1 picture" if frame.checked == 1 else f"{frame.checked} pictures"
    return (
        f"<p>Check after epoch {frame.epoch}, the mean of {count}: "
        f"{escape(frame.truth.sentence)}.</p>"
    )


def open_film(store: ModelStore, *inputs: Any) -> tuple[str, Any, Any]:
    """HTML of the first frame, and updates of the slider and the Play button."""
    hidden = gr.Slider(visible=False), gr.Button(visible=False)
    try:
        found = film_of(store, *inputs)
        if found is None:
            return f"<p class='quiet'>{escape(NO_FILM)}</p>", *hidden
        film, config = found
        count = len(film.frames)
        several = count > 1
        slider = gr.Slider(1, max(2, count), value=1, visible=several)
        return show(film, config, 1), slider, gr.Button("Play", visible=several)
    except (ValueError, TypeError) as error:
        return f"<p class='problem' role='alert'>{escape(str(error))}</p>", *hidden


def build(store: ModelStore, sidebar: Sidebar) -> None:
    """Lay the film out, folded away, and wire it."""
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Accordion(
        "Film: where the network looked while it learned", open=False, elem_id="film-fold"
    ) as fold:
        with gr.Row(equal_height=True, elem_id="film-tools"):
            frame = gr.Slider(
                1, 2, value=1, step=1, label="Frame", visible=False, elem_id="film-frame"
            )
            play = gr.Button(
                "Play", visible=False, size="sm", scale=0, min_width=96, elem_id="film-play"
            )
        screen = gr.HTML("", elem_id="film")
    clock = gr.Timer(SECONDS, active=False)

    def look(number: float, *inputs: Any) -> Any:
        try:
            found = film_of(store, *inputs)
            if found is None:
                return gr.skip()
            film, config = found
            return show(film, config, min(len(film.frames), max(1, int(number))))
        except (ValueError, TypeError) as error:
            return f"<p class='problem' role='alert'>{escape(str(error))}</p>"

    def start_or_stop(label: str, number: float, *inputs: Any) -> tuple[Any, Any, Any]:
        if label == "Pause":
            return gr.Timer(active=False), "Play", gr.skip()
        found = film_of(store, *inputs)
        at_end = found is not None and number >= len(found[0].frames)
        return gr.Timer(active=True), "Pause", 1 if at_end else gr.skip()

    def tick(number: float, *inputs: Any) -> tuple[Any, Any, Any]:
        found = film_of(store, *inputs)
        if found is None or number >= len(found[0].frames):
            return gr.skip(), gr.Timer(active=False), "Play"
        return number + 1, gr.skip(), gr.skip()

    opened = [screen, frame, play]
    fold.expand(lambda *inputs: open_film(store, *inputs), sidebar.choice, opened, **quiet)
    for change in sidebar.changes:
        change.then(lambda *inputs: open_film(store, *inputs), sidebar.choice, opened, **quiet)
    inputs = [frame, *sidebar.choice]
    frame.change(look, inputs, screen, trigger_mode="always_last", **quiet)
    play.click(start_or_stop, [play, *inputs], [clock, play, frame], **quiet)
    clock.tick(tick, inputs, [frame, clock, play], **quiet)

"""The film in the Inside tab: where a network looked while it learned, frame by frame."""

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from vgg.network.config import ModelConfig
from vgg.ui.events import QUIET
from vgg.ui.heatmap import legend_line
from vgg.ui.markup import note, quiet
from vgg.ui.page import Page
from vgg.ui.pictures import image_tag, size_within
from vgg.ui.server.choice import choice_from_inputs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.words import pictures, told

if TYPE_CHECKING:
    from vgg.inference.attention_film import Film, Frame

FRAME_SIDE = 176  # pixels of the longer side of a picture
FRAME_SECONDS = 0.8  # when it plays
NO_FILM = (
    "This model has no film. One is made while a network learns from nothing (“From scratch” in "
    "the Train tab), and while its last stages are tuned (“Whole network”), where that is kept and "
    "there is time for it: it takes less than 5 % of the training."
)
ABOUT_FILM = (
    "Pictures that the network did not learn from, one of each class. Bright is where something "
    "speaks for the true class; the percentage is how likely the network finds that class."
)


def film_of(store: ModelStore, *inputs: Any) -> "tuple[Film, ModelConfig] | None":
    """The film of the chosen model, and its config; None where it has none."""
    choice = choice_from_inputs(*inputs)
    config = store.config(choice)
    if not config.trained or choice.is_imagenet or not store.shows_pictures(choice.model):
        return None
    path = store.lies_at(store.name(choice))
    if path is None or not (path / "film").is_dir():  # else it is not worth loading torch for
        return None
    from vgg.inference.attention_film import read_film

    film = read_film(path)
    if film is None or max(film.classes) >= config.num_classes or min(film.classes) < 0:
        return None
    return film, config


def show(film: "Film", config: ModelConfig, number: int) -> str:
    """Frame `number`, from 1, as HTML: each picture with its map, its class, its probability."""
    frame = film.frames[number - 1]
    maps = film.maps(frame)
    cards = "".join(
        _card(film, config, picture, maps[picture], frame.probabilities[picture])
        for picture in range(len(film.classes))
    )
    return (
        f"{quiet(ABOUT_FILM)}"
        f"<p class='film-epoch'><b>After epoch {frame.epoch}</b> of {film.frames[-1].epoch}</p>"
        f"<div class='cards film-cards'>{cards}</div>{legend_line()}{_truths(film)}"
    )


def _card(film: "Film", config: ModelConfig, number: int, heat: Any, probability: float) -> str:
    from vgg.data.transforms import placement
    from vgg.inference.heatmap import on_picture, overlay

    picture = film.picture(number)
    name = config.label_names[film.classes[number]]
    size = size_within(picture, FRAME_SIDE)
    kept = len(heat) / config.pretrained_cfg.size  # a map is kept smaller than the input
    left, top, right, bottom = placement(picture.size, config.pretrained_cfg)
    place = (left * kept, top * kept, right * kept, bottom * kept)
    shown = overlay(picture.resize(size), on_picture(heat, place, size))
    silent = "" if heat.any() else " · nothing speaks for it"
    return (
        f"<figure>{image_tag(shown, f'where the network sees {name}')}<figcaption>{escape(name)} "
        f"<b>{100 * probability:.0f} %</b>{silent}</figcaption></figure>"
    )


def _truths(film: "Film") -> str:
    """The checks of the first and the last frame, in a sentence each."""
    frames = dict.fromkeys([film.frames[0], film.frames[-1]])
    lines = "".join(_truth(frame) for frame in frames if frame.truth)
    return f"<div class='truth'>{lines}</div>" if lines else ""


def _truth(frame: "Frame") -> str:
    assert frame.truth
    return (
        f"<p>Check after epoch {frame.epoch}, the mean of {pictures(frame.checked)}: "
        f"{escape(frame.truth.sentence)}.</p>"
    )


@dataclass(frozen=True)
class Handlers:
    """What the film's events call. `inputs` are the sidebar's values everywhere."""

    store: ModelStore

    def open_film(self, *inputs: Any) -> tuple[str, Any, Any]:
        """HTML of the first frame, and updates of the slider and the Play button."""
        hidden = gr.Slider(visible=False), gr.Button(visible=False)
        try:
            found = film_of(self.store, *inputs)
            if found is None:
                return quiet(NO_FILM), *hidden
            film, config = found
            count = len(film.frames)
            slider = gr.Slider(1, max(2, count), value=1, visible=count > 1)
            return show(film, config, 1), slider, gr.Button("Play", visible=count > 1)
        except (ValueError, TypeError) as error:
            return note("problem", told(error)), *hidden

    def look(self, number: float, *inputs: Any) -> Any:
        """The frame that the slider stands at."""
        try:
            found = film_of(self.store, *inputs)
            if found is None:
                return gr.skip()
            film, config = found
            return show(film, config, min(len(film.frames), max(1, int(number))))
        except (ValueError, TypeError) as error:
            return note("problem", told(error))

    def start_or_stop(self, label: str, number: float, *inputs: Any) -> tuple[Any, Any, Any]:
        """Updates of the clock, the button and the frame."""
        if label == "Pause":
            return gr.Timer(active=False), "Play", gr.skip()
        found = film_of(self.store, *inputs)
        at_end = found is not None and number >= len(found[0].frames)
        return gr.Timer(active=True), "Pause", 1 if at_end else gr.skip()

    def tick(self, number: float, *inputs: Any) -> tuple[Any, Any, Any]:
        """Updates of the frame, the clock and the button."""
        found = film_of(self.store, *inputs)
        if found is None or number >= len(found[0].frames):
            return gr.skip(), gr.Timer(active=False), "Play"
        return number + 1, gr.skip(), gr.skip()


class FilmFold:
    """The film's components, folded away; `wire` makes them work."""

    def __init__(self) -> None:
        title = "Film: where the network looked while it learned"
        with gr.Accordion(title, open=False, elem_id="film-fold") as self.fold:
            with gr.Row(equal_height=True, elem_id="film-tools"):
                self.frame = gr.Slider(
                    1, 2, value=1, step=1, label="Frame", visible=False, elem_id="film-frame"
                )
                self.play = gr.Button(
                    "Play", visible=False, size="sm", scale=0, min_width=96, elem_id="film-play"
                )
            self.screen = gr.HTML("", elem_id="film")
        self.clock = gr.Timer(FRAME_SECONDS, active=False)


def wire(page: Page, film: FilmFold) -> None:
    """The film's events."""
    handlers, choice = Handlers(page.store), page.sidebar.choice
    opened = [film.screen, film.frame, film.play]
    film.fold.expand(handlers.open_film, choice, opened, **QUIET)
    for change in page.sidebar.changes:
        change.then(handlers.open_film, choice, opened, **QUIET)
    inputs = [film.frame, *choice]
    film.frame.change(handlers.look, inputs, film.screen, trigger_mode="always_last", **QUIET)
    film.play.click(
        handlers.start_or_stop, [film.play, *inputs], [film.clock, film.play, film.frame], **QUIET
    )
    film.clock.tick(handlers.tick, inputs, [film.frame, film.clock, film.play], **QUIET)

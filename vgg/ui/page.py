"""What the page's tabs share: each is laid out and wired with one of these."""

from dataclasses import dataclass

import gradio as gr

from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.sidebar import Sidebar


@dataclass(frozen=True)
class Session:
    """What a visitor's page knows of its jobs and models. These stand outside of the tabs: what
    lies in a tab that is not open is not there for the browser, and would forget at a reload.

    `jobs` holds the handles of the jobs, that which is shown first; `models` those of models that
    were brought in. `clock` asks how far the jobs are. `finished` is the name of the model that was
    just made; `picked` takes the name of a model and a number that makes it new, and the page then
    chooses that model.
    """

    jobs: gr.BrowserState
    models: gr.BrowserState
    clock: gr.Timer
    finished: gr.Textbox
    picked: gr.Textbox


def begin_session() -> Session:
    """Make a session's parts; call it before the tabs are begun."""
    # The secret is no lock: the key of each job and model, which can't be guessed, is.
    jobs = gr.BrowserState([], storage_key="vgg-studio-jobs", secret="vgg-studio")
    models = gr.BrowserState([], storage_key="vgg-studio-models", secret="vgg-studio")
    # Text boxes, out of sight, because their change reaches the browser, and a State's does not
    # always.
    finished = gr.Textbox(visible="hidden", elem_id="finished")
    picked = gr.Textbox(visible="hidden", elem_id="picked")
    return Session(jobs, models, gr.Timer(1.0, active=False), finished, picked)


@dataclass(frozen=True)
class Page:
    """The page around a tab. `SomeTab(page)` lays its components out, `wire(page, tab, …)` makes
    them work; it may add to `sidebar.changes`, which the tabs wired later listen to."""

    blocks: gr.Blocks
    tabs: gr.Tabs
    store: ModelStore
    jobs: Jobs
    sidebar: Sidebar
    session: Session


@dataclass(frozen=True)
class ShownPicture:
    """The components that say which picture the Predict tab shows."""

    places: gr.Tabs
    place: gr.Textbox  # which of the inner tabs is open: picture or draw
    image: gr.Gallery
    draw: gr.HTML

    @property
    def values(self) -> list[gr.components.Component]:
        """What `current_picture` reads."""
        return [self.place, self.image, self.draw]

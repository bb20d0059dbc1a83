"""What a finished training leads to: its model in use, its mistakes, why it answers so."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from vgg.ui.server.jobs import Job, Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.sidebar import Sidebar, choose
from vgg.ui.tabs import evaluate_cell
from vgg.ui.tabs.predict_input import Pictures, served_file

GONE = "This model is not here any more; choose another in the sidebar."


@dataclass(frozen=True)
class After:
    """The buttons under a training that is over."""

    row: gr.Row
    use: gr.Button
    mistakes: gr.Button
    why: gr.Button
    take: gr.Button


def lay_out() -> After:
    """The buttons; they show where there is a model."""
    with gr.Row(visible=False, elem_id="after") as row:
        use = gr.Button("Use it", variant="primary", size="md", min_width=120, elem_id="use-it")
        mistakes = gr.Button("See its mistakes", size="md", min_width=120, elem_id="see-mistakes")
        why = gr.Button("See why", size="md", min_width=120, elem_id="see-why")
        take = gr.Button("Take it away", size="md", min_width=120, elem_id="take-away")
    return After(row, use, mistakes, why, take)


def held_out_picture(store: ModelStore, model: str) -> Pictures:
    """One of the pictures that the model has not learned from, as the gallery takes it: the surest
    of its right answers, where there is one."""
    found = evaluate_cell.held_out(store, model)
    pictures = [p for p in found.document["pictures"] if found.picture(p["image"]).is_file()]
    if not pictures:
        raise ValueError("no held-out picture of this model is left; add one of your own")
    best = max(pictures, key=lambda p: (p["class"] == p["answer"], p["probability"]))
    file = found.picture(best["image"])
    return [(served_file(file.name, file.read_bytes()), f"held out: {best['class']}")]


def wire(
    store: ModelStore,
    jobs: Jobs,
    after: After,
    mine: gr.BrowserState,
    sidebar: Sidebar,
    tabs: gr.Tabs,
    picture: list[gr.components.Component | gr.Tabs],
) -> None:
    """Let each button choose the model and open its tab. `picture` are the Predict tab's inner
    tabs, the name of the open one, and its gallery."""
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def chosen(ids: Any) -> tuple[str, list[Any]]:
        found: Job | None = next(iter(jobs.of(ids)), None)
        model = jobs.model(found) if found else ""
        if not model:
            raise gr.Error(GONE, print_exception=False)
        return model, choose(store, model)

    def open_tab(name: str) -> Any:
        return lambda ids: (gr.Tabs(selected=name), *chosen(ids)[1])

    def see_why(ids: Any) -> tuple[Any, ...]:
        model, updates = chosen(ids)
        try:
            pictures = held_out_picture(store, model)
        except ValueError as error:
            raise gr.Error(f"{str(error).capitalize()}.", print_exception=False) from error
        opened = gr.Tabs(selected="picture"), "picture", pictures
        return gr.Tabs(selected="predict-tab"), *updates, *opened

    outputs = [tabs, *sidebar.shown]
    sidebar.changes.extend(
        (
            after.use.click(open_tab("predict-tab"), mine, outputs, **quiet),
            after.mistakes.click(open_tab("evaluate-tab"), mine, outputs, **quiet),
            after.take.click(open_tab("models-tab"), mine, outputs, **quiet),
            after.why.click(see_why, mine, [*outputs, *picture], **quiet),
        )
    )

"""What stands in the place of an answer: an invitation, or why there is none."""

from html import escape
from typing import Any

import gradio as gr

from vgg.options import ModelConfig
from vgg.ui.sidebar import choice_from_inputs
from vgg.ui.store import Choice, Store
from vgg.weights import STARTER

TRUNK = "This model is a trunk without a classifier: it can be trained, not asked."
UNTRAINED = "This network has not been trained, so its answer would be a guess."
_TRAIN = "<button type='button' data-tab='train-tab'>Train it</button>"


def empty_state(store: Store, *inputs: Any) -> str:
    """What stands in the place of an answer before there is a picture."""
    if refusal := obstacle(store, *inputs):
        return refusal
    choice = chosen(*inputs)
    return f"<div class='empty'><p>{escape(invitation(choice, store.config(choice)))}</p></div>"


def invitation(choice: Choice, config: ModelConfig) -> str:
    """What to show this model."""
    if choice.model == STARTER:
        return "Add a picture, draw a shape, or click an example. The answer appears here."
    if choice.is_imagenet:
        return (
            "Add a photograph. ImageNet models know 1000 things: animals, dogs of 118 breeds, "
            "vehicles, tools, food, furniture. The answer appears here."
        )
    names = ", ".join(config.label_names[:4]) + (", …" if config.num_classes > 4 else "")
    return f"Add a picture of one of: {names}. The answer appears here."


def obstacle(store: Store, *inputs: Any) -> str:
    """HTML that says why the chosen model gives no answer; empty where it can."""
    try:
        choice = chosen(*inputs)
        config = store.config(choice)
    except ValueError as error:
        return _notice(str(error))
    if config.num_classes == 0:
        return _notice(TRUNK, _TRAIN)
    if not config.trained:
        return _notice(UNTRAINED, _TRAIN)
    if not store.is_here(store.name(choice)):
        return _notice(f"The weights of {store.name(choice)} are not here; the sidebar says more.")
    return ""


def _notice(text: str, way_on: str = "") -> str:
    return f"<div class='untrained' role='status'><p>{escape(text)}</p>{way_on}</div>"


def chosen(*inputs: Any) -> Choice:
    """The sidebar's values as a `Choice`; what makes no sense is said on the page."""
    try:
        return choice_from_inputs(*inputs)
    except (ValueError, TypeError) as error:
        raise gr.Error(str(error), print_exception=False) from error

"""A few lines that use the model in hand: from Python, the command line, another program."""

import re

from vgg.checkpoints.loading import STARTER
from vgg.ui.server.choice import NEW, Choice
from vgg.ui.server.model_store import ModelStore

LOCAL = "http://127.0.0.1:7860"


def python(store: ModelStore, choice: Choice) -> str:
    """Python that asks the model, or that makes the network where it is not trained."""
    if choice.model == NEW or not store.config(choice).trained:
        return (
            "from vgg import VGG\n\n"
            f"model = VGG({choice.depth}, {choice.num_classes}, batch_norm={choice.batch_norm}, "
            f'head="{choice.head}", width={choice.width:g})'
        )
    return (
        "from vgg import Predictor, load_model, read_image\n\n"
        f"predictor = Predictor(load_model({_quoted(spec(store, choice))}))\n"
        'prediction = predictor.predict([read_image("photo.jpg")], top_k=3)[0]\n'
        "print(prediction.class_names, prediction.probs)"
    )


def command_line(store: ModelStore, choice: Choice) -> str:
    """Commands that ask the model and take it away, or that train the network."""
    if choice.model == NEW or not store.config(choice).trained:
        start = f"--model {choice.architecture}"
        if choice.model == NEW:
            norm = "" if choice.batch_norm else " --no-batch-norm"
            start = f"--depth {choice.depth}{norm} --width {choice.width:g}"
        return f"python -m vgg train photos/ {start} --head {choice.head}"
    name = _quoted(spec(store, choice)) if " " in spec(store, choice) else spec(store, choice)
    return (
        f"python -m vgg predict photo.jpg --model {name}\n"
        f"python -m vgg evaluate photos/ --model {name}\n"
        f"python -m vgg export --model {name} --out exported"
    )


def program(store: ModelStore, choice: Choice, address: str | None) -> str:
    """A program that asks this page; `address` is what the browser says of it."""
    if choice.model == NEW or not store.config(choice).trained:
        return "# This network has no answers yet: train it in the Train tab."
    url = address if address and re.fullmatch(r"https?://[\w.:-]+", address) else LOCAL
    return (
        "from gradio_client import Client, handle_file\n\n"
        f'client = Client("{url}")\n'
        "answer = client.predict(\n"
        f'    handle_file("photo.jpg"), model={_quoted(store.name(choice))}, api_name="/predict"\n'
        ")\n"
        'print(answer["top"])'
    )


def spec(store: ModelStore, choice: Choice) -> str:
    """What `load_model` takes on the visitor's own machine."""
    name = store.name(choice)
    if store.private.may_use(name):  # theirs after they have exported it
        return store.label(name)
    is_plain = name == STARTER or choice.is_imagenet
    if is_plain or store.settings.public or store.settings.weights_dir is None:
        return name
    if name == store.first_name:
        return store.settings.model
    return str(store.settings.weights_dir / name)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

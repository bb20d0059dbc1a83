"""The named endpoints for programs, one function each; `gradio_client` and HTTP call them."""

from pathlib import Path
from typing import Any

import gradio as gr

from vgg.images import ImageError
from vgg.ui.store import Store


def build(store: Store) -> None:
    """Register the endpoints."""

    def predict(image: gr.FileData, model: str = "starter", top_k: int = 5) -> dict[str, Any]:
        """Say what is in a picture.

        Args:
            image: the picture, a file.
            model: starter, an ImageNet model such as vgg16_bn, or a trained model's name.
            top_k: how many classes to answer, best first.

        Returns:
            {"image": file name, "top": [{"class", "probability" (0 to 1)}, …], "error": null}
        """
        return predict_file(store, image, model, top_k)

    def models() -> list[dict[str, Any]]:
        """List the models that are on this machine.

        Returns:
            [{"name": what `model` takes elsewhere, "config": the model's config}, …]
        """
        return [{"name": m.name, "config": m.config.to_json()} for m in store.listed()]

    gr.api(predict, api_name="predict")
    gr.api(models, api_name="models")


def predict_file(store: Store, image: Any, model: str, top_k: int) -> dict[str, Any]:
    """One element of the command line's `predict` JSON."""
    path = Path(image["path"] if isinstance(image, dict) else image.path)
    shown = (image.get("orig_name") if isinstance(image, dict) else image.orig_name) or path.name
    row: dict[str, Any] = {"image": shown, "top": [], "error": None}
    try:
        if isinstance(top_k, bool) or top_k != int(top_k) or top_k < 1:
            raise ValueError(f"top_k must be a whole number from 1 up, not {top_k}")
        config = store.config(store.choice_of(model))
        if not config.trained:
            raise ValueError(f"{model} has not been trained, so its answer would be a guess")
        predictor = store.predictor(model)
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error
    try:
        picture = predictor.read(path)
    except ImageError as error:
        return {**row, "error": str(error)}
    with store.device_lock:
        prediction = predictor.predict([picture], top_k=int(top_k))[0]
    return {**row, "top": prediction.to_json()}

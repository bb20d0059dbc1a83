"""The named endpoints for programs, one function each; `gradio_client` and HTTP call them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from vgg.data.images import ImageError
from vgg.training.options import TrainOptions
from vgg.ui import heatmap
from vgg.ui.server.jobs import NO_GPU_OF_ITS_OWN, Job, Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.uploads import uploaded
from vgg.ui.tabs.evaluate import measure
from vgg.ui.tabs.train_options import PUBLIC_EPOCHS, PUBLIC_SECONDS
from vgg.ui.tabs.train_pictures import forget, from_zip, lend


def build(store: ModelStore, jobs: Jobs) -> None:
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

    def explain(image: gr.FileData, model: str = "starter", class_name: str = "") -> dict[str, Any]:
        """Show what in a picture speaks for a class, and check that it is true.

        Args:
            image: the picture, a file.
            model: as in `/predict`.
            class_name: one of the model's classes; empty takes the most likely one.

        Returns:
            {"image", "class", "probability", "heatmap": the picture with the map over it, a data
            URL, "truth": {"score", "before", "hidden_marked", "hidden_random", "sentence"},
            "error"}
        """
        return explain_file(store, image, model, class_name)

    def models() -> list[dict[str, Any]]:
        """List the models that are on this machine.

        Returns:
            [{"name": what `model` takes elsewhere, "config": the model's config}, …]
        """
        return [{"name": m.name, "config": m.config.to_json()} for m in store.listed()]

    def train(
        pictures: gr.FileData,
        model: str = "",
        mode: str = "auto",
        budget: float = 60.0,
        epochs: int = 0,
        name: str = "",
        seed: int = 0,
        image_size: int = 0,
    ) -> dict[str, Any]:
        """Train a classifier on a zip with one folder a class. Answers at once; ask `/job`.

        Args:
            pictures: the zip.
            model: the network to start from; empty lets the program choose.
            mode: auto, probe (a new last layer on a frozen network) or scratch.
            budget: seconds.
            epochs: instead of the budget, where above 0.
            name: of the new model; empty takes the zip's.
            seed: the same seed gives the same training.
            image_size: pixels; 0 lets the program choose.

        Returns:
            {"job": its id, "state", "place": in the queue, "model": what `/predict` takes when it
            is done, "out": the model's name, "mode", "classes", "images", "skipped"}
        """
        return start_training(
            store, jobs, pictures, model, mode, budget, epochs, name, seed, image_size
        )

    def job(job: str) -> dict[str, Any]:
        """Say how far a training is.

        Args:
            job: the id that `/train` gave.

        Returns:
            {"job", "state": waiting, running, done, stopped or failed, "event": the last one,
            "place": in the queue, "error", "result": of a training that is over}
        """
        return job_state(jobs, found_job(jobs, job))

    def stop(job: str) -> dict[str, Any]:
        """Stop a training; the best model so far is kept.

        Args:
            job: the id that `/train` gave.

        Returns:
            As `/job`.
        """
        found = found_job(jobs, job)
        jobs.stop(found)
        return job_state(jobs, found)

    def evaluate(pictures: gr.FileData, model: str = "starter") -> dict[str, Any]:
        """Measure a model on a zip with one folder a class.

        Args:
            pictures: the zip.
            model: as in `/predict`.

        Returns:
            {"accuracy", "accuracy_interval", "top5", "images", "per_class", "confusion",
            "classes", …}; shares are from 0 to 1
        """
        return evaluate_zip(store, pictures, model)

    for endpoint in (predict, explain, models, train, job, stop, evaluate):
        gr.api(endpoint, api_name=endpoint.__name__)


def predict_file(store: ModelStore, image: Any, model: str, top_k: int) -> dict[str, Any]:
    """One element of the command line's `predict` JSON."""
    path, shown = _file(image)
    row: dict[str, Any] = {"image": shown, "top": [], "error": None}
    with _said():
        is_number = isinstance(top_k, int | float) and not isinstance(top_k, bool)
        if not is_number or not top_k >= 1 or top_k % 1 != 0:
            raise ValueError(f"top_k must be a whole number from 1 up, not {top_k}")
        predictor = _predictor(store, model)
    try:
        picture = predictor.read(path)
    except ImageError as error:
        return {**row, "error": str(error)}
    prediction, _ = store.predict(predictor, picture, int(top_k))
    return {**row, "top": prediction.to_json()}


def explain_file(store: ModelStore, image: Any, model: str, class_name: str) -> dict[str, Any]:
    """The heat map of one class, its picture and its check."""
    path, shown = _file(image)
    row: dict[str, Any] = {
        "image": shown,
        "class": None,
        "probability": None,
        "heatmap": None,
        "truth": None,
        "error": None,
    }
    with _said():
        predictor = _predictor(store, model)
        names = predictor.config.label_names
        if class_name and class_name not in names:
            raise ValueError(
                f"the model has no class {class_name!r}; it has {', '.join(names[:20])}"
            )
    from vgg.inference.heatmap import overlaid

    try:
        picture = predictor.read(path)
    except ImageError as error:
        return {**row, "error": str(error)}
    index = names.index(class_name) if class_name else None
    found = heatmap.explain(store, predictor, picture, index)
    row |= {"class": found.name, "probability": found.probability, "error": found.problem}
    if found.problem:
        return row
    truth = heatmap.check(store, predictor, found)
    if truth is not None:
        row["truth"] = {**asdict(truth), "score": truth.score, "sentence": truth.sentence}
    return {**row, "heatmap": heatmap.data_url(overlaid(picture, found))}


def start_training(
    store: ModelStore,
    jobs: Jobs,
    pictures: Any,
    model: str,
    mode: str,
    budget: float,
    epochs: int,
    name: str,
    seed: int,
    image_size: int,
) -> dict[str, Any]:
    """Queue a training of an uploaded zip."""
    path, shown = _file(pictures)
    with _said():
        if store.settings.borrowed_gpu:  # before the zip is unpacked
            raise ValueError(NO_GPU_OF_ITS_OWN)
        if store.settings.public and (budget > PUBLIC_SECONDS or epochs > PUBLIC_EPOCHS):
            raise ValueError(
                f"this public page trains for at most {PUBLIC_SECONDS:.0f} seconds or "
                f"{PUBLIC_EPOCHS} epochs"
            )
        options = TrainOptions(
            model=store.spec_of(model) if model else None,
            mode=mode,
            budget_s=None if epochs else float(budget),
            epochs=int(epochs) or None,
            seed=int(seed),
            image_size=int(image_size) or None,
            device=store.settings.device,
            precision=store.settings.precision,
        )
        found = from_zip(store, str(path))
        assert found is not None  # the endpoint has a file
        try:
            lent = lend(found)
            try:
                started = jobs.submit(lent, str(name) or Path(shown).stem, options)
            except BaseException:
                shutil.rmtree(lent, ignore_errors=True)
                raise
        finally:
            forget(found)
    return {
        "job": started.id,
        "state": started.state,
        "place": jobs.place(started),
        "model": started.id if store.settings.public else started.name,
        "out": started.name,
        "mode": mode,
        "classes": list(found.index.class_names),
        "images": len(found.index.samples),
        "skipped": [{"file": s.file, "reason": s.reason} for s in found.index.skipped],
    }


def found_job(jobs: Jobs, job_id: str) -> Job:
    """The job with this id."""
    job = jobs.find(job_id)
    if job is None:
        raise gr.Error(
            "You have no such job; its id is what /train gave in this session.",
            print_exception=False,
        )
    return job


def job_state(jobs: Jobs, job: Job) -> dict[str, Any]:
    """How far a job is, without a path of the server."""
    return {
        "job": job.id,
        "state": job.state,
        "event": _without_paths(job.events[-1], job) if job.events else None,
        "place": jobs.place(job),
        "error": job.error or None,
        "result": _without_paths(job.result, job) if job.result else None,
    }


def evaluate_zip(store: ModelStore, pictures: Any, model: str) -> dict[str, Any]:
    """The command line's `evaluate` JSON for an uploaded zip."""
    path, _ = _file(pictures)
    with _said():
        _predictor(store, model)  # says what is wrong with it before anything is unpacked
        found = from_zip(store, str(path))
        assert found is not None  # the endpoint has a file
        try:
            return measure(store, model, found).document
        finally:
            forget(found)


def _predictor(store: ModelStore, model: str) -> Any:
    config = store.config(store.choice_of(model))
    if not config.trained:
        raise ValueError(f"{model} has not been trained, so its answer would be a guess")
    return store.predictor(model)


def _file(data: Any) -> tuple[Path, str]:
    """Where an uploaded file lies, and what its sender calls it."""
    fields = data if isinstance(data, dict) else data.model_dump()
    with _said():
        path = uploaded(fields.get("path"))
    return path, str(fields.get("orig_name") or path.name)


def _without_paths(document: dict[str, Any], job: Job) -> dict[str, Any]:
    """An event or result as a stranger may see it."""
    shown = {key: value for key, value in document.items() if key != "options"}
    return {**shown, "out": job.name} if "out" in shown else shown


@contextmanager
def _said() -> Iterator[None]:
    """What the library refuses is said to the caller, without a traceback."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise gr.Error(str(error), print_exception=False) from error

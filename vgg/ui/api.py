"""The named endpoints for programs, one method each; `gradio_client` and HTTP call them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from vgg.data.images import ImageError
from vgg.errors import UserError
from vgg.inference.options import PredictOptions
from vgg.training.options import DEFAULT_BUDGET, TrainOptions
from vgg.ui import heatmap
from vgg.ui.events import said
from vgg.ui.pictures import data_url
from vgg.ui.server.job import Job
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.picture_sets import forget, from_zip, lent
from vgg.ui.server.uploads import uploaded
from vgg.ui.tabs.evaluate import measure

if TYPE_CHECKING:
    from vgg.inference.predictor import Predictor


def build(store: ModelStore, jobs: Jobs) -> None:
    """Register the endpoints."""
    e = Endpoints(store, jobs)
    for endpoint in (e.predict, e.explain, e.models, e.train, e.job, e.stop, e.evaluate):
        gr.api(endpoint, api_name=endpoint.__name__)


@dataclass(frozen=True)
class Endpoints:
    """What programs may call. The docstrings are what they read of it."""

    store: ModelStore
    jobs: Jobs

    def predict(
        self,
        image: gr.FileData,
        model: str = PredictOptions.model,
        top_k: int = PredictOptions.top_k,
    ) -> dict[str, Any]:
        """Say what is in a picture.

        Args:
            image: the picture, a file.
            model: starter, an ImageNet model such as vgg16_bn, or a trained model's name.
            top_k: how many classes to answer, best first.

        Returns:
            {"image": file name, "top": [{"class", "probability" (0 to 1)}, …], "error": null}
        """
        path, shown = _file(image)
        row: dict[str, Any] = {"image": shown, "top": [], "error": None}
        with said(str):
            choices = PredictOptions(top_k=_whole(top_k))
            predictor = self._predictor(model)
        try:
            picture = predictor.read(path)
        except ImageError as error:
            return {**row, "error": str(error)}
        prediction, _ = self.store.predict(predictor, picture, choices.top_k)
        return {**row, "top": prediction.to_json()}

    def explain(
        self, image: gr.FileData, model: str = PredictOptions.model, class_name: str = ""
    ) -> dict[str, Any]:
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
        path, shown = _file(image)
        row: dict[str, Any] = {"image": shown}
        row |= dict.fromkeys(("class", "probability", "heatmap", "truth", "error"))
        with said(str):
            predictor = self._predictor(model)
            names = predictor.config.label_names
            if class_name and class_name not in names:
                raise UserError("ui.no_such_class", name=class_name, choices=names[:20])
        from vgg.inference.heatmap import overlaid

        try:
            picture = predictor.read(path)
        except ImageError as error:
            return {**row, "error": str(error)}
        index = names.index(class_name) if class_name else None
        found = heatmap.explain(self.store, predictor, picture, index)
        row |= {"class": found.name, "probability": found.probability, "error": found.problem}
        if found.problem:
            return row
        if truth := heatmap.check(self.store, predictor, found):
            row["truth"] = {**asdict(truth), "score": truth.score, "sentence": truth.sentence}
        return {**row, "heatmap": data_url(overlaid(found))}

    def models(self) -> list[dict[str, Any]]:
        """List the models that are on this machine.

        Returns:
            [{"name": what `model` takes elsewhere, "config": the model's config}, …]
        """
        return [{"name": m.name, "config": m.config.to_json()} for m in self.store.listed()]

    def train(
        self,
        pictures: gr.FileData,
        model: str = "",
        mode: str = TrainOptions.mode,
        budget: float = DEFAULT_BUDGET,
        epochs: int = 0,
        name: str = "",
        seed: int = TrainOptions.seed,
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
        path, shown = _file(pictures)
        settings = self.store.settings
        with said(str):
            if settings.borrowed_gpu:  # before the zip is unpacked
                raise UserError("ui.borrowed_gpu")
            limits = settings.limits
            if settings.public and (budget > limits.seconds or epochs > limits.epochs):
                raise UserError("ui.long_or_many", seconds=limits.seconds, epochs=limits.epochs)
            options = TrainOptions(
                model=self.store.spec_of(model) if model else None,
                mode=mode,
                budget_s=None if epochs else float(budget),
                epochs=int(epochs) or None,
                seed=int(seed),
                image_size=int(image_size) or None,
                device=settings.device,
                precision=settings.precision,
            )
            found = from_zip(settings, str(path))
            assert found is not None  # the endpoint has a file
            try:
                with lent(found) as folder:
                    job = self.jobs.submit(folder, str(name) or Path(shown).stem, options)
            finally:
                forget(found)
        return {
            "job": job.id,
            "state": job.state,
            "place": self.jobs.place(job),
            "model": job.id if settings.public else job.name,
            "out": job.name,
            "mode": mode,
            "classes": list(found.index.class_names),
            "images": len(found.index.samples),
            "skipped": [{"file": s.file, "reason": s.reason} for s in found.index.skipped],
        }

    def job(self, job: str) -> dict[str, Any]:
        """Say how far a training is.

        Args:
            job: the id that `/train` gave.

        Returns:
            {"job", "state": waiting, running, done, stopped or failed, "event": the last one,
            "place": in the queue, "error", "result": of a training that is over}
        """
        return self._state(self._found(job))

    def stop(self, job: str) -> dict[str, Any]:
        """Stop a training; the best model so far is kept.

        Args:
            job: the id that `/train` gave.

        Returns:
            As `/job`.
        """
        found = self._found(job)
        self.jobs.stop(found)
        return self._state(found)

    def evaluate(self, pictures: gr.FileData, model: str = PredictOptions.model) -> dict[str, Any]:
        """Measure a model on a zip with one folder a class.

        Args:
            pictures: the zip.
            model: as in `/predict`.

        Returns:
            {"accuracy", "accuracy_interval", "top5", "images", "per_class", "confusion",
            "classes", …}; shares are from 0 to 1
        """
        path, _ = _file(pictures)
        with said(str):
            self._predictor(model)  # says what is wrong with it before anything is unpacked
            found = from_zip(self.store.settings, str(path))
            assert found is not None  # the endpoint has a file
            try:
                return measure(self.store, model, found).document
            finally:
                forget(found)

    def _predictor(self, model: str) -> "Predictor":
        config = self.store.config(self.store.choice_of(model))
        if not config.trained:
            raise UserError("inference.untrained", name=model)
        return self.store.predictor(model)

    def _found(self, job_id: str) -> Job:
        job = self.jobs.find(job_id)
        if job is None:
            raise gr.Error(str(UserError("ui.no_job")), print_exception=False)
        return job

    def _state(self, job: Job) -> dict[str, Any]:
        """How far a job is, without a path of the server."""
        return {
            "job": job.id,
            "state": job.state,
            "event": _without_paths(job.events[-1], job) if job.events else None,
            "place": self.jobs.place(job),
            "error": job.error or None,
            "result": _without_paths(job.result, job) if job.result else None,
        }


def _whole(number: Any) -> Any:
    """In JSON 5 and 5.0 are the same."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _file(data: Any) -> tuple[Path, str]:
    """Where an uploaded file lies, and what its sender calls it."""
    fields = data if isinstance(data, dict) else dict(data) if isinstance(data, gr.FileData) else {}
    with said(str):
        path = uploaded(fields.get("path"))
    return path, str(fields.get("orig_name") or path.name)


def _without_paths(document: dict[str, Any], job: Job) -> dict[str, Any]:
    """An event or result as a stranger may see it."""
    shown = {key: value for key, value in document.items() if key != "options"}
    return {**shown, **{key: job.name for key in ("out", "folder") if key in shown}}

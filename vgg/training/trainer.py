"""`train`: a folder of pictures becomes a classifier, and a number to believe."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vgg import distributed
from vgg.checkpoints.file_names import METRICS_FILE, SPLIT_FILE
from vgg.checkpoints.loading import STARTER, default_weights_dir, load_model, load_trunk, model_name
from vgg.data.files import FileBytes
from vgg.data.folder import scan_folder
from vgg.data.folder_names import parts_of
from vgg.data.hub_datasets import is_hub_address
from vgg.data.index import Sample, Skipped
from vgg.data.sources import pictures_of
from vgg.downloads import HubUnavailableError
from vgg.errors import UserError
from vgg.inference.evaluation import Evaluation, evaluate_probabilities
from vgg.network.config import IMAGENET_NAMES, ModelConfig, architecture_name, depth_and_norm
from vgg.network.heads import HEADS
from vgg.network.vgg import VGG
from vgg.training.dataset import Dataset, Trained
from vgg.training.event_log import TrainingEvent
from vgg.training.finetune import train_finetune
from vgg.training.options import DEFAULT_MODEL, TRAINED_HEAD, TrainOptions
from vgg.training.probe import train_probe
from vgg.training.run import Run, check_same_choices, copies_of
from vgg.training.scratch import train_scratch

ON_A_TRUNK = ("probe", "finetune")  # modes that need a pretrained network


@dataclass(frozen=True)
class TrainResult:
    """What a training gave. Shares are from 0 to 1; `accuracy` is on the `held_out` pictures.

    `notes` are sentences on what was chosen and why, and on what went wrong.
    """

    out: str
    mode: str
    classes: tuple[str, ...]
    images: int
    skipped: tuple[Skipped, ...]
    accuracy: float
    accuracy_interval: tuple[float, float]
    held_out: int
    seconds: float
    epochs: int
    stopped: bool
    architecture: str
    head: str
    width: float
    image_size: int
    temperature: float
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The command line's document."""
        return {
            **asdict(self),
            "classes": list(self.classes),
            "skipped": [asdict(entry) for entry in self.skipped],
            "accuracy_interval": list(self.accuracy_interval),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TrainResult":
        """What `to_json` gave, from metrics.json."""
        names = cls.__dataclass_fields__
        return cls(
            **{
                **{name: value for name, value in data.items() if name in names},
                "classes": tuple(data["classes"]),
                "skipped": tuple(Skipped(**entry) for entry in data["skipped"]),
                "accuracy_interval": tuple(data["accuracy_interval"]),
                "notes": tuple(data["notes"]),
            }
        )


def train(
    folder: str | Path,
    *,
    out: str | Path | None = None,
    options: TrainOptions | None = None,
    resume: bool = False,
    on_event: Callable[[TrainingEvent], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    lock: AbstractContextManager[Any] | None = None,
    weights_dir: Path | None = None,
    **choices: Any,
) -> TrainResult:
    """Train a classifier on a folder, or zip, with one sub-folder a class; write it into `out`.

    `choices` are fields of `TrainOptions`, such as `mode="probe"`, `epochs=3` or `budget_s=60`, and
    win over `options`. `out` None means a new folder in `weights_dir`, named as the pictures'.
    `resume` goes on with a training that was killed, from its last state, or starts anew.

    `on_event` gets a dict for everything that happens; `kind` says what: `start`, `scan`,
    `download`, `decode`, `features`, `split`, `plan`, `resume`, `epoch`, `warning`, `done`.
    `should_stop` is asked at every batch; the best model so far is kept. `lock` is held while a
    batch is on the device. Several processes (see `vgg.distributed`) share the work, and the first
    writes and tells.

    Raises `UserError`, a `ValueError`, for what the user can mend, and `StoppedError` where it was
    stopped before there was anything to keep.

        train("photos/", mode="auto", budget_s=120, out="weights/photos", on_event=print)
    """
    began = time.monotonic()
    options = replace(options or TrainOptions(), **choices)
    tell = on_event or (lambda event: None)
    with (
        distributed.joined(),
        pictures_of(
            folder,
            on_message=lambda text: tell({"kind": "plan", "message": text}),
            on_progress=lambda done, total: tell(
                {"kind": "download", "done": done, "total": total}
            ),
            should_stop=should_stop or bool,
        ) as (root, left_out),
    ):
        if is_hub_address(folder):
            began = time.monotonic()  # the time of a download is not taken from the budget
        distributed.check_same(options, "options")
        home = distributed.run_on_rank_0(
            lambda: Path(out) if out else default_out(Path(folder), weights_dir, resume=resume)
        )
        run = Run(
            home,
            options,
            began=began,
            resume=resume,
            on_event=on_event,
            should_stop=should_stop,
            lock=lock,
        )
        if resume and (metrics := distributed.run_on_rank_0(run.read_metrics)):
            check_same_choices(metrics["options"], options)
            return TrainResult.from_json(metrics)
        try:
            mode, trained = _learn(run, Path(folder).name, root, left_out, weights_dir)
        except BaseException:
            run.abandon()
            raise
        return _finish(run, mode, trained)


def _learn(
    run: Run,
    folder_name: str,
    root: Path,
    left_out: tuple[Skipped, ...],
    weights_dir: Path | None,
) -> tuple[str, Trained]:
    """(what was done, what it gave)."""
    options = run.options
    run.event("start", folder=folder_name, options=asdict(options))
    dataset = _looked_at(run, root, left_out)
    model = distributed.all_or_none(lambda: _trunk_to_probe(run, weights_dir))
    distributed.check_same(model is None, "models")
    if model and options.mode == "probe":
        return "probe", train_probe(run, dataset, model)
    if model:
        return train_finetune(run, dataset, model)
    return "scratch", train_scratch(run, dataset, _like(options, weights_dir))


def _looked_at(run: Run, root: Path, left_out: tuple[Skipped, ...]) -> Dataset:
    """The pictures of a folder, each file read, and what the scan has to say of them."""
    contents = FileBytes()
    index = distributed.all_or_none(
        lambda: scan_folder(
            root,
            labels=run.options.labels,
            classes=run.options.classes,
            contents=contents,
            on_progress=lambda done, total: run.progress("scan", done, total),
            should_stop=run.should_stop,
        )
    )
    index = replace(index, skipped=(*left_out, *index.skipped))
    run.event("scan", **index.to_json())
    dataset = Dataset.of(index, contents)
    distributed.check_same(dataset.key, "pictures")
    return dataset


def default_out(folder: Path, weights_dir: Path | None, *, resume: bool = False) -> Path:
    """A folder for the model, named as the pictures', that is not there yet."""
    home = Path(weights_dir or default_weights_dir())
    source = folder.resolve()
    while parts_of([source.name]):  # it is named by the folder above
        source = source.parent
    name = source.stem if source.is_file() else source.name
    taken = {STARTER, *IMAGENET_NAMES}
    number, candidate = 1, name or "model"
    while candidate in taken or (not resume and _holds_something(home / candidate)):
        number += 1
        candidate = f"{name or 'model'}-{number}"
    return home / candidate


def _holds_something(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def _trunk_to_probe(run: Run, weights_dir: Path | None) -> VGG | None:
    """The pretrained network to start from; None where the training is from scratch, and why."""
    options = run.options
    if options.mode == "scratch":
        return None
    spec = options.model or DEFAULT_MODEL
    if options.depth or options.batch_norm is not None:
        depth, norm = depth_and_norm(DEFAULT_MODEL)
        wanted = norm if options.batch_norm is None else options.batch_norm
        spec = architecture_name(options.depth or depth, wanted)
    unknown = f"depth {options.depth}" if not options.model and spec not in IMAGENET_NAMES else ""
    if options.width not in (None, 1.0):
        unknown = f"width {options.width:g}"
    if unknown:
        if options.mode in ON_A_TRUNK:
            raise UserError("training.no_weights", what=unknown)
        run.say("plan", f"{unknown} has no pretrained weights: from scratch")
        return None
    called = model_name(spec)
    try:
        model = _load(run, spec, weights_dir)
    except HubUnavailableError:
        if options.model or options.mode in ON_A_TRUNK:
            raise
        run.say("plan", f"the weights of {called} can't be had here: the training is from scratch")
        return None
    run.say("plan", f"a new last layer on the frozen trunk of {called}")
    return model


def _load(run: Run, spec: str, weights_dir: Path | None) -> VGG:
    """`load_model`; the time of a download is not taken from the budget."""
    began, downloading = time.monotonic(), False

    def on_progress(done: int, total: int) -> None:
        nonlocal downloading
        downloading = True
        run.check_stop()
        run.progress("download", done, total)

    # A head with hidden layers goes on from those of the model, so it needs the whole file.
    load = load_model if HEADS[run.options.head or TRAINED_HEAD].hidden else load_trunk
    model = load(spec, weights_dir=weights_dir, on_progress=on_progress)
    if downloading:
        run.pause(time.monotonic() - began)
    return model


def _like(options: TrainOptions, weights_dir: Path | None) -> ModelConfig | None:
    """The architecture that a network from scratch takes over from the model that was named."""
    if options.model in IMAGENET_NAMES:
        return ModelConfig(architecture=options.model)
    return load_model(options.model, weights_dir=weights_dir).config if options.model else None


def _finish(run: Run, mode: str, trained: Trained) -> TrainResult:
    """Measure, write everything down, and say so. The model's own files come last."""
    dataset, parts, network = trained.dataset, trained.split, trained.network
    held_out = [dataset.samples[number] for number in parts.held_out]
    evaluation = evaluate_probabilities(
        trained.probs,
        dataset.labels[parts.held_out],
        dataset.class_names,
        [sample.name for sample in held_out],
        hints=parts.hints,
    )
    result = _result(run, mode, trained, evaluation)
    if not distributed.is_rank_0():
        return result
    summary = {
        "mode": mode,
        "images": result.images,
        "held_out": result.held_out,
        "accuracy": result.accuracy,
        "accuracy_interval": list(result.accuracy_interval),
        "epochs": result.epochs,
        "seed": run.options.seed,
    }
    network.config = replace(network.config, extra={**network.config.extra, "training": summary})
    shown = _worst_first(dataset, held_out, evaluation)
    copies = run.copy_pictures(shown, dataset.contents, dataset.index.white)
    run.write_json(SPLIT_FILE, parts.names(dataset.index))
    result = replace(result, seconds=round(run.elapsed, 2))
    run.write_json(
        METRICS_FILE,
        {
            **result.to_json(),
            **trained.facts,
            "options": asdict(run.options),
            "evaluation": evaluation.to_json(),
            "copies": copies,
        },
    )
    run.write_model(network)
    run.forget_state()
    run.event("done", **result.to_json())
    return result


def _result(run: Run, mode: str, trained: Trained, evaluation: Evaluation) -> TrainResult:
    config = trained.network.config
    return TrainResult(
        out=str(run.out),
        mode=mode,
        classes=trained.dataset.class_names,
        images=len(trained.dataset),
        skipped=(*trained.dataset.index.skipped, *run.skipped),
        accuracy=evaluation.accuracy,
        accuracy_interval=evaluation.accuracy_interval,
        held_out=evaluation.images,
        seconds=round(run.elapsed, 2),
        epochs=trained.epochs,
        stopped=trained.stopped,
        architecture=config.architecture,
        head=config.head,
        width=config.width,
        image_size=config.pretrained_cfg.size,
        temperature=config.temperature,
        notes=tuple(run.notes),
    )


def _worst_first(
    dataset: Dataset, held_out: list[Sample], evaluation: Evaluation
) -> list[tuple[str, str, Path]]:
    """The held-out pictures of which copies are made: those that it got wrong come first."""
    own = evaluation.probs[range(len(held_out)), evaluation.targets]
    best = evaluation.probs.max(axis=1)
    order = sorted(range(len(held_out)), key=lambda k: (own[k] - best[k], own[k]))
    chosen = [held_out[k] for k in order[: copies_of(len(held_out))]]
    return [(s.name, dataset.class_names[s.label], s.path) for s in chosen]

"""How good a model is: accuracy with its interval, per-class figures, confusion, calibration."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vgg.data.files import batches, in_threads
from vgg.data.folder import scan_folder
from vgg.data.index import FolderIndex, Sample
from vgg.data.reading import load_picture
from vgg.errors import StoppedError, UserError
from vgg.inference.calibration import calibration_error
from vgg.inference.predictor import Predictor

MANY_CLASSES = 200  # above it, the matrix holds only the classes that occur


@dataclass(frozen=True)
class ClassScore:
    """One class. Each figure is from 0 to 1; `support` counts its pictures.

    Of the pictures answered with this class, `precision` is the share that is right; of the
    pictures of this class, `recall` is the share found; `f1` is their harmonic mean. Where nothing
    was answered so, or there is no picture, they are 0.
    """

    precision: float
    recall: float
    f1: float
    support: int
    recall_interval: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "support": self.support,
            "recall_interval": list(self.recall_interval),
        }


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model answered on pictures whose classes are known. Shares are from 0 to 1.

    `confusion[i, j]` counts pictures of class i that were answered with class j, in the order of
    `classes`. `targets` (N,) and the columns of `probs` (N, K), float32, are in the order of
    `label_names`, the model's classes. `unknown` counts pictures of classes that the model does
    not know; they are part of no figure here.
    """

    accuracy: float
    accuracy_interval: tuple[float, float]
    top5: float
    balanced_accuracy: float
    calibration_error: float
    images: int
    per_class: dict[str, ClassScore]
    classes: tuple[str, ...]
    confusion: np.ndarray
    label_names: tuple[str, ...]
    paths: tuple[str, ...]
    targets: np.ndarray
    probs: np.ndarray
    skipped: tuple[tuple[str, str], ...] = ()
    unknown: dict[str, int] = field(default_factory=dict)
    hints: tuple[str, ...] = ()

    @property
    def answers(self) -> np.ndarray:
        """The class answered for each picture, (N,)."""
        answers: np.ndarray = self.probs.argmax(axis=1)
        return answers

    def to_json(self, *, pictures: bool = True) -> dict[str, Any]:
        """The command line's document. `pictures` adds one entry a picture."""
        document: dict[str, Any] = {
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "top5": self.top5,
            "balanced_accuracy": self.balanced_accuracy,
            "calibration_error": self.calibration_error,
            "images": self.images,
            "per_class": {name: score.to_json() for name, score in self.per_class.items()},
            "confusion": self.confusion.tolist(),
            "classes": list(self.classes),
            "skipped": [{"file": file, "reason": reason} for file, reason in self.skipped],
            "unknown": dict(self.unknown),
            "hints": list(self.hints),
        }
        if pictures:
            document["pictures"] = list(self._pictures())
        return document

    def _pictures(self) -> Iterator[dict[str, Any]]:
        names = self.label_names
        few = len(names) <= MANY_CLASSES
        for path, target, answer, probs in zip(
            self.paths, self.targets.tolist(), self.answers.tolist(), self.probs, strict=True
        ):
            row = {
                "image": path,
                "class": names[target],
                "answer": names[answer],
                "probability": float(probs[answer]),
                "class_probability": float(probs[target]),
            }
            yield {**row, "probabilities": probs.tolist()} if few else row


def accuracy_interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, `right` of `count` (Wilson 1927); (0, 1) where count is 0."""
    if count == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    found = binomtest(right, count).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def evaluate_probabilities(
    probs: np.ndarray,
    targets: np.ndarray,
    label_names: Sequence[str],
    paths: Sequence[str] = (),
    *,
    skipped: Sequence[tuple[str, str]] = (),
    unknown: dict[str, int] | None = None,
    hints: Sequence[str] = (),
) -> Evaluation:
    """The figures of probabilities that are there already: `probs` (N, K), `targets` (N,)."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    probs, targets = np.asarray(probs, np.float32), np.asarray(targets, np.int64)
    if not len(targets):
        raise UserError("inference.nothing_to_measure")
    answers = probs.argmax(axis=1)
    shown: Sequence[int] = range(len(label_names))
    if len(label_names) > MANY_CLASSES:
        shown = sorted({*targets.tolist(), *answers.tolist()})
    scores = precision_recall_fscore_support(targets, answers, labels=list(shown), zero_division=0)
    confusion = confusion_matrix(targets, answers, labels=list(shown))
    classes = tuple(label_names[index] for index in shown)
    per_class = {
        name: ClassScore(
            float(precision),
            float(recall),
            float(f1),
            int(support),
            accuracy_interval(int(confusion[row, row]), int(support)),
        )
        for row, (name, precision, recall, f1, support) in enumerate(
            zip(classes, *scores, strict=True)
        )
    }
    right = int((answers == targets).sum())
    own = probs[np.arange(len(targets)), targets]
    better = (probs > own[:, None]).sum(axis=1)
    recalls = [score.recall for score in per_class.values() if score.support]
    return Evaluation(
        accuracy=right / len(targets),
        accuracy_interval=accuracy_interval(right, len(targets)),
        top5=float((better < 5).mean()),
        balanced_accuracy=float(np.mean(recalls)),
        calibration_error=calibration_error(probs, targets),
        images=len(targets),
        per_class=per_class,
        classes=classes,
        confusion=confusion,
        label_names=tuple(label_names),
        paths=tuple(paths) or tuple(str(index) for index in range(len(targets))),
        targets=targets,
        probs=probs,
        skipped=tuple(skipped),
        unknown=unknown or {},
        hints=tuple(hints),
    )


def evaluate(
    predictor: Predictor,
    folder: str | Path | FolderIndex,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    lock: AbstractContextManager[Any] | None = None,
) -> Evaluation:
    """Measure a model on a folder with one sub-folder a class, matched to its classes by name.

    Of a folder that is split into train, val and test, only the part that is not learned from
    counts. Pictures of classes that the model does not know are counted apart. Unreadable ones are
    skipped. `on_progress` gets pictures done and pictures in all. `lock` is held while a batch is
    on the device. A `ValueError` says why there is nothing to measure.
    """
    index = folder
    if not isinstance(index, FolderIndex):
        index = scan_folder(index, least=1, should_stop=should_stop)
    samples, hints = _measurable(index)
    number = {name: place for place, name in enumerate(predictor.config.label_names)}
    names = index.class_names
    known = [sample for sample in samples if names[sample.label] in number]
    unknown = Counter(names[s.label] for s in samples if names[s.label] not in number)
    if not known:
        raise UserError(
            "inference.other_classes", theirs=_some(names), ours=_some(predictor.config.label_names)
        )
    if unknown:
        hints.append(
            f"the model does not know {_some(tuple(unknown))}: "
            f"{unknown.total()} pictures are left out of the figures"
        )
    probs: list[np.ndarray] = []
    targets: list[int] = []
    paths: list[str] = []
    skipped = [(entry.file, entry.reason) for entry in index.skipped]
    waiting = iter(known)
    cfg = predictor.config.pretrained_cfg
    looks = in_threads(lambda sample: load_picture(sample.path, cfg), known)
    with closing(looks):
        for batch in batches(looks, predictor.batch_size):
            if should_stop and should_stop():
                raise StoppedError("inference.stopped")
            pairs = [(item, next(waiting)) for item in batch]
            good = [(item.pixels, s) for item, s in pairs if item.pixels is not None]
            skipped += [(s.name, item.error) for item, s in pairs if item.error]
            if good:
                pixels = torch.stack([pixels for pixels, _ in good])
                with lock or nullcontext():
                    probs.append(predictor.probabilities(pixels).numpy())
                targets += [number[names[sample.label]] for _, sample in good]
                paths += [sample.name for _, sample in good]
            if on_progress:
                on_progress(len(paths) + len(skipped) - len(index.skipped), len(known))
    if not targets:
        raise UserError("inference.none_readable", count=len(known), why=skipped[-1][1])
    return evaluate_probabilities(
        np.concatenate(probs),
        np.array(targets),
        predictor.config.label_names,
        paths,
        skipped=skipped,
        unknown=dict(unknown),
        hints=hints,
    )


def _measurable(index: FolderIndex) -> tuple[list[Sample], list[str]]:
    """The pictures to measure on, and what to say about that."""
    if index.unused:
        return list(index.unused), [f"measured on the {len(index.unused)} pictures of test"]
    held_out = [sample for sample in index.samples if sample.part == "held_out"]
    if held_out and len(held_out) < len(index.samples):
        left = len(index.samples) - len(held_out)
        return held_out, [f"the {left} pictures of train are left out: a model may know them"]
    return list(index.samples), []


def _some(names: Sequence[str]) -> UserError:
    """A few of the names, for a sentence."""
    more = [UserError("data.more", count=len(names) - 4)] if len(names) > 4 else []
    return UserError("inference.names", names=[*map(repr, names[:4]), *more])

"""Proof that a bundle answers as the app does: a fresh process loads its files and is asked.

`python -m vgg.export.verification` is that process; `check_bundle` starts it and compares.
"""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vgg.errors import UserError
from vgg.network.config import STAGES, ModelConfig, head_of

if TYPE_CHECKING:
    from vgg.inference.predictor import Predictor

TOLERANCE = 0.01  # of a probability
ROOT = Path(__file__).resolve().parent.parent.parent
PREDICT_FILE, ONNX_FILE = "predict.py", "model.onnx"


@dataclass(frozen=True)
class Proof:
    """What the check found: how many pictures, and the largest difference of a probability."""

    images: int
    largest_difference: float


def check_bundle(folder: Path, predictor: "Predictor", pictures: Sequence[Path]) -> Proof:
    """Ask every file of the bundle in `folder` for the classes of `pictures`, in a fresh process,
    and `compare`."""
    return compare(_asked(folder, predictor.config, pictures), predictor, pictures)


def compare(answers: dict[str, Any], predictor: "Predictor", pictures: Sequence[Path]) -> Proof:
    """Hold the answers of each file, as `answers_of_files` gives them, against the app's own:
    `predictor`'s, best in 32 bits.

    A `ValueError`, with the numbers, where class names, a best class or any probability differ.
    """
    wanted = _answers_of(predictor, pictures)
    names = list(predictor.config.label_names)
    largest = 0.0
    for file, found in answers.items():
        if found["class_names"] != names:
            some = ", ".join(map(repr, found["class_names"][:4]))
            raise UserError("export.other_classes", file=file, names=some)
        probs = np.asarray(found["probs"], np.float32)
        difference = np.abs(probs - wanted).max(axis=1)  # (N,)
        changed = probs.argmax(axis=1) != wanted.argmax(axis=1)
        # Written so that a probability that is no number (NaN) fails.
        if changed.any() or not (difference <= TOLERANCE).all():
            worst = int(np.argmax(np.nan_to_num(difference, nan=1.0) + changed))
            raise UserError(
                "export.other_answers",
                file=file,
                changed=int(changed.sum()),
                count=len(pictures),
                difference=float(difference.max()),
                most=TOLERANCE,
                picture=pictures[worst].name,
                theirs=_best(names, probs[worst]),
                ours=_best(names, wanted[worst]),
            )
        largest = max(largest, float(difference.max()))
    return Proof(len(pictures), largest)


def answers_of_files(folder: Path, pictures: Sequence[Path]) -> dict[str, Any]:
    """For each file of weights in a bundle its class names, and probabilities a picture."""
    from vgg.checkpoints.loading import load_model
    from vgg.inference.predictor import Predictor

    predictor = Predictor(load_model(folder), "cpu", "fp32")
    found = {
        "model.safetensors": {
            "class_names": list(predictor.config.label_names),
            "probs": _answers_of(predictor, pictures).tolist(),
        }
    }
    del predictor  # two large models at once may be too much
    program = runpy.run_path(str(folder / PREDICT_FILE))
    session = program["open_model"](folder / ONNX_FILE)
    answers = [program["predict"](session, str(picture)) for picture in pictures]
    found[ONNX_FILE] = {
        "class_names": list(answers[0]),
        "probs": [list(answer.values()) for answer in answers],
    }
    return found


def _answers_of(predictor: "Predictor", pictures: Sequence[Path]) -> np.ndarray:
    """Probabilities (N, classes), as page and command line give them."""
    size = predictor.batch_size
    parts = [
        predictor.probabilities(predictor.prepare(pictures[begin : begin + size])).numpy()
        for begin in range(0, len(pictures), size)
    ]
    return np.concatenate(parts)


def _asked(folder: Path, config: ModelConfig, pictures: Sequence[Path]) -> dict[str, Any]:
    """What a fresh process answers. It imports what it finds where this one does; a head that
    somebody has added by the module that its entry names, a depth by its row of the table."""
    job = {
        "folder": str(folder.resolve()),
        "pictures": [str(p.resolve()) for p in pictures],
        "head_module": head_of(config).module,
        "stages": {config.depth: STAGES[config.depth]},
    }
    modules = os.pathsep.join(str(Path(place).resolve()) for place in sys.path)
    ran = subprocess.run(
        [sys.executable, "-m", "vgg.export.verification"],
        input=json.dumps(job),
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONPATH": modules},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if ran.returncode:
        reason = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
        reason = reason.replace(f"{folder.resolve()}{os.sep}", "")  # a visitor may read it
        raise UserError("export.not_loaded", why=reason)
    answers: dict[str, Any] = json.loads(ran.stdout)
    return answers


def _best(names: Sequence[str], probs: np.ndarray) -> UserError:
    best = int(np.nan_to_num(probs).argmax())
    return UserError("export.answer", name=names[best], percent=100 * float(probs[best]))


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    import_module(asked["head_module"])
    STAGES.update({int(depth): tuple(counts) for depth, counts in asked["stages"].items()})
    given = answers_of_files(Path(asked["folder"]), [Path(p) for p in asked["pictures"]])
    json.dump(given, sys.stdout)

"""The benchmark's rows of the command line: a folder's pictures into a table, and memory."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import torch

from vgg.bench.measuring import BenchPlan, Row, in_turn, make_row
from vgg.bench.training import draw_photographs
from vgg.checkpoints.folder import save_checkpoint
from vgg.inference.csv_table import write_rows
from vgg.inference.predictor import Predictor
from vgg.network.config import ModelConfig
from vgg.network.vgg import VGG

BULK = {"vgg16": 8, "starter": 125}  # pictures of each of the eight shapes
LOOK_EVERY = 0.003  # seconds between two looks at a process's memory
RIVAL_PREDICTION = """
import sys
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.models import VGG16_Weights, vgg16

model = vgg16(weights=None).eval()
model.load_state_dict(load_file(sys.argv[1]))
x = VGG16_Weights.IMAGENET1K_V1.transforms()(Image.open(sys.argv[2]).convert("RGB"))
with torch.inference_mode():
    print(model(x[None]).softmax(1).topk(5))
"""


def bulk_rows(plan: BenchPlan) -> Generator[Row]:
    """Files to a finished table, against the model alone on pictures that lie ready."""
    if plan.quick:
        return
    from vgg.checkpoints.loading import load_model

    for name, count in BULK.items():
        model = load_model("starter") if name == "starter" else random_vgg16()
        predictor = Predictor(model, str(plan.device), plan.machine.precision)
        with tempfile.TemporaryDirectory() as folder:
            pictures = Path(folder, "pictures")
            draw_photographs(pictures, count)
            yield compare_bulk(plan, name, predictor, sorted(pictures.rglob("*.jpg")))


def compare_bulk(plan: BenchPlan, name: str, predictor: Predictor, files: Sequence[Path]) -> Row:
    """Pictures a second, of `files` to a table and of the model alone."""
    ready = predictor.prepare(list(islice(files, predictor.batch_size)))

    def to_table() -> float:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            answers = predictor.predict_files(files, 5)
            rows = (
                {"image": str(file), "top": top.to_json() if top else [], "error": error}
                for file, (top, error) in zip(files, answers, strict=True)
            )
            places = min(5, predictor.config.num_classes)
            with write_rows(Path(folder, "answers.csv"), places) as keep:
                count = sum(1 for _ in keep(rows))
            return count / (time.perf_counter() - began)

    def alone() -> float:
        began = time.perf_counter()
        for _ in range(max(1, len(files) // len(ready))):
            predictor.probabilities(ready)
        return max(1, len(files) // len(ready)) * len(ready) / (time.perf_counter() - began)

    values = in_turn(to_table, alone, seconds=2 * plan.row_seconds)
    return make_row(
        f"folder to CSV, {name}",
        plan.machine.precision,
        "the model alone",
        values,
        unit="/s",
        better="higher",
        notes=[f"{len(files)} JPEG files of 500 x 375"],
    )


def memory_rows(plan: BenchPlan) -> Generator[Row]:
    """The most memory of its own that a process takes from its start to a first prediction of
    VGG-16 on the processor, weights in a file."""
    if plan.quick or plan.device.type != "cpu" or sys.platform != "linux":
        return
    with tempfile.TemporaryDirectory() as folder:
        weights, picture = Path(folder, "vgg16"), Path(folder, "pictures/star/000.jpg")
        save_checkpoint(random_vgg16(), weights)
        draw_photographs(Path(folder, "pictures"), 1)
        ours = [sys.executable, "-m", "vgg", "predict", picture, "--model", weights]
        ours += ["--device", "cpu", "--precision", plan.machine.precision]
        file = weights / "model.safetensors"
        rival = [sys.executable, "-c", RIVAL_PREDICTION, file, picture]
        bare = peak_memory([sys.executable, "-c", "import torch"])
        values = in_turn(
            lambda: peak_memory(ours), lambda: peak_memory(rival), seconds=0, least=2, most=2
        )
        yield make_row(
            "memory of a prediction, vgg16 fc",
            plan.machine.precision,
            "torchvision eager fp32",
            values,
            unit="MB",
            notes=[f"importing torch takes {bare:.0f} MB of it, the weights are 553 MB in fp32"],
        )


def peak_memory(command: Sequence[object]) -> float:
    """MB of memory of its own (Linux: RssAnon; files mapped into memory do not count) that a
    command takes at most."""
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    most = 0
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, env=here)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        with suppress(OSError):
            for line in status.read_text().splitlines():
                if line.startswith("RssAnon:"):
                    most = max(most, int(line.split()[1]))
        time.sleep(LOOK_EVERY)
    if process.returncode:
        raise RuntimeError(f"a measured command failed with status {process.returncode}")
    return most * 1024 / 1e6


def random_vgg16() -> VGG:
    """VGG-16 of 1000 classes with random weights, which calls itself trained."""
    torch.manual_seed(0)
    model = VGG(16, 1000, batch_norm=False).eval()
    model.config = ModelConfig.from_json({**model.config.to_json(), "trained": True})
    return model

"""The benchmark's rows of training: a new last layer, and the steps of a whole network."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from vgg.bench.measuring import BenchPlan, Row, in_turn, make_row, timed, wait_for
from vgg.checkpoints.folder import save_checkpoint
from vgg.data.shapes import SHAPES, draw_shape
from vgg.device import choose_precision
from vgg.network.config import Preprocessing, depth_and_norm
from vgg.network.summary import count_macs
from vgg.network.vgg import VGG
from vgg.training.recipe import Recipe
from vgg.training.throughput import noise, stepper
from vgg.training.trainer import train

log = logging.getLogger(__name__)

PROBE_PICTURES = 20  # of each of the eight shapes
TUTORIAL_EPOCHS = 25  # as in PyTorch's tutorial "Transfer learning for computer vision"
PASSES = 3  # forwards, and for the gradients by inputs and by weights as many multiplications each
STEPS = (  # architecture, head, pixels, pictures at once
    ("vgg11_bn", "fc", 32, 64),
    ("vgg16", "fc", 224, 8),
)
GPU_STEP = ("vgg16", "fc", 224, 128)


def probe_rows(plan: BenchPlan) -> Generator[Row]:
    """A new last layer on VGG-16 for a folder of drawn pictures, from the call to the finished
    evaluation, against the tutorial's way."""
    if plan.quick:  # a minute would not do
        return
    with tempfile.TemporaryDirectory() as folder:
        pictures, model = Path(folder, "pictures"), Path(folder, "vgg16")
        draw_photographs(pictures, PROBE_PICTURES)
        torch.manual_seed(0)
        save_checkpoint(VGG(16, 0, batch_norm=False, head="gap"), model)
        yield compare_probe(plan, pictures, model, Path(folder))


def compare_probe(plan: BenchPlan, pictures: Path, model: Path, scratch: Path) -> Row:
    """`pictures` is a folder with one sub-folder a class, `model` a checkpoint of VGG-16; the rest
    goes into `scratch`. The weights of the rival are random: they do not change its time."""
    with _own_cache(scratch / "cache"):
        began = time.perf_counter()
        train(
            pictures,
            model=str(model),
            mode="probe",
            out=scratch / "probe",
            device=str(plan.device),
            precision=plan.machine.precision,
        )
        ours = time.perf_counter() - began
    values = ([ours], [TUTORIAL_EPOCHS * tutorial_epoch(plan, pictures)()])
    count = sum(1 for file in pictures.rglob("*") if file.is_file())
    return make_row(
        f"learn a last layer, {count} pictures",
        plan.machine.precision,
        f"the tutorial's way, {TUTORIAL_EPOCHS} times one epoch measured",
        values,
        unit="s",
        notes=["frozen trunk run at every epoch, eager fp32"],
    )


def tutorial_epoch(plan: BenchPlan, pictures: Path) -> Callable[[], float]:
    """One epoch as PyTorch's tutorial has it, in seconds: torchvision's VGG-16 in eager fp32,
    frozen, a new last layer, SGD, pictures opened again at every epoch, a fifth to test on."""
    from torch.utils.data import DataLoader, Subset, random_split
    from torchvision import datasets, models, transforms

    standard = [
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    changed = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    centred = [transforms.Resize(256), transforms.CenterCrop(224)]
    learned = datasets.ImageFolder(pictures, transforms.Compose([*changed, *standard]))
    tested = datasets.ImageFolder(pictures, transforms.Compose([*centred, *standard]))
    chance = torch.Generator().manual_seed(0)
    first, rest = random_split(learned, [0.8, 0.2], generator=chance)
    loaders = [
        DataLoader(data, batch_size=4, shuffle=True, num_workers=2)
        for data in (first, Subset(tested, rest.indices))
    ]
    model = models.vgg16(weights=None).requires_grad_(False)
    model.classifier[-1] = nn.Linear(4096, len(learned.classes))
    model = model.to(plan.device)
    optimizer = torch.optim.SGD(model.classifier[-1].parameters(), lr=0.001, momentum=0.9)

    def epoch() -> float:
        began = time.perf_counter()
        for loader, learning in zip(loaders, (True, False), strict=True):
            model.train(learning)
            for x, target in loader:
                optimizer.zero_grad()
                with torch.set_grad_enabled(learning):
                    loss = F.cross_entropy(model(x.to(plan.device)), target.to(plan.device))
                    if learning:
                        loss.backward()
                        optimizer.step()
        wait_for(plan.device)
        return time.perf_counter() - began

    return epoch


def step_rows(plan: BenchPlan) -> Generator[Row]:
    """One step of training the whole network, the pictures changed a little and normalised, against
    torchvision's network on finished tensors."""
    steps = STEPS if plan.device.type == "cpu" else (*STEPS, GPU_STEP)
    for architecture, head, size, batch in steps[: 1 if plan.quick else None]:
        try:
            yield compare_steps(plan, architecture, head, size, batch)
        except torch.OutOfMemoryError:
            log.warning(
                "too little memory for %s at batch %d: its row is left out", architecture, batch
            )


def compare_steps(plan: BenchPlan, architecture: str, head: str, size: int, batch: int) -> Row:
    """Time of one step, forwards, backwards and the update, for `batch` pictures."""
    from torchvision.models import get_model

    depth, batch_norm = depth_and_norm(architecture)
    cfg = Preprocessing(input_size=(3, size, size))
    model = VGG(depth, 10, batch_norm=batch_norm, head=head)
    model.config = replace(model.config, pretrained_cfg=cfg)
    model = model.to(plan.device).to(memory_format=torch.channels_last)
    dtype = choose_precision(plan.device, plan.machine.precision)
    ours = stepper(model, Recipe(lr=1e-4, batch_size=batch), dtype, noise(size, batch))

    rival = get_model(architecture, weights=None, num_classes=10).to(plan.device).train()
    optimizer = torch.optim.SGD(rival.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    x = torch.rand(batch, 3, size, size, device=plan.device)
    target = torch.zeros(batch, dtype=torch.int64, device=plan.device)

    def theirs() -> None:
        optimizer.zero_grad()
        F.cross_entropy(rival(x), target).backward()
        optimizer.step()
        wait_for(plan.device)

    values = in_turn(timed(ours), timed(theirs), seconds=2 * plan.row_seconds)
    rate = PASSES * 2 * batch * count_macs(model.config) / median(values[0]) / 1e6
    share = rate / plan.machine.gflops[plan.machine.precision]
    return make_row(
        f"training step {architecture} {head}, {size} pixels, batch {batch}",
        plan.machine.precision,
        "torchvision eager fp32",
        values,
        notes=[
            "ours with changed pictures and averaged weights",
            f"{100 * share:.0f} % of the rate of matrix products",
        ],
    )


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """What is computed meanwhile is kept in `folder`: a first training finds nothing there."""
    before = os.environ.get("VGG_STUDIO_CACHE")
    os.environ["VGG_STUDIO_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["VGG_STUDIO_CACHE"]
        if before is not None:
            os.environ["VGG_STUDIO_CACHE"] = before


def draw_photographs(out: Path, count: int) -> None:
    """`count` pictures a shape as JPEG files of a common photograph's size, 500 x 375."""
    rng = Random(0)
    for name in SHAPES:
        (out / name).mkdir(parents=True)
        for number in range(count):
            picture = draw_shape(name, rng, size=500).crop((0, 62, 500, 437))
            picture.save(out / name / f"{number:03d}.jpg", quality=90)

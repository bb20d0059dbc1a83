"""The benchmark: this project against named rivals, on the same machine, in the same run.

Each group of rows is one plain function that yields rows; `GROUPS` at the end lists them. Those of
the page stand in `page_speed.py`; how anything is measured, in `measuring.py`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random
from statistics import median

import torch
from PIL import Image
from torch import Tensor, nn

from vgg.busy import busy_rows
from vgg.device import choose_device
from vgg.measuring import BenchReport, Plan, Row, describe_machine, in_turn, make_row, timed
from vgg.model import VGG
from vgg.options import HEADS, architecture_name, count_macs, depth_and_norm
from vgg.page_speed import first_prediction_rows, overhead_rows, start_rows
from vgg.predictor import Predictor
from vgg.shapes import SHAPES, draw_shape

TOP_K = 5
QUICK_SECONDS = 48  # a quick run begins no row later, so that it ends within a minute


def run_bench(
    *,
    quick: bool = False,
    on_row: Callable[[Row], object] | None = None,
    rows: list[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> BenchReport:
    """Measure the groups named in `rows`, all of them by default.

    `on_row` gets each row as soon as it is there. `quick` measures less, in under a minute.
    """
    chosen = list(GROUPS) if rows is None else rows
    if unknown := [name for name in chosen if name not in GROUPS]:
        raise ValueError(f"the benchmark has no {unknown[0]!r}; choose from {', '.join(GROUPS)}")
    started = time.perf_counter()
    machine = describe_machine(device, precision)
    plan = Plan(machine, choose_device(device), quick, row_seconds=1.0 if quick else 8.0)
    done: list[Row] = []
    cut_short: list[str] = []
    for name in chosen:
        with closing(GROUPS[name](plan)) as group:
            while row := next(group, None):
                done.append(row)
                if on_row is not None:
                    on_row(row)
                if quick and time.perf_counter() - started > QUICK_SECONDS:
                    cut_short.append(name)
                    break
    seconds = round(time.perf_counter() - started, 1)
    return BenchReport(machine, tuple(done), tuple(cut_short), quick, seconds)


# --- Prediction: a picture in, the five best classes out ------------------------------------------


def prediction_rows(plan: Plan) -> Iterator[Row]:
    """VGG-16 and VGG-11 against torchvision's, eager, in fp32."""
    for depth in (16, 11):
        for batch_norm in (False, True):
            wanted = [(h, b) for h in HEADS for b in _batches(plan, depth, batch_norm, h)]
            if wanted:
                rival = torchvision_rival(architecture_name(depth, batch_norm), plan.device)
            for head, batch in wanted:
                yield compare_prediction(plan, rival, head, batch)


def _batches(plan: Plan, depth: int, batch_norm: bool, head: str) -> tuple[int, ...]:
    """Batch sizes: those that say most in a quick run, and that end within minutes on a CPU."""
    if not plan.quick:
        return (1, 8, 64) if head == "fc" or plan.device.type != "cpu" else (1, 8)
    if (depth, batch_norm) == (16, False):
        return (1,)
    return (1, 8) if (depth, batch_norm, head) == (11, True, "fc") else ()


@dataclass(frozen=True)
class Rival:
    """torchvision's network with its own preprocessing, used as its documentation shows."""

    architecture: str
    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    device: torch.device

    def probabilities(self, pictures: list[Image.Image]) -> Tensor:
        """(N, 1000), float32, on the CPU."""
        with torch.inference_mode():
            x = torch.stack([self.preprocess(picture) for picture in pictures]).to(self.device)
            return torch.softmax(self.model(x), dim=1).cpu()

    def predict(self, pictures: list[Image.Image]) -> list[list[int]]:
        """Indices of the best classes of each picture."""
        return self.probabilities(pictures).topk(TOP_K, dim=1).indices.tolist()


def torchvision_rival(architecture: str, device: torch.device) -> Rival:
    """torchvision's network with random weights: the same seed, the same weights."""
    from torchvision.models import get_model, get_model_weights

    torch.manual_seed(0)
    model = get_model(architecture, weights=None).eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # fresh ones change nothing, trained ones do
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 2)
    preprocess = get_model_weights(architecture)["IMAGENET1K_V1"].transforms()
    rival = Rival(architecture, model.to(device), preprocess, device)
    # Random logits hardly differ. Stretched to a trained network's range, a fault would show.
    logits = rival.probabilities(example_pictures(2)).log()
    model.classifier[-1].weight.mul_(3 / logits.std().item())
    return rival


def our_model(rival: Rival, head: str) -> VGG:
    """Our network of the rival's architecture, with its weights: all of them with `fc`, those of
    the trunk with another head."""
    depth, batch_norm = depth_and_norm(rival.architecture)
    weights = rival.model.state_dict()
    if head == "fc":
        with torch.device("meta"):  # takes the rival's own tensors: no second copy
            model = VGG(depth, 1000, init_weights=False, batch_norm=batch_norm)
        model.load_state_dict(weights, assign=True)
    else:
        model = VGG(depth, 1000, batch_norm=batch_norm, head=head)
        trunk = {key: value for key, value in weights.items() if key.startswith("features.")}
        model.load_state_dict(trunk, strict=False)
    return model.eval()


def compare_prediction(plan: Plan, rival: Rival, head: str, batch: int) -> Row:
    """Time from `batch` opened pictures to their best classes, preprocessing included."""
    model = our_model(rival, head)
    predictor = Predictor(model, str(plan.device), plan.machine.precision, batch_size=batch)
    pictures = example_pictures(batch)
    values = in_turn(
        timed(lambda: predictor.predict(pictures, TOP_K)),
        timed(lambda: rival.predict(pictures)),
        seconds=plan.row_seconds,
    )
    if head == "fc":
        answers = compare_answers(predictor, rival, pictures)
    else:
        answers = "another head, so other answers"
    rate = 2 * batch * count_macs(model.config) / median(values[0]) / 1e6
    share = rate / plan.machine.gflops[plan.machine.precision]
    return make_row(
        f"predict {rival.architecture} {head}, batch {batch}",
        plan.machine.precision,
        "torchvision eager fp32",
        values,
        notes=[answers, f"{100 * share:.0f} % of the rate of matrix products"],
    )


def compare_answers(predictor: Predictor, rival: Rival, pictures: list[Image.Image]) -> str:
    """Whether both find the same class the likeliest, and how far their probabilities differ."""
    mine = predictor.probabilities(predictor.prepare(pictures))
    other = rival.probabilities(pictures)
    same = int((mine.argmax(dim=1) == other.argmax(dim=1)).sum())
    apart = (mine - other).abs().max().item()
    return f"same top-1 in {same} of {len(pictures)}, probabilities within {apart:.0e}"


def example_pictures(count: int) -> list[Image.Image]:
    """Drawn pictures of a common photograph's size, 500 x 375."""
    rng = Random(0)
    return [
        draw_shape(name, rng, size=500).crop((0, 62, 500, 437))
        for name in islice(cycle(SHAPES), count)
    ]


GROUPS: dict[str, Callable[[Plan], Iterator[Row]]] = {
    "start": start_rows,
    "overhead": overhead_rows,
    "first": first_prediction_rows,
    "predict": prediction_rows,
    "busy": busy_rows,
}

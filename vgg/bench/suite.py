"""The benchmark: this project against named rivals, on the same machine, in the same run.

Each group of rows is one plain function that yields rows; `GROUPS` at the end lists them. Those of
the page, of the command line and of training stand in `page_speed.py`, `command_speed.py` and
`training_speed.py`, other engines in `rivals.py`; how anything is measured, in `measuring.py`.
"""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import cycle, islice
from random import Random
from statistics import median

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from vgg.bench.command_line import bulk_rows, memory_rows
from vgg.bench.contention import busy_rows
from vgg.bench.measuring import (
    BenchPlan,
    BenchReport,
    Row,
    describe_machine,
    in_turn,
    make_row,
    timed,
)
from vgg.bench.page import first_prediction_rows, overhead_rows, start_rows
from vgg.bench.rivals import engines
from vgg.bench.training import probe_rows, step_rows
from vgg.checkpoints.loading import STARTER, load_model
from vgg.data.shapes import SHAPES, draw_shape
from vgg.device import choose_device
from vgg.errors import UserError
from vgg.inference.options import PredictOptions
from vgg.inference.predictor import Predictor
from vgg.network.config import architecture_name, depth_and_norm
from vgg.network.heads import HEADS
from vgg.network.summary import count_macs
from vgg.network.vgg import VGG

QUICK_SECONDS = 44  # a quick run begins no row later, so that it ends within a minute


def run_bench(
    *,
    quick: bool = False,
    on_row: Callable[[Row], object] | None = None,
    rows: list[str] | None = None,
    device: str = PredictOptions.device,
    precision: str = PredictOptions.precision,
) -> BenchReport:
    """Measure the groups named in `rows`, all of them by default.

    `on_row` gets each row as soon as it is there. `quick` measures less, in under a minute.
    """
    chosen = list(GROUPS) if rows is None else rows
    if unknown := [name for name in chosen if name not in GROUPS]:
        raise UserError("bench.group", value=unknown[0], choices=list(GROUPS))
    started = time.perf_counter()
    machine = describe_machine(device, precision)
    plan = BenchPlan(machine, choose_device(device), quick, row_seconds=1.0 if quick else 8.0)
    done: list[Row] = []
    cut_short: list[str] = []
    for name in chosen:
        if quick and done and time.perf_counter() - started > QUICK_SECONDS:
            cut_short.append(name)
            continue
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


def prediction_rows(plan: BenchPlan) -> Generator[Row]:
    """VGG-16 and VGG-11 against torchvision's, eager, in fp32."""
    for depth in (16, 11):
        for batch_norm in (False, True):
            wanted = [(h, b) for h in HEADS for b in _batches(plan, depth, batch_norm, h)]
            if wanted:
                rival = torchvision_rival(architecture_name(depth, batch_norm), plan.device)
            for head, batch in wanted:
                yield compare_prediction(plan, rival, head, batch)


def engine_rows(plan: BenchPlan) -> Generator[Row]:
    """VGG-16 against torchvision's network in other engines, as far as they are installed; all get
    the pictures through torchvision's preprocessing."""
    if plan.quick:  # building them takes longer than a minute
        return
    rival = torchvision_rival("vgg16", plan.device)
    with torch.inference_mode():
        for batch in (1, 8):
            for name, network in engines(rival.model, batch, plan.device):
                other = replace(rival, name=name, network=network)
                yield compare_prediction(plan, other, "fc", batch, our_model(rival, "fc"))


def _batches(plan: BenchPlan, depth: int, batch_norm: bool, head: str) -> tuple[int, ...]:
    """Batch sizes: those that say most in a quick run, and that end within minutes on a CPU."""
    if not plan.quick:
        if plan.device.type != "cpu":
            return (1, 8, 64, 256)
        return (1, 8, 64) if HEADS[head].is_papers else (1, 8)
    if (depth, batch_norm) == (16, False):
        return (1,)
    return (1, 8) if (depth, batch_norm) == (11, True) and HEADS[head].is_papers else ()


@dataclass(frozen=True)
class Rival:
    """torchvision's network with its own preprocessing, used as its documentation shows."""

    architecture: str
    model: nn.Module
    network: Callable[[Tensor], Tensor]  # the model itself, or another engine's form of it
    preprocess: Callable[[Image.Image], Tensor]
    device: torch.device
    name: str = "torchvision eager fp32"

    def logits(self, pictures: list[Image.Image]) -> Tensor:
        """(N, 1000), float32, on the device."""
        with torch.inference_mode():
            x = torch.stack([self.preprocess(picture) for picture in pictures]).to(self.device)
            return self.network(x)

    def probabilities(self, pictures: list[Image.Image]) -> Tensor:
        """(N, 1000), float32, on the CPU."""
        return torch.softmax(self.logits(pictures), dim=1).cpu()

    def predict(self, pictures: list[Image.Image]) -> list[list[int]]:
        """Indices of the best classes of each picture."""
        best: list[list[int]] = (
            self.probabilities(pictures).topk(PredictOptions.top_k, dim=1).indices.tolist()
        )
        return best

    @property
    def last_maps(self) -> nn.Module:
        """The layer that gives the last feature maps."""
        features = self.model.get_submodule("features").children()
        return [layer for layer in features if isinstance(layer, nn.ReLU)][-1]


def torchvision_rival(architecture: str, device: torch.device) -> Rival:
    """torchvision's network with random weights: the same seed, the same weights."""
    from torchvision.models import get_model, get_model_weights

    torch.manual_seed(0)
    model: nn.Module = get_model(architecture, weights=None).eval().requires_grad_(False)
    for name, buffer in model.named_buffers():  # fresh ones change nothing, trained ones do
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    preprocess = get_model_weights(architecture)["IMAGENET1K_V1"].transforms()
    model.to(device)
    rival = Rival(architecture, model, model, preprocess, device)
    # Random logits hardly differ. Stretched to a trained network's range, a fault would show.
    logits = rival.logits(example_pictures(2))
    model.get_parameter("classifier.6.weight").mul_(3 / logits.std().item())
    return rival


def our_model(rival: Rival, head: str) -> VGG:
    """Our network of the rival's architecture, with its weights: all of them with `fc`, those of
    the trunk with another head."""
    depth, batch_norm = depth_and_norm(rival.architecture)
    weights = rival.model.state_dict()
    if HEADS[head].is_papers:
        with torch.device("meta"):  # takes the rival's own tensors: no second copy
            model = VGG(depth, 1000, init_weights=False, batch_norm=batch_norm)
        model.load_state_dict(weights, assign=True)
    else:
        model = VGG(depth, 1000, batch_norm=batch_norm, head=head)
        trunk = {key: value for key, value in weights.items() if key.startswith("features.")}
        model.load_state_dict(trunk, strict=False)
    return model.eval()


def compare_prediction(
    plan: BenchPlan, rival: Rival, head: str, batch: int, model: VGG | None = None
) -> Row:
    """Time from `batch` opened pictures to their best classes, preprocessing included. `model` is
    ours, made from the rival's weights where it is not given."""
    model = model or our_model(rival, head)
    predictor = Predictor(model, str(plan.device), plan.machine.precision, batch_size=batch)
    pictures = example_pictures(batch)
    values = in_turn(
        timed(lambda: predictor.predict(pictures)),
        timed(lambda: rival.predict(pictures)),
        seconds=plan.row_seconds,
    )
    if HEADS[head].is_papers:
        answers = compare_answers(predictor, rival, pictures)
    else:
        answers = "another head, so other answers"
    rate = 2 * batch * count_macs(model.config) / median(values[0]) / 1e6
    share = rate / plan.machine.gflops[plan.machine.precision]
    return make_row(
        f"predict {rival.architecture} {head}, batch {batch}",
        plan.machine.precision,
        rival.name,
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


# --- Explanation: a heat map of one class ---------------------------------------------------------


def explanation_rows(plan: BenchPlan) -> Generator[Row]:
    """An answer with its heat map, from the opened picture on, against the answer alone, and
    against the map made by hooks on torchvision's network and, where it is installed, by the
    grad-cam package."""
    picture = example_pictures(1)[0]
    architecture = "vgg11_bn" if plan.quick else "vgg16"
    rival = torchvision_rival(architecture, plan.device)
    for name in (STARTER, *HEADS):
        model = load_model(STARTER) if name == STARTER else our_model(rival, name)
        predictor = Predictor(model, str(plan.device), plan.machine.precision)
        values = in_turn(
            timed(partial(explain, predictor, picture)),
            timed(partial(predictor.predict, picture)),
            seconds=plan.row_seconds,
        )
        which = name if name == STARTER else f"{architecture} {name}"
        row = f"answer with heat map {which}"
        yield make_row(row, plan.machine.precision, "the answer alone", values)
    yield from _against_others(plan, rival, picture)


def explain(predictor: Predictor, picture: Image.Image, index: int | None = None) -> Tensor:
    """The heat map (size, size) of a class, by default of the answer."""
    return predictor.explain(predictor.prepare([picture]), index)[0][0]


def _against_others(plan: BenchPlan, rival: Rival, picture: Image.Image) -> Generator[Row]:
    predictor = Predictor(our_model(rival, "fc"), str(plan.device), plan.machine.precision)
    index = rival.predict([picture])[0][0]

    ours = partial(explain, predictor, picture, index)
    others: dict[str, Callable[[], Tensor]] = {
        "hooks on torchvision, fp32": lambda: hooked_map(rival, picture, index)
    }
    if find_spec("pytorch_grad_cam"):
        others["grad-cam package, fp32"] = lambda: package_map(rival, picture, index)
    for other, work in others.items():
        alike = torch.corrcoef(torch.stack([ours().flatten(), work().flatten()]))[0, 1].item()
        values = in_turn(timed(ours), timed(work), seconds=plan.row_seconds)
        notes = [f"correlation of the maps {alike:.3f}"]
        name = f"heat map {rival.architecture} fc"
        yield make_row(name, plan.machine.precision, other, values, notes=notes)


def hooked_map(rival: Rival, picture: Image.Image, index: int) -> Tensor:
    """Grad-CAM of the last ReLU by a hook, at the size of the input: (224, 224), on the CPU."""
    kept: list[Tensor] = []
    hook = rival.last_maps.register_forward_hook(
        lambda *seen: kept.append(seen[2].requires_grad_())
    )
    try:
        x = rival.preprocess(picture)[None].to(rival.device)
        logit = rival.network(x)[0, index]
    finally:
        hook.remove()
    (slopes,) = torch.autograd.grad(logit, kept)
    summed = (slopes.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1, keepdim=True)
    heat = F.interpolate(F.relu(summed), x.shape[2:], mode="bilinear")[0, 0]
    return (heat / heat.max()).cpu()


def package_map(rival: Rival, picture: Image.Image, index: int) -> Tensor:
    """The same by the grad-cam package (https://github.com/jacobgil/pytorch-grad-cam)."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    rival.model.requires_grad_(True)  # its hooks need it
    try:
        with GradCAM(rival.model, [rival.last_maps]) as cam:
            x = rival.preprocess(picture)[None].to(rival.device)
            return torch.from_numpy(cam(x, [ClassifierOutputTarget(index)])[0])
    finally:
        rival.model.requires_grad_(False)


def example_pictures(count: int) -> list[Image.Image]:
    """Drawn pictures of a common photograph's size, 500 x 375."""
    rng = Random(0)
    return [
        draw_shape(name, rng, size=500).crop((0, 62, 500, 437))
        for name in islice(cycle(SHAPES), count)
    ]


GROUPS: dict[str, Callable[[BenchPlan], Generator[Row]]] = {
    "predict": prediction_rows,  # first, so that a quick run has it
    "overhead": overhead_rows,
    "start": start_rows,
    "first": first_prediction_rows,
    "engines": engine_rows,
    "bulk": bulk_rows,
    "memory": memory_rows,
    "explain": explanation_rows,
    "steps": step_rows,
    "probe": probe_rows,
    "busy": busy_rows,
}

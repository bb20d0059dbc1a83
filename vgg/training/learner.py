"""A network that learns, a batch at a time, in one process or in several."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgg import distributed
from vgg.network.compiling import Network, compiled
from vgg.network.vgg import VGG
from vgg.training.data_parallel import data_parallel
from vgg.training.recipe import (
    LoopState,
    Pictures,
    Recipe,
    TooLittleMemoryError,
    ema_update,
    learning_rate,
    new_optimizer,
)

NewOptimizer = Callable[[Any, Recipe, float], torch.optim.Optimizer]

FILL = 10  # the average has forgotten the first weights after a few times so many batches
MANY_WEIGHTS = 20e6  # averaging so many takes a tenth of a step or more
MANY_CHANNELS, LARGE_MAPS = 0.75, 128  # width, and pixels a side of the pictures
KEPT = ("samples_seen", "samples_planned", "lr", "batch_size")


def needs_plain_layout(model: VGG, dtype: torch.dtype) -> bool:
    """Whether `model` learns faster without channels last: large maps of many channels do, in fp32
    on a processor. VGG-16 at 224 pixels takes a quarter longer with it, measured with AVX2."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    large = model.config.width >= MANY_CHANNELS and model.config.pretrained_cfg.size >= LARGE_MAPS
    return on_cpu and large and dtype == torch.float32


class Learner:
    """`model` while it learns from `pictures`, with its optimizer and the running average of its
    weights. `samples_seen` of `samples_planned` say how far it is, and with that how fast it
    learns.

    In several processes each works on its share of a batch; all have the same weights after it.
    """

    def __init__(
        self,
        model: VGG,
        pictures: Pictures,
        samples_planned: int,
        recipe: Recipe,
        dtype: torch.dtype = torch.float32,
        optimizer: NewOptimizer = new_optimizer,
    ) -> None:
        self.plain = needs_plain_layout(model, dtype)
        if self.plain:
            model.to(memory_format=torch.contiguous_format)
        self.model, self.pictures, self.recipe, self.dtype = model, pictures, recipe, dtype
        self.samples_seen, self.samples_planned = 0, samples_planned
        self.lr, self.batch_size = recipe.lr, recipe.batch_size
        self.device = next(model.parameters()).device
        # What learns: the model, compiled or with its like in other processes.
        self.network: Network = model.train()
        if distributed.world() > 1:
            self.network = data_parallel(model)
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.new_optimizer = optimizer
        self.optimizer = optimizer(model, recipe, self.lr)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        large = sum(p.numel() for p in model.parameters()) > MANY_WEIGHTS
        self.every = 4 if large else 1  # steps from one move of the average to the next
        self.steps = 0  # since the average moved

    def compile(self) -> None:
        """From now on learn by a compiled network, where that is possible. Several processes would
        have to fail together, and do without."""
        if distributed.world() > 1:
            return
        chance = torch.Generator().manual_seed(0) if self.recipe.augment else None
        x, _ = self._share(self.pictures.rows[: self.batch_size], chance)
        self.network = compiled(self.model.train(), x, learning=True, dtype=self.dtype)

    def train(self) -> None:
        """Into the mode for learning; evaluation is the average's."""
        self.model.train()
        if isinstance(self.network, nn.Module):
            self.network.train()

    # A step

    def step(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Learn from one batch; returns (summed loss, right answers) of this process's share, on
        the device. `torch.OutOfMemoryError`: nothing was learned."""
        recipe, progress = self.recipe, self.samples_seen / self.samples_planned
        share = learning_rate(progress, recipe.warmup, cosine=recipe.cosine)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * share * group.get("lr_scale", 1.0)
        self.optimizer.zero_grad()
        x, targets = self._share(rows, generator if recipe.augment else None)
        with distributed.or_lost():
            sums = self._add_gradients(self.network, x, targets, len(rows))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1
        if self.steps == self.every:
            self.update_average()
        self.samples_seen += len(rows)
        return sums

    def _share(self, rows: Tensor, chance: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """This process's share of a batch, ready for the network."""
        # All of it is taken, so that chance falls as in one process.
        cfg = self.model.config.pretrained_cfg
        x, targets = self.pictures.take(rows, self.device, cfg, chance)
        x, targets = distributed.shard(x), distributed.shard(targets)
        return x.contiguous() if self.plain else x, targets

    def _add_gradients(self, network: Network, x: Tensor, targets: Tensor, count: int) -> Tensor:
        """Those of a share of a batch of `count` pictures; the share may be empty."""
        with self.autocast():
            logits = network(x)
        loss = F.cross_entropy(
            logits.float(),
            targets,
            label_smoothing=self.recipe.label_smoothing,
            reduction="sum",
        )
        # Over the whole batch; processes take the mean of their gradients.
        self.scaler.scale(loss * (distributed.world() / count)).backward()
        with torch.no_grad():
            right = (logits.argmax(1) == targets).sum()
            return torch.stack([loss.detach(), right.float()])

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision, where `dtype` is not that of the weights."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def update_average(self) -> None:
        """Move the average by what the steps since the last time have changed."""
        if not self.steps:
            return
        done = self.samples_seen / self.recipe.batch_size
        horizon = max(1.0, self.recipe.average * len(self.pictures) / self.recipe.batch_size)
        weight = max(1 / horizon, 1 - (1 + done) / (FILL + done))
        ema_update(self.average, self.model, 1 - (1 - weight) ** self.steps)
        self.steps = 0

    # Too little memory, and a loss that diverges

    def find_batch_size(self, warn: Callable[[str], object]) -> None:
        """Halve the batch until it fits in all processes. One that ran out of memory in the middle
        of a step would leave the others waiting, so they try before the first, each for itself."""
        while not self.fits():
            self.halve_batch(warn)

    def fits(self) -> bool:
        """Whether a batch fits into the memory of all processes; one alone need not try before."""
        return distributed.world() == 1 or not distributed.any_of(not self._fits())

    def _fits(self) -> bool:
        rows = self.pictures.rows[: self.batch_size]
        kept = [buffer.clone() for buffer in self.model.buffers()]
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                x, targets = self._share(rows, torch.Generator().manual_seed(0))
                self._add_gradients(self.model.train(), x, targets, len(rows))
        except torch.OutOfMemoryError:
            return False
        finally:
            self.optimizer.zero_grad()
            for buffer, before in zip(self.model.buffers(), kept, strict=True):
                buffer.copy_(before)
        return True

    def halve_batch(self, warn: Callable[[str], object]) -> None:
        """After the device ran out of memory."""
        if self.batch_size < 4:
            raise TooLittleMemoryError("training.memory")
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.batch_size //= 2
        self.lr /= 2  # half the pictures a step: half the step (Goyal et al. 2017)
        warn(f"the device ran out of memory: now {self.batch_size} pictures at once")

    def start_again(self, weights: LoopState, lr: float) -> None:
        """From these weights, with another learning rate."""
        self.lr, self.steps = lr, 0
        self.model.load_state_dict(weights)
        self.average.load_state_dict(weights)
        self.optimizer.zero_grad()
        self.optimizer.state.clear()  # not in memory beside the new one's
        self.optimizer = self.new_optimizer(self.model, self.recipe, self.lr)

    # Going on after a break

    def state(self) -> LoopState:
        """All that is needed to go on: tensors and plain numbers. Live references, not copies."""
        return {
            **{name: getattr(self, name) for name in KEPT},
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: LoopState) -> None:
        """Stand where `state` was taken, perhaps on another device or in another precision."""
        for name in KEPT:
            setattr(self, name, state[name])
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, kept in self.optimizer.state.items():
            for name, value in kept.items():
                # A fused step needs both laid out alike.
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    kept[name] = torch.empty_like(parameter).copy_(value)
        if state["scaler"]:  # fp16 alone has one
            self.scaler.load_state_dict(state["scaler"])

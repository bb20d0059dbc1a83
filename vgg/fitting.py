"""Training a network by stochastic gradient descent: one loop, that can be stopped, killed and
resumed, and that gets over a lack of memory and a loss that explodes."""

import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vgg.augment import augment
from vgg.model import VGG
from vgg.recipe import (
    Epoch,
    Fitted,
    Pictures,
    Recipe,
    State,
    copy_of,
    dropout_from,
    follow,
    learning_rate,
    new_optimizer,
    seed_of,
)
from vgg.transforms import normalise

EVAL_BATCH = 256
CHECK_BATCHES = 50  # how often a long epoch looks whether its loss is still a number
CALMER = 0.2  # the learning rate after the loss exploded, against the one before
EXPLODED = 4.0  # times the loss of guessing, and as much again: nothing is learned any more
DRIFT = (0.85, 1.0)  # planned time over time left: outside of it the plan is made anew
PLANNED = 0.95  # share of the time left that a new plan takes
FILL = 10  # the average has forgotten the first weights after a few times so many batches
MEASURED_BATCHES, MEASURED_SECONDS = 3, 0.5  # the first is slower and does not count
KEPT = (
    *("seen", "shown", "epoch", "lr", "batch_size", "calmed", "last_accuracy"),
    *("best", "best_accuracy", "best_loss"),
)


class _LossExplodedError(Exception):
    """The loss is no number any more, or far above that of guessing."""


def fit(
    model: VGG,
    train: Pictures,
    held_out: Pictures,
    shown: int,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    deadline: float | None = None,
    resume: State | None = None,
    on_epoch: Callable[[Epoch, Callable[[], State]], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    lock: AbstractContextManager[Any] | None = None,
) -> Fitted:
    """Train `model` in place, on the device where it is, until `shown` pictures were shown.

    At the end it holds the averaged weights; where the training was stopped or went wrong, those
    of the epoch that was best on `held_out`. With a `deadline` (of `time.monotonic`), `shown` is
    planned anew at the end of an epoch where the speed has changed.

    `on_epoch` also gets a function that returns the state; handing that in as `resume` goes on
    from there, to the same weights as without a break: all chance comes from `seed` and the
    number of the epoch. `dtype` other than float32 means mixed precision. `should_stop` is asked
    at every batch, and `lock` held for one at a time. `ValueError`: nothing was learned.
    """
    run = _Run(model, train, held_out, shown, recipe or Recipe(), seed, dtype)
    run.lock = lock or nullcontext()
    run.should_stop = should_stop or bool
    run.warn = on_warning or (lambda sentence: None)
    run.deadline = deadline
    if resume:
        run.restore(resume)
    while run.seen < run.shown and not run.ended:
        before = run.seen
        try:
            epoch = run.one_epoch()
        except _LossExplodedError as error:
            run.seen = before
            run.calm_down(error)
            continue
        if on_epoch and epoch:
            on_epoch(epoch, run.state)
    return run.finish()


def seconds_per_picture(model: VGG, recipe: Recipe, dtype: torch.dtype) -> float:
    """How long learning from one picture takes now, measured on a copy with noise for pictures."""
    size, batch = model.config.pretrained_cfg.size, recipe.batch_size
    noise = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    pictures = Pictures(noise, torch.zeros(batch, dtype=torch.int64), torch.arange(batch))
    run = _Run(copy.deepcopy(model), pictures, pictures, 1000 * batch, recipe, 0, dtype)
    generator = torch.Generator().manual_seed(0)
    took: list[float] = []
    while len(took) < MEASURED_BATCHES or sum(took) < MEASURED_SECONDS:
        began = time.monotonic()
        run.step(pictures.rows, generator).cpu()  # waits for the device
        took.append(time.monotonic() - began)
    return sum(took[1:]) / len(took[1:]) / batch


class _Run:
    """One training under way: the network, its average, and how far they are."""

    def __init__(
        self,
        model: VGG,
        train: Pictures,
        held_out: Pictures,
        shown: int,
        recipe: Recipe,
        seed: int,
        dtype: torch.dtype,
    ) -> None:
        self.model, self.train, self.held_out = model, train, held_out
        self.shown, self.recipe, self.seed, self.dtype = shown, recipe, seed, dtype
        self.lr, self.batch_size = recipe.lr, recipe.batch_size
        self.device = next(model.parameters()).device
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.first = copy_of(model)  # to begin again where the first epoch goes wrong
        self.optimizer = new_optimizer(model, recipe, self.lr)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        self.seen = self.epoch = 0
        self.calmed = self.stopped = self.broke_off = False
        self.best: State = {}
        self.best_accuracy, self.best_loss, self.last_accuracy = -1.0, math.inf, 0.0
        self.deadline: float | None = None
        self.should_stop: Callable[[], bool] = bool
        self.warn: Callable[[str], None] = str
        self.lock: AbstractContextManager[Any] = nullcontext()

    @property
    def ended(self) -> bool:
        return self.stopped or self.broke_off

    # One epoch

    def one_epoch(self) -> Epoch | None:
        """Show every picture once, then measure. None where it was stopped before it began."""
        began, before = time.monotonic(), self.seen
        loss, accuracy = self._show_all()
        shown = self.seen - before
        if not shown:
            return None
        held_loss, held_accuracy = self._evaluate()
        self._check(held_loss)
        self.epoch += 1
        self.last_accuracy = held_accuracy
        if (held_accuracy, -held_loss) > (self.best_accuracy, -self.best_loss):
            self.best = copy_of(self.average)
            self.best_accuracy, self.best_loss = held_accuracy, held_loss
        seconds = max(time.monotonic() - began, 1e-9)
        self._replan(seconds / shown)
        left = 0 if self.stopped else self.shown - self.seen
        return Epoch(
            number=self.epoch,
            epochs=self.epoch + math.ceil(left / len(self.train)),
            loss=loss,
            accuracy=accuracy,
            held_out_loss=held_loss,
            held_out=held_accuracy,
            pictures_per_second=shown / seconds,
            seconds_left=left * seconds / shown,
        )

    def _show_all(self) -> tuple[float, float]:
        """One pass over the training part: (mean loss, accuracy) while it learned."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        order = self.train.rows[torch.randperm(len(self.train), generator=generator)]
        sums = torch.zeros(2, device=self.device)
        at = batches = 0
        self.model.train()
        with dropout_from(generator.initial_seed(), self.device):
            while at < len(order) and self.seen < self.shown:
                if self.should_stop():
                    self.stopped = True
                    break
                if self.deadline and time.monotonic() > self.deadline:
                    self.shown = self.seen  # what is left of the time is for the evaluation
                    break
                rows = order[at : at + self.batch_size]
                if len(rows) == 1 and at:  # batch norm can't learn from one picture
                    at, self.seen = at + 1, self.seen + 1
                    break
                try:
                    with self.lock:
                        sums += self.step(rows, generator)
                except torch.OutOfMemoryError:
                    self._halve_batch()
                    continue
                at += len(rows)
                self.seen += len(rows)
                batches += 1
                if batches % CHECK_BATCHES == 0:
                    self._check(sums[0].item() / at)
        loss, accuracy = (sums / max(1, at)).tolist()
        self._check(loss)
        return loss, accuracy

    def step(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Learn from one batch; returns (summed loss, right answers), on the device."""
        pixels, targets = self.train.take(rows, self.device)
        cfg = self.model.config.pretrained_cfg
        if self.recipe.augment:
            pixels = augment(pixels, generator, fill=cfg.mean)
        share = learning_rate(self.seen / self.shown, self.recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * share
        with self._autocast():
            logits = self.model(normalise(pixels, cfg))
        smoothing = self.recipe.label_smoothing
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        done = self.seen / self.recipe.batch_size
        horizon = max(1.0, self.recipe.average * len(self.train) / self.recipe.batch_size)
        follow(self.average, self.model, max(1 / horizon, 1 - (1 + done) / (FILL + done)))
        with torch.no_grad():
            right = (logits.argmax(1) == targets).sum()
            return torch.stack([loss.detach() * len(rows), right.float()])

    def _autocast(self) -> torch.autocast:
        mixed = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed)

    def _evaluate(self) -> tuple[float, float]:
        """(mean loss in nats, accuracy) of the averaged weights on the held-out part."""
        sums = torch.zeros(2, device=self.device)
        cfg = self.model.config.pretrained_cfg
        with torch.inference_mode():
            for rows in self.held_out.rows.split(EVAL_BATCH):
                pixels, targets = self.held_out.take(rows, self.device)
                with self.lock, self._autocast():
                    logits = self.average(normalise(pixels, cfg)).float()
                sums[0] += F.cross_entropy(logits, targets, reduction="sum")
                sums[1] += (logits.argmax(1) == targets).sum()
        loss, accuracy = (sums / len(self.held_out)).tolist()
        return loss, accuracy

    def _replan(self, seconds_each: float) -> None:
        """More or fewer epochs where the end would come much too early or too late."""
        if not self.deadline or self.stopped or self.seen >= self.shown:
            return
        left = max(0.0, self.deadline - time.monotonic())
        needed = (self.shown - self.seen) * seconds_each
        if not DRIFT[0] * left <= needed <= DRIFT[1] * left:
            self.shown = self.seen + round(PLANNED * left / seconds_each)

    # When something goes wrong

    def _check(self, loss: float) -> None:
        guessing = math.log(max(2, self.model.config.num_classes))
        if not math.isfinite(loss):
            raise _LossExplodedError("the loss is no number any more")
        if loss > EXPLODED * guessing + EXPLODED:
            raise _LossExplodedError(f"the loss rose to {loss:.1f}; guessing gives {guessing:.1f}")

    def calm_down(self, error: Exception) -> None:
        """Go back to the best weights so far and on with a smaller rate; the second time, end."""
        if self.calmed:
            self.broke_off = True
            if self.best:
                self.warn(f"{error}, again: the training ends with the best weights so far")
            return
        self.calmed = True
        self.lr *= CALMER
        self.model.load_state_dict(self.best or self.first)
        self.average.load_state_dict(self.best or self.first)
        self.optimizer = new_optimizer(self.model, self.recipe, self.lr)
        self.warn(
            f"{error}: the training goes back to the best weights so far, "
            f"with a learning rate of {self.lr:.3g}"
        )

    def _halve_batch(self) -> None:
        if self.batch_size < 4:
            raise ValueError(
                "the device has too little memory for even 2 pictures at once: "
                "choose a smaller image size, width or depth"
            )
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.batch_size //= 2
        self.lr /= 2  # half the pictures a step: half the step (Goyal et al. 2017)
        self.warn(f"the device ran out of memory: now {self.batch_size} pictures at once")

    # The end, and going on

    def finish(self) -> Fitted:
        """Put the weights to keep into the network."""
        if not self.best:
            why = "failed: its loss exploded" if self.broke_off else "was stopped"
            raise ValueError(f"the training {why} before anything was learned, so nothing is kept")
        accuracy = self.last_accuracy
        if self.ended:
            self.average.load_state_dict(self.best)
            accuracy = self.best_accuracy
        self.model.load_state_dict(self.average.state_dict())
        self.model.eval()
        return Fitted(self.epoch, accuracy, self.stopped, best_of=self.ended)

    def state(self) -> State:
        """All that is needed to go on: tensors and plain numbers. Live references, not copies."""
        return {
            **{name: getattr(self, name) for name in KEPT},
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: State) -> None:
        """Stand where `state` was taken."""
        for name in KEPT:
            setattr(self, name, state[name])
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

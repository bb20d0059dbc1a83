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

from vgg import distributed
from vgg.errors import StoppedError, UserError
from vgg.network.compiling import TRAINING_SECONDS, Network, compiled
from vgg.network.vgg import VGG
from vgg.training.recipe import (
    Epoch,
    Fitted,
    LoopState,
    Pictures,
    Recipe,
    TooLittleMemoryError,
    copy_of,
    dropout_from,
    ema_update,
    learning_rate,
    new_optimizer,
    seed_of,
)

NewOptimizer = Callable[[Any, Recipe, float], torch.optim.Optimizer]

EVAL_BATCH, EVAL_SIZE = 256, 64  # pictures at once, of so many pixels a side; of larger ones fewer
CHECK_BATCHES = 50  # how often a long epoch looks whether its loss is still a number
CALMER = 0.2  # the learning rate after the loss exploded, against the one before
EXPLODED = 4.0  # times the loss of guessing, and as much again: nothing is learned any more
DRIFT = (0.85, 1.0)  # planned time over time left: outside of it the plan is made anew
PLANNED = 0.95  # share of the time left that a new plan takes
FILL = 10  # the average has forgotten the first weights after a few times so many batches
MANY_WEIGHTS = 20e6  # averaging so many takes a tenth of a step or more
MANY_CHANNELS, LARGE_MAPS = 0.75, 128  # width, and pixels a side of the pictures
KEPT = (
    *("samples_seen", "samples_planned", "epoch", "lr", "batch_size", "restarts", "last_accuracy"),
    *("best", "best_accuracy", "best_loss"),
)


class LossDivergedError(Exception):
    """The loss is no number any more, or far above that of guessing."""


def train_loop(
    model: VGG,
    train: Pictures,
    held_out: Pictures,
    samples_planned: int,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    deadline: float | None = None,
    resume: LoopState | None = None,
    on_epoch: Callable[[Epoch, Callable[[], LoopState]], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    lock: AbstractContextManager[Any] | None = None,
    optimizer: NewOptimizer = new_optimizer,
    most: float = math.inf,
) -> Fitted:
    """Train `model` in place, on the device where it is, until it saw `samples_planned` pictures.

    At the end it holds the averaged weights; where the training was stopped or went wrong, those
    of the epoch that was best on `held_out`. With a `deadline` (of `time.monotonic`),
    `samples_planned` is planned anew at the end of an epoch where the speed has changed, to `most`
    at most.

    `on_epoch` also gets a function that returns the state; handing that in as `resume` goes on
    from there, to the same weights as without a break: all chance comes from `seed` and the
    number of the epoch. `dtype` other than float32 means mixed precision. `should_stop` is asked
    at every batch, and `lock` held for one at a time. `ValueError`: nothing was learned.

    Several processes (see `vgg.distributed`) share each batch and add up their gradients, so they
    learn what one process would. Only batch norm differs: in each process it goes by that one's
    share of the batch, and its statistics are averaged at the end of an epoch.
    """
    distributed.barrier()
    distributed.same_as_first(list(model.state_dict().values()))
    run = TrainLoop(
        model, train, held_out, samples_planned, recipe or Recipe(), seed, dtype, optimizer
    )
    run.lock = lock or nullcontext()
    run.should_stop = should_stop or bool
    run.warn = on_warning or (lambda sentence: None)
    run.deadline, run.most = deadline, most
    left = deadline - time.monotonic() if deadline else 0.0
    if resume:
        run.restore(resume)
    if run.device.type == "cuda" and distributed.any_of(left > TRAINING_SECONDS):
        run.compile()
    while run.samples_seen < run.samples_planned and not run.ended:
        before = run.samples_seen
        try:
            epoch = run.one_epoch()
        except LossDivergedError as error:
            run.samples_seen = before
            run.restart_with_lower_lr(error)
            continue
        if on_epoch and epoch:
            on_epoch(epoch, run.state)
    return run.finish()


def eval_batch(size: int) -> int:
    """How many pictures of `size` pixels are measured on at once."""
    return max(1, EVAL_BATCH * EVAL_SIZE**2 // max(size, EVAL_SIZE) ** 2)


def needs_plain_layout(model: VGG, dtype: torch.dtype) -> bool:
    """Whether `model` learns faster without channels last: large maps of many channels do, in fp32
    on a processor. VGG-16 at 224 pixels takes a quarter longer with it, measured with AVX2."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    large = model.config.width >= MANY_CHANNELS and model.config.pretrained_cfg.size >= LARGE_MAPS
    return on_cpu and large and dtype == torch.float32


def statistics_of(model: VGG) -> list[Tensor]:
    """The running means and variances of its batch norms."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


class TrainLoop:
    """One training under way: the network, its average, and how far they are."""

    def __init__(
        self,
        model: VGG,
        train: Pictures,
        held_out: Pictures,
        samples_planned: int,
        recipe: Recipe,
        seed: int,
        dtype: torch.dtype,
        optimizer: NewOptimizer = new_optimizer,
    ) -> None:
        self.plain = needs_plain_layout(model, dtype)
        if self.plain:
            model.to(memory_format=torch.contiguous_format)
        self.model, self.train, self.held_out = model, train, held_out
        self.samples_planned, self.recipe, self.seed, self.dtype = (
            samples_planned,
            recipe,
            seed,
            dtype,
        )
        self.lr, self.batch_size = recipe.lr, recipe.batch_size
        self.network: Network = model  # what learns: the model, perhaps compiled
        self.device = next(model.parameters()).device
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.first = copy_of(model)  # to begin again where the first epoch goes wrong
        self.new_optimizer = optimizer
        self.optimizer = optimizer(model, recipe, self.lr)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        self.samples_seen = self.epoch = self.steps = 0  # steps of this epoch
        large = sum(p.numel() for p in model.parameters()) > MANY_WEIGHTS
        self.every = 4 if large else 1  # steps from one look at the weights to the next
        self.restarts = self.stopped = self.broke_off = False
        self.best: LoopState = {}
        self.best_accuracy, self.best_loss, self.last_accuracy = -1.0, math.inf, 0.0
        self.deadline: float | None = None
        self.most = math.inf  # pictures to show
        self.should_stop: Callable[[], bool] = bool
        self.warn: Callable[[str], object] = str
        self.lock: AbstractContextManager[Any] = nullcontext()

    @property
    def ended(self) -> bool:
        return self.stopped or self.broke_off

    def compile(self) -> None:
        """From now on learn by a compiled network, where that is possible."""
        chance = torch.Generator().manual_seed(0) if self.recipe.augment else None
        rows = self.train.rows[: self.batch_size]
        x, _ = self.train.take(rows, self.device, self.model.config.pretrained_cfg, chance)
        x = self._laid_out(distributed.shard(x))
        self.network = compiled(self.model.train(), x, learning=True, dtype=self.dtype)
        distributed.barrier()  # it takes one process longer than another

    # One epoch

    def one_epoch(self) -> Epoch | None:
        """Show every picture once, then measure. None where it was stopped before it began."""
        began, before = time.monotonic(), self.samples_seen
        loss, accuracy = self._show_all()
        samples_planned = self.samples_seen - before
        if not samples_planned:
            return None
        distributed.average([*statistics_of(self.model), *statistics_of(self.average)])
        held_loss, held_accuracy = self._evaluate()
        self._check(held_loss)
        self.epoch += 1
        self.last_accuracy = held_accuracy
        if (held_accuracy, -held_loss) > (self.best_accuracy, -self.best_loss):
            self.best = copy_of(self.average)
            self.best_accuracy, self.best_loss = held_accuracy, held_loss
        seconds = max(time.monotonic() - began, 1e-9)
        self._replan(seconds / samples_planned)
        left = 0 if self.stopped else max(0, self.samples_planned - self.samples_seen)
        return Epoch(
            number=self.epoch,
            epochs=self.epoch + math.ceil(left / len(self.train)),
            loss=loss,
            accuracy=accuracy,
            held_out_loss=held_loss,
            held_out=held_accuracy,
            pictures_per_second=samples_planned / seconds,
            seconds_left=left * seconds / samples_planned,
        )

    def _show_all(self) -> tuple[float, float]:
        """One pass over the training part: (mean loss, accuracy) while it learned."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        order = self.train.rows[torch.randperm(len(self.train), generator=generator)]
        sums = torch.zeros(2, device=self.device)
        at = batches = self.steps = 0
        self.model.train()
        with dropout_from(generator.initial_seed() + distributed.rank(), self.device):
            while at < len(order) and self.samples_seen < self.samples_planned:
                if distributed.any_of(self.should_stop()):
                    self.stopped = True
                    break
                if self.deadline and distributed.any_of(time.monotonic() > self.deadline):
                    self.samples_planned = (
                        self.samples_seen
                    )  # what is left of the time is for the evaluation
                    break
                rows = order[at : at + self.batch_size]
                if len(rows) == 1 and at:  # batch norm can't learn from one picture
                    at, self.samples_seen = at + 1, self.samples_seen + 1
                    break
                fits = True
                try:
                    with self.lock:
                        sums += self.step(rows, generator)
                except torch.OutOfMemoryError:
                    fits = False
                if not fits:  # only here, where nothing holds on to what the failed try took
                    self._halve_batch()
                    continue
                at += len(rows)
                self.samples_seen += len(rows)
                batches += 1
                if batches % CHECK_BATCHES == 0:
                    self._check(sums[0].item() / at)
        if left := self.steps % self.every:
            self._follow(left)
        loss, accuracy = (sums / max(1, at)).tolist()
        self._check(loss)
        return loss, accuracy

    def step(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Learn from one batch; returns (summed loss, right answers), on the device."""
        recipe, progress = self.recipe, self.samples_seen / self.samples_planned
        share = learning_rate(progress, recipe.warmup, cosine=recipe.cosine)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * share * group.get("rate", 1.0)
        self.optimizer.zero_grad()
        sums, fits = torch.zeros(2, device=self.device), True
        try:
            self._add_gradients(rows, generator, sums)
        except torch.OutOfMemoryError:  # not kept: it would keep the whole batch in memory
            fits = False
        if distributed.any_of(not fits):
            raise torch.OutOfMemoryError(f"{len(rows)} pictures are too many at once")
        self._add_up(sums)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1
        if self.steps % self.every == 0:
            self._follow(self.every)
        return sums

    def _follow(self, steps: int) -> None:
        """Move the average by what so many steps changed."""
        done = self.samples_seen / self.recipe.batch_size
        horizon = max(1.0, self.recipe.average * len(self.train) / self.recipe.batch_size)
        share = max(1 / horizon, 1 - (1 + done) / (FILL + done))
        ema_update(self.average, self.model, 1 - (1 - share) ** steps)

    def _add_gradients(self, rows: Tensor, generator: torch.Generator, sums: Tensor) -> None:
        """Gradients and sums of this process's share of a batch."""
        chance = generator if self.recipe.augment else None
        # All of the batch, so that chance falls as in one process.
        x, targets = self.train.take(rows, self.device, self.model.config.pretrained_cfg, chance)
        x, targets = self._laid_out(distributed.shard(x)), distributed.shard(targets)
        if not len(targets):
            return
        with self._autocast():
            logits = self.network(x)
        smoothing = self.recipe.label_smoothing
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        loss = loss * (len(targets) / len(rows))
        self.scaler.scale(loss).backward()
        with torch.no_grad():
            right = (logits.argmax(1) == targets).sum()
            sums += torch.stack([loss.detach() * len(rows), right.float()])

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous() if self.plain else x

    def _add_up(self, sums: Tensor) -> None:
        """Make gradients and sums those of the whole batch, in every process."""
        if distributed.world() == 1:
            return
        gradients = [sums]
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:  # nothing of the batch fell to this process
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        distributed.all_reduce_sum(gradients)

    def _autocast(self) -> torch.autocast:
        mixed = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed)

    def _evaluate(self) -> tuple[float, float]:
        """(mean loss in nats, accuracy) of the averaged weights on the held-out part."""
        sums = torch.zeros(2, device=self.device)
        cfg = self.model.config.pretrained_cfg
        with torch.inference_mode():
            for rows in distributed.shard(self.held_out.rows).split(eval_batch(cfg.size)):
                x, targets = self.held_out.take(rows, self.device, cfg)
                with self.lock, self._autocast():
                    logits = self.average(x).float()
                sums[0] += F.cross_entropy(logits, targets, reduction="sum")
                sums[1] += (logits.argmax(1) == targets).sum()
        distributed.all_reduce_sum([sums])
        loss, accuracy = (sums / len(self.held_out)).tolist()
        return loss, accuracy

    def _replan(self, seconds_each: float) -> None:
        """More or fewer epochs where the end would come much too early or too late."""
        if not self.deadline or self.stopped or self.samples_seen >= self.samples_planned:
            return
        left = max(0.0, self.deadline - time.monotonic())
        needed = (self.samples_planned - self.samples_seen) * seconds_each
        if not DRIFT[0] * left <= needed <= DRIFT[1] * left:
            wanted = self.samples_seen + round(PLANNED * left / seconds_each)
            self.samples_planned = round(min(wanted, self.most))
        self.samples_planned = distributed.run_on_rank_0(lambda: self.samples_planned)

    # When something goes wrong

    def _check(self, loss: float) -> None:
        guessing = math.log(max(2, self.model.config.num_classes))
        if not math.isfinite(loss):
            raise LossDivergedError("the loss is no number any more")
        if loss > EXPLODED * guessing + EXPLODED:
            raise LossDivergedError(f"the loss rose to {loss:.1f}; guessing gives {guessing:.1f}")

    def restart_with_lower_lr(self, error: Exception) -> None:
        """Go back to the best weights so far and on with a smaller rate; the second time, end."""
        if self.restarts:
            self.broke_off = True
            if self.best:
                self.warn(f"{error}, again: the training ends with the best weights so far")
            return
        self.restarts = True
        self.lr *= CALMER
        self.model.load_state_dict(self.best or self.first)
        self.average.load_state_dict(self.best or self.first)
        self.optimizer.zero_grad()
        self.optimizer.state.clear()  # not in memory beside the new one's
        self.optimizer = self.new_optimizer(self.model, self.recipe, self.lr)
        self.warn(
            f"{error}: the training goes back to the best weights so far, "
            f"with a learning rate of {self.lr:.3g}"
        )

    def _halve_batch(self) -> None:
        if self.batch_size < 4:
            raise TooLittleMemoryError("training.memory")
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
            if self.broke_off:
                raise UserError("training.diverged")
            raise StoppedError("training.stopped")
        accuracy = self.last_accuracy
        if self.ended:
            self.average.load_state_dict(self.best)
            accuracy = self.best_accuracy
        self.model.load_state_dict(self.average.state_dict())
        self.model.eval()
        return Fitted(self.epoch, accuracy, self.stopped, best_of=self.ended)

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

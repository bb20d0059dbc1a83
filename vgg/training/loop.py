"""Training a network by stochastic gradient descent: one loop, that can be stopped, killed and
resumed, and that gets over a lack of memory and a loss that diverges."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vgg import distributed
from vgg.errors import ProcessLostError, StoppedError, UserError
from vgg.network.compiling import TRAINING_SECONDS
from vgg.network.vgg import VGG
from vgg.training.learner import Learner, NewOptimizer
from vgg.training.recipe import (
    Epoch,
    Fitted,
    LoopState,
    Pictures,
    Recipe,
    TooLittleMemoryError,
    copy_of,
    dropout_from,
    new_optimizer,
    seed_of,
)

EVAL_BATCH, EVAL_SIZE = 256, 64  # pictures at once, of so many pixels a side; of larger ones fewer
CHECK_BATCHES = 50  # how often a long epoch looks whether its loss is still a number
LOWER_LR = 0.2  # the learning rate after the loss diverged, against the one before
DIVERGED = 4.0  # times the loss of guessing, and as much again: nothing is learned any more
DRIFT = (0.85, 1.0)  # planned time over time left: outside of it the plan is made anew
PLANNED = 0.95  # share of the time left that a new plan takes
LATE, STOP = 1, 2  # why an epoch ends early
KEPT = ("epoch", "restarts", "last_accuracy", "best", "best_accuracy", "best_loss")


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
    samples_limit: float = math.inf,
    resume: LoopState | None = None,
    on_epoch: Callable[[Epoch, Callable[[], LoopState]], None] | None = None,
    on_warning: Callable[[str], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
    lock: AbstractContextManager[Any] | None = None,
    optimizer: NewOptimizer = new_optimizer,
) -> Fitted:
    """Train `model` in place, on the device where it is, until it saw `samples_planned` pictures.

    At the end it holds the averaged weights; where the training was stopped or went wrong, those
    of the epoch that was best on `held_out`. With a `deadline` (of `time.monotonic`),
    `samples_planned` is planned anew at the end of an epoch where the speed has changed, to
    `samples_limit` at most.

    `on_epoch` also gets a function that returns the state; handing that in as `resume` goes on
    from there, to the same weights as without a break: all chance comes from `seed` and the
    number of the epoch. `dtype` other than float32 means mixed precision. `should_stop` is asked
    at every batch, and `lock` held for one at a time.

    Several processes (see `vgg.distributed`) share each batch, and learn what one would.

    `StoppedError`, `UserError`: the training was stopped, or its loss diverged, before anything
    was learned. `ProcessLostError`: another process has ended, or this one can't go on.
    """
    distributed.barrier()
    recipe = recipe or Recipe()
    learner = Learner(model, train, samples_planned, recipe, dtype, optimizer)
    run = TrainLoop(learner, held_out, seed, deadline, samples_limit)
    run.should_stop = should_stop or bool
    run.warn = on_warning or str
    run.lock = lock or nullcontext()
    if resume:
        run.restore(resume)
    learner.find_batch_size(run.warn)
    if run.device.type == "cuda" and deadline and deadline - time.monotonic() > TRAINING_SECONDS:
        learner.compile()
    while learner.samples_seen < learner.samples_planned and not run.ended:
        before = learner.samples_seen
        try:
            epoch = run.one_epoch()
        except LossDivergedError as error:
            learner.samples_seen = before
            run.restart_with_lower_lr(error)
            continue
        if on_epoch and epoch:
            on_epoch(epoch, run.state)
            distributed.barrier()  # the first process may write for long
    return run.finish()


def eval_batch(size: int) -> int:
    """How many pictures of `size` pixels are measured on at once."""
    return max(1, EVAL_BATCH * EVAL_SIZE**2 // max(size, EVAL_SIZE) ** 2)


class TrainLoop:
    """One training under way: its epochs, the best of them, and what happens when one goes wrong.

    `held_out` measures each epoch. All processes come to the same decisions.
    """

    def __init__(
        self,
        learner: Learner,
        held_out: Pictures,
        seed: int = 0,
        deadline: float | None = None,
        samples_limit: float = math.inf,
    ) -> None:
        self.learner, self.held_out, self.seed = learner, held_out, seed
        self.deadline, self.samples_limit = deadline, samples_limit
        self.device = learner.device
        self.at_once = eval_batch(learner.model.config.pretrained_cfg.size)
        self.first = copy_of(learner.model)  # to begin again where the first epoch goes wrong
        self.epoch = 0
        self.restarts = self.stopped = self.broke_off = False
        self.best: LoopState = {}
        self.best_accuracy, self.best_loss, self.last_accuracy = -1.0, math.inf, 0.0
        self.should_stop: Callable[[], bool] = bool
        self.warn: Callable[[str], object] = str
        self.lock: AbstractContextManager[Any] = nullcontext()

    @property
    def ended(self) -> bool:
        return self.stopped or self.broke_off

    # One epoch

    def one_epoch(self) -> Epoch | None:
        """Show every picture once, then measure. None where it was stopped before it began."""
        learner = self.learner
        began, before = time.monotonic(), learner.samples_seen
        loss, accuracy = self._learn_from_all()
        count = learner.samples_seen - before
        if not count:
            return None
        held_loss, held_accuracy = self._evaluate()
        self._check(held_loss)
        self.epoch += 1
        self.last_accuracy = held_accuracy
        if (held_accuracy, -held_loss) > (self.best_accuracy, -self.best_loss):
            self.best = copy_of(learner.average)
            self.best_accuracy, self.best_loss = held_accuracy, held_loss
        seconds = max(time.monotonic() - began, 1e-9)
        self._replan(seconds / count)
        left = 0 if self.stopped else max(0, learner.samples_planned - learner.samples_seen)
        return Epoch(
            number=self.epoch,
            epochs=self.epoch + math.ceil(left / len(learner.pictures)),
            loss=loss,
            accuracy=accuracy,
            held_out_loss=held_loss,
            held_out=held_accuracy,
            pictures_per_second=count / seconds,
            seconds_left=left * seconds / count,
        )

    def _learn_from_all(self) -> tuple[float, float]:
        """One pass over the training part: (mean loss, accuracy) while it learned."""
        learner = self.learner
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        rows = learner.pictures.rows
        order = rows[torch.randperm(len(rows), generator=generator)]
        sums = torch.zeros(2, device=self.device)  # of this process
        at = batches = 0  # pictures and batches learned from
        learner.train()
        with dropout_from(generator.initial_seed() + distributed.rank(), self.device):
            while at < len(order) and learner.samples_seen < learner.samples_planned:
                if self._ends_early():
                    break
                batch = order[at : at + learner.batch_size]
                if at and len(batch) == 1:  # batch norm can't learn from one picture
                    learner.samples_seen += 1
                    break
                if self._learn_from(batch, generator, sums):
                    at, batches = at + len(batch), batches + 1
                    if batches % CHECK_BATCHES == 0:
                        self._check(self._mean(sums, at)[0])
        learner.update_average()
        loss, accuracy = self._mean(sums, max(1, at))
        self._check(loss)
        return loss, accuracy

    def _ends_early(self) -> bool:
        late = self.deadline is not None and time.monotonic() > self.deadline
        reason = distributed.most_of(STOP if self.should_stop() else LATE if late else 0)
        if reason == STOP:
            self.stopped = True
        elif reason == LATE:  # what is left of the time is for the evaluation
            self.learner.samples_planned = self.learner.samples_seen
        return reason > 0

    def _learn_from(self, batch: Tensor, generator: torch.Generator, sums: Tensor) -> bool:
        """Add what a batch gave to `sums`; false where it did not fit into memory."""
        try:
            with self.lock:
                sums += self.learner.step(batch, generator)
            return True
        except torch.OutOfMemoryError as error:
            if distributed.world() > 1:  # the others are in the middle of the step
                raise ProcessLostError("training.memory_later") from error
        # Only here, where nothing holds on to what the failed try took.
        self.learner.halve_batch(self.warn)
        return False

    def _mean(self, sums: Tensor, count: int) -> tuple[float, float]:
        """(loss, accuracy) over all processes, of sums over `count` pictures."""
        total = sums.clone()
        distributed.all_reduce_sum(total)
        loss, accuracy = (total / count).tolist()
        return loss, accuracy

    def _evaluate(self) -> tuple[float, float]:
        """(mean loss in nats, accuracy) of the averaged weights on the held-out part."""
        while True:
            sums = None
            with suppress(torch.OutOfMemoryError):
                sums = self._measured()
            lacking = distributed.any_of(sums is None)
            if sums is not None and not lacking:
                return self._mean(sums, len(self.held_out))
            if self.at_once < 2:
                raise TooLittleMemoryError("training.memory")
            self.at_once //= 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _measured(self) -> Tensor:
        """(summed loss, right answers) of this process's share of the held-out part."""
        sums = torch.zeros(2, device=self.device)
        cfg = self.learner.model.config.pretrained_cfg
        with torch.inference_mode():
            for rows in distributed.shard(self.held_out.rows).split(self.at_once):
                x, targets = self.held_out.take(rows, self.device, cfg)
                with self.lock, self.learner.autocast():
                    logits = self.learner.average(x).float()
                sums[0] += F.cross_entropy(logits, targets, reduction="sum")
                sums[1] += (logits.argmax(1) == targets).sum()
        return sums

    def _replan(self, seconds_each: float) -> None:
        """More or fewer epochs where the end would come much too early or too late."""
        learner = self.learner
        if not self.deadline or self.stopped or learner.samples_seen >= learner.samples_planned:
            return
        left = max(0.0, self.deadline - time.monotonic())
        needed = (learner.samples_planned - learner.samples_seen) * seconds_each
        planned = learner.samples_planned
        if not DRIFT[0] * left <= needed <= DRIFT[1] * left:
            wanted = learner.samples_seen + round(PLANNED * left / seconds_each)
            planned = round(min(wanted, self.samples_limit))
        learner.samples_planned = distributed.run_on_rank_0(lambda: planned)

    # When something goes wrong

    def _check(self, loss: float) -> None:
        guessing = math.log(max(2, self.learner.model.config.num_classes))
        if not math.isfinite(loss):
            raise LossDivergedError("the loss is no number any more")
        if loss > DIVERGED * guessing + DIVERGED:
            raise LossDivergedError(f"the loss rose to {loss:.1f}; guessing gives {guessing:.1f}")

    def restart_with_lower_lr(self, error: Exception) -> None:
        """Go back to the best weights so far and on with a smaller rate; the second time, end."""
        if self.restarts:
            self.broke_off = True
            if self.best:
                self.warn(f"{error}, again: the training ends with the best weights so far")
            return
        self.restarts = True
        self.learner.start_again(self.best or self.first, LOWER_LR * self.learner.lr)
        self.warn(
            f"{error}: the training goes back to the best weights so far, "
            f"with a learning rate of {self.learner.lr:.3g}"
        )

    # The end, and going on

    def finish(self) -> Fitted:
        """Put the weights to keep into the network."""
        if not self.best:
            if self.broke_off:
                raise UserError("training.diverged")
            raise StoppedError("training.stopped")
        average, model, accuracy = self.learner.average, self.learner.model, self.last_accuracy
        if self.ended:
            average.load_state_dict(self.best)
            accuracy = self.best_accuracy
        model.load_state_dict(average.state_dict())
        model.eval()
        return Fitted(self.epoch, accuracy, self.stopped, best_of=self.ended)

    def state(self) -> LoopState:
        """All that is needed to go on; see `Learner.state`."""
        return {**{name: getattr(self, name) for name in KEPT}, **self.learner.state()}

    def restore(self, state: LoopState) -> None:
        """Stand where `state` was taken, perhaps on another device or in another precision."""
        for name in KEPT:
            setattr(self, name, state[name])
        self.learner.restore(state)

"""Fine-tuning: after a new last layer, the stages below it learn, where that is worth its time.

First the layer alone, then the trunk from there on, with smaller rates downwards (Kumar et al.
2022, "Fine-tuning can distort pretrained features…"). On a small machine only the fifth stage
learns, from what the fourth pool gave of each picture, computed once. Where there is the speed for
it, stages three to five learn, from parts of the pictures.
"""

import logging
from dataclasses import asdict, replace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from vgg import distributed
from vgg.data.reading import device_room
from vgg.errors import ProcessLostError, StoppedError, UserError
from vgg.inference.calibration import apply_temperature, fit_temperature
from vgg.network.vgg import VGG
from vgg.training.cached_maps import ActivationCache, CachedPictures, Zoomed, fill, read_all
from vgg.training.dataset import Dataset, Trained
from vgg.training.film_recorder import FilmRecorder
from vgg.training.finetune_plan import RECIPE, ZOOMED, KeepProbe, Plan, Planner, enough, fits
from vgg.training.loop import eval_batch, train_loop
from vgg.training.options import TRAINED_HEAD
from vgg.training.partly_frozen import PartlyFrozenVGG, early_size, new_optimizer, row_size
from vgg.training.probe import train_probe
from vgg.training.recipe import Epoch, Fitted, Pictures, TooLittleMemoryError
from vgg.training.run import Run, RunState, round_to_half

log = logging.getLogger(__name__)


def train_finetune(run: Run, dataset: Dataset, model: VGG) -> tuple[str, Trained]:
    """Train a new last layer on the trunk of `model`, then the trunk; keep what does better on the
    held-out pictures. Returns `probe` or `finetune`, and what that gave.

    With mode `auto` the trunk stays as it is where tuning it would not pay; a sentence says why.
    Whatever goes wrong while it is tuned, the last layer is kept.
    """
    saved = run.read_state()
    config = replace(model.config, head=run.options.head or TRAINED_HEAD)
    cache = ActivationCache(dataset.size, early_size(config))
    # Filled in the same pass only where time counts: in a pass of its own the pictures come in the
    # same batches again after a break, and give the same numbers to the last bit.
    in_one_pass = run.seconds is not None and run.device.type == "cpu" and distributed.world() == 1
    in_one_pass &= enough(run, 0.8 * len(dataset), dataset)
    in_one_pass &= fits(row_size(config, run.options.image_size), len(dataset))
    probe = train_probe(
        run,
        dataset,
        model,
        size=saved.get("size") if saved else None,
        keep=cache.put if in_one_pass else None,
    )
    run.notes = list(dict.fromkeys(run.notes))  # what was said before a break is not said twice
    if saved and saved["key"] != f"finetune {probe.dataset.key}":
        run.say("warning", "the pictures have changed since: the trunk is tuned anew")
        saved = None
    after = saved["fit"]["epoch"] if saved else 0
    recorder = FilmRecorder(run, probe.dataset, probe.split, probe.network.config, after=after)
    tuning = _Tuning(run, probe, Planner(run, probe, model, cache), recorder)
    try:
        return "finetune", tuning.work(saved)
    except KeepProbe as reason:
        run.say("plan", f"{reason}; the trunk stays as it was")
    except ProcessLostError:
        raise
    except Exception as error:
        if distributed.world() > 1 and not isinstance(error, UserError):
            raise  # it may have happened here alone, and the others wait for what comes next
        log.warning("tuning the trunk failed", exc_info=error)
        run.say("warning", f"tuning the trunk failed ({_reason(error)}): it stays as it was")
    recorder.discard()
    facts = {**probe.facts, **tuning.facts, "kept": "probe"}
    return "probe", replace(probe, facts=facts, stopped=tuning.stopped)


def _reason(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError | TooLittleMemoryError):
        return "the device has too little memory"
    return str(error) if isinstance(error, UserError) else type(error).__name__


class _Tuning:
    """What comes after the probe."""

    def __init__(self, run: Run, probe: Trained, planner: Planner, recorder: FilmRecorder) -> None:
        self.run, self.probe, self.planner, self.recorder = run, probe, planner, recorder
        self.dataset, self.parts = probe.dataset, probe.split
        self.cfg = probe.network.config.pretrained_cfg
        accuracy = distributed.run_on_rank_0(lambda: self._accuracy(probe.probs))
        self.facts: dict[str, Any] = {"accuracy_probe": accuracy}
        self.stopped = probe.stopped

    def work(self, saved: RunState | None) -> Trained:
        """The tuned network, where it is better than the probe."""
        plan = self._planned(saved)
        train, held_out = self._sides(plan)
        network = self.planner.network(plan.frozen)
        fitted = self._fit(network, train, held_out, plan, saved)
        self.stopped = fitted.stopped
        round_to_half(network)
        logits = distributed.run_on_rank_0(lambda: self._logits(network, held_out))
        targets = self.dataset.labels[self.parts.held_out]
        temperature = fit_temperature(logits, targets)
        probs = apply_temperature(logits, temperature)
        before, now = self.facts["accuracy_probe"], self._accuracy(probs)
        self.facts |= {"accuracy_finetune": now, "epochs_of_finetune": fitted.epochs}
        right = f"{now:.1%} of the {len(targets)} held-out pictures are right with the trunk tuned"
        if now <= before:
            raise KeepProbe(f"{right}, {before:.1%} with the last layer alone")
        self.run.say("plan", f"{right}, {before:.1%} were with the last layer alone")
        best = network.plain()
        best.config = replace(best.config, extra={"temperature": temperature})
        calibrated = {"temperature": temperature, "temperature_from": "held_out"}
        return replace(
            self.probe,
            network=best,
            probs=probs,
            epochs=fitted.epochs,
            stopped=fitted.stopped,
            facts={**self.probe.facts, **self.facts, **calibrated, "kept": "finetune"},
        )

    def _accuracy(self, probs: np.ndarray) -> float:
        return float((probs.argmax(1) == self.dataset.labels[self.parts.held_out]).mean())

    def _planned(self, saved: RunState | None) -> Plan:
        if saved:
            self.run.event("resume", epoch=saved["fit"]["epoch"])
            return self.planner.resumed(saved)
        if self.stopped or distributed.any_of(self.run.should_stop()):
            self._stop()
        return self.planner.plan(self.facts["accuracy_probe"])

    def _stop(self) -> NoReturn:
        self.stopped = True
        raise KeepProbe("the training was stopped before the trunk was tuned")

    def _sides(self, plan: Plan) -> tuple[Pictures, Pictures]:
        """Both sides of the split, over one tensor, on the device where it fits."""
        try:
            kind, pixels = self._pixels(plan)
        except StoppedError:
            self._stop()
        except UserError as error:
            raise KeepProbe(str(error)) from error
        self.dataset.contents.let_go()
        rows = torch.from_numpy(self.dataset.rows)
        targets = torch.zeros(len(pixels), dtype=torch.int64)
        targets[rows] = torch.from_numpy(self.dataset.labels)
        if device_room(self.run.device, pixels.nbytes):
            pixels = pixels.to(self.run.device)
        train, held_out = (rows[side] for side in (self.parts.train, self.parts.held_out))
        return kind(pixels, targets, train, self.probe.mirror), kind(pixels, targets, held_out)

    def _pixels(self, plan: Plan) -> tuple[type[Pictures], Tensor]:
        """What is learned from: pictures, or what stage 4 gave of them."""
        run, planner = self.run, self.planner
        if plan.frozen == ZOOMED.frozen:
            return Zoomed, distributed.all_or_none(lambda: read_all(run, self.dataset, self.cfg))
        items = planner.lacking(mirrored=False)
        items += planner.lacking(mirrored=True) if plan.augment else []
        fill(run, self.dataset, planner.cache, planner.trunk, items)
        return CachedPictures, planner.cache.lines

    def _fit(
        self,
        network: PartlyFrozenVGG,
        train: Pictures,
        held_out: Pictures,
        plan: Plan,
        saved: RunState | None,
    ) -> Fitted:
        run = self.run
        content = {"key": f"finetune {self.dataset.key}", "size": self.cfg.size}
        content |= {"frozen": plan.frozen, "augment": plan.augment, "most": plan.samples_limit}

        def on_epoch(epoch: Epoch, state: Any) -> None:
            self.recorder.record(epoch, state)  # first: after a break no frame is missing
            run.save_state(lambda: {**content, "fit": state()})
            run.event("epoch", **asdict(epoch))

        try:
            return train_loop(
                network,
                train,
                held_out,
                plan.samples_planned,
                replace(RECIPE, augment=plan.augment),
                seed=run.options.seed,
                dtype=run.dtype,
                deadline=plan.deadline,
                samples_limit=plan.samples_limit,
                resume=saved["fit"] if saved else None,
                on_epoch=on_epoch,
                on_warning=lambda sentence: run.say("warning", sentence),
                should_stop=run.should_stop,
                lock=run.lock,
                optimizer=new_optimizer,
            )
        except StoppedError:
            self._stop()

    def _logits(self, network: PartlyFrozenVGG, held_out: Pictures) -> np.ndarray:
        chunks = []
        with torch.inference_mode():
            for rows in held_out.rows.split(eval_batch(self.cfg.size)):
                x, _ = held_out.take(rows, self.run.device, self.cfg)
                with self.run.lock:
                    chunks.append(network(x).cpu())
        return torch.cat(chunks).numpy()

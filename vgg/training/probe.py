"""A new last layer on a frozen trunk: each picture goes through the trunk once, ever."""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
from torch import Tensor

from vgg import distributed
from vgg.data.reading import in_threads, load_picture, print_store
from vgg.data.split import FINGERPRINT, FolderIndex, split
from vgg.errors import StoppedError, UserError
from vgg.inference.calibration import apply_temperature
from vgg.network.config import Preprocessing
from vgg.network.vgg import VGG
from vgg.training.dataset import content_key, identify, without
from vgg.training.features import Trunk, extract, with_head
from vgg.training.logistic import fit_head
from vgg.training.options import TRAINED_HEAD
from vgg.training.run import Run, Trained

SMALLER_SIZES = (192, 160, 128, 96)  # pixels, where the trunk takes too long at its own size
CHANGED = "changed while it was read"
TRUNK_SHARE = 0.85  # of the budget; the rest is for the layer, the evaluation and the files
WARM_UP, MEASURED = 1, 3  # batches: the first is slower than the rest


def preprocessing_of(model: VGG, image_size: int | None) -> Preprocessing:
    """The whole picture, the rest filled with the mean colour: measured better than a centre
    crop."""
    cfg = model.config.pretrained_cfg
    size = image_size or cfg.size
    return replace(cfg, input_size=(3, size, size), crop_mode="border", crop_pct=1.0)


def train_probe(
    run: Run,
    index: FolderIndex,
    model: VGG,
    *,
    size: int | None = None,
    keep: Callable[[str, np.ndarray, Tensor], None] | None = None,
) -> Trained:
    """Train a new last layer on the frozen trunk of `model`.

    Where the time is over or the training is stopped before all pictures went through the trunk,
    the layer learns from those that did. `size`, in pixels, is what an earlier part of this
    training chose. `keep` gets the name, features and maps (see `Trunk.with_maps`) of each picture
    that goes through the trunk now.
    """
    index, digests = identify(run, index)
    head_name = run.options.head or TRAINED_HEAD
    looks = _look_at_all(run, index, digests, model, head_name, size, keep)
    index, features = looks.index, looks.features.astype(np.float32)
    parts = split(index, features, seed=run.options.seed, prints=looks.prints)
    run.tell_split(index, parts)
    names, targets = index.class_names, index.labels
    head = fit_head(
        features[parts.train],
        targets[parts.train],
        parts.groups[parts.train],
        len(names),
        seed=run.options.seed,
        device=run.device,
        should_stop=run.should_stop,
    )
    network = with_head(model, head_name, len(names), looks.trunk.cfg, names)
    network.classifier[-1].load_state_dict({"weight": head.weight, "bias": head.bias})
    network.config = replace(network.config, trained=True, extra={"temperature": head.temperature})
    logits = features[parts.held_out] @ head.weight.numpy().T + head.bias.numpy()
    if not looks.stopped and run.options.mode == "probe":
        run.say("plan", "the last layer has converged: more time would not change it")
    return Trained(
        network=network,
        index=index,
        split=parts,
        probs=apply_temperature(logits, head.temperature),
        epochs=0,
        stopped=looks.stopped,
        facts={
            "temperature": head.temperature,
            "temperature_from": "pictures learned from, each by a layer that had not seen it",
            "regularisation": head.strength,
            "trunk_runs": looks.trunk_runs,
        },
        key=looks.key,
    )


def _look_at_all(
    run: Run,
    index: FolderIndex,
    digests: Sequence[str],
    model: VGG,
    head: str,
    size: int | None,
    keep: Callable[[str, np.ndarray, Tensor], None] | None,
) -> "_Looks":
    """All pictures, looked at in a size that the budget allows; in the end perhaps not all.

    Where no budget was given, the trunk takes the time that it needs.
    """

    def loader_at(size: int | None) -> _Looks:
        cfg = preprocessing_of(model, size)
        trunk = Trunk(model, head, cfg, device=run.device, dtype=run.dtype)
        return _Looks(run, index, digests, trunk, keep)

    size = size or run.options.image_size
    looks = loader_at(size)
    by_time = run.seconds is not None and size is None
    if by_time and distributed.any_of(bool(looks.todo)):
        each = looks.measure()
        needed, time_left = distributed.run_on_rank_0(
            lambda: (each * len(looks.todo), TRUNK_SHARE * max(run.left, 0.1))
        )
        size = looks.trunk.cfg.size
        smaller = [s for s in SMALLER_SIZES if s < size]
        fitting = [s for s in smaller if needed * (s / size) ** 2 <= time_left]
        if needed > time_left and smaller:
            chosen = fitting[0] if fitting else smaller[-1]
            run.say(
                "plan",
                f"at {size} pixels the trunk would take about {needed:.0f} s for the pictures, so "
                f"they are shown to it at {chosen} pixels; a longer budget would do better",
            )
            looks = loader_at(chosen)
    looks.work()
    looks.finish()
    return looks


class _Looks:
    """What is known of the pictures of `index`, and which still have to go through the trunk.

    Of several processes each takes its share through the trunk; in the end all know all.
    """

    def __init__(
        self,
        run: Run,
        index: FolderIndex,
        digests: Sequence[str],
        trunk: Trunk,
        keep: Callable[[str, np.ndarray, Tensor], None] | None,
    ) -> None:
        self.run, self.index, self.digests, self.trunk = run, index, digests, trunk
        self.keep, self.key = keep, ""
        self.rows, self.records = distributed.run_on_rank_0(
            lambda: (trunk.store.read(digests), print_store(trunk.cfg).read(digests))
        )
        self.known = frozenset(self.rows)
        self.errors: dict[str, str] = {}
        self.trunk_runs = 0
        self.stopped = False
        self.features = np.empty(0)
        self.prints = np.empty(0)
        self.least = 0.0  # seconds of the budget that must be left for the rest of the work
        if budget := run.options.budget_s:
            self.least = (1 - TRUNK_SHARE) / 2 * budget
        done = set(self.rows)
        self.todo: list[int] = []
        for number in in_turns(index.labels.tolist(), run.options.seed):
            if digests[number] not in done:
                done.add(digests[number])  # a copy of the same file counts once
                self.todo.append(number)
        self.todo = list(distributed.shard(self.todo))

    def measure(self) -> float:
        """Seconds that the trunk takes for one picture, measured on the first few."""
        self.work(WARM_UP * self.trunk.batch_size)
        began, count = time.monotonic(), min(len(self.todo), MEASURED * self.trunk.batch_size)
        self.work(count)
        return (time.monotonic() - began) / max(1, count)

    def work(self, most: int | None = None) -> None:
        """Take the next pictures, all by default, until it is time to stop."""
        now, self.todo = self.todo[:most], self.todo[most:] if most is not None else []
        total = len(set(self.digests))
        files = [self.index.samples[number].path for number in now]
        wanted = [self.digests[number] not in self.records for number in now]
        with closing(
            extract(self.trunk, files, with_fingerprint=wanted, lock=self.run.lock)
        ) as seen:
            for done, item in enumerate(seen, start=1):
                digest = self.digests[now[done - 1]]
                if item.features is None or item.load_picture.digest != digest:
                    self.errors[digest] = item.load_picture.error or CHANGED
                else:
                    self.rows[digest] = item.features
                    if self.keep and item.maps is not None:
                        self.keep(self.index.samples[now[done - 1]].name, item.features, item.maps)
                    if item.load_picture.fingerprint is not None:
                        self.records[digest] = item.load_picture.fingerprint
                    self.trunk_runs += 1
                fresh = len(self.rows) + len(self.errors) - len(self.known)
                reached = len(self.known) + fresh * distributed.world()
                self.run.progress("features", min(reached, total), total)
                self.stopped = self.run.should_stop()
                if self.stopped or (self.least and self.run.left < self.least):
                    self.todo = now[done:] + self.todo
                    return

    def finish(self) -> None:
        """Leave out what could not be read or did not get its turn, and line up the rest."""
        self._tell_all()
        self._complete_fingerprints()
        pairs = list(zip(self.index.samples, self.digests, strict=True))
        reached = [s for s, d in pairs if d in self.errors or self._is_known(d)]
        if len(reached) < len(pairs):
            self._say_incomplete(len(reached), len(pairs))
        index = replace(self.index, samples=tuple(reached))
        bad = {s.name: self.errors[d] for s, d in pairs if d in self.errors}
        self.index = without(index, bad)
        digest_of = {sample.name: digest for sample, digest in pairs}
        digests = [digest_of[sample.name] for sample in self.index.samples]
        self.key = content_key(self.index, digests)
        self.features = np.stack([self.rows[digest] for digest in digests])
        if not np.isfinite(self.features).all():
            raise UserError("training.damaged_trunk")
        self.prints = np.zeros(len(digests), FINGERPRINT)
        for place, digest in enumerate(digests):
            self.prints[place] = self.records[digest]

    def _tell_all(self) -> None:
        """Everyone's share, put together in every process."""
        distributed.barrier()
        fresh = {digest: row for digest, row in self.rows.items() if digest not in self.known}
        shares = distributed.all_gather(
            (fresh, self.records, self.errors, self.trunk_runs, self.stopped)
        )
        for rows, records, errors, _, _ in shares:
            self.rows |= rows
            self.records |= records
            self.errors |= errors
        self.trunk_runs = sum(runs for *_, runs, _ in shares)
        self.stopped = any(stopped for *_, stopped in shares)

    def _complete_fingerprints(self) -> None:
        """Of pictures whose features were kept, but not their fingerprints."""
        lacking = {
            digest: sample.path
            for sample, digest in zip(self.index.samples, self.digests, strict=True)
            if digest in self.rows and digest not in self.records
        }
        fresh: dict[str, np.ndarray] = {}
        looks = in_threads(
            lambda file: load_picture(file, self.trunk.cfg, with_fingerprint=True), lacking.values()
        )
        for digest, item in zip(lacking, looks, strict=True):
            if item.fingerprint is not None and item.digest == digest:
                fresh[digest] = item.fingerprint
            else:
                self.errors[digest] = item.error or CHANGED
        print_store(self.trunk.cfg).write(fresh)
        self.records.update(fresh)

    def _is_known(self, digest: str) -> bool:
        return digest in self.rows and digest in self.records

    def _say_incomplete(self, reached: int, count: int) -> None:
        known = [
            sample.label
            for sample, digest in zip(self.index.samples, self.digests, strict=True)
            if self._is_known(digest)
        ]
        if np.bincount(known, minlength=len(self.index.class_names)).min() < 2:
            if self.stopped:
                raise StoppedError("training.stopped_in_trunk")
            raise UserError("training.short_budget")
        why = "training was stopped" if self.stopped else "budget is over"
        self.run.say(
            "warning",
            f"the {why}: {reached} of {count} pictures went through the trunk, "
            "and the last layer learns from those",
        )


def in_turns(labels: Sequence[int], seed: int) -> list[int]:
    """All numbers in an order that takes one picture of each class in turn: wherever it breaks
    off, every class has had its share."""
    rng = random.Random(seed)
    queues: dict[int, list[int]] = {}
    for number, label in enumerate(labels):
        queues.setdefault(label, []).append(number)
    turns = []
    for label, queue in queues.items():
        rng.shuffle(queue)
        turns += [(place, label, number) for place, number in enumerate(queue)]
    return [number for _, _, number in sorted(turns)]

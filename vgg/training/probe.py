"""A new last layer on a frozen trunk: each picture goes through the trunk once, ever."""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
from torch import Tensor

from vgg import distributed
from vgg.data.duplicates import FINGERPRINT
from vgg.data.files import in_threads
from vgg.data.reading import LoadedPicture, print_store
from vgg.data.split import split
from vgg.errors import StoppedError, UserError
from vgg.inference.calibration import apply_temperature
from vgg.network.config import Preprocessing
from vgg.network.vgg import VGG
from vgg.training.dataset import Dataset, Trained, mirrors
from vgg.training.features import Trunk, extract, with_head
from vgg.training.logistic import fit_head
from vgg.training.options import TRAINED_HEAD
from vgg.training.run import Run

SMALLER_SIZES = (192, 160, 128, 96)  # pixels, where the trunk takes too long at its own size
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
    dataset: Dataset,
    model: VGG,
    *,
    size: int | None = None,
    keep: Callable[[int, np.ndarray, Tensor], None] | None = None,
) -> Trained:
    """Train a new last layer on the frozen trunk of `model`.

    Where the time is over or the training is stopped before all pictures went through the trunk,
    the layer learns from those that did. `size`, in pixels, is what an earlier part of this
    training chose. `keep` gets the row, features and maps (see `Trunk.with_maps`) of each picture
    that goes through the trunk now.
    """
    head_name = run.options.head or TRAINED_HEAD
    done = _through_trunk(run, dataset, model, head_name, size, keep)
    dataset, features, prints = done.finish()
    features = features.astype(np.float32)
    parts = split(dataset.index, prints, features, seed=run.options.seed)
    run.tell_split(parts)
    mirror = run.options.mode != "probe" and mirrors(run, dataset, parts.train, prints)
    names, targets = dataset.class_names, dataset.labels
    head = distributed.run_on_rank_0(  # each might stop at another place
        lambda: fit_head(
            features[parts.train],
            targets[parts.train],
            parts.groups[parts.train],
            len(names),
            seed=run.options.seed,
            device=run.device,
            should_stop=run.should_stop,
        )
    )
    network = with_head(model, head_name, len(names), done.trunk.cfg, names)
    network.classifier[-1].load_state_dict({"weight": head.weight, "bias": head.bias})
    network.config = replace(network.config, trained=True, extra={"temperature": head.temperature})
    logits = features[parts.held_out] @ head.weight.numpy().T + head.bias.numpy()
    if not done.stopped and run.options.mode == "probe":
        run.say("plan", "the last layer has converged: more time would not change it")
    return Trained(
        network=network,
        dataset=dataset,
        split=parts,
        probs=apply_temperature(logits, head.temperature),
        epochs=0,
        stopped=done.stopped,
        facts={
            "temperature": head.temperature,
            "temperature_from": "pictures learned from, each by a layer that had not seen it",
            "regularisation": head.strength,
            "trunk_runs": done.trunk_runs,
        },
        mirror=mirror,
    )


def _through_trunk(
    run: Run,
    dataset: Dataset,
    model: VGG,
    head: str,
    size: int | None,
    keep: Callable[[int, np.ndarray, Tensor], None] | None,
) -> "_TrunkPass":
    """All pictures, in a size that the budget allows; in the end perhaps not all.

    Where no budget was given, the trunk takes the time that it needs.
    """

    def pass_at(size: int | None) -> _TrunkPass:
        cfg = replace(preprocessing_of(model, size), white=dataset.index.white)
        trunk = Trunk(model, head, cfg, device=run.device, dtype=run.dtype)
        return _TrunkPass(run, dataset, trunk, keep)

    size = size or run.options.image_size
    found = pass_at(size)
    by_time = run.seconds is not None and size is None
    if by_time and distributed.any_of(bool(found.todo)):
        each = distributed.all_or_none(found.measure)
        needed, time_left = distributed.run_on_rank_0(
            lambda: (each * len(found.todo), TRUNK_SHARE * max(run.left, 0.1))
        )
        size = found.trunk.cfg.size
        smaller = [s for s in SMALLER_SIZES if s < size]
        fitting = [s for s in smaller if needed * (s / size) ** 2 <= time_left]
        if needed > time_left and smaller:
            chosen = fitting[0] if fitting else smaller[-1]
            run.say(
                "plan",
                f"at {size} pixels the trunk would take about {needed:.0f} s for the pictures, so "
                f"they are shown to it at {chosen} pixels; a longer budget would do better",
            )
            found = pass_at(chosen)
    distributed.all_or_none(found.work)
    return found


class _TrunkPass:
    """What is known of the pictures of a dataset, by their digests, and which still have to go
    through the trunk.

    Of several processes each takes its share through the trunk; in the end all know all.
    """

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        trunk: Trunk,
        keep: Callable[[int, np.ndarray, Tensor], None] | None,
    ) -> None:
        self.run, self.dataset, self.trunk, self.keep = run, dataset, trunk, keep
        self.digests = digests = dataset.digests
        self.rows, self.records = distributed.run_on_rank_0(
            lambda: (trunk.store.read(digests), print_store(trunk.cfg).read(digests))
        )
        self.known = frozenset(self.rows)
        self.errors: dict[str, str] = {}
        self.trunk_runs = 0
        self.stopped = False
        self.least = 0.0  # seconds of the budget that must be left for the rest of the work
        if budget := run.options.budget_s:
            self.least = (1 - TRUNK_SHARE) / 2 * budget
        done = set(self.rows)
        self.todo: list[int] = []  # places in the dataset
        for place in round_robin_by_class(dataset.labels.tolist(), run.options.seed):
            if digests[place] not in done:
                done.add(digests[place])  # a copy of the same file counts once
                self.todo.append(place)
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
        loaded = in_threads(self._load, now)
        with closing(loaded), closing(extract(self.trunk, loaded, lock=self.run.lock)) as seen:
            for done, item in enumerate(seen, start=1):
                if item.features is None:
                    self.errors[item.digest] = item.picture.error
                else:
                    self.rows[item.digest] = item.features
                    if self.keep and item.maps is not None:
                        row = int(self.dataset.rows[now[done - 1]])
                        self.keep(row, item.features, item.maps)
                    if item.picture.fingerprint is not None:
                        self.records[item.digest] = item.picture.fingerprint
                    self.trunk_runs += 1
                fresh = len(self.rows) + len(self.errors) - len(self.known)
                reached = len(self.known) + fresh * distributed.world()
                self.run.progress("features", min(reached, total), total)
                self.stopped = self.run.should_stop()
                if self.stopped or (self.least and self.run.left < self.least):
                    self.todo = now[done:] + self.todo
                    return

    def _load(self, place: int) -> tuple[str, LoadedPicture]:
        """A picture, and its fingerprint where there is none yet."""
        digest = self.digests[place]
        unknown = digest not in self.records
        sample = self.dataset.samples[place]
        return digest, self.dataset.load(sample, self.trunk.cfg, with_fingerprint=unknown)

    def finish(self) -> tuple[Dataset, np.ndarray, np.ndarray]:
        """(the dataset less what could not be read or did not get its turn, features (N, D),
        fingerprints (N,))."""
        distributed.all_or_none(self._complete_fingerprints)
        self._tell_all()
        digests = self.digests
        places = [p for p, d in enumerate(digests) if d in self.errors or self._is_known(d)]
        if len(places) < len(digests):
            self._say_incomplete(len(places), len(digests))
        bad = {p: self.errors[digests[p]] for p in places if digests[p] in self.errors}
        dataset = self.dataset.only(places, bad)
        features = np.stack([self.rows[digest] for digest in dataset.digests])
        if not np.isfinite(features).all():
            raise UserError("training.damaged_trunk")
        prints = np.zeros(len(dataset), FINGERPRINT)
        for place, digest in enumerate(dataset.digests):
            prints[place] = self.records[digest]
        return dataset, features, prints

    def _tell_all(self) -> None:
        """Everyone's share, put together in every process."""
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
            digest: place
            for place, digest in enumerate(self.digests)
            if digest in self.known and digest not in self.records
        }
        fresh: dict[str, np.ndarray] = {}
        for digest, item in in_threads(self._load, distributed.shard(list(lacking.values()))):
            if item.fingerprint is not None:
                fresh[digest] = item.fingerprint
            else:
                self.errors[digest] = item.error
        print_store(self.trunk.cfg).write(fresh)
        self.records.update(fresh)

    def _is_known(self, digest: str) -> bool:
        return digest in self.rows and digest in self.records

    def _say_incomplete(self, reached: int, count: int) -> None:
        labels = self.dataset.labels
        known = labels[[self._is_known(digest) for digest in self.digests]]
        if np.bincount(known, minlength=len(self.dataset.class_names)).min() < 2:
            if self.stopped:
                raise StoppedError("training.stopped_in_trunk")
            raise UserError("training.short_budget")
        why = "training was stopped" if self.stopped else "budget is over"
        self.run.say(
            "warning",
            f"the {why}: {reached} of {count} pictures went through the trunk, "
            "and the last layer learns from those",
        )


def round_robin_by_class(labels: Sequence[int], seed: int) -> list[int]:
    """All numbers in an order that takes one picture of each class in turn: wherever it breaks
    off, every class has had its share."""
    rng = random.Random(seed)
    queues: dict[int, list[int]] = {}
    for number, label in enumerate(labels):
        queues.setdefault(label, []).append(number)
    places = []
    for label, queue in queues.items():
        rng.shuffle(queue)
        places += [(place, label, number) for place, number in enumerate(queue)]
    return [number for _, _, number in sorted(places)]

"""The honest split: what is learned from, what is measured on.

The held-out part is chosen before anything is learned, a fifth of each class, and copies of a
picture are on one side together.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vgg.data.duplicates import group
from vgg.data.index import FolderIndex, Skipped
from vgg.errors import UserError

_CROWD = 20  # pictures: a larger group may be of one kind (grey trousers), not of one picture


@dataclass(frozen=True, eq=False)
class Split:
    """Which samples of an index are learned from and which are measured on, by their numbers.

    `groups` is int64 (N,): equal numbers for copies of one picture, -1 for a picture that is on
    neither side; `skipped` says why.
    """

    train: list[int]
    held_out: list[int]
    groups: np.ndarray
    skipped: tuple[Skipped, ...] = ()
    hints: tuple[str, ...] = ()

    def names(self, index: FolderIndex) -> dict[str, list[str]]:
        """What split.json holds: paths below the scanned folder."""
        return {
            "train": [index.samples[k].name for k in self.train],
            "held_out": [index.samples[k].name for k in self.held_out],
        }


def split(
    index: FolderIndex,
    prints: np.ndarray,
    features: np.ndarray | None = None,
    *,
    held_out: float = 0.2,
    seed: int = 0,
) -> Split:
    """Chooses the held-out part: of each class about the share `held_out`, copies on one side.

    The share is rounded to a half, a third, a fourth, and so on. Each class has a picture
    on either side where two of its pictures are no copies of each other; else it is learned from
    only. Where the folder came split, its parts stand, less what `train` has copies of.

    `prints` (N,), of dtype `FINGERPRINT`, and `features` (N, D), a network's outputs, tell copies.
    Raises `UserError` where nothing is left to learn a class from.
    """
    if not 0 < held_out <= 0.5:
        raise UserError("data.held_out", value=held_out)
    samples, labels = index.samples, index.labels
    groups = group(prints, features)
    skipped = []
    side = np.array([sample.part == "held_out" for sample in samples])
    if side.any():
        for k, twin in _copies(prints["digest"], groups, side):
            reason = f"is a copy of {samples[twin].name}, which is held out"
            skipped.append(Skipped(samples[k].name, reason))
            groups[k] = -1
    else:
        side = _held_out(labels, groups, held_out, seed)
    placed = groups >= 0
    train, measured = np.flatnonzero(placed & ~side), np.flatnonzero(placed & side)
    _check_classes(index, labels[train])
    hints = _hints(index, labels, groups, side)
    return Split(train.tolist(), measured.tolist(), groups, tuple(skipped), hints)


def folds(
    labels: Sequence[int] | np.ndarray,
    groups: Sequence[int] | np.ndarray,
    *,
    k: int = 5,
    seed: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cuts N pictures into up to k parts, each in turn measured on: [(train, held out), …].

    `labels` and `groups` are (N,); the parts' numbers count in them. Each picture is held out
    once, classes are spread evenly, groups stay whole. Fewer than k parts come where there are
    fewer groups, or where every class has fewer pictures.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    labels, groups = np.asarray(labels), np.asarray(groups)
    group_sizes = np.bincount(groups)
    k = int(min(k, np.count_nonzero(group_sizes), max(np.bincount(labels), default=0)))
    if k < 2:
        raise UserError("data.all_same")
    rng = np.random.default_rng(seed)
    fold = np.empty(len(labels), np.int64)
    # Pictures without a copy, mostly nearly all, go the quick way: the other takes a minute for
    # 100,000 of them.
    alone = group_sizes[groups] == 1
    for members, splitter in ((alone, StratifiedKFold), (~alone, StratifiedGroupKFold)):
        where, order = np.flatnonzero(members), rng.permutation(k)
        _, group_of = np.unique(groups[where], return_inverse=True)
        parts = min(k, max(group_of, default=0) + 1, max(np.bincount(labels[where]), default=0))
        if parts < 2:  # one group, or one picture a class
            fold[where] = order[group_of % k]
            continue
        # Fewer pictures of a class than folds are known, and meant. The filter stays: all threads
        # share it, so to take it back would take back what others have set meanwhile.
        warnings.filterwarnings("ignore", "The (least populated class|groups parameter) ")
        split_up = splitter(parts, shuffle=True, random_state=seed)
        for f, (_, part) in enumerate(split_up.split(where, labels[where], group_of)):
            fold[where[part]] = order[f]
    return [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in np.unique(fold)]


def _copies(digests: np.ndarray, groups: np.ndarray, side: np.ndarray) -> list[tuple[int, int]]:
    """Pictures of train that are copies of held-out ones, each with one such picture."""
    sizes = np.bincount(groups[groups >= 0])
    held = np.flatnonzero(side & (groups >= 0)).tolist()
    by_group = {groups[k]: k for k in held if sizes[groups[k]] <= _CROWD}
    by_digest = {digests[k]: k for k in held}
    pairs = []
    for k in np.flatnonzero(~side & (groups >= 0)).tolist():
        twin = by_digest.get(digests[k], by_group.get(groups[k]))
        if twin is not None:
            pairs.append((k, twin))
    return pairs


def _held_out(labels: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which pictures are held out: bool (N,)."""
    if len(np.unique(groups)) < 2:
        return np.zeros(len(labels), bool)
    sizes = np.bincount(labels)
    side, least = np.zeros(len(labels), bool), np.inf
    for _, part in folds(labels, groups, k=round(1 / share), seed=seed):
        got = np.bincount(labels[part], minlength=len(sizes))
        off = np.abs(got - share * sizes).sum()
        if off < least:
            side, least = np.isin(np.arange(len(labels)), part), off
    side = _with_all_classes(labels, groups, side)
    alone = np.bincount(groups)[groups] == 1
    rng = np.random.default_rng(seed)
    for c in np.unique(labels):  # where groups left a class uneven, pictures without a copy help
        own = np.flatnonzero(labels == c)
        if len(np.unique(groups[own])) > 1:
            surplus = side[own].sum() - max(1, round(share * len(own)))
            movable = own[alone[own] & (side[own] == (surplus > 0))]
            side[rng.permutation(movable)[: abs(surplus)]] = surplus < 0
    return side


def _with_all_classes(labels: np.ndarray, groups: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Moves a few groups until each class stands on both sides, or on train's alone.

    First come the classes that are one group only. Later moves leave those alone, and any that
    would take the last picture of another class from a side.
    """
    side = side.copy()
    of_class = {c: np.unique(groups[labels == c]) for c in np.unique(labels)}
    single = {own[0] for own in of_class.values() if len(own) == 1}
    side[np.isin(groups, list(single))] = False

    def whole(c: int, held: np.ndarray) -> bool:
        values = held[labels == c]
        return not values.all() and (len(of_class[c]) == 1 or bool(values.any()))

    for c, own in of_class.items():
        if whole(c, side):
            continue
        members = [np.flatnonzero(groups == g) for g in own if g not in single]
        for group_ in sorted(members, key=len):
            moved = side.copy()
            moved[group_] = not side[group_[0]]
            others = [o for o in np.unique(labels[group_]) if whole(o, side)]
            if whole(c, moved) and all(whole(o, moved) for o in others):
                side = moved
                break
    for c, own in of_class.items():  # what can't be learned must not be measured either
        if side[labels == c].all():
            side[np.isin(groups, own)] = False
    return side


def _check_classes(index: FolderIndex, learned: np.ndarray) -> None:
    missing = sorted(set(range(len(index.class_names))) - set(learned.tolist()))
    if missing:
        name = index.class_names[missing[0]]
        raise UserError("data.none_left", name=name)


def _hints(
    index: FolderIndex, labels: np.ndarray, groups: np.ndarray, side: np.ndarray
) -> tuple[str, ...]:
    names = index.class_names
    hints = []
    placed = np.flatnonzero(groups >= 0)
    unmeasured = sorted(set(range(len(names))) - set(labels[placed[side[placed]]].tolist()))
    for c in unmeasured[:3]:
        hints.append(f"no picture of {names[c]!r} is held out: how well it is told is not known")
    if len(unmeasured) > 3:
        hints.append(f"the same goes for {len(unmeasured) - 3} more classes")
    held_groups = np.unique(groups[placed[side[placed]]])
    if both := np.isin(groups[placed[~side[placed]]], held_groups).sum():
        hints.append(
            f"{both} pictures in train look much like held-out ones: "
            "if they are copies, the accuracy will be too high"
        )
    classes: dict[int, dict[int, int]] = {}  # of each group, with one picture each
    for k in placed.tolist():
        classes.setdefault(groups[k], {}).setdefault(labels[k], k)
    if mixed := [list(first.values()) for first in classes.values() if len(first) > 1]:
        one, two = (index.samples[k].name for k in mixed[0][:2])
        times = "once" if len(mixed) == 1 else f"{len(mixed)} times"
        hints.append(f"pictures of two classes look the same, {times}: check {one} and {two}")
    return tuple(hints)

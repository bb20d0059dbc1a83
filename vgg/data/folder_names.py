"""Names of folders: which mean parts of a split, `train`, `seg_train`, `valid`, `test-images`, …"""

import re
from collections.abc import Sequence

TOP, LEAVES = CLASSES = ("top", "leaves")  # which folders of a tree are classes
# Which part a word means: `val` chooses, `test` is the number. Neither is learned from.
_WORDS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout"), "test"),
}
# Short ones, believed where the folders inside are the same as well.
_LOOSE = {"tr": "train", "trn": "train", "te": "test", "tst": "test", "ts": "test", "vl": "val"}
# What may stand beside the word and means nothing.
_FILLERS = frozenset(
    """set sets data dataset datasets image images img imgs picture pictures photo photos pic pics
    sample samples split splits part folder folders file files seg segmentation classification my
    the of for new final raw original resized cropped full small large all only jpg jpeg png and by
    class classes x""".split()  # noqa: SIM905
)
# Folders beside a split whose pictures are to be answered, not learned from.
_ASKED = {"prediction", "predictions", "predict", "pred", "inference"}
_ASKED |= {"unlabeled", "unlabelled", "submission"}
_JOINED = re.compile(f"({'|'.join(sorted(_WORDS, key=len, reverse=True))})"
                     r"(set|sets|data|dataset|images?|imgs?|pics|samples|split)")  # fmt: skip


def _words(name: str) -> list[str]:
    """`SegTrain_2` → seg, train; `trainset` → train, set."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    name = re.sub(r"hold[\W_]*out", "holdout", name.casefold())
    words: list[str] = []
    for word in re.findall(r"[^\W\d_]+", name):
        joined = _JOINED.fullmatch(word)
        words += joined.groups() if joined else [word]
    return words


def parts_of(names: Sequence[str]) -> dict[str, str]:
    """Those of the names of sibling folders that mean a part, with `train`, `val` or `test`.

    Beside its word a name has only words that mean nothing, or what another part's name has, too:
    `flowers_train`, `flowers_test`.
    """
    found: dict[str, str] = {}
    rests: dict[str, tuple[str, ...]] = {}
    for name in names:
        words = _words(name)
        parts = {_WORDS[word] for word in words if word in _WORDS}
        if len(parts) == 1:
            found[name] = parts.pop()
            rest = [word for word in words if word not in _WORDS and word not in _FILLERS]
            rests[name] = tuple(rest)

    def shared(name: str) -> bool:
        others = [other for other in found if rests[other] == rests[name]]
        return {"train"} < {found[other] for other in others}

    return {name: part for name, part in found.items() if not rests[name] or shared(name)}


def part_in(name: str) -> str:
    """`train`, `val` or `test`, by the one such word in a name, `PublicTest`; else empty."""
    parts = {_LOOSE.get(word) or _WORDS.get(word) for word in _words(name)} - {None}
    return parts.pop() or "" if len(parts) == 1 else ""


def means_nothing(name: str) -> bool:
    """Whether a folder on the way to the classes may be called so: `images`, `train`."""
    return all(word in _FILLERS or word in _WORDS for word in _words(name))


def is_to_be_asked(name: str) -> bool:
    """Whether a folder's pictures are to be answered, by its name: `single_prediction`."""
    return not _ASKED.isdisjoint(_words(name))

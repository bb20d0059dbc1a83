"""Finds copies of a picture: resized, recompressed, slightly cropped, brightened.

Copies on both sides of a split make an accuracy look better than it is. Two looks find them:

1. A perceptual hash (ImageHash's phash) of the picture and of six slight crops of it. One hash
   alone misses most cropped copies; with seven, some crop of one picture meets some crop of the
   other.
2. The candidates are laid over each other as small thumbnails. What a small shift, stretch and
   change of light can't explain counts against them.

Measured on pairs of a picture and its copy (resized to 50-200 %, JPEG at quality 30-95, cropped
by up to 5 % a side, brightness x 0.8-1.2, and all of that together): of 416 drawings and
photographs 5402 of 5408 are found, of 800 drawn shapes 10,386 of 10,400. One phash within 10 bits
finds 4516 and 9332. Of the 86,320 pairs that the 416 pictures themselves make, 2 are wrongly taken
for copies, of the 319,600 of the shapes 6. A picture that is nearly one flat colour has no hash to
speak of; its copies can be missed.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from PIL import Image

_SIDE = 24  # pixels a side of a thumbnail
_BLUR = 0.9  # pixels of the thumbnail, a Gaussian's sigma; makes slight shifts act evenly
_MARGIN = 2  # pixels at the thumbnail's edge that a crop may have cut off
_COLOUR = 0.15  # of full scale: the most by which the mean colour of evenly lit copies may differ

# What is cut off the left, top, right and bottom; the first is the whole picture.
_CROPS = (
    (0.0, 0.0, 0.0, 0.0),
    (0.03, 0.03, 0.03, 0.03),
    (0.06, 0.06, 0.06, 0.06),
    (0.05, 0.05, 0.0, 0.0),
    (0.0, 0.05, 0.05, 0.0),
    (0.05, 0.0, 0.0, 0.05),
    (0.0, 0.0, 0.05, 0.05),
)
_CROP_BITS = 12  # of 64 may differ between the nearest crops of two candidates
_SIEVE = 16  # by how many more bits the whole pictures may differ: a quick first sieve
_SIEVE_MANY = 10  # the same in a folder of more than _MANY, where all pairs take long
_MANY = 10_000
_PAIRS_EACH = 12  # candidates a picture, on average, that are looked at; the nearest come first
_PAIRS_AT_LEAST = 30_000
_PAIRS_AT_MOST = 500_000  # about a minute
_AT_ONCE, _THREADS = 256, 4  # pairs compared at once by a thread: they fit into a cache

# A pair agrees from the first level on. At the last it surely shows the same thing.
_LEVELS = (0.90, 0.92, 0.94, 0.96, 0.98, 0.99)
_DENSE = 0.5  # the least part of a group's pairs that must agree
_DRAWS = 200  # pairs of a group that are tried for that
_FEATURE_BITS = 10  # with features: hash within so many bits, and
_FEATURE_COSINE = 0.97  # cosine above this: the same, as seen by the network

# One record a picture. `hashes` are of the crops above, in their order. `thumbnail` is RGB.
# `digest` is of the file's bytes: equal for equal files, 32 letters.
FINGERPRINT = np.dtype(
    [
        ("hashes", np.uint64, (len(_CROPS),)),
        ("thumbnail", np.uint8, (_SIDE, _SIDE, 3)),
        ("digest", "S32"),
    ]
)


def fingerprint(image: Image.Image, digest: str) -> np.ndarray:
    """What `group` compares: a record, shape (), dtype `FINGERPRINT`.

    `image` is RGB, of any size; 128 pixels for the shorter side are plenty. `digest` is the
    file's, from `vgg.data.files.digest_of`.
    """
    from imagehash import phash

    # A picture smaller than the canvas must not be enlarged in steps: bilinear for those.
    method = Image.Resampling.BOX if min(image.size) >= 128 else Image.Resampling.BILINEAR
    grey = image.convert("L").resize((128, 128), method)
    record = np.zeros((), FINGERPRINT)
    for k, (left, top, right, bottom) in enumerate(_CROPS):
        box = (128 * left, 128 * top, 128 * (1 - right), 128 * (1 - bottom))
        bits = phash(grey.resize((32, 32), Image.Resampling.BILINEAR, box=box)).hash
        record["hashes"][k] = np.packbits(bits).view(">u8")[0]
    record["thumbnail"] = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    record["digest"] = digest
    return record


def group(prints: np.ndarray, features: np.ndarray | None = None) -> np.ndarray:
    """Puts copies of one picture into one group: int64 (N,), equal numbers for one group.

    `prints` (N,) has dtype `FINGERPRINT`. With `features` (N, D), a network's outputs, pairs whose
    whole pictures' hashes lie within 10 bits and whose features have a cosine above 0.97 agree,
    too: drawings of one family.

    Pictures that agree one after the other can form a chain whose ends have nothing in common:
    grey silhouettes do. So a group counts where most of its pairs agree; else the bar is raised
    for it and it falls apart. Of 1000 pictures from Fashion-MNIST a plain chain ties 473 together,
    this way at most 63.
    """
    _, first, inverse = np.unique(prints["digest"], return_index=True, return_inverse=True)
    prints = prints[first]
    if features is not None:
        features = np.asarray(features, np.float32)[first]
    pairs = _candidates(prints["hashes"])
    agreement = _agreement(prints, features, pairs)
    keep = agreement >= _LEVELS[0]
    groups = _without_chains(prints, features, pairs[keep], agreement[keep])
    return np.unique(groups[inverse], return_inverse=True)[1]


def _candidates(hashes: np.ndarray) -> np.ndarray:
    """Pairs (P, 2) of pictures that may be copies, by their hashes (N, crops).

    Memory stays flat: rows are taken in blocks, and where pairs are too many the bar is lowered.
    """
    n = len(hashes)
    sieve = _SIEVE if n <= _MANY else _SIEVE_MANY
    most = min(max(_PAIRS_AT_LEAST, _PAIRS_EACH * n), _PAIRS_AT_MOST)
    bar = _CROP_BITS
    found = np.empty((0, 3), np.int32)  # picture, picture, bits that differ
    block = max(1, 2**23 // max(n, 1))
    for start in range(0, n, block):
        differing = np.bitwise_count(hashes[start : start + block, :1] ^ hashes[start:, 0])
        rows, columns = np.nonzero(differing <= bar + sieve)
        above = columns > rows  # each pair once
        rows, columns = rows[above], columns[above]
        parts = [found]
        for s in range(0, len(rows), 2**17):
            i, j = rows[s : s + 2**17] + start, columns[s : s + 2**17] + start
            bits = _nearest_crops(hashes[i], hashes[j])[0]
            near = bits <= bar
            parts.append(np.stack([i[near], j[near], bits[near]], axis=1).astype(np.int32))
        found = np.concatenate(parts)
        while len(found) > 2 * most and bar > 0:
            bar -= 1
            found = found[found[:, 2] <= bar]
    nearest = np.argsort(found[:, 2], kind="stable")[:most]
    return found[nearest, :2]


def _nearest_crops(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For pairs of hashes (P, crops): the fewest bits that differ, and the two crops, each (P,)."""
    bits = np.bitwise_count(a[:, :, None] ^ b[:, None, :]).reshape(len(a), -1)
    best = bits.argmin(axis=1)
    return bits[np.arange(len(a)), best], best // len(_CROPS), best % len(_CROPS)


def _agreement(prints: np.ndarray, features: np.ndarray | None, pairs: np.ndarray) -> np.ndarray:
    """How well the pictures of each pair (P, 2) agree: float32 (P,), 1 is wholly."""

    def agreement(chunk: np.ndarray) -> np.ndarray:
        i, j = chunk.T
        a, b = prints[i], prints[j]
        _, crop_a, crop_b = _nearest_crops(a["hashes"], b["hashes"])
        found = _explained(a["thumbnail"], b["thumbnail"], crop_a, crop_b).astype(np.float32)
        if features is not None:
            lengths = np.linalg.norm(features[i], axis=1) * np.linalg.norm(features[j], axis=1)
            cosine = (features[i] * features[j]).sum(axis=1) / np.maximum(lengths, 1e-12)
            bits = np.bitwise_count(a["hashes"][:, 0] ^ b["hashes"][:, 0])
            alike = (bits <= _FEATURE_BITS) & (cosine > _FEATURE_COSINE)
            found[alike] = np.maximum(found[alike], _LEVELS[0])
        return found

    with ThreadPoolExecutor(_THREADS) as pool:  # NumPy lets others run while it calculates
        parts = pool.map(
            agreement, (pairs[s : s + _AT_ONCE] for s in range(0, len(pairs), _AT_ONCE))
        )
        return np.concatenate([np.empty(0, np.float32), *parts])


def _explained(a: np.ndarray, b: np.ndarray, crop_a: np.ndarray, crop_b: np.ndarray) -> np.ndarray:
    """The part of b's variance that a explains, moved a little: float32 (P,), at most 1.

    a and b: uint8 (P, side, side, 3), and which crop of them to take. For small moves a picture
    changes along its slopes, so shift and stretch are a least-squares fit of five numbers: the
    tangent distance of Simard, LeCun and Denker (1993).
    """
    rows, columns = _sampling()
    a, b = (np.moveaxis(x, 3, 1).astype(np.float32) / 255 for x in (a, b))  # (P, 3, side, side)
    a, b = _evenly_lit(a, b)
    a = rows[crop_a][:, None] @ a @ columns[crop_a][:, None]
    b = rows[crop_b][:, None] @ b @ columns[crop_b][:, None]
    down, right = np.gradient(a, axis=(2, 3))
    place = np.linspace(-1, 1, _SIDE, dtype=np.float32)
    moves = (a, down, right, down * place[:, None], right * place)
    inner = (..., slice(_MARGIN, _SIDE - _MARGIN), slice(_MARGIN, _SIDE - _MARGIN))
    x = np.stack([move[inner].reshape(len(a), -1) for move in moves], axis=1)  # (P, 5, values)
    y = b[inner].reshape(len(b), 1, -1)
    x -= x.mean(axis=2, keepdims=True)
    y -= y.mean(axis=2, keepdims=True)
    gram = x @ x.transpose(0, 2, 1)
    diagonal = np.arange(len(moves))
    gram[:, diagonal, diagonal] = gram[:, diagonal, diagonal] * 1.001 + 0.01  # never singular
    weights = np.linalg.solve(gram, x @ y.transpose(0, 2, 1))
    rest = y - weights.transpose(0, 2, 1) @ x
    # The floor is a contrast of 1 %: below it is the noise of JPEG.
    agreement = 1 - (rest**2).mean(axis=(1, 2)) / np.maximum((y**2).mean(axis=(1, 2)), 1e-4)
    # The same figure in other colours, or a negative, is no copy.
    colour = np.abs(a.mean(axis=(2, 3)) - b.mean(axis=(2, 3))).max(axis=1)
    contrast = weights[:, 0, 0]
    alike = (colour < _COLOUR) & (contrast > 0.5) & (contrast < 2)
    return np.where(alike, agreement, 0)


def _evenly_lit(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The darker of each two is brightened as a camera would: what gets too bright is white."""
    below_white = (a < 0.96) & (b < 0.96)
    light_a, light_b = (np.where(below_white, x**2, 0).sum(axis=(1, 2, 3)) for x in (a, b))
    gain = np.sqrt((light_b + 1e-6) / (light_a + 1e-6)).clip(0.7, 1.4)
    gain[below_white.sum(axis=(1, 2, 3)) < 9] = 1
    gain = gain[:, None, None, None]
    return np.minimum(a * np.maximum(gain, 1), 1), np.minimum(b / np.minimum(gain, 1), 1)


@cache
def _sampling() -> tuple[np.ndarray, np.ndarray]:
    """Matrices (crops, side, side) that crop and blur, for the left and for the right side."""

    def matrix(before: float, after: float) -> np.ndarray:
        centres = (np.arange(_SIDE) + 0.5) / _SIDE
        centres = (before + (1 - before - after) * centres) * _SIDE - 0.5
        weights = np.exp(-((np.arange(_SIDE) - centres[:, None]) ** 2) / (2 * _BLUR**2))
        weights /= weights.sum(axis=1, keepdims=True)
        return weights.astype(np.float32)

    rows = np.stack([matrix(top, bottom) for _, top, _, bottom in _CROPS])
    columns = np.stack([matrix(left, right).T for left, _, right, _ in _CROPS])
    return rows, columns


def _without_chains(
    prints: np.ndarray, features: np.ndarray | None, pairs: np.ndarray, agreement: np.ndarray
) -> np.ndarray:
    """Groups (N,) from pairs (P, 2) that agree; a chain is cut at a higher level of agreement."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(prints)
    rng = np.random.default_rng(0)
    groups = np.arange(n)
    open_ = np.ones(n, bool)
    for level in _LEVELS:
        i, j = pairs[(agreement >= level) & open_[pairs].all(axis=1)].T
        links = coo_matrix((np.ones(len(i), bool), (i, j)), shape=(n, n))
        part = connected_components(links, directed=False)[1]
        order = np.argsort(part, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(part[order])) + 1)
        parts = [members for members in parts if len(members) > 1]
        if level < _LEVELS[-1] and parts:
            drawn = [_some_pairs(members, rng) for members in parts]
            agree = _agreement(prints, features, np.concatenate(drawn)) >= _LEVELS[0]
            shares = np.split(agree, np.cumsum([len(d) for d in drawn])[:-1])
            parts = [m for m, share in zip(parts, shares, strict=True) if share.mean() >= _DENSE]
        for members in parts:
            groups[members] = members[0]
            open_[members] = False
    return groups


def _some_pairs(members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All pairs (P, 2) of a few members, or some at random of many."""
    if len(members) * (len(members) - 1) // 2 <= _DRAWS:
        return members[np.stack(np.triu_indices(len(members), k=1), axis=1)]
    i = rng.integers(len(members), size=_DRAWS)
    j = (i + rng.integers(1, len(members), size=_DRAWS)) % len(members)
    return members[np.stack([i, j], axis=1)]

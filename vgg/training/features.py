"""What a frozen trunk says of each picture: computed once, kept on disk for the next training."""

import hashlib
import json
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vgg.data.cache import FeatureStore, trim
from vgg.data.depth import WHITE
from vgg.data.files import batches
from vgg.data.reading import LoadedPicture, print_store
from vgg.data.transforms import normalise
from vgg.device import precision_name
from vgg.errors import UserError
from vgg.network.config import Preprocessing, classifier_sizes
from vgg.network.heads import HEADS, POOLED
from vgg.network.vgg import VGG
from vgg.network.winograd import use_winograd

VERSION = 1  # a new one where the numbers change: those that are kept are then left alone
CPU_BATCH = 4  # on a CPU more at once is no faster, and others wait longer for their turn
DEVICE_BATCH = 64
LARGEST = float(torch.finfo(torch.float16).max)
KEEP_EVERY = 256  # pictures after which results go to disk, so that little is lost by a kill


class Trunk:
    """The frozen part of a network, made ready for speed: on its device, in its precision, batch
    norm folded. `model` is not changed.

    Calling it takes uint8 (N, 3, S, S), RGB, and gives what the last layer of a network with this
    `head` reads: float16 (N, D). Where that head has hidden layers (`fc`) it is the output
    of the last of them, so the weights must have them.
    """

    def __init__(
        self,
        model: VGG,
        head: str,
        cfg: Preprocessing,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        wanted = replace(model.config, head=head, num_classes=1, label_names=())
        has_none = model.config.head != head or not model.config.num_classes
        if has_none and len(classifier_sizes(wanted)) > 1:
            choices = tuple(name for name, entry in HEADS.items() if not entry.hidden)
            raise UserError("training.no_layers", choices=choices)
        network = with_head(model, head, 1, cfg)
        key = {
            "version": VERSION,
            "weights": weights_digest(network),
            "head": head,
            "precision": precision_name(dtype),
            "preprocessing": {k: v for k, v in asdict(cfg).items() if (k, v) != ("white", WHITE)},
        }
        if network.config.pool != POOLED:
            key["pool"] = network.config.pool
        self.key = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        self.cfg, self.device, self.dtype = cfg, device, dtype
        self.size = classifier_sizes(network.config)[-1][0]
        network.classifier[-1] = nn.Identity()
        network = network.eval().requires_grad_(False)
        if model.config.batch_norm:
            network.fold_batch_norm()
        self.network = network.to(device, dtype).to(memory_format=torch.channels_last)
        if device.type == "cpu" and dtype == torch.float32:
            use_winograd(self.network, cfg.size)

    def __call__(self, pixels: Tensor) -> np.ndarray:
        return self.with_maps(pixels)[0]

    def with_maps(self, pixels: Tensor) -> tuple[np.ndarray, Tensor]:
        """What a call gives, and what the fourth pool gave on the way: float16 (N, C, S/16, S/16),
        on the device."""
        maps: list[Tensor] = []
        pool = self.network.features[self.network.stage_ends[3] + 1]
        hook = pool.register_forward_hook(lambda _module, _args, output: maps.append(output))
        try:
            with torch.inference_mode():
                rows = self.network(normalise(pixels.to(self.device), self.cfg, self.dtype))
                # NaN stays NaN: the caller must see that the weights are damaged.
                return _to_half(rows).cpu().numpy(), _to_half(maps[0])
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        finally:
            hook.remove()
        half = len(pixels) // 2
        (first, first_maps), (rest, rest_maps) = map(self.with_maps, (pixels[:half], pixels[half:]))
        return np.concatenate([first, rest]), torch.cat([first_maps, rest_maps])

    @property
    def store(self) -> FeatureStore:
        """Where its outputs are kept."""
        return FeatureStore(f"features-{self.key}", np.dtype(np.float16), (self.size,))

    @property
    def batch_size(self) -> int:
        return CPU_BATCH if self.device.type == "cpu" else DEVICE_BATCH


@dataclass(frozen=True)
class PictureFeatures:
    """One picture that went through the trunk: `features` is float16 (D,), None after an error.
    `maps` is as of `Trunk.with_maps`. `picture` has no pixels any more."""

    digest: str
    picture: LoadedPicture
    features: np.ndarray | None
    maps: Tensor | None = None


def extract(
    trunk: Trunk,
    pictures: Iterable[tuple[str, LoadedPicture]],
    *,
    lock: AbstractContextManager[Any] | None = None,
) -> Generator[PictureFeatures]:
    """Run the trunk on each picture (the digest of its file, and what is in it), in order, and keep
    the results on disk as they come.

    `lock` is held for one batch at a time. Leave the loop at any time: what is done is kept.
    """
    rows: dict[str, np.ndarray] = {}
    prints: dict[str, np.ndarray] = {}
    try:
        for batch in batches(pictures, trunk.batch_size):
            good = [item.pixels for _, item in batch if item.pixels is not None]
            with lock or nullcontext():
                outputs = (
                    zip(*trunk.with_maps(torch.stack(good)), strict=True) if good else iter(())
                )
            for digest, item in batch:
                features, maps = next(outputs) if item.pixels is not None else (None, None)
                if features is not None:
                    rows[digest] = features
                if item.fingerprint is not None:
                    prints[digest] = item.fingerprint
                yield PictureFeatures(digest, replace(item, pixels=None), features, maps)
            if len(rows) >= KEEP_EVERY:
                _keep(trunk, rows, prints)
                rows, prints = {}, {}
    finally:
        _keep(trunk, rows, prints)


def _to_half(x: Tensor) -> Tensor:
    # NaN stays NaN: the caller must see that the weights are damaged.
    return x.float().clamp(-LARGEST, LARGEST).half()


def _keep(trunk: Trunk, rows: dict[str, np.ndarray], prints: dict[str, np.ndarray]) -> None:
    trunk.store.write(rows)
    print_store(trunk.cfg).write(prints)
    trim()


def with_head(
    model: VGG, head: str, num_classes: int, cfg: Preprocessing, names: tuple[str, ...] = ()
) -> VGG:
    """A network with the trunk of `model`, sharing its weights, and a new last layer, in fp32."""
    config = replace(
        model.config,
        head=head,
        num_classes=num_classes,
        label_names=names,
        trained=False,
        pretrained_cfg=cfg,
        extra={},
    )
    network = VGG.from_config(config, init_weights=False)
    ours = network.state_dict()
    last = f"classifier.{len(network.classifier) - 1}."
    theirs = {
        key: value.float() if value.is_floating_point() else value
        for key, value in model.state_dict().items()
        if key in ours and not key.startswith(last) and value.shape == ours[key].shape
    }
    network.load_state_dict(theirs, strict=False, assign=True)
    for parameter in network.classifier[-1:].parameters():
        nn.init.zeros_(parameter)
    return network.eval()


def weights_digest(network: VGG) -> str:
    """SHA-256 of all weights but those of the last layer."""
    last = f"classifier.{len(network.classifier) - 1}."
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        if not key.startswith(last):
            digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

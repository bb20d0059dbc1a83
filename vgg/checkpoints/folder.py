"""A checkpoint is a folder: `model.safetensors` and `config.json`, written and read here."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vgg.checkpoints.config_beside import config_beside
from vgg.checkpoints.contents import (
    class_names,
    is_finite,
    joined_parts,
    load_object,
    looks_like_weights,
    state_dicts,
)
from vgg.checkpoints.file_names import CONFIG_FILE, STANDARD_FILES, WEIGHTS_FILE, WEIGHTS_SUFFIXES
from vgg.checkpoints.head_layers import StateDict
from vgg.checkpoints.known_files import KnownFile, imagenet_classes, known_file
from vgg.checkpoints.layers import Recognised, recognise
from vgg.errors import UserError
from vgg.network.config import ModelConfig, default_names, dump_config
from vgg.network.vgg import VGG

MOST_READ = 10_000_000  # numbers of a layer; those of a VGG's first fully connected one are 103e6
MOST_TRIED = 20  # dictionaries of tensors in one file; a hostile one may hold any number


@dataclass(frozen=True)
class Checkpoint:
    """What was read from disk: tensors under our names, and what they mean. `notes` are sentences
    on what was taken for what, for people."""

    state: StateDict
    config: ModelConfig
    notes: tuple[UserError, ...] = ()


def save_checkpoint(model: VGG, folder: Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write `model` into `folder`; `dtype` float16 halves the file. Both files appear whole.

    Biases and batch norm stay as they are: they are few, and variances can overflow float16.
    Returns the folder.
    """
    folder = Path(folder)
    state = model.state_dict()
    _check_state(state, model.config)
    state = {
        key: value.detach().to("cpu", dtype if value.ndim > 1 else None).contiguous()
        for key, value in state.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CONFIG_FILE) as config, replacing(folder / WEIGHTS_FILE) as weights:
        save_file(state, weights, metadata={"format": "pt"})
        config.write_text(dump_config(model.config), encoding="utf-8")
    return folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to. It takes the place of `path` where the block ends well, so
    readers see all of it or what was there before; else it is removed."""
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder, or one file of weights with or without a `config.json` beside it.

    What the file is tells its content: see `vgg.checkpoints.contents` and `layers`. Tensors stay on
    disk, mapped into memory, until they are used. A `UserError` names the file and what is wrong.
    """
    path = Path(path)
    file = weights_file(path) if path.is_dir() else path
    with _naming(file):
        config, note = config_beside(file, is_folders=path.is_dir())
        loaded = load_object(file)
        found, failure = _recognised(loaded)
        belongs = path.is_dir() or file.name in STANDARD_FILES
        if config and found is None and belongs:
            return Checkpoint(state_dicts(loaded)[0], config)  # its check says what is wrong
        if found is None:
            raise failure
        if config:
            names = class_names(loaded, config.num_classes)
            read = Checkpoint(found.state, _named(config, names))
            if belongs or _fits(read):
                return read
            note = UserError("checkpoints.config_of_another")
        names = class_names(loaded, found.config.num_classes)
        read = _without_config(found, names, known_file(file))
        return replace(read, notes=(*filter(None, [note]), *read.notes))


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Errors begin with the file's name, where they do not name it."""
    try:
        yield
    except UserError as error:
        if error.values.get("name") == file.name:
            raise
        raise UserError("checkpoints.file", name=file.name, why=error) from error


def _recognised(loaded: object) -> tuple[Recognised | None, UserError]:
    """The first state dict in it that is a VGG's, else what is wrong with the largest."""
    singles, failures = state_dicts(loaded)[:MOST_TRIED], []
    for state in [*joined_parts(loaded)[:MOST_TRIED], *singles]:
        try:
            return recognise(state), UserError("checkpoints.no_weights")
        except UserError as error:
            failures.append(error)
    return None, failures[-len(singles)]


def _without_config(
    found: Recognised, names: tuple[str, ...], known: KnownFile | None
) -> Checkpoint:
    """What a file means that has no config: by its layers, and where everybody has it by its hash.
    Where only the classifier is damaged the rest is a trunk."""
    state, config = dict(found.state), found.config
    if known:
        config = replace(config, pretrained_cfg=known.preprocessing)
        if known.blue_first:
            state["features.0.weight"] = state["features.0.weight"].flip(1)
        if config.num_classes == len(imagenet_classes()):
            names = imagenet_classes()
    trunk = {key: value for key, value in state.items() if key.startswith("features.")}
    if all(is_finite(value) for key, value in state.items() if key not in trunk):
        return Checkpoint(state, _named(config, names), found.notes)
    config = replace(config, num_classes=0, head="gap", label_names=(), trained=False)
    return Checkpoint(trunk, config, (UserError("checkpoints.trunk_alone"),))


def _named(config: ModelConfig, names: tuple[str, ...]) -> ModelConfig:
    """With these names, where there are any and its own are numbers."""
    unnamed = config.label_names == default_names(config.num_classes)
    return replace(config, label_names=names) if names and unnamed else config


def _fits(checkpoint: Checkpoint) -> bool:
    try:
        _check_state(checkpoint.state, checkpoint.config)
    except UserError:
        return False
    return True


def weights_file(folder: Path) -> Path:
    """The one file of weights in a folder, whatever it is called."""
    for name in STANDARD_FILES:
        if (folder / name).is_file():
            return folder / name
    files = sorted(path for path in folder.iterdir() if path.is_file())
    found = [file for file in files if looks_like_weights(file)]
    found = found or [file for file in files if file.suffix.lower() in WEIGHTS_SUFFIXES]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError("checkpoints.several_files", name=folder.name)
    raise UserError("checkpoints.no_file", name=folder.name, file=WEIGHTS_FILE)


def read_state(file: Path) -> StateDict:
    """The tensors of a file of weights: under our names where they are a VGG's, else as they are.
    A `UserError` names the file and says what it is."""
    with _naming(file):
        loaded = load_object(file)
        found, _ = _recognised(loaded)
        return found.state if found else state_dicts(loaded)[0]


def build_model(
    checkpoint: Checkpoint,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    thorough: bool = False,
) -> VGG:
    """The network with the checkpoint's weights, in eval mode. `dtype` None means float32.

    Keys and shapes are checked first, and that all numbers are finite: a `UserError` names the
    first that is not. What is too large to be read at each start is looked at where `thorough`.
    """
    model = _check_state(checkpoint.state, checkpoint.config)
    for key, value in checkpoint.state.items():
        if (thorough or value.numel() <= MOST_READ) and not is_finite(value):
            raise UserError("checkpoints.not_finite", key=key)
    target = dtype or torch.float32
    state = {
        key: value.to(device, target if value.is_floating_point() else None)
        for key, value in checkpoint.state.items()
    }
    for key in model.state_dict():  # counted by newer versions of torch only
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, torch.zeros((), dtype=torch.long, device=device))
    model.load_state_dict(state, assign=True)
    return model.eval()


def _check_state(state: StateDict, config: ModelConfig) -> VGG:
    """The network that `config` describes, without memory, once every key and shape fits it."""
    with torch.device("meta"):
        model = VGG.from_config(config, init_weights=False)
    expected = model.state_dict()
    for key, like in expected.items():
        if key in state or not key.endswith("num_batches_tracked"):
            _check_tensor(key, state.get(key), like, config)
    if surplus := [key for key in state if key not in expected]:
        raise UserError("checkpoints.surplus", key=surplus[0], network=_described(config))
    return model


def _check_tensor(key: str, value: Tensor | None, like: Tensor, config: ModelConfig) -> None:
    if value is None:
        raise UserError("checkpoints.missing", key=key, network=_described(config))
    if value.shape != like.shape:
        raise UserError(
            "checkpoints.shape",
            key=key,
            found=tuple(value.shape),
            network=_described(config),
            needed=tuple(like.shape),
        )
    if value.is_floating_point() != like.is_floating_point():
        raise UserError("checkpoints.dtype", key=key, dtype=str(value.dtype))


def _described(config: ModelConfig) -> UserError:
    return UserError(
        "checkpoints.network",
        architecture=config.architecture,
        classes=config.num_classes,
        head=config.head,
        width=config.width,
    )


def is_half(model: VGG) -> bool:
    """Whether the weights are whole in half precision, so that such a file loses nothing."""
    weights = (parameter.data for parameter in model.parameters() if parameter.ndim > 1)
    return all(torch.equal(weight.half().float(), weight.float()) for weight in weights)

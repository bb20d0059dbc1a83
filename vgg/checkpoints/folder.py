"""A checkpoint is a folder: `model.safetensors` and `config.json`, written and read here."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from vgg.checkpoints.file_names import CONFIG_FILE, WEIGHTS_FILE
from vgg.checkpoints.key_conversion import StateDict, infer_config, to_ours, unwrap
from vgg.data.names import ON_WINDOWS
from vgg.errors import UserError
from vgg.network.config import ModelConfig, dump_config, read_config
from vgg.network.vgg import VGG

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Checkpoint:
    """What was read from disk: tensors under our names, and what they mean."""

    state: StateDict
    config: ModelConfig


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

    Tensors of a safetensors file stay on disk, mapped into memory, until they are used; on Windows
    they are read.
    A `ValueError` names the file and what is wrong with it.
    """
    path = Path(path)
    file = weights_file(path) if path.is_dir() else path
    config_file = file.with_name(CONFIG_FILE)
    state = read_state(file)
    try:
        config = read_config(config_file) if config_file.is_file() else infer_config(state)
    except UserError as error:
        raise UserError("checkpoints.file", name=file.name, why=error) from error
    return Checkpoint(state, config)


def weights_file(folder: Path) -> Path:
    """The one file of weights in a folder."""
    for name in (WEIGHTS_FILE, "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.suffix in WEIGHTS_SUFFIXES and p.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError("checkpoints.several_files", name=folder.name)
    raise UserError("checkpoints.no_file", name=folder.name, file=WEIGHTS_FILE)


def read_state(file: Path) -> StateDict:
    """The tensors of a `.safetensors`, `.pth`, `.pt` or `.bin` file, under our names.

    Pickles are read with `weights_only=True`: one that would run code is refused.
    """
    if file.suffix not in WEIGHTS_SUFFIXES:
        raise UserError("checkpoints.suffix", name=file.name)
    loaded = _load(file)
    try:
        return to_ours(unwrap(loaded))
    except UserError as error:
        raise UserError("checkpoints.file", name=file.name, why=error) from error


def _load(file: Path) -> object:
    """What the file holds, whatever that is."""
    mapped = not ON_WINDOWS  # which lets nobody replace, rename or delete a mapped file
    try:
        with file.open("rb") as opened:
            head = opened.read(2)
    except OSError as error:
        raise UserError("checkpoints.unreadable", name=file.name, why=error.strerror) from error
    try:
        if file.suffix == ".safetensors":
            return load_file(file) if mapped else load(file.read_bytes())
        # Only the newer format, a zip file, can be mapped into memory.
        is_zip = head == b"PK"
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped and is_zip)
    except Exception as error:  # a damaged pickle can fail with nearly any of them
        if "GLOBAL" in str(error):  # torch's word for a class or function that it will not call
            raise UserError("checkpoints.runs_code", name=file.name) from error
        raise UserError("checkpoints.damaged", name=file.name) from error


def build_model(
    checkpoint: Checkpoint,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> VGG:
    """The network with the checkpoint's weights, in eval mode. `dtype` None means float32.

    Keys and shapes are checked first: a `ValueError` names the first that does not fit.
    """
    model = _check_state(checkpoint.state, checkpoint.config)
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

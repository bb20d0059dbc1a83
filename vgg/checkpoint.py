"""A checkpoint is a folder: `model.safetensors` and `config.json`, written and read here."""

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vgg.layouts import State, infer_config, to_ours, unwrap
from vgg.model import VGG
from vgg.options import ModelConfig, dump_config, read_config

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Checkpoint:
    """What was read from disk: tensors under our names, and what they mean."""

    state: State
    config: ModelConfig


def save_checkpoint(model: VGG, folder: Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write `model` into `folder`; `dtype` float16 halves the file. Each file appears whole.

    Returns the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for key, value in model.state_dict().items()
    }
    part = folder / f"{WEIGHTS_FILE}.part"
    save_file(state, part, metadata={"format": "pt"})
    write_text(folder / CONFIG_FILE, dump_config(model.config), before=(part, WEIGHTS_FILE))
    return folder


def write_text(path: Path, text: str, *, before: tuple[Path, str] | None = None) -> None:
    """Write a text file beside its place, then rename it there: readers see all of it or the old
    one. `before` is a finished file and its final name, renamed first."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    if before is not None:
        before[0].replace(path.with_name(before[1]))
    part.replace(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder, or one file of weights with or without a `config.json` beside it.

    Tensors of a safetensors file stay on disk, mapped into memory, until they are used.
    A `ValueError` names the file and what is wrong with it.
    """
    path = Path(path)
    file = weights_file(path) if path.is_dir() else path
    config_file = file.with_name(CONFIG_FILE)
    state = read_state(file)
    try:
        config = read_config(config_file) if config_file.is_file() else infer_config(state)
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error
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
        raise ValueError(f"{folder.name} holds several files of weights; name one of them")
    raise ValueError(f"{folder.name} holds no {WEIGHTS_FILE}; choose the folder of a trained model")


def read_state(file: Path) -> State:
    """The tensors of a `.safetensors`, `.pth`, `.pt` or `.bin` file, under our names.

    Pickles are read with `weights_only=True`: one that would run code is refused.
    """
    if file.suffix not in WEIGHTS_SUFFIXES:
        raise ValueError(f"{file.name} is no file of weights; those end in .safetensors or .pth")
    try:
        if file.suffix == ".safetensors":
            return to_ours(load_file(file))
        return to_ours(unwrap(_read_pickle(file)))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file.name} holds more than weights and could run code when loaded, so it was not "
            "opened; save the state dict alone, best as .safetensors"
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{file.name} is damaged or cut off ({_first_line(error)}); download or save it again"
        ) from error
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error


def _read_pickle(file: Path) -> object:
    with file.open("rb") as opened:
        head = opened.read(2)
    if not head:
        raise EOFError("the file is empty")
    # Only the newer format, a zip file, can be mapped into memory.
    return torch.load(file, map_location="cpu", weights_only=True, mmap=head == b"PK")


def build_model(
    checkpoint: Checkpoint,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> VGG:
    """The network with the checkpoint's weights, in eval mode. `dtype` None means float32.

    Keys and shapes are checked first: a `ValueError` names the first that does not fit.
    """
    config = checkpoint.config
    with torch.device("meta"):  # shapes without memory: nothing is filled in to be overwritten
        model = VGG.from_config(config, init_weights=False)
    state = dict(checkpoint.state)
    expected = model.state_dict()
    for key, like in expected.items():
        if key.endswith("num_batches_tracked") and key not in state:
            state[key] = torch.zeros((), dtype=torch.long)
        _check_tensor(key, state.get(key), like, config)
    if surplus := [key for key in state if key not in expected]:
        raise ValueError(f"{surplus[0]} is in the file, but {_described(config)} has no such layer")
    target = dtype or torch.float32
    state = {
        key: value.to(device, target if value.is_floating_point() else None)
        for key, value in state.items()
    }
    model.load_state_dict(state, assign=True)
    return model.eval()


def _check_tensor(key: str, value: Tensor | None, like: Tensor, config: ModelConfig) -> None:
    if value is None:
        raise ValueError(f"{key} is missing from the file; {_described(config)} needs it")
    if value.shape != like.shape:
        raise ValueError(
            f"{key} is {tuple(value.shape)} in the file, but {_described(config)} "
            f"makes it {tuple(like.shape)}"
        )
    if value.is_floating_point() != like.is_floating_point():
        raise ValueError(f"{key} holds {value.dtype} numbers; weights must be floating point")


def _described(config: ModelConfig) -> str:
    return (
        f"{config.architecture} with {config.num_classes} classes, head {config.head} "
        f"and width {config.width:g}"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:160] or type(error).__name__

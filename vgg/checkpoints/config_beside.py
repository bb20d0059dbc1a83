"""The `config.json` that lies beside a file of weights: the model's own, or something else's."""

import json
from pathlib import Path

from vgg.checkpoints.file_names import CONFIG_FILE
from vgg.errors import UserError
from vgg.network.config import ModelConfig, is_architecture, read_config


def config_beside(file: Path, *, is_folders: bool) -> tuple[ModelConfig | None, UserError | None]:
    """The config of the weights in `file`, and a note where one is passed over: one that speaks of
    no VGG. `is_folders`: the folder was named, not the file, so what is damaged is an error.
    """
    beside = file.with_name(CONFIG_FILE)
    if not beside.is_file():
        return None, None
    try:
        return read_config(beside), None
    except UserError:
        if _is_a_vggs(beside, damaged=is_folders):
            raise
    return None, UserError("checkpoints.other_config", name=CONFIG_FILE)


def _is_a_vggs(file: Path, *, damaged: bool) -> bool:
    """Whether a config speaks of a VGG; `damaged` is the answer for one that can't be read."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return damaged
    return isinstance(data, dict) and is_architecture(data.get("architecture"))

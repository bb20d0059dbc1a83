"""Class names as files and people write them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vgg.errors import UserError
from vgg.network.config import ModelConfig


def with_names(config: ModelConfig, names: Sequence[str]) -> ModelConfig:
    """With these class names, where there are any; a `UserError` where they are not as many."""
    if not names:
        return config
    if len(names) != config.num_classes:
        raise UserError("checkpoints.name_count", names=len(names), classes=config.num_classes)
    return replace(config, label_names=tuple(names))


def class_names_of(text: str | None) -> tuple[str, ...]:
    """Class names as they are typed: `cat,dog,owl`, or the name of a file with one a line, or with
    a JSON list, {name: index} or {index: name}. None where nothing was typed."""
    if not text:
        return ()
    file = Path(text)
    try:
        is_file = file.is_file()
    except (OSError, ValueError):  # too long for a name
        is_file = False
    return names_of_file(file) if is_file else split_names(text)


def split_names(text: str) -> tuple[str, ...]:
    """Class names between commas or line ends."""
    return tuple(name.strip() for name in text.replace("\n", ",").split(",") if name.strip())


def names_of_file(file: Path) -> tuple[str, ...]:
    """Class names of a text file, one a line, or of a JSON file."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".json":
            names = ordered_names(json.loads(text))
        else:
            names = tuple(line.strip() for line in text.splitlines() if line.strip())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError("checkpoints.no_names", name=file.name) from error
    if not names:
        raise UserError("checkpoints.no_names", name=file.name)
    return names


def ordered_names(value: object) -> tuple[str, ...]:
    """Class names of a list, of {name: index} or of {index: name}; empty where it is neither."""
    if isinstance(value, Mapping):
        pairs = list(value.items())
        if all(isinstance(name, str) for name in value.values()):
            pairs = [(name, number) for number, name in pairs]
        try:
            places = {int(number): str(name) for name, number in pairs}
        except (TypeError, ValueError):
            return ()
        return tuple(places[k] for k in range(len(pairs)) if k in places)
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return tuple(value)
    return ()

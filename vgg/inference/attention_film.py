"""The attention film: where a network looked in a few held-out pictures while it learned.

A film is a folder beside the model: `film.json`, a small copy of each picture, and for each frame a
grey PNG with the heat maps of all pictures in a row, for their true classes.
`vgg/training/film_recorder.py` takes the frames.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vgg.checkpoints.file_names import FILM_FOLDER
from vgg.checkpoints.folder import replacing
from vgg.data.images import read_image
from vgg.errors import UserError
from vgg.inference.faithfulness import Faithfulness

INDEX_FILE = "film.json"
MAP_SIDE = 56  # pixels of a map that is kept: a network's last maps are smaller still
COPY_SIDE = 256  # pixels of the longer side of a picture's copy


@dataclass(frozen=True)
class Frame:
    """What is known of each picture after an epoch: the probability of its true class, 0 to 1.

    `truth` is the mean over the first `checked` pictures that have a map; None where there was no
    check.
    """

    epoch: int
    probabilities: tuple[float, ...]
    truth: Faithfulness | None = None
    checked: int = 0


@dataclass(frozen=True)
class Film:
    """A film in its folder. `classes` are the true ones, by their numbers, one a picture; `seconds`
    is what it took to make."""

    folder: Path
    classes: tuple[int, ...]
    frames: tuple[Frame, ...] = ()
    seconds: float = 0.0

    def picture(self, number: int) -> Image.Image:
        """The copy of a picture, RGB."""
        return read_image(_picture_file(self.folder, number))

    def maps(self, frame: Frame) -> Tensor:
        """The heat maps of a frame, of the network's whole input: (pictures, S, S), float32 in
        [0, 1]; all 0 where nothing spoke for the class."""
        strip = read_image(_frame_file(self.folder, frame.epoch)).getchannel(0)
        if strip.width != strip.height * len(self.classes):
            raise UserError("inference.film")
        heat = torch.from_numpy(np.array(strip)).float() / 255
        return torch.stack(heat.chunk(len(self.classes), dim=1))

    def keep_picture(self, number: int, picture: Image.Image) -> None:
        """Write a picture's copy; `picture` itself is made small."""
        self.folder.mkdir(exist_ok=True)
        picture.thumbnail((COPY_SIDE, COPY_SIDE))
        with replacing(_picture_file(self.folder, number)) as part:
            picture.save(part, "PNG")

    def keep_maps(self, epoch: int, heat: Tensor) -> None:
        """Write the heat maps (pictures, S, S) of a frame, of numbers from 0 to 1."""
        side = min(MAP_SIDE, heat.shape[1])
        small = F.interpolate(heat[:, None].nan_to_num(0), (side, side), mode="area")
        strip = torch.cat(list(small[:, 0]), dim=1)
        with replacing(_frame_file(self.folder, epoch)) as part:
            Image.fromarray((255 * strip).round().byte().numpy()).save(part, "PNG")

    def keep(self) -> None:
        """Write the list of frames, after their maps: what is listed is there."""
        content = {
            "classes": self.classes,
            "seconds": round(self.seconds, 3),
            "frames": [asdict(frame) for frame in self.frames],
        }
        with replacing(self.folder / INDEX_FILE) as part:
            part.write_text(json.dumps(content), encoding="utf-8")


def read_film(model_folder: Path) -> Film | None:
    """The film of the model in this folder; None where it has none. A `ValueError` says that it is
    damaged: nothing in the folder is trusted, and no name in it becomes a path."""
    folder = Path(model_folder) / FILM_FOLDER
    file = folder / INDEX_FILE
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        film = Film(
            folder,
            tuple(int(number) for number in content["classes"]),
            tuple(_frame(entry) for entry in content["frames"]),
            float(content["seconds"]),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError("inference.film") from error
    count = len(film.classes)
    if not film.frames or not count or any(len(f.probabilities) != count for f in film.frames):
        raise UserError("inference.film")
    return film


def _frame(entry: dict[str, Any]) -> Frame:
    truth = entry["truth"]
    return Frame(
        int(entry["epoch"]),
        tuple(float(prob) for prob in entry["probabilities"]),
        Faithfulness(**{name: float(value) for name, value in truth.items()}) if truth else None,
        int(entry["checked"]),
    )


def _picture_file(folder: Path, number: int) -> Path:
    return folder / f"picture-{number:02d}.png"


def _frame_file(folder: Path, epoch: int) -> Path:
    return folder / f"frame-{epoch:05d}.png"

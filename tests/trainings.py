"""What tests of training share: tiny networks and pictures, and what a training leaves behind."""

import json
from pathlib import Path
from typing import Any

import torch

from vgg.checkpoints.folder import save_checkpoint
from vgg.network.config import ModelConfig, Preprocessing
from vgg.network.vgg import VGG
from vgg.training.loop import train_loop
from vgg.training.recipe import Fitted, Pictures, Recipe

TINY: dict[str, Any] = {"mode": "scratch", "depth": 11, "width": 0.06, "image_size": 32}
CFG = Preprocessing(input_size=(3, 32, 32))


def network(*, batch_norm: bool = True, kind: type[VGG] = VGG) -> VGG:
    """A network of two classes that has learned nothing, the same in every call."""
    torch.manual_seed(0)
    name = "vgg11_bn" if batch_norm else "vgg11"
    return kind.from_config(ModelConfig(name, 2, "gap", 0.06, pretrained_cfg=CFG))


def untaught(folder: Path, head: str = "gap", width: float = 0.06) -> Path:
    """A checkpoint of a trunk that never learned, good enough as a frozen one: much is left for its
    stages to learn."""
    torch.manual_seed(0)
    model = VGG.from_config(ModelConfig("vgg11_bn", 0, head, width, pretrained_cfg=CFG))
    model(torch.randn(16, 3, 32, 32))  # gives the batch norms something to go by
    return save_checkpoint(model.eval(), folder)


def dark_and_bright(count: int = 64) -> Pictures:
    targets = torch.arange(count) % 2
    noise = torch.randint(0, 60, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    pixels = (noise + 150 * targets.view(-1, 1, 1, 1)).to(torch.uint8)
    return Pictures(pixels, targets, torch.arange(count))


def run_fit(model: VGG, epochs: int, recipe: Recipe | None = None, **more: Any) -> Fitted:
    pictures = dark_and_bright()
    return train_loop(model, pictures, pictures, epochs * len(pictures), recipe, **more)


class SmallMemory(VGG):
    """Holds 10 pictures at once."""

    largest = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if self.training:
            SmallMemory.largest = max(SmallMemory.largest, len(x))
        return super().forward(x)


def events_in(folder: Path, kind: str = "") -> list[dict[str, Any]]:
    """What a training told, all of it or the events of one kind."""
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if kind in ("", event["kind"])]


def json_in(folder: Path, name: str) -> dict[str, Any]:
    """`metrics.json` or `split.json` of a training."""
    return json.loads((folder / f"{name}.json").read_text())

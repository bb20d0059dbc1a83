"""A CUDA device learns what the processor does; with little memory, compiled, and two of them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from torch import Tensor
from trainings import CFG, dark_and_bright, network, run_fit

from vgg.network.config import ModelConfig
from vgg.network.vgg import VGG
from vgg.training.learner import Learner
from vgg.training.recipe import Epoch, Recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Twenty steps in double precision, with batches of 7, of 2 and, so that of two processes the second
# has none, of 1. The losses, and how batch norm is done.
STEPS = """
import json, sys
import torch
from torch import nn
from trainings import dark_and_bright, network
from vgg import distributed
from vgg.network.vgg import VGG
from vgg.training.learner import Learner
from vgg.training.recipe import Recipe

class Double(VGG):
    def forward(self, x):
        return super().forward(x.double())

with distributed.joined():
    device = f"{sys.argv[1]}:{distributed.gpu_number(torch.cuda.device_count())}"
    model = network(kind=Double).double().to(device).to(memory_format=torch.channels_last)
    learner = Learner(model, dark_and_bright(), 140, Recipe(batch_size=7))
    chance, losses = torch.Generator().manual_seed(0), []
    learner.train()
    for size in (7, 7, 7, 2, 1) * 4:
        sums = learner.step(torch.randperm(64, generator=chance)[:size], chance)
        distributed.all_reduce_sum(sums)
        losses.append(sums[0].item() / size)
    norms = {type(m).__name__ for m in learner.network.modules() if "BatchNorm" in type(m).__name__}
    total = sum(value.double().sum().item() for value in model.state_dict().values())
    told = {"losses": losses, "norms": sorted(norms), "weights": distributed.all_gather(total)}
    if distributed.is_rank_0():
        print(json.dumps(told))
"""


def steps(folder: Path, *launcher: str, device: str = DEVICE) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    script = folder / "steps.py"
    script.write_text(STEPS)
    command = [sys.executable, *launcher, str(script), device]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_twenty_steps_have_the_losses_of_the_processor(tmp_path: Path) -> None:
    wanted = steps(tmp_path, device="cpu")["losses"]
    assert steps(tmp_path)["losses"] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_short_training_learns_the_same_in_each_precision(dtype: torch.dtype) -> None:
    def losses(device: str, dtype: torch.dtype) -> list[float]:
        epochs: list[Epoch] = []
        model = network().to(device).to(memory_format=torch.channels_last)
        fitted = run_fit(
            *(model, 6, Recipe(batch_size=16)),
            dtype=dtype,
            on_epoch=lambda epoch, state: epochs.append(epoch),
        )
        assert fitted.accuracy == 1
        return [epoch.loss for epoch in epochs]

    wanted, found = losses("cpu", torch.float32), losses(DEVICE, dtype)
    assert found[0] == pytest.approx(wanted[0], abs=0.02)
    assert found[-1] == pytest.approx(wanted[-1], abs=0.1)


def test_where_memory_is_too_small_batches_are_halved_and_it_goes_on() -> None:
    torch.manual_seed(0)
    model = VGG.from_config(ModelConfig("vgg11_bn", 2, "gap", 1.0, pretrained_cfg=CFG)).to(DEVICE)
    told: list[str] = []
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    # 150 MB for weights, gradients, momentum and average, and 2 MB a picture: 64 do not fit.
    torch.cuda.set_per_process_memory_fraction(2.3e8 / total)
    try:
        fitted = run_fit(model, 2, Recipe(batch_size=64), on_warning=told.append)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert fitted.epochs == 2
    assert told
    assert all("ran out of memory" in sentence for sentence in told)


def test_a_compiled_network_learns_as_the_plain_one() -> None:
    pytest.importorskip("triton")

    def losses(*, fast: bool) -> Tensor:
        model = network().to(DEVICE).to(memory_format=torch.channels_last)
        learner = Learner(model, dark_and_bright(), 640, Recipe(lr=0.01, batch_size=16))
        if fast:
            learner.compile()
            assert not isinstance(learner.network, VGG)
        chance = torch.Generator().manual_seed(0)
        learner.train()
        rows = torch.arange(64)
        return torch.stack([learner.step(part, chance)[0] / 16 for part in rows.split(16)]).cpu()

    torch.testing.assert_close(losses(fast=True), losses(fast=False), rtol=0, atol=0.01)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_processes_with_a_card_each_have_the_losses_of_one(tmp_path: Path) -> None:
    two = steps(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert two["norms"] == ["SyncBatchNorm"]
    assert two["losses"] == pytest.approx(steps(tmp_path)["losses"], abs=1e-4)
    assert two["weights"][0] == two["weights"][1]

"""Of a model on the Hub only the convolutions come down, where a trunk is all that is needed."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from fake_hub import FakeHub, Faults, hub_environment
from safetensors.torch import save

from vgg.checkpoints.key_conversion import to_timm
from vgg.data.shapes import draw_folder
from vgg.network.vgg import VGG

SPEC = "hf-hub:ada/classifier"


def publish(hub: FakeHub) -> tuple[VGG, int]:
    """A model in timm's names whose classifier is most of the file; the size of its trunk."""
    torch.manual_seed(0)
    model = VGG(11, 4, batch_norm=False, width=0.125)
    state = to_timm(model.state_dict())
    config = {"architecture": "vgg11", "num_classes": 4, "width": 0.125}
    files: dict[str, bytes | Path] = {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": save(state),
    }
    hub.add_model("ada/classifier", files)
    return model, sum(4 * v.numel() for k, v in state.items() if k.startswith("features."))


def run(hub: FakeHub, home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = hub_environment(hub, home) | {"VGG_STUDIO_CACHE": str(home / "cache")}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def fetch(hub: FakeHub, home: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from vgg.checkpoints.loading import load_trunk\n"
        f"m = load_trunk({SPEC!r}, on_progress=lambda done, total: print(done, total))\n"
        "total = sum(p.data.double().sum() for p in m.features.parameters()).item()\n"
        "print(m.config.num_classes, total)"
    )
    return run(hub, home, "-c", code)


def bytes_asked(hub: FakeHub) -> int:
    """Of the file of weights, by the ranges that were asked for."""
    asked = [r.byte_range for r in hub.requests
             if r.method == "GET" and r.path.endswith("model.safetensors")]  # fmt: skip
    ranges = [re.fullmatch(r"bytes=(\d+)-(\d+)", one or "") for one in asked]
    assert asked
    assert all(ranges), asked
    return sum(int(r[2]) + 1 - int(r[1]) for r in ranges if r)


def test_only_the_convolutions_are_asked_for_and_once(hub: FakeHub, tmp_path: Path) -> None:
    model, trunk_bytes = publish(hub)
    ran = fetch(hub, tmp_path)
    assert ran.returncode == 0, ran.stderr
    classes, total = ran.stdout.splitlines()[-1].split()
    assert int(classes) == 0
    assert float(total) == sum(p.data.double().sum() for p in model.features.parameters()).item()
    file = next((tmp_path / "cache" / "trunks").rglob("model.safetensors"))
    repo = hub.repo("ada/classifier")
    assert repo
    size = (repo.folder / "model.safetensors").stat().st_size
    first = 16 * 1024  # where the header stands, with what comes behind it
    assert bytes_asked(hub) <= trunk_bytes + first < size / 3
    assert file.stat().st_size < trunk_bytes + first
    hub.requests.clear()
    assert fetch(hub, tmp_path).stdout.splitlines()[-1] == ran.stdout.splitlines()[-1]
    assert hub.requests == []


def test_a_broken_download_goes_on_where_it_broke_off(hub: FakeHub, tmp_path: Path) -> None:
    _, trunk_bytes = publish(hub)
    hub.faults = Faults(only="GET /ada/classifier/resolve", cut_after_bytes=200_000)
    ran = fetch(hub, tmp_path)
    assert "broke off" in ran.stderr
    part = next((tmp_path / "cache" / "trunks").rglob("*.part"))
    come = part.stat().st_size
    assert come > 100_000
    hub.faults = Faults()
    hub.requests.clear()
    assert fetch(hub, tmp_path).returncode == 0
    assert bytes_asked(hub) <= trunk_bytes - come + 20_000
    assert not part.exists()


@pytest.mark.slow
def test_what_is_trained_on_it_is_what_is_trained_on_the_whole(
    hub: FakeHub, tmp_path: Path
) -> None:
    publish(hub)
    pictures = tmp_path / "pictures"
    draw_folder(pictures, count=6, size=32)
    digests = []
    for name, ranges in (("part", True), ("whole", False)):
        hub.serves_ranges = ranges
        ran = run(
            hub, tmp_path / name, "-m", "vgg", "train", pictures, "--model", SPEC,
            "--mode", "probe", "--image-size", "32",
            "--out", tmp_path / name / "model", "--weights-dir", tmp_path,
        )  # fmt: skip
        hub.serves_ranges = True
        assert ran.returncode == 0, ran.stderr
        files = ("model.safetensors", "config.json")
        content = b"".join((tmp_path / name / "model" / file).read_bytes() for file in files)
        digests.append(hashlib.sha256(content).hexdigest())
        kept = [*(tmp_path / name / "cache").rglob("trunks/**/model.safetensors")]
        assert bool(kept) == ranges
    assert digests[0] == digests[1]


def test_a_download_in_a_child_process_stops_when_asked(hub: FakeHub, tmp_path: Path) -> None:
    publish(hub)
    code = """
import time
from vgg.downloads import fetch_apart
def stop(done, total):
    if time.monotonic() - began > 2:
        raise KeyboardInterrupt
began = time.monotonic()
try:
    fetch_apart("ada/classifier", None, 1, stop)
except KeyboardInterrupt:
    print("stopped", time.monotonic() - began < 8)
print(fetch_apart("ada/classifier", None, 1, None).name)
"""
    hub.faults = Faults(only="GET /ada/classifier/resolve", delay_s=10, times=1)
    ran = run(hub, tmp_path, "-c", code)
    assert ran.stdout.split() == ["stopped", "True", "model.safetensors"], ran.stderr

"""The device and precision that a person names are what runs, or a sentence says why not."""

import math
import sys
from pathlib import Path

import pytest
import torch

from vgg.device import (
    DTYPES,
    KINDS,
    cgroup_cores,
    choose_device,
    choose_precision,
    cpu_cores,
    device_name,
    memory_used,
    precision_name,
)

CPU = torch.device("cpu")


def test_auto_takes_the_best_that_there_is() -> None:
    chosen = choose_device("auto")
    assert chosen.type in KINDS
    assert chosen == choose_device(chosen.type)
    if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        assert chosen == CPU or chosen.type == "xpu"


def test_the_cpu_is_always_there() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("cpu:0").type == "cpu"


@pytest.mark.parametrize(
    "name",
    ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda: 1", "cpu:", "mps:²", "tpu:0", ":"],
)
def test_unknown_devices_are_answered_with_those_there_are(name: str) -> None:
    with pytest.raises(ValueError, match="choose auto, cpu, cuda, cuda:N, mps or xpu"):
        choose_device(name)


def test_a_device_that_this_machine_lacks_is_said_to_be_missing() -> None:
    missing = next(kind for kind in ("xpu", "cuda") if not getattr(torch, kind).is_available())
    with pytest.raises(ValueError, match=rf"no {missing} device; it has .*cpu"):
        choose_device(missing)
    with pytest.raises(ValueError, match=r"has 1 device of the kind cpu; cpu:7 is not one"):
        choose_device("cpu:7")


def test_a_card_whose_first_product_fails_is_not_used_and_the_log_says_why_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The device `meta` stands for the card: nothing can be computed on it."""
    monkeypatch.setattr("vgg.device.KINDS", ("meta", "cpu"))
    monkeypatch.setattr("vgg.device._has", lambda kind: True)
    assert choose_device() == choose_device() == CPU
    assert len(caplog.records) == 1
    assert "meta is not used, because its first product fails" in caplog.text
    with pytest.raises(ValueError, match=r"meta is not used.*\(.*meta.*\); install a torch"):
        choose_device("meta")


def test_a_precision_that_is_named_is_taken() -> None:
    for name, dtype in DTYPES.items():
        assert choose_precision(CPU, name) == dtype
        assert precision_name(dtype) == name
    with pytest.raises(ValueError, match="choose auto, fp32, bf16 or fp16"):
        choose_precision(CPU, "int8")


def test_the_precision_chosen_for_a_cpu_is_one_that_it_multiplies() -> None:
    chip = torch.cpu.get_capabilities()
    native = chip.get("avx512_bf16") or chip.get("amx_bf16")
    assert choose_precision(CPU) == (torch.bfloat16 if native else torch.float32)


@pytest.mark.skipif(sys.platform == "win32", reason="a name of Linux with a colon is among them")
@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("0::/docker/1f", {"cpu.max": "50000 100000"}, 0.5),  # the host's path in a container
        ("4:cpu,cpuacct:/\n0::/", {"cpu/cpu.cfs_quota_us": "400000"}, 4),
        ("4:cpu:/a:b\n1:memory:/", {"cpu/a:b/cpu.cfs_quota_us": "100000"}, 1),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1"}, math.inf),
        ("5:cpuset:/\n1:name=systemd:/", {"cpu/cpu.cfs_quota_us": "100000"}, math.inf),
        (None, {}, math.inf),
    ],
)
def test_a_containers_limit_of_cores_counts(
    tmp_path: Path, groups: str | None, files: dict[str, str], cores: float
) -> None:
    if groups:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if name.endswith("quota_us"):
            file.with_name("cpu.cfs_period_us").write_text("100000")
    assert cgroup_cores(tmp_path) == cores


def test_the_threads_of_torch_are_no_more_than_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        monkeypatch.setattr("vgg.device.cgroup_cores", lambda: 0.5)
        assert cpu_cores() == 1
        choose_device("cpu")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_device_has_a_name_and_its_memory_figures() -> None:
    assert device_name(CPU) == f"CPU ({cpu_cores()} cores)"
    used, total = memory_used(CPU)
    assert 10_000_000 < used < total
    ballast = torch.ones(25_000_000)  # 100 MB
    assert memory_used(CPU)[0] - used > 0.5 * ballast.nbytes

"""Facts about several processes: together they do what one does, and none waits for the dead."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from vgg import distributed
from vgg.checkpoints.folder import save_checkpoint
from vgg.data.shapes import SHAPES, draw_folder
from vgg.network.config import ModelConfig, Preprocessing
from vgg.network.vgg import VGG

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ALONE = [sys.executable]
WAIT = 240  # seconds, for machines that are busy with other things

# Every function that processes share, and a training, told by the first as one JSON document.
TOGETHER = """
import json, sys
import torch
from vgg import distributed
from vgg.training.loop import train_loop
from vgg.network.vgg import VGG
from vgg.network.config import ModelConfig, Preprocessing
from vgg.training.recipe import Pictures, Recipe

torch.set_num_threads(1)
rank, world = distributed.rank(), distributed.world()


def raised(work):
    try:
        return work()
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


def refuse():
    raise ValueError("the first says no")


def learned(norm, **choices):
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (61, 3, 32, 32), dtype=torch.uint8)
    targets = torch.arange(61) % 3
    pixels[torch.arange(61), targets] = 255  # a class a colour
    config = ModelConfig(
        "vgg11_bn" if norm else "vgg11", 3, "gap", 0.25,
        pretrained_cfg=Preprocessing(input_size=(3, 32, 32)),
    )
    torch.manual_seed(rank)  # the first one's weights count
    model = VGG.from_config(config)
    sides = torch.arange(48), torch.arange(48, 61)
    epochs = []
    train_loop(
        model, *(Pictures(pixels, targets, side) for side in sides), 3 * 48,
        Recipe(batch_size=7, warmup=0.0, **choices), seed=3,
        on_epoch=lambda epoch, state: epochs.append(epoch),
    )
    total = sum(value.double().sum().item() for value in model.state_dict().values())
    return {
        "losses": [loss for e in epochs for loss in (e.loss, e.held_out_loss)],
        "shares": [share for e in epochs for share in (e.accuracy, e.held_out)],
        "weights": distributed.gathered(total),
    }


with distributed.joined():
    numbers = torch.tensor([float(rank)])
    distributed.add_up([numbers])
    seen = []
    found = {
        "world": world,
        "gathered": distributed.gathered(rank),
        "first": distributed.gathered(distributed.from_first(lambda: rank)),
        "refused": distributed.gathered(raised(lambda: distributed.from_first(refuse))),
        "differs": raised(lambda: distributed.check_same(rank, "pictures")),
        "any": [distributed.any_of(rank == 1), distributed.any_of(False)],
        "sum": numbers.item(),
        "chunks": list(distributed.in_chunks(
            list(range(10)), 3, lambda items: (seen.append(i) or i * i for i in items)
        )),
        "seen": distributed.gathered(seen),
        "plain": learned(False, lr=0.02, augment=False),
        "augmented": learned(False, lr=0.02),
        "norm": learned(True, lr=0.02, augment=False),
    }
    if distributed.is_first():
        print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with drawn pictures, a trained-looking model and a trunk, all tiny."""
    home = tmp_path_factory.mktemp("together")
    draw_folder(home / "shapes", count=9, size=32)
    (home / "shapes" / "star" / "broken.png").write_bytes(b"no picture")
    torch.manual_seed(0)
    config = ModelConfig(
        *("vgg11_bn", len(SHAPES), "gap", 0.05),
        pretrained_cfg=Preprocessing(input_size=(3, 32, 32)),
        label_names=SHAPES,
        trained=True,
    )
    model = VGG.from_config(config)
    model(torch.randn(16, 3, 32, 32))  # gives the batch norms something to go by
    save_checkpoint(model.eval(), home / "model")
    return home


ABORTED = "terminate called without an active exception"


def environment(cache: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "VGG_STUDIO_CACHE": str(cache),
    }


def ran(
    launcher: list[str], *arguments: str | Path, home: Path, cache: str = "cache"
) -> subprocess.CompletedProcess[str]:
    for _ in range(2):
        done = subprocess.run(
            [*launcher, *map(str, arguments)],
            cwd=home,
            env=environment(home / cache),
            capture_output=True,
            text=True,
            timeout=WAIT,
        )
        # torch's own threads can abort a process that is leaving, on a busy machine, now and then.
        if ABORTED not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    return done


def events_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


# One process alone


def test_without_torchrun_there_is_one_process_and_no_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "3")  # another program's
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert (distributed.rank(), distributed.world()) == (0, 1)
    with distributed.joined():
        assert not torch.distributed.is_initialized()
        distributed.barrier()
        assert distributed.all_gather("a") == ["a"]
        assert distributed.run_on_rank_0(lambda: 5) == 5
        assert distributed.any_of(True)
        assert not distributed.any_of(False)
        assert list(distributed.in_chunks([1, 2, 3], 2, iter)) == [1, 2, 3]
        one = torch.ones(2)
        distributed.all_reduce_sum([one])
        distributed.average([one])
        distributed.same_as_first([one])
        assert one.tolist() == [1, 1]


# Two processes


@pytest.fixture(scope="module")
def together(places: Path) -> dict[str, Any]:
    (places / "together.py").write_text(TOGETHER)
    return json.loads(ran(TORCHRUN, "together.py", home=places).stdout)


@pytest.fixture(scope="module")
def alone(places: Path) -> dict[str, Any]:
    (places / "together.py").write_text(TOGETHER)
    return json.loads(ran(ALONE, "together.py", home=places).stdout)


@pytest.mark.slow
def test_two_processes_tell_each_other_what_they_know(together: dict[str, Any]) -> None:
    assert together["world"] == 2
    assert together["gathered"] == [0, 1]
    assert together["first"] == [0, 0]
    assert together["refused"] == ["ValueError: the first says no"] * 2
    assert "the same pictures" in together["differs"]
    assert together["any"] == [True, False]
    assert together["sum"] == 1


@pytest.mark.slow
def test_whole_chunks_of_a_list_are_shared_and_the_results_are_in_order(
    together: dict[str, Any],
) -> None:
    assert together["chunks"] == [number * number for number in range(10)]
    assert together["seen"] == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "augmented"])
def test_two_processes_have_the_losses_of_one_within_a_ten_thousandth(
    together: dict[str, Any], alone: dict[str, Any], kind: str
) -> None:
    ours, theirs = together[kind], alone[kind]
    assert len(ours["losses"]) == 6
    assert ours["losses"] == pytest.approx(theirs["losses"], abs=1e-4)
    assert ours["shares"] == pytest.approx(theirs["shares"])
    assert ours["weights"][0] == ours["weights"][1]
    assert ours["weights"][0] == pytest.approx(theirs["weights"][0], abs=0.01)
    assert theirs["losses"][-1] < theirs["losses"][1] - 0.1  # they do learn: not the same nothing


@pytest.mark.slow
def test_batch_norm_goes_by_shares_and_ends_the_same_in_all_processes(
    together: dict[str, Any], alone: dict[str, Any]
) -> None:
    weights = together["norm"]["weights"]
    assert weights[0] == weights[1]
    assert together["norm"]["losses"] == pytest.approx(alone["norm"]["losses"], abs=0.3)


@pytest.mark.slow
def test_two_processes_write_the_same_table_and_the_first_alone_prints(places: Path) -> None:
    arguments = ("-m", "vgg", "predict", "shapes", "--model", "model", "--json", "--csv")
    one = ran(ALONE, *arguments, "one.csv", home=places)
    two = ran([*TORCHRUN, "-m"], *arguments[1:], "two.csv", home=places)
    table = (places / "two.csv").read_bytes()
    assert table == (places / "one.csv").read_bytes()
    assert table.count(b"\n") == 1 + 9 * len(SHAPES) + 1
    assert table.count(b"broken.png") == 2  # its name, and in the sentence why
    assert two.stdout == one.stdout
    assert not list(places.glob("*.part"))


@pytest.mark.slow
def test_two_processes_share_the_trunk_and_train_the_same_layer(places: Path) -> None:
    arguments = ("vgg", "train", "shapes", "--model", "model", "--mode", "probe", "--epochs", "1")
    ran([*ALONE, "-m"], *arguments, "--out", "probe-1", home=places, cache="cache-1")
    ran([*TORCHRUN, "-m"], *arguments, "--out", "probe-2", home=places, cache="cache-2")
    one, two = (json.loads((places / f"probe-{n}" / "metrics.json").read_text()) for n in (1, 2))
    for metrics in (one, two):
        del metrics["seconds"], metrics["out"]
    assert two == one
    kinds = [[e["kind"] for e in events_in(places / f"probe-{n}")] for n in (1, 2)]
    assert [k for k in kinds[1] if k != "features"] == [k for k in kinds[0] if k != "features"]
    assert kinds[1].count("done") == 1


@pytest.mark.slow
def test_a_budget_is_shared_and_one_process_writes(places: Path) -> None:
    arguments = ("--mode", "scratch", "--width", "0.05", "--image-size", "32", "--budget", "25")
    ran([*TORCHRUN, "-m"], "vgg", "train", "shapes", *arguments, "--out", "timed", home=places)
    events = events_in(places / "timed")
    assert [e["kind"] for e in events].count("done") == 1
    numbers = [e["number"] for e in events if e["kind"] == "epoch"]
    assert numbers == list(range(1, len(numbers) + 1))
    made = {path.name for path in (places / "timed").iterdir()}
    assert made - {"film"} == {  # a film, where there was time for one
        *("model.safetensors", "config.json", "metrics.json", "events.jsonl"),
        *("split.json", "held_out"),
    }


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds a process by /proc")
def test_a_killed_process_ends_the_run_with_a_sentence_and_a_state_to_go_on_from(
    places: Path,
) -> None:
    out = places / "killed"
    arguments = [
        *("-m", "vgg", "train", "shapes", "--out", "killed", "--mode", "scratch"),
        *("--width", "0.05", "--image-size", "32", "--epochs", "60"),
    ]
    with (places / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            [*TORCHRUN, *arguments], cwd=places, env=environment(places / "cache"), stderr=errors
        )
        with process:
            try:
                until = time.monotonic() + WAIT
                while not (out / "state.pt").exists():
                    assert process.poll() is None
                    assert time.monotonic() < until
                    time.sleep(0.02)
                os.kill(second_of(process.pid), signal.SIGKILL)
                assert process.wait(60) != 0
            finally:
                process.kill()
    said = (places / "errors.txt").read_text()
    assert "vgg: another process of this run has ended or does not answer" in said
    assert "--resume" in said
    assert not (out / "model.safetensors").exists()
    before = [e["number"] for e in events_in(out) if e["kind"] == "epoch"]
    assert before[-1] < 60

    ran([*TORCHRUN], *arguments, "--resume", home=places)
    kinds = [event["kind"] for event in events_in(out)]
    assert kinds.count("resume") == 1
    numbers = [e["number"] for e in events_in(out) if e["kind"] == "epoch"]
    assert numbers[-1] == 60
    assert sorted(set(numbers)) == list(range(1, 61))
    assert (out / "model.safetensors").exists()
    assert not (out / "state.pt").exists()
    shutil.rmtree(out)


def second_of(launcher: int) -> int:
    """The process whose RANK is 1, of those that torchrun has started."""
    children = Path(f"/proc/{launcher}/task").glob("*/children")
    for child in " ".join(file.read_text() for file in children).split():
        if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError("no second process")

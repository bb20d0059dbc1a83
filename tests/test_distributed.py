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
from vgg.distributed.launchers import Place, first_host, place_of
from vgg.errors import UserError
from vgg.network.config import ModelConfig, Preprocessing
from vgg.network.vgg import VGG

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ALONE = [sys.executable]
WAIT = 240  # seconds, for machines that are busy with other things

# Every function that processes share, and trainings, told by the first as one JSON document.
TOGETHER = """
import json
import torch
from vgg import distributed
from vgg.network.config import ModelConfig, Preprocessing
from vgg.network.vgg import VGG
from vgg.training.learner import Learner
from vgg.training.loop import train_loop
from vgg.training.recipe import Pictures, Recipe

torch.set_num_threads(1)
rank, world = distributed.rank(), distributed.world()


def raised(work):
    try:
        return work()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def refuse():
    raise ValueError(f"process {rank} says no")


def squares(items):
    for number in items:
        seen.append(number)
        yield number * number


def failing(items):
    if rank == 1:
        raise torch.OutOfMemoryError("no room here")
    yield from items


def pictures(count):
    chance = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (61, 3, 32, 32), dtype=torch.uint8, generator=chance)
    targets = torch.arange(61) % 3
    pixels[torch.arange(61), targets] = 255  # a class a colour
    return Pictures(pixels, targets, torch.arange(count)), Pictures(
        pixels, targets, torch.arange(48, 61)
    )


class Small(VGG):
    def forward(self, x):  # the second process has little memory
        if self.training and rank == 1 and len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(x)


def network(norm, kind=VGG):
    config = ModelConfig(
        "vgg11_bn" if norm else "vgg11", 3, "gap", 0.25,
        pretrained_cfg=Preprocessing(input_size=(3, 32, 32)),
    )
    torch.manual_seed(rank)  # the first one's weights count
    return kind.from_config(config)


class Double(VGG):
    def forward(self, x):  # else one rounding in ten million grows within 20 steps
        return super().forward(x.double())


def twenty_steps():
    # Batches of 7, of 2 and, so that the second process has none, of 1.
    model = network(True, Double).double()
    learner = Learner(model, pictures(48)[0], 20 * 7, Recipe(lr=0.1, batch_size=7))
    chance, losses = torch.Generator().manual_seed(0), []
    learner.train()
    for size in (7, 7, 7, 2, 1) * 4:
        sums = learner.step(torch.randperm(48, generator=chance)[:size], chance)
        distributed.all_reduce_sum(sums)
        losses.append(sums[0].item() / size)
    return losses


def learned(norm, kind=VGG, **choices):
    model, told, epochs = network(norm, kind), [], []
    train_loop(
        model, *pictures(45), 7 * 45, Recipe(batch_size=16, warmup=0.0, **choices), seed=0,
        on_epoch=lambda epoch, state: epochs.append(epoch), on_warning=told.append,
    )
    total = sum(value.double().sum().item() for value in model.state_dict().values())
    return {
        "losses": [loss for e in epochs for loss in (e.loss, e.held_out_loss)],
        "shares": [share for e in epochs for share in (e.accuracy, e.held_out)],
        "weights": distributed.all_gather(total),
        "told": distributed.all_gather(told),
    }


with distributed.joined():
    numbers = torch.tensor([float(rank)])
    distributed.all_reduce_sum(numbers)
    seen = []
    found = {
        "world": world,
        "gathered": distributed.all_gather(rank),
        "first": distributed.all_gather(distributed.run_on_rank_0(lambda: rank)),
        "refused": distributed.all_gather(raised(lambda: distributed.run_on_rank_0(refuse))),
        "none": distributed.all_gather(raised(lambda: distributed.all_or_none(refuse))),
        "differs": raised(lambda: distributed.check_same(rank, "pictures")),
        "any": [distributed.any_of(rank == 1), distributed.any_of(False)],
        "sum": numbers.item(),
        "chunks": list(distributed.in_chunks(list(range(10)), 3, squares)),
        "seen": distributed.all_gather(seen),
        "failed": distributed.all_gather(
            raised(lambda: list(distributed.in_chunks(list(range(10)), 3, failing)))
        ),
        "steps": twenty_steps(),
        "plain": learned(False, lr=0.02, augment=False),
        "augmented": learned(False, lr=0.02),
        "norm": learned(True, lr=0.003),
        "small": learned(True, Small, lr=0.003),
    }
    if distributed.is_rank_0():
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


# Who starts them


SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "7",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]",
}
OMPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
TOLD = {"MASTER_ADDR": "head", "MASTER_PORT": "4000"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place()),
        # Another program's: nobody says where the others are.
        ({"RANK": "3", "WORLD_SIZE": "8"}, Place()),
        ({"RANK": "3", "WORLD_SIZE": "8", **TOLD}, Place(3, 8)),
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", **TOLD},
            Place(3, 4, 1, 2),
        ),
        ({**SRUN, **TOLD}, Place(5, 7, 1, 2, ("head", 4000))),
        # torchrun, mpirun and their helpers may themselves be started by srun.
        ({**SRUN, "RANK": "0", "WORLD_SIZE": "1", **TOLD}, Place()),
        ({**SRUN, **OMPI, **TOLD}, Place(1, 2, 1, 2, ("head", 4000))),
        ({**OMPI, "MASTER_PORT": "4000"}, Place(1, 2, 1, 2, ("127.0.0.1", 4000))),
        (
            {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
            | {**TOLD, "SLURM_STEP_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"},
            Place(1, 4, 1, 2, ("head", 4000)),
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", **TOLD}, Place(1, 2, 1, 2, ("head", 4000))),
        # The shell of a job: sbatch's has no step, salloc's one of Slurm's own.
        ({k: v for k, v in SRUN.items() if "STEP" not in k}, Place()),
        ({**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290", **TOLD}, Place()),
        ({**SRUN, "SLURM_PROCID": "x"}, Place()),
    ],
)
def test_the_place_is_read_from_the_environment_of_any_launcher(
    environment: dict[str, str], place: Place
) -> None:
    assert place_of(environment) == place


def test_without_an_address_the_first_node_is_called_on_a_port_of_the_job() -> None:
    place = place_of(SRUN)
    assert place.address is not None
    assert place.address[0] == "gpu07"
    assert place_of({**SRUN, "SLURM_PROCID": "0"}).address == place.address
    assert place_of({**SRUN, "SLURM_STEP_ID": "1"}).address != place.address
    assert first_host("rack[0-1]n[03,05],b") == "rack0n03"
    assert first_host("a,b") == "a"
    with pytest.raises(UserError, match="MASTER_ADDR"):
        place_of({**OMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"})


@pytest.mark.parametrize(("variables", "number"), [(SRUN, 0), ({"TORCHELASTIC_RUN_ID": "1"}, 1)])
def test_a_process_that_sees_one_gpu_takes_it_unless_all_see_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], number: int
) -> None:
    ranks = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**ranks, **TOLD, **variables}.items():
        monkeypatch.setenv(name, value)
    assert distributed.gpu_number(1) == number
    assert distributed.gpu_number(2) == 1


# One process alone


def test_without_a_launcher_there_is_one_process_and_no_group() -> None:
    assert (distributed.rank(), distributed.world()) == (0, 1)
    with distributed.joined():
        assert not torch.distributed.is_initialized()
        distributed.barrier()
        assert distributed.all_gather("a") == ["a"]
        assert distributed.all_or_none(lambda: 4) == 4
        assert distributed.run_on_rank_0(lambda: 5) == 5
        assert distributed.any_of(True)
        assert not distributed.any_of(False)
        assert list(distributed.in_chunks([1, 2, 3], 2, iter)) == [1, 2, 3]
        one = torch.ones(2)
        distributed.all_reduce_sum(one)
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
    assert together["refused"] == together["none"] == ["ValueError: process 0 says no"] * 2
    assert "the same pictures" in together["differs"]
    assert together["any"] == [True, False]
    assert together["sum"] == 1


@pytest.mark.slow
def test_whole_chunks_of_a_list_are_shared_and_the_results_are_in_order(
    together: dict[str, Any],
) -> None:
    assert together["chunks"] == [number * number for number in range(10)]
    assert together["seen"] == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9]]
    assert together["failed"] == ["OutOfMemoryError: no room here"] * 2  # the second's alone


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_in_each_step_with_batch_norm_too(
    together: dict[str, Any], alone: dict[str, Any]
) -> None:
    assert len(alone["steps"]) == 20
    assert together["steps"] == pytest.approx(alone["steps"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "augmented", "norm"])
def test_two_processes_have_the_losses_of_one_within_a_ten_thousandth(
    together: dict[str, Any], alone: dict[str, Any], kind: str
) -> None:
    ours, theirs = together[kind], alone[kind]
    assert len(ours["losses"]) == 14  # of 7 epochs, each of 3 batches, the last of 13 pictures
    assert ours["losses"] == pytest.approx(theirs["losses"], abs=1e-4)
    assert ours["shares"] == pytest.approx(theirs["shares"])
    assert ours["weights"][0] == ours["weights"][1]
    assert ours["weights"][0] == pytest.approx(theirs["weights"][0], abs=0.01)
    assert theirs["losses"][-1] < theirs["losses"][1] - 0.01  # they do learn: not the same nothing


@pytest.mark.slow
def test_where_one_process_has_little_memory_all_take_smaller_batches(
    together: dict[str, Any],
) -> None:
    weights, told = together["small"]["weights"], together["small"]["told"]
    assert weights[0] == weights[1]
    said = [f"the device ran out of memory: now {size} pictures at once" for size in (8, 4)]
    assert told == [said, said]


# However long one of them takes, and when one is gone


WAITING = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
from vgg import distributed
from vgg.distributed import peers

peers.TIMEOUT, peers.HEARTBEAT = timedelta(seconds=2), 0.2
with distributed.joined():
    distributed.barrier()
    if distributed.is_rank_0():
        time.sleep(5)  # it copies pictures
        if sys.argv[1] == "dies":
            os._exit(9)
        Path("written.txt").write_text("whole")
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["writes", "dies"])
def test_at_the_end_all_wait_for_the_first_as_long_as_it_lives(tmp_path: Path, first: str) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    srun = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "waiting.py", first],
            cwd=tmp_path,
            env=environment(tmp_path) | srun | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    errors = [process.communicate(timeout=WAIT)[1] for process in started]
    if first == "writes":
        assert [process.returncode for process in started] == [0, 0], errors
        assert (tmp_path / "written.txt").read_text() == "whole"
    else:
        assert [process.returncode for process in started] == [9, 1]
        assert "another process of this run has ended" in errors[1]


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
        *("--width", "0.05", "--image-size", "32", "--epochs", "30"),
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
    assert before[-1] < 30

    ran([*TORCHRUN], *arguments, "--resume", home=places)
    kinds = [event["kind"] for event in events_in(out)]
    assert kinds.count("resume") == 1
    numbers = [e["number"] for e in events_in(out) if e["kind"] == "epoch"]
    assert numbers[-1] == 30
    assert sorted(set(numbers)) == list(range(1, 31))
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

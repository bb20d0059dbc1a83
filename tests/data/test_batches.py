"""Files come as batches in order, whoever decodes them, and never many more than are asked for."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vgg.data.batches import Batch, read_batches
from vgg.data.images import read_image
from vgg.data.transforms import to_uint8
from vgg.network.config import Preprocessing

CFG = Preprocessing(input_size=(3, 32, 32))
BATCH = 3


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Seven pictures, and two files that are none, which share a batch with one picture."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(7):
        found.append(tmp_path / f"{number}.jpg")
        Image.fromarray(rng.integers(0, 256, (40, 90, 3), np.uint8)).save(found[-1])
    (tmp_path / "text.jpg").write_text("no picture")
    found[1:1] = [tmp_path / "text.jpg", tmp_path / "gone.jpg"]
    return found


def check(batches: list[Batch], files: list[Path]) -> None:
    errors = [error for batch in batches for error in batch.errors]
    assert [error is None for error in errors] == [file.stem.isdigit() for file in files]
    assert [len(batch.errors) for batch in batches] == [3, 3, 3]
    assert [len(batch.pixels) for batch in batches] == [1, 3, 3]
    readable = [to_uint8(read_image(file), CFG) for file in files if file.stem.isdigit()]
    assert torch.cat([batch.pixels for batch in batches]).equal(torch.stack(readable))


def test_threads_give_the_batches_in_order_with_what_could_not_be_read(files: list[Path]) -> None:
    check(list(read_batches(files, CFG, BATCH)), files)


@pytest.mark.slow
def test_processes_give_the_same_batches(files: list[Path]) -> None:
    check(list(read_batches(files, CFG, BATCH, workers=2)), files)


def test_a_batch_of_which_nothing_can_be_read_has_no_pixels(tmp_path: Path) -> None:
    (batch,) = read_batches([tmp_path / "gone.png"], CFG, BATCH)
    assert batch.pixels.shape == (0, 3, 32, 32)
    assert batch.errors[0] is not None


def test_without_files_there_is_nothing_to_start_a_process_for() -> None:
    assert list(read_batches([], CFG, BATCH, workers=2)) == []


def test_no_more_is_read_than_two_batches_ahead(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vgg.device.cpu_cores", lambda: 2)
    given = 0

    def endless() -> Iterator[Path]:
        nonlocal given
        while True:
            given += 1
            yield files[0]

    size = 40
    stream = read_batches(endless(), CFG, size)
    for taken in range(1, 6):
        assert len(next(stream).pixels) == size
        assert given <= size * (taken + 1) + 1
    stream.close()

"""The table of predictions: whole or not there, and gone on with after a break."""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from vgg.cli import main
from vgg.data.shapes import draw_folder
from vgg.inference.csv_table import header, key_of, rows_done, write_rows
from vgg.predict_command import whole_batches

KEY, OTHER = "0123456789ab", "ba9876543210"
IMAGES = ["a.png", 'with "quotes", and a comma.png', "line\nbreak.png", "d.png"]


def answers(images: list[str] = IMAGES) -> list[dict[str, Any]]:
    top = [{"class": "cat", "probability": 0.75}]
    return [{"image": image, "top": top, "error": None} for image in images]


def broken(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from rows
    raise KeyboardInterrupt


def write_broken(file: Path, key: str, count: int, done: int = 0) -> None:
    with pytest.raises(KeyboardInterrupt), write_rows(file, 1, key=key, done=done) as keep:
        list(keep(broken(answers()[done:count])))


def table(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8-sig") as opened:
        return list(csv.reader(opened))


def test_a_run_that_broke_off_is_gone_on_with_to_the_same_table(tmp_path: Path) -> None:
    whole, file = tmp_path / "whole.csv", tmp_path / "answers.csv"
    with write_rows(whole, 1) as keep:
        list(keep(answers()))
    for count in range(1, len(IMAGES) + 1):
        write_broken(file, KEY, count)
        assert not file.exists()
        done = rows_done(file, 1, KEY, IMAGES)
        assert done == count
        with write_rows(file, 1, key=KEY, done=done) as keep:
            list(keep(answers()[done:]))
        assert file.read_bytes() == whole.read_bytes()
        file.unlink()
        assert list(tmp_path.iterdir()) == [whole]


def test_a_spreadsheet_opens_the_table_as_it_is_meant(tmp_path: Path) -> None:
    """UTF-8 by the mark at the front, nothing as a formula, names with commas and quotes whole."""
    names = ["=1+1.png", "+1.png", "-1.png", "@a.png", "고양이.png", 'a, "b".png', "a=b.png"]
    for done in range(len(names) + 1):
        file = tmp_path / f"{done}.csv"
        with pytest.raises(KeyboardInterrupt), write_rows(file, 1, key=KEY) as keep:
            list(keep(broken(answers(names[:done]))))
        assert rows_done(file, 1, KEY, names) == done
        with write_rows(file, 1, key=KEY, done=done) as keep:
            list(keep(answers(names[done:])))
        assert file.read_bytes()[:3] == b"\xef\xbb\xbf"
        assert file.read_bytes().count(b"\xef\xbb\xbf") == 1
        cells = [row[0] for row in table(file)[1:]]
        assert cells == [*(f"'{name}" for name in names[:4]), *names[4:]]


def test_a_full_disk_leaves_the_rows_of_the_run_before(small_disk: Path) -> None:
    file = small_disk / "answers.csv"
    write_broken(file, KEY, 3)
    full = small_disk / "full"
    with suppress(OSError), full.open("wb", buffering=0) as opened:
        while opened.write(bytes(4096)):
            pass
    with pytest.raises(OSError, match="No space"), write_rows(file, 1, key=KEY, done=3) as keep:
        list(keep(answers()[3:]))
    full.unlink()
    assert rows_done(file, 1, KEY, IMAGES) == 3


def test_a_row_cut_off_by_a_kill_counts_as_not_there(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    write_broken(file, KEY, 4)
    part = file.with_name("answers.csv.0123456789ab.part")
    content = part.read_bytes()
    ends = [len(header(1))]
    for length in range(len(content) + 1):
        part.write_bytes(content[:length])
        ends.append(rows_done(file, 1, KEY, IMAGES))
    assert set(ends[1:]) == {0, 1, 2, 3, 4}
    assert ends[1:] == sorted(ends[1:])
    assert ends[-2] == 3  # without the last letter, the end of the line


def test_rows_of_other_pictures_or_of_another_question_are_not_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    write_broken(file, KEY, 3)
    assert rows_done(file, 1, OTHER, IMAGES) == 0
    assert rows_done(file, 2, KEY, IMAGES) == 0
    assert rows_done(file, 1, KEY, ["a.png", "b.png", *IMAGES[2:]]) == 1
    write_broken(file, OTHER, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["answers.csv.ba9876543210.part"]


def test_a_key_changes_with_the_question_and_with_every_picture(tmp_path: Path) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file in files:
        file.write_bytes(b"1234")
    keys = [key_of("starter", files), key_of("other", files), key_of("starter", files[:1])]
    keys.append(key_of("starter", [*files, tmp_path / "missing.png"]))
    os.utime(files[0], (1, 1))
    keys.append(key_of("starter", files))
    files[1].write_bytes(b"12345")
    keys.append(key_of("starter", files))
    assert len(set(keys)) == len(keys)
    assert key_of("starter", files) == keys[-1]


def test_what_goes_on_falls_into_the_same_batches() -> None:
    good, bad = (Path("x"), None), (Path("x"), "is no picture")
    found = [good, bad, good, good, bad, good, good]
    assert [whole_batches(found, done, 2) for done in range(8)] == [0, 0, 0, 3, 3, 3, 6, 6]


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    draw_folder(pictures, count=40, size=40)
    whole, file = tmp_path / "whole.csv", tmp_path / "answers.csv"
    assert main(["predict", str(pictures), "--csv", str(whole)]) == 0
    command = [sys.executable, "-m", "vgg", "predict", str(pictures), "--csv", str(file)]
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL)
    with killed:
        until = time.monotonic() + 60
        while not any(part.stat().st_size > 15_000 for part in tmp_path.glob("*.part")):
            assert time.monotonic() < until
            time.sleep(0.005)
        killed.kill()
    assert not file.exists()
    again = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "of 320 were answered before the break" in again.stderr
    first, *_, last = table(whole)[1:]
    assert first[0] not in again.stdout
    assert last[0] in again.stdout
    assert file.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*.csv*")) == ["answers.csv", "whole.csv"]

"""The command line: what it prints, what it writes, and how it says that it can't."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import ROOT
from fake_hub import hub_environment

from vgg import commands
from vgg.cli import build_parser, main
from vgg.data.shapes import draw_folder

Capture = pytest.CaptureFixture[str]
NAMES = ["arrow", "circle", "crescent", "cross", "heart", "square", "star", "triangle"]


def child(
    *arguments: str | Path, environment: dict[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """`python -m vgg …` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "vgg", *arguments],
        cwd=cwd,
        env={**(environment or os.environ), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )


def refused(status: int, out: str, err: str) -> str:
    """The one line that a mistake of the user ends with."""
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    assert "usage:" not in err
    line, newline, rest = err.partition("\n")
    assert (newline, rest) == ("\n", ""), err
    assert line.startswith("vgg: ")
    assert len(line) > len("vgg: ") + 10
    return line


def refusal(capsys: Capture, *arguments: str | Path) -> str:
    """The one line that `python -m vgg …` refuses its arguments with."""
    status = main([str(argument) for argument in arguments])
    return refused(status, *capsys.readouterr())


def printed(capsys: Capture, *arguments: str | Path) -> str:
    """What `python -m vgg …` prints where all is well; it writes nothing to standard error."""
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


def table(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8-sig") as opened:
        return list(csv.reader(opened))


def good_and_bad(shapes: Path, folder: Path) -> list[Path]:
    """A picture, a text file that calls itself one, and another picture."""
    bad = folder / "notes.png"
    bad.write_text("not a picture at all")
    return [shapes / "star.png", bad, shapes / "heart.png"]


# predict: the answers


def test_json_on_standard_output_is_one_document_in_the_form_of_the_design(shapes: Path) -> None:
    asked = ["star.png", "heart.png"]
    done = child("predict", *asked, "--model", "starter", "--json", cwd=shapes)
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    assert [row["image"] for row in rows] == asked
    assert [row["top"][0]["class"] for row in rows] == ["star", "heart"]
    for row in rows:
        assert list(row) == ["image", "top", "error"]
        assert row["error"] is None
        assert all(list(place) == ["class", "probability"] for place in row["top"])
        probabilities = [place["probability"] for place in row["top"]]
        assert len(probabilities) == 5
        assert all(isinstance(p, float) and 0 <= p <= 1 for p in probabilities)
        assert probabilities == sorted(probabilities, reverse=True)


def test_every_example_is_named_right(capsys: Capture, shapes: Path) -> None:
    rows = json.loads(printed(capsys, "predict", shapes, "--json"))
    assert [Path(row["image"]).stem for row in rows] == NAMES
    assert [row["top"][0]["class"] for row in rows] == NAMES


def test_without_json_a_person_reads_percentages_and_what_it_took(
    capsys: Capture, shapes: Path
) -> None:
    lines = printed(capsys, "predict", shapes / "star.png", "--top-k", "2").splitlines()
    assert lines[0] == str(shapes / "star.png")
    assert lines[1].split()[1:] == ["%", "star"]
    assert lines[-1].endswith("64 x 64")
    assert " ms a picture on " in lines[-1]
    assert len(lines) == 4


def test_a_folder_means_its_pictures_in_order_at_any_depth_and_nothing_else(
    capsys: Capture, shapes: Path, tmp_path: Path
) -> None:
    for name in ("b/star.png", "a/deep/heart.PNG", ".hidden/cross.png", "a/.cross.png"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shapes / f"{target.stem.strip('.').lower()}.png", target)
    (tmp_path / "readme.txt").write_text("not a picture")
    rows = json.loads(printed(capsys, "predict", tmp_path, "--json"))
    assert [Path(row["image"]) for row in rows] == [
        tmp_path / "a/deep/heart.PNG",
        tmp_path / "b/star.png",
    ]


def test_flip_averages_with_the_mirror_image(capsys: Capture, shapes: Path) -> None:
    plain, flipped = (
        json.loads(printed(capsys, "predict", shapes / "arrow.png", "--json", *more))[0]["top"][0]
        for more in ((), ("--flip",))
    )
    assert plain["class"] == flipped["class"] == "arrow"
    assert plain["probability"] != flipped["probability"]


def test_one_unreadable_file_among_good_ones_is_a_row_with_its_error(
    capsys: Capture, shapes: Path, tmp_path: Path
) -> None:
    asked = [*good_and_bad(shapes, tmp_path), tmp_path / "missing.png"]
    rows = json.loads(printed(capsys, "predict", *asked, "--json"))
    assert [row["image"] for row in rows] == [str(path) for path in asked]
    assert [bool(row["top"]) for row in rows] == [True, False, True, False]
    assert [bool(row["error"]) for row in rows] == [False, True, False, True]
    assert "notes.png" in rows[1]["error"]
    assert "there is no such file" in rows[3]["error"]


def test_an_unreadable_file_that_comes_first_keeps_its_place(
    capsys: Capture, shapes: Path, tmp_path: Path
) -> None:
    good, bad, _ = good_and_bad(shapes, tmp_path)
    rows = json.loads(printed(capsys, "predict", bad, good, "--json"))
    assert [row["image"] for row in rows] == [str(bad), str(good)]
    assert "not read: " in printed(capsys, "predict", bad, good)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_name_that_is_no_text_is_written_with_its_bytes_escaped(
    capsys: Capture, shapes: Path, tmp_path: Path
) -> None:
    strange = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(shapes / "star.png", strange)
    out = printed(capsys, "predict", strange, "--json", "--csv", tmp_path / "out.csv")
    assert json.loads(out)[0]["image"] == str(strange)
    assert table(tmp_path / "out.csv")[1][0].endswith(r"caf\udce9.png")


# predict: the table


def test_csv_has_the_image_then_class_and_probability_of_each_place_then_the_error(
    capsys: Capture, shapes: Path, tmp_path: Path
) -> None:
    asked = good_and_bad(shapes, tmp_path)
    file = tmp_path / "answers.csv"
    out = printed(capsys, "predict", *asked, "--json", "--csv", file, "--top-k", "2")
    header, *rows = table(file)
    assert header == ["image", "class_1", "prob_1", "class_2", "prob_2", "error"]
    for cells, row in zip(rows, json.loads(out), strict=True):
        assert cells[0] == row["image"]
        assert cells[-1] == (row["error"] or "")
        if row["error"]:
            assert cells[1:-1] == [""] * 4
            continue
        assert cells[1::2][:2] == [place["class"] for place in row["top"]]
        assert [float(p) for p in cells[2:-1:2]] == pytest.approx(
            [place["probability"] for place in row["top"]], abs=1e-6
        )


def test_csv_has_no_more_places_than_there_are_classes(
    capsys: Capture, shapes: Path, tmp_path: Path
) -> None:
    file = tmp_path / "answers.csv"
    printed(capsys, "predict", shapes / "star.png", "--csv", file, "--top-k", "50")
    assert len(table(file)[0]) == 2 + 2 * len(NAMES)


def test_where_nothing_can_be_read_the_old_table_stays_and_nothing_lies_beside_it(
    capsys: Capture, shapes: Path, tmp_path: Path
) -> None:
    bad = good_and_bad(shapes, tmp_path)[1]
    tables = tmp_path / "tables"
    tables.mkdir()
    file = tables / "answers.csv"
    file.write_text("of yesterday")
    refusal(capsys, "predict", bad, "--csv", file)
    assert file.read_text() == "of yesterday"
    assert list(tables.iterdir()) == [file]


@pytest.mark.parametrize("name", ["no/such/folder/out.csv", "."])
def test_a_csv_that_can_not_be_written_is_said_before_the_work(
    capsys: Capture, shapes: Path, tmp_path: Path, name: str
) -> None:
    line = refusal(capsys, "predict", shapes / "star.png", "--csv", tmp_path / name)
    assert "can't write" in line


# predict: what can't be done


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["missing.png"], ["missing.png: there is no such file or folder"]),
        (["notes.png"], ["notes.png"]),
        (["a.png", "b.png"], ["none can be read", "a.png"]),
        (["empty"], ["holds no pictures"]),
    ],
)
def test_where_nothing_can_be_read_one_line_says_so(
    capsys: Capture, shapes: Path, tmp_path: Path, files: list[str], words: list[str]
) -> None:
    good_and_bad(shapes, tmp_path)
    (tmp_path / "empty").mkdir()
    for more in ((), ("--json",)):
        line = refusal(capsys, "predict", *[tmp_path / name for name in files], *more)
        assert all(word in line for word in words)


def test_an_unknown_model_is_answered_with_the_models_that_there_are(
    capsys: Capture, shapes: Path, own_models: Path
) -> None:
    line = refusal(
        capsys, "predict", shapes / "star.png", "--model", "vgg15", "--weights-dir", own_models
    )
    assert "'vgg15'" in line
    assert "starter" in line
    assert "vgg16_bn" in line
    assert "pets, older" in line


def test_a_truncated_checkpoint(capsys: Capture, shapes: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(ROOT / "weights" / "starter", broken)
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:50_000])
    line = refusal(capsys, "predict", shapes / "star.png", "--model", broken)
    assert "model.safetensors" in line


def test_an_untrained_network_gives_no_percentages(
    capsys: Capture, shapes: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    shutil.copytree(ROOT / "weights" / "starter", new)
    config = json.loads((new / "config.json").read_text())
    (new / "config.json").write_text(json.dumps({**config, "trained": False}))
    line = refusal(capsys, "predict", shapes / "star.png", "--model", new, "--json")
    assert "has not been trained" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--top-k", "0"], "top_k must be a whole number from 1 up, not 0"),
        (["--top-k", "-3"], "top_k must be a whole number from 1 up, not -3"),
        (["--top-k", "few"], "invalid int value"),
        (["--precision", "fp8"], "fp8"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--device", "cuda:9999"], "cuda"),
        (["--colour", "red"], "--colour"),
        (["--model", "hf-hub:nonsense"], "hf-hub:owner/name"),
    ],
)
def test_a_value_that_makes_no_sense(
    capsys: Capture, shapes: Path, arguments: Sequence[str], said: str
) -> None:
    assert said in refusal(capsys, "predict", shapes / "star.png", *arguments)


@pytest.mark.parametrize("arguments", [[], ["fly"], ["predict"]])
def test_an_incomplete_command_points_to_the_help(
    capsys: Capture, arguments: Sequence[str]
) -> None:
    assert "--help" in refusal(capsys, *arguments)


def test_help_names_the_commands(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n    {name} " in out for name in ("predict", "shapes", "info"))


# Weights that are not here


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def hub_refusal(shapes: Path, environment: dict[str, str], tmp_path: Path) -> str:
    started = time.monotonic()
    options = ("--model", "vgg16", "--weights-dir", tmp_path / "weights")
    done = child("predict", shapes / "star.png", *options, environment=environment)
    assert time.monotonic() - started < 8
    line = refused(done.returncode, done.stdout, done.stderr)
    ways_on = ("train now", "weights/vgg16.safetensors", "HF_TOKEN", "HF_ENDPOINT")
    assert all(way in line for way in ways_on)
    return line


def test_a_hub_that_can_not_be_reached_is_said_within_8_seconds_with_the_ways_on(
    shapes: Path, tmp_path: Path
) -> None:
    endpoint = closed_port()
    line = hub_refusal(shapes, hub_environment(endpoint, tmp_path / "home"), tmp_path)
    assert f"{endpoint} can't be reached" in line


def test_a_training_that_is_stopped_at_once_ends_as_ctrl_c_does(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(commands, "interruptible", lambda: nullcontext(lambda: True))
    draw_folder(tmp_path / "drawn", count=4, size=32)
    arguments = ["train", str(tmp_path / "drawn"), "--mode", "scratch", "--epochs", "1"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.strip().endswith("was stopped")
    assert not (tmp_path / "out").exists()


# The environment


def test_options_come_from_the_environment_and_the_command_line_wins(
    capsys: Capture, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_STUDIO_TOP_K", "2")
    monkeypatch.setenv("VGG_STUDIO_JSON", "1")
    asked = ["predict", shapes / "star.png"]
    assert len(json.loads(printed(capsys, *asked))[0]["top"]) == 2
    assert len(json.loads(printed(capsys, *asked, "--top-k", "3"))[0]["top"]) == 3
    monkeypatch.setenv("VGG_STUDIO_JSON", "0")
    assert printed(capsys, *asked).startswith(str(shapes))


def test_model_and_weights_folder_come_from_the_environment(
    capsys: Capture, shapes: Path, own_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_STUDIO_WEIGHTS_DIR", str(own_models))
    monkeypatch.setenv("VGG_STUDIO_MODEL", "older")
    row = json.loads(printed(capsys, "predict", shapes / "star.png", "--json"))[0]
    assert {place["class"] for place in row["top"]} == {"no", "yes"}


@pytest.mark.parametrize(
    ("typed", "model", "depth", "epochs", "budget"),
    [
        ("", "starter", None, None, 9),
        ("--dep 13", None, 13, None, 9),
        ("--no-batch-norm", None, None, None, 9),
        ("--width=0.5 --epochs 2", None, None, 2, None),
        ("--model vgg11 --budget 5", "vgg11", None, None, 5),
    ],
)
def test_of_options_that_exclude_each_other_the_typed_one_wins(
    monkeypatch: pytest.MonkeyPatch, typed: str, model: str, depth: int, epochs: int, budget: float
) -> None:
    monkeypatch.setenv("VGG_STUDIO_MODEL", "starter")
    monkeypatch.setenv("VGG_STUDIO_BUDGET", "9")
    found = build_parser().parse_args(["train", "pictures", *typed.split()])
    assert (found.model, found.depth, found.epochs, found.budget) == (model, depth, epochs, budget)
    monkeypatch.setenv("VGG_STUDIO_DEPTH", "19")
    assert build_parser().parse_args(["train", "x", "--model", "vgg11"]).depth is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("TOP_K", "many"), ("TOP_K", "0"), ("PRECISION", "fp8"), ("MODEL", "vgg15")],
)
def test_nonsense_in_the_environment_is_refused_like_an_option(
    capsys: Capture, shapes: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"VGG_STUDIO_{name}", value)
    assert value in refusal(capsys, "predict", shapes / "star.png")


def test_an_empty_variable_is_no_option(
    capsys: Capture, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TOP_K", "MODEL", "WEIGHTS_DIR", "CSV", "PRECISION"):
        monkeypatch.setenv(f"VGG_STUDIO_{name}", "")
    assert "star" in printed(capsys, "predict", shapes / "star.png")


# shapes and info


def test_shapes_draws_a_folder_a_class_and_says_where(capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    assert printed(capsys, "shapes", out, "--count", "2", "--size", "64") == f"{out}\n"
    assert sorted(path.name for path in out.iterdir()) == NAMES
    assert all(len(list(folder.iterdir())) == 2 for folder in out.iterdir())


def test_shapes_refuses_a_folder_that_holds_something(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert "not empty" in refusal(capsys, "shapes", tmp_path)
    assert "count is 0" in refusal(capsys, "shapes", tmp_path / "new", "--count", "0")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_info_lists_the_machine_and_the_models_that_are_here(
    capsys: Capture, own_models: Path
) -> None:
    lines = dict(
        line.split(":", 1)
        for line in printed(capsys, "info", "--weights-dir", own_models).splitlines()
    )
    assert list(lines) == ["device", "torch", "starter", "pets", "older"]
    assert lines["starter"].strip() == "VGG-11 with batch norm, 8 classes"
    assert lines["pets"].strip() == "VGG-13, 3 classes"


def test_info_describes_one_model_by_formula(capsys: Capture) -> None:
    out = printed(capsys, "info", "--model", "vgg16")
    assert "138 M (553 MB in fp32)" in out  # Simonyan and Zisserman 2014, table 2
    assert "15.5 GMAC at 224 x 224" in out
    assert "1000 (tench, goldfish, " in out
    assert "trained:        yes" in out


def test_class_names_are_given_where_a_file_of_weights_has_none(
    capsys: Capture, shapes: Path, tmp_path: Path
) -> None:
    import torch

    from vgg import load_model

    file, names = tmp_path / "bare.pth.tar", "a,b,c,d,e,f,g,h"
    torch.save({"state_dict": load_model("starter").state_dict()}, file)
    (tmp_path / "names.txt").write_text(names.replace(",", "\n"))
    for given in (names, tmp_path / "names.txt"):
        named = ("--model", file, "--class-names", given)
        out = printed(capsys, "predict", shapes / "star.png", "--json", *named)
        assert json.loads(out)[0]["top"][0]["class"] in set(names)
        assert "a, b, c" in printed(capsys, "info", *named)
    few = refusal(capsys, "info", "--model", file, "--class-names", "a,b")
    assert "2 names for 8 classes; give each class one" in few

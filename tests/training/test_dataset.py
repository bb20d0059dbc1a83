"""The pictures of a training: each file is opened once before it is learned from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vgg.data.shapes import draw_folder

ROOT = Path(__file__).resolve().parents[2]
# Counts what is opened below a folder, from the start of a training to its first epoch or its end.
COUNTING = """
import json, sys
from collections import Counter
from pathlib import Path

folder, out, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
opened, told = Counter(), Counter()

def listen(event, arguments):
    if event == "open" and str(arguments[0]).startswith(str(folder)):
        opened[str(Path(arguments[0]).relative_to(folder))] += 1

def tell(event):
    if event["kind"] in ("epoch", "done") and not told:
        told.update(opened)

from vgg import train
sys.addaudithook(listen)
train(folder, out=out, on_event=tell, **options)
print(json.dumps([told, opened]))
"""


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "probe", "model": "starter", "image_size": 64},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"mode": "scratch", "epochs": 1, "depth": 11, "width": 0.06},
                {"mode": "scratch", "budget_s": 25, "depth": 11},
                {"mode": "finetune", "model": "starter", "epochs": 1},
            )
        ),
    ],
    ids=["probe", "scratch", "budget", "finetune"],
)
def test_each_file_is_opened_once(options: dict[str, object], tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    draw_folder(folder, count=5, size=40)
    arguments = [sys.executable, "-c", COUNTING, folder, tmp_path / "out", json.dumps(options)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, in_all = json.loads(done.stdout)
    files = {str(file.relative_to(folder)) for file in folder.rglob("*.png")}
    assert {name: before.get(name, 0) for name in files} == dict.fromkeys(files, 1)
    assert {name: in_all[name] for name in files} == dict.fromkeys(files, 1)  # memory has them

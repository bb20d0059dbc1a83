#!/usr/bin/env python3
"""SIGKILL at random moments of train, save, rename, delete, import and export; then a clean start.

    .ci/kills.py [--kills 200] [--seed 0]

After each kill a fresh process looks: every model that is listed loads and answers as the one that
was saved, nothing of the dead process is left in the temporary folder or beside the models but a
training that can be gone on with. Status 1 where that does not hold.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKER = """
import shutil, sys
from itertools import count
from pathlib import Path
from vgg.checkpoints.folder import save_checkpoint
from vgg.checkpoints.library import delete_model, import_model, rename_model
from vgg.checkpoints.loading import load_model
from vgg.export.bundle import export_bundle
from vgg.training.options import TrainOptions
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.settings import Settings
kind, home, shapes, given = sys.argv[1], *map(Path, sys.argv[2:])
model = load_model("keeper", weights_dir=home)
jobs = Jobs(ModelStore(Settings(weights_dir=home)))
options = TrainOptions(mode="scratch", depth=11, width=0.03, epochs=2, image_size=32, device="cpu")
print("ready", flush=True)
for number in count():
    if kind == "train":
        job = jobs.submit(shapes, "trained", options, owned=False)
        while not job.is_over:
            pass
    elif kind == "save":
        save_checkpoint(model, home / "saved")
    elif kind == "rename":
        here = home / f"moved-{number}"
        shutil.copytree(home / "keeper", home / ".copy", dirs_exist_ok=True)
        (home / ".copy").rename(here)
        delete_model(rename_model(here, f"moved-{number}-again"))
    elif kind == "import":
        import_model(given, home / f"imported-{number}")
    elif kind == "export":
        export_bundle("keeper", home.parent / "out" / f"bundle-{number}", weights_dir=home)
"""
LOOK = """
import json, sys, tempfile
from pathlib import Path
import torch
from vgg.checkpoints.loading import load_model, own_models
from vgg.data.temporary import PREFIX, remove_leftovers
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.settings import Settings
home = Path(sys.argv[1])
remove_leftovers()
jobs = Jobs(ModelStore(Settings(weights_dir=home)))
x = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
def answer(name):
    with torch.no_grad():
        return load_model(name, weights_dir=home)(x).tolist()
wanted, problems = answer("keeper"), []
for name in own_models(home):
    try:
        given = answer(name)
    except Exception as error:
        problems.append(f"{name} does not load: {error}")
        continue
    if not name.startswith("trained") and given != wanted:
        problems.append(f"{name} answers otherwise")
unfinished = jobs.unfinished()
for job in unfinished:
    jobs.give_up(job)
problems += [f"left: {p.name}" for p in Path(tempfile.gettempdir()).glob(f"{PREFIX}*")]
hidden = [p.name for p in home.glob(".*") if p.name != ".copy"]
problems += [f"left beside the models: {name}" for name in hidden]
whole = {name for name in own_models(home)} | {".copy"}
problems += [f"half a model: {p.name}" for p in home.iterdir() if p.name not in whole]
print(json.dumps({"problems": problems, "unfinished": len(unfinished)}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, counts, problems, unfinished = random.Random(options.seed), Counter(), [], 0
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        root = Path(scratch)
        environment = {**os.environ, "TMPDIR": str(root / "tmp"), "PYTHONPATH": str(ROOT),
                       "VGG_STUDIO_CACHE": str(root / "cache")}  # fmt: skip
        (root / "tmp").mkdir()
        home = root / "weights"
        subprocess.run(
            [sys.executable, "-c",
             "import sys; from pathlib import Path\n"
             "from vgg import VGG; from vgg.checkpoints.folder import save_checkpoint\n"
             "from vgg.data.shapes import draw_folder\n"
             "from dataclasses import replace\n"
             "root = Path(sys.argv[1]); model = VGG(11, 2, width=0.1, head='gap')\n"
             "model.config = replace(model.config, trained=True)\n"
             "save_checkpoint(model, root / 'weights' / 'keeper')\n"
             "draw_folder(root / 'shapes', count=4, size=32)", root],
            env=environment, check=True,
        )  # fmt: skip
        given = Path(shutil.make_archive(str(root / "given"), "zip", home / "keeper"))
        kinds = ("train", "save", "rename", "import", "export")
        for number in range(options.kills):
            kind = kinds[number % len(kinds)]
            worker = subprocess.Popen(
                [sys.executable, "-c", WORKER, kind, home, root / "shapes", given],
                env=environment, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert worker.stdout
            worker.stdout.readline()
            time.sleep(chance.uniform(0, 4 if kind in ("train", "export") else 1))
            worker.kill()
            worker.wait()
            worker.stdout.close()
            looked = subprocess.run(
                [sys.executable, "-c", LOOK, home], env=environment, capture_output=True, text=True
            )
            counts[kind] += 1
            if looked.returncode:
                problems.append(f"kill {number} ({kind}): {looked.stderr.splitlines()[-1:]}")
                continue
            found = json.loads(looked.stdout.splitlines()[-1])
            unfinished += found["unfinished"]
            problems += [f"kill {number} ({kind}): {text}" for text in found["problems"]]
            for model in home.iterdir():
                if model.name != "keeper":
                    shutil.rmtree(model)
            shutil.rmtree(root / "out", ignore_errors=True)
    print(f"{sum(counts.values())} kills ({dict(counts)}), {unfinished} trainings to go on with")
    print(f"problems: {len(problems)}", *problems[:20], sep="\n  ")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())

"""A dataset on the Hub is the same data as the folder it was made of, in each of three forms."""

import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from fake_hub import FakeHub, Faults, hub_environment

from vgg.data.hub_datasets import is_hub_address
from vgg.data.shapes import draw_folder

pyarrow = pytest.importorskip("pyarrow")
SPLITS = ("train", "test")
CODE = """
import json, sys
from vgg.data.folder import scan_folder
from vgg.data.hub_datasets import find_dataset, fetch_dataset
from vgg.training.trainer import pictures_of
source, told = sys.argv[1], []
dataset = find_dataset(source)
with pictures_of(source, on_progress=lambda done, total: told.append((done, total))) as (root, _):
    index = scan_folder(root)
    rows = {s.name: [index.class_names[s.label], s.path.stat().st_size] for s in index.samples}
print(json.dumps({"rows": rows, "bytes": dataset.bytes, "told": told[-1:]}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two splits of two classes of three pictures."""
    home = tmp_path_factory.mktemp("pets")
    for seed, split in enumerate(SPLITS):
        draw_folder(home / "all" / split, count=3, seed=seed, size=32)
        for name in ("circle", "star"):
            shutil.move(home / "all" / split / name, home / "pets" / split / name)
    return home / "pets"


def pictures(folder: Path) -> dict[str, bytes | Path]:
    files = (f for f in folder.rglob("*") if f.is_file())
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


def zips(folder: Path) -> dict[str, bytes | Path]:
    packed: dict[str, bytes | Path] = {}
    for split in SPLITS:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for name, content in pictures(folder / split).items():
                archive.writestr(name, bytes(content))
        packed[f"data/{split}.zip"] = data.getvalue()
    return packed


def tables(folder: Path) -> dict[str, bytes | Path]:
    """As the `datasets` library writes them."""
    from pyarrow import parquet

    names = ["circle", "star"]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    written: dict[str, bytes | Path] = {}
    for split in SPLITS:
        rows = [
            {"image": {"bytes": content, "path": Path(name).name},
             "label": names.index(Path(name).parent.name)}
            for name, content in pictures(folder / split).items()
        ]  # fmt: skip
        table = pyarrow.Table.from_pylist(rows).replace_schema_metadata(metadata)
        data = io.BytesIO()
        parquet.write_table(table, data)
        written[f"data/{split}-00000-of-00001.parquet"] = data.getvalue()
    return written


def run(hub: FakeHub, home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = hub_environment(hub, home) | {"VGG_STUDIO_CACHE": str(home / "cache")}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("form", [pictures, zips, tables])
def test_each_form_gives_the_classes_split_and_pictures_of_the_folder(
    hub: FakeHub, tmp_path: Path, folder: Path, form
) -> None:
    from vgg.data.folder import scan_folder

    files = {**form(folder), "README.md": b"---\n---\n"}
    hub.add_model("ada/pets", files, repo_type="dataset")
    ran = run(hub, tmp_path, "-c", CODE, "hf://datasets/ada/pets")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    index = scan_folder(folder)
    expected = {s.name: [index.class_names[s.label], s.path.stat().st_size] for s in index.samples}
    assert found["rows"] == expected
    assert found["bytes"] == sum(len(c) for n, c in files.items() if n != "README.md")
    assert found["told"] == [[found["bytes"]] * 2]


@pytest.mark.slow
def test_a_download_that_broke_off_goes_on_and_says_what_is_wrong(
    hub: FakeHub, tmp_path: Path, folder: Path
) -> None:
    hub.add_model("ada/pets", tables(folder), repo_type="dataset")
    hub.faults = Faults(status=503, only="GET /datasets/ada/pets/resolve/")
    ran = run(hub, tmp_path, "-m", "vgg", "train", "hf://datasets/ada/pets")
    assert ran.returncode == 2
    assert "ada/pets" in ran.stderr
    assert "weights" not in ran.stderr.splitlines()[-1]
    hub.faults = Faults()
    assert run(hub, tmp_path, "-c", CODE, "hf://datasets/ada/pets").returncode == 0
    hub.add_model("ada/text", {"data/train-00000-of-00001.parquet": b"no table"},
                  repo_type="dataset")  # fmt: skip
    ran = run(hub, tmp_path, "-m", "vgg", "train", "hf://datasets/ada/text")
    assert (ran.returncode, len(ran.stderr.splitlines()[-1:])) == (2, 1)
    ran = run(hub, tmp_path, "-m", "vgg", "train", "hf://datasets/ada/nobody")
    assert ran.returncode == 2
    assert "no dataset" in ran.stderr


@pytest.mark.slow
def test_a_training_and_predictions_read_it(hub: FakeHub, tmp_path: Path, folder: Path) -> None:
    hub.add_model("ada/pets", tables(folder), repo_type="dataset")
    address = "hf://datasets/ada/pets"
    ran = run(
        hub, tmp_path, "-m", "vgg", "predict", f"{address}/data", "--json", "--model", "starter"
    )
    assert ran.returncode == 0, ran.stderr
    assert len(json.loads(ran.stdout)) == 12
    ran = run(hub, tmp_path, "-m", "vgg", "evaluate", address, "--model", "starter", "--json")
    assert ran.returncode == 0, ran.stderr
    assert "12 pictures" in ran.stderr or json.loads(ran.stdout)["images"] == 6


def test_addresses() -> None:
    assert is_hub_address("hf://datasets/ada/pets")
    assert is_hub_address(Path("hf://datasets/ada/pets@main/data"))
    assert not is_hub_address("hf-hub:ada/pets")
    assert not is_hub_address("datasets/ada/pets")

"""`pip install .` brings the whole program: its rooms, their data, the starter and the command."""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FILES = ("LICENSE", "README.md", "pyproject.toml", "requirements.txt")
FOLDERS = ("vgg", "weights/starter")
# Of the benchmark; of a Space with ZeroGPU; parts of gradio; asked for where a table needs it.
OPTIONAL = {"openvino", "pytorch_grad_cam", "spaces", "gradio_client", "starlette", "pyarrow"}


def test_every_room_and_every_kind_of_data_is_in_the_package() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packages = {ROOT / name.replace(".", "/") for name in setup["packages"]}
    rooms = {file.parent for file in ROOT.glob("vgg/**/*.py")}
    assert packages == rooms | {ROOT / "vgg" / "weights" / "starter"}
    kinds = (*setup["package-data"]["*"], "*.py", "*.pyc", "sentences/*.toml")
    files = [file for file in ROOT.glob("vgg/**/*") if file.is_file()]
    assert not [file for file in files if not any(map(file.match, kinds))]


def test_every_package_that_is_imported_is_required_or_known_to_be_optional() -> None:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    required = {canonicalize_name(Requirement(line).name) for line in lines}
    homes = packages_distributions()
    trees = [ast.parse(file.read_text("utf-8")) for file in (ROOT / "vgg").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    modules |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    others = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"vgg"}
    others -= OPTIONAL
    assert {canonicalize_name(homes[name][0]) for name in others} <= required


@pytest.mark.slow
def test_an_installed_package_answers_with_the_starter(tmp_path: Path, shapes: Path) -> None:
    source, home = tmp_path / "source", tmp_path / "fresh"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder)
    for file in FILES:
        shutil.copy(ROOT / file, source)
    venv.create(home)
    # The packages that it needs are this environment's: to install torch takes minutes.
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(home)}))
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    programs = Path(sysconfig.get_path("scripts", "venv", {"base": str(home)}))
    install = [sys.executable, "-m", "pip", "--python", programs / "python", "install"]
    install += ["--no-deps", "--no-build-isolation", source]
    subprocess.run(install, check=True, capture_output=True)
    shutil.rmtree(source)

    environment = os.environ | {"XDG_DATA_HOME": str(tmp_path / "data")}
    for options in (["--help"], ["predict", shapes / "star.png", "--json"]):
        command = [programs / "vgg-studio", *options]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)[0]["top"][0]["class"] == "star"
    deploy = [programs / "vgg-studio", "deploy", "--to", "ada/page", "--dry-run"]
    ran = subprocess.run(deploy, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "run this in a clone of the project" in ran.stderr

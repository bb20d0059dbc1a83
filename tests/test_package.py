"""`pip install .` brings the whole program: its rooms, their data, the starter and the command."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from conftest import ROOT

FILES = ("LICENSE", "README.md", "pyproject.toml", "requirements.txt")
FOLDERS = ("vgg", "weights/starter")


def test_every_room_and_every_kind_of_data_is_in_the_package() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packages = {ROOT / name.replace(".", "/") for name in setup["packages"]}
    rooms = {file.parent for file in ROOT.glob("vgg/**/*.py")}
    assert packages == rooms | {ROOT / "vgg" / "weights" / "starter"}
    patterns = [pattern for names in setup["package-data"].values() for pattern in names]
    taken = {Path(pattern).suffix for pattern in patterns} | {".py", ".pyc"}
    assert {file.suffix for file in ROOT.glob("vgg/**/*") if file.is_file()} <= taken


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

"""`deploy`: this program, with a model of yours in it if you like, becomes a Hugging Face Space."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg.checkpoints.loading import (
    PROJECT,
    STARTER,
    find_config,
    find_weights,
    model_name,
    project_file,
)
from vgg.data.temporary import temporary
from vgg.downloads import HUB_PREFIX
from vgg.errors import UserError
from vgg.export.hub import (
    check_free,
    check_name,
    check_token,
    commit,
    hub_errors,
    sign_in,
    write_model,
)
from vgg.network.config import IMAGENET_NAMES

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# What a Space needs of this folder, and nothing else: no tests, no history, no models, no data.
TOP_FILES = ("LICENSE", "README.md", "app.py", "requirements.txt", "weights/README.md")
TREES = ("vgg", f"weights/{STARTER}")
SUFFIXES = (".py", ".txt", ".html", ".css", ".js", ".json", ".toml", ".safetensors")
PICTURE = re.compile(r"^!\[[^\]]*\]\(\.github/[^)]*\)\n\n?", re.MULTILINE)
MAX_MODEL_BYTES = 100 * 1024**2  # of a model that goes into the Space itself
MARK = ".vgg-studio-files.json"  # in a Space: the files that `deploy` brought
MODEL_VARIABLE = "VGG_STUDIO_MODEL"

ZERO_GPU = "zero-a10g"  # the Hub's name for ZeroGPU, whatever the GPU behind it is
# ZeroGPU takes torch 2.8 to 2.11 (its documentation, August 2026).
ZERO_REQUIREMENTS = {"torch": "torch>=2.8,<2.12", "torchvision": "torchvision>=0.23,<0.27"}


@dataclass(frozen=True)
class Deployed:
    """A Space: its page, and its files as (path, bytes), sorted. `model` is what it starts with.

    After a dry run `url` is where it would be.
    """

    url: str
    files: tuple[tuple[str, int], ...]
    model: str

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files)

    def to_json(self) -> dict[str, Any]:
        """The command line's document."""
        files = [{"path": path, "bytes": size} for path, size in self.files]
        return {"url": self.url, "model": self.model, "files": files, "bytes": self.total}


def deploy(
    to: str,
    *,
    model: str | Path | None = None,
    hardware: str | None = None,
    private: bool = False,
    token: str | None = None,
    dry_run: bool = False,
    weights_dir: Path | None = None,
) -> Deployed:
    """Make the Space `to` (`owner/name`), or bring it up to date, in one commit.

    `model` is what visitors meet first: a trained model goes into the Space; an ImageNet name or
    `hf-hub:owner/name` is fetched by the Space. None means the starter. `hardware` is the Hub's
    name of a machine, such as `t4-small` or `zero-a10g` (ZeroGPU); None leaves it as it is, in a
    new Space the free CPU. `token` is the caller's own. `dry_run` sends nothing and asks nobody.
    A `ValueError` says in one sentence what went wrong.

        deploy("ada/studio", model="weights/photos", token="hf_…")
    """
    check_name(to)
    check_hardware(hardware)
    if not dry_run:
        check_token(token)
    with temporary("deploy") as scratch:
        files = space_files(hardware)
        chosen, own = _model_files(model, scratch, weights_dir)
        files |= own
        files[MARK] = json.dumps(sorted(files), ensure_ascii=False).encode()
        sizes = tuple((path, _size(files[path])) for path in sorted(files))
        if dry_run:
            return Deployed(_page(to), sizes, chosen)
        with hub_errors(to):
            api = sign_in(token)
            _send(api, to, files, chosen, hardware=hardware, private=private)
    return Deployed(_page(to), sizes, chosen)


def space_files(hardware: str | None = None) -> dict[str, Path | bytes]:
    """Path in the Space → file or content, without a model."""
    files: dict[str, Path | bytes] = {name: project_file(name) for name in TOP_FILES}
    for tree in TREES:
        for file in sorted((PROJECT / tree).rglob("*")):
            path = file.relative_to(PROJECT)
            hidden = any(part.startswith((".", "__pycache__")) for part in path.parts)
            unused = path.is_relative_to("vgg/bench")  # nobody measures on a Space
            if file.suffix in SUFFIXES and file.is_file() and not (hidden or unused):
                files[path.as_posix()] = file
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    files["README.md"] = PICTURE.sub("", readme).encode()  # the picture itself stays here
    if hardware == ZERO_GPU:
        lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        names = [re.split(r"[<>=!~\[ ]", line)[0] for line in lines]
        bounded = [ZERO_REQUIREMENTS.get(n, line) for n, line in zip(names, lines, strict=True)]
        files["requirements.txt"] = "\n".join([*bounded, "spaces", ""]).encode()
    return files


def check_hardware(hardware: str | None) -> None:
    """Refuse a machine that the Hub does not have."""
    from huggingface_hub import SpaceHardware

    known = [kind.value for kind in SpaceHardware]
    if hardware is not None and hardware not in known:
        raise UserError("export.hardware", value=hardware, choices=known)


def _model_files(
    model: str | Path | None, scratch: Path, weights_dir: Path | None
) -> tuple[str, dict[str, Path | bytes]]:
    """What the Space starts with, and that model's files where they go along."""
    spec = str(model or STARTER)
    if spec == STARTER or spec in IMAGENET_NAMES or spec.startswith(HUB_PREFIX):
        if spec.startswith(HUB_PREFIX):
            check_name(spec.removeprefix(HUB_PREFIX).partition("@")[0])
        return spec, {}
    config = find_config(spec, weights_dir=weights_dir)
    if not config.trained:
        raise UserError("export.untrained_space", name=model_name(spec))
    path = find_weights(spec, weights_dir=weights_dir).resolve()
    name = re.sub(r"[^\w.-]+", "-", path.stem if path.is_file() else path.name).strip("-.")
    if not name or name == STARTER or name in IMAGENET_NAMES:
        name = f"my-{name or 'model'}"
    written = {
        file.name: file for file in write_model(path, scratch / "model", name=spec).iterdir()
    }
    size = sum(map(_size, written.values()))
    if size > MAX_MODEL_BYTES:
        raise UserError("export.large_space", name=name, megabytes=size / 1e6, prefix=HUB_PREFIX)
    return name, {f"weights/{name}/{file}": source for file, source in written.items()}


def _send(
    api: "HfApi",
    to: str,
    files: dict[str, Path | bytes],
    model: str,
    *,
    hardware: str | None,
    private: bool,
) -> None:
    from huggingface_hub import SpaceHardware

    is_new = check_free(api, to, "space", private=private, is_ours=_is_our_space)
    if is_new:
        api.create_repo(
            to,
            repo_type="space",
            space_sdk="gradio",
            private=private,
            exist_ok=True,
            space_hardware=SpaceHardware(hardware) if hardware else None,
        )
    elif hardware and api.get_space_runtime(to).requested_hardware != hardware:
        api.request_space_hardware(to, SpaceHardware(hardware))
    # Before the files, so that the first start has it.
    api.add_space_variable(to, MODEL_VARIABLE, model)
    there = {sibling.rfilename for sibling in api.space_info(to).siblings or ()}
    stale = sorted((there & _sent_before(api, to, there)) - set(files))
    commit(api, to, "space", files, message="VGG Studio", stale=stale)


def _sent_before(api: "HfApi", to: str, there: Collection[str]) -> set[str]:
    """What earlier deploys brought; whatever else is there is its owner's, and stays."""
    if MARK not in there:
        return set()
    with temporary("deploy") as scratch:
        file = api.hf_hub_download(to, MARK, repo_type="space", local_dir=scratch)
        try:
            names = json.loads(Path(file).read_text(encoding="utf-8"))
        except ValueError:
            return set()
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def _is_our_space(api: "HfApi", to: str, there: Collection[str]) -> bool:
    """True for VGG Studio, and for a Space in which nothing but its README.md stands yet."""
    return "vgg/ui/app.py" in there or set(there) == {"README.md"}


def _page(to: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/spaces/{to}"


def _size(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size

"""Files that leave the machine: a bundle of safetensors, ONNX, model card and a program.

Nothing is handed over that was not proved: see `vgg.export.verification`.
"""

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from vgg.checkpoints.file_names import CARD_FILE, COPIES_FOLDER, METRICS_FILE
from vgg.checkpoints.loading import find_weights, load_model
from vgg.data.images import IMAGE_SUFFIXES
from vgg.data.shapes import SHAPES, draw_shape
from vgg.data.temporary import remove, remove_leftovers, temporary, temporary_folder
from vgg.errors import UserError
from vgg.export.model_card import model_card, open_metrics
from vgg.export.verification import ONNX_FILE, PREDICT_FILE, TOLERANCE, check_bundle

if TYPE_CHECKING:
    from vgg.network.vgg import VGG

MOST_PICTURES = 64  # held-out pictures that are asked; more would take long
# What is drawn, besides: sizes (width, height) and modes that pictures come in.
DRAWN = (
    ((64, 64), "RGB"), ((96, 128), "RGBA"), ((200, 60), "L"), ((31, 33), "P"), ((300, 225), "RGB"),
    ((224, 224), "LA"), ((5, 90), "RGB"), ((640, 480), "RGB"), ((48, 48), "I;16"), ((120, 80), "1"),
    ((333, 500), "CMYK"), ((80, 8), "RGB"),
)  # fmt: skip

Event = dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """What was exported: its folder, the same as a zip, and how it was proved.

    `images` pictures were asked, `held_out` of them from the model's own held-out part;
    `largest_difference` is that of any probability, 0 to 1, from the app's.
    """

    folder: Path
    zip: Path
    files: tuple[str, ...]
    bytes: int
    images: int
    held_out: int
    largest_difference: float

    def to_json(self) -> dict[str, Any]:
        """The command line's document."""
        return {
            "out": str(self.folder),
            "zip": str(self.zip),
            "files": list(self.files),
            "bytes": self.bytes,
            "images": self.images,
            "held_out": self.held_out,
            "largest_difference": self.largest_difference,
            "tolerance": TOLERANCE,
        }


def export_bundle(
    spec: str | Path,
    out: str | Path,
    *,
    weights_dir: Path | None = None,
    held_out: Path | Sequence[Path] | None = None,
    class_names: Sequence[str] = (),
    on_event: Callable[[Event], None] | None = None,
) -> Bundle:
    """Write the model `spec` into the new folder `out`, and into `out`.zip beside it.

    A fresh process then loads each file and answers `held_out`, pictures or a folder of them, by
    default the copies of held-out pictures in the model's folder, and some that are drawn.
    `class_names` are those of the model's outputs, where its file has none. A
    `ValueError` says what is wrong, with the numbers where an answer is not the app's; then
    neither folder nor zip is there. `on_event` gets dicts with `kind` `step` and a `message`.

        export_bundle("starter", "exported/starter").largest_difference
    """
    from vgg.inference.predictor import Predictor

    out = Path(out)
    check_packages()
    tell = on_event or (lambda event: None)

    def say(message: str) -> None:
        tell({"kind": "step", "message": message})

    with _both_or_nothing(out) as (folder, packed):
        say("loading the model")
        source = find_weights(spec, weights_dir=weights_dir)
        model = load_model(spec, weights_dir=weights_dir, class_names=class_names)
        say("writing the files")
        write_files(model, folder, metrics=read_metrics(source))
        kept = _held_out_pictures(source, held_out)
        with temporary("proof") as scratch:
            pictures = [*kept, *drawn_pictures(scratch)]
            say(f"asking the files about {len(pictures)} pictures in a fresh process")
            # In 32 bits on the processor: those are the weights as they are.
            proof = check_bundle(folder, Predictor(model, "cpu", "fp32"), pictures)
        say("packing the zip")
        files = tuple(sorted(p.name for p in folder.iterdir()))
        _pack(folder, packed, out.name)
        size = sum(p.stat().st_size for p in folder.iterdir())
    return Bundle(
        out, zip_beside(out), files, size, proof.images, len(kept), proof.largest_difference
    )


def check_packages() -> None:
    """`ValueError` where a package that export needs is not installed."""
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError("export.packages", names=missing, install=" ".join(missing))


def zip_beside(out: Path) -> Path:
    """Where the zip of a bundle lies."""
    return out.with_name(f"{out.name}.zip")


def write_files(model: "VGG", folder: Path, *, metrics: dict[str, Any] | None = None) -> None:
    """The bundle's files, not yet proved."""
    import torch

    from vgg.checkpoints.folder import is_half, save_checkpoint
    from vgg.export.onnx_graph import build_onnx, check_exportable

    check_exportable(model.config)
    save_checkpoint(model, folder, dtype=torch.float16 if is_half(model) else None)
    (folder / ONNX_FILE).write_bytes(build_onnx(model).SerializeToString())
    shutil.copyfile(Path(__file__).with_name("bundle_predict.py"), folder / PREDICT_FILE)
    card = model_card(model.config, metrics=metrics, onnx=True)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    if metrics:
        text = json.dumps(open_metrics(metrics), ensure_ascii=False, indent=1)
        (folder / METRICS_FILE).write_text(text + "\n", encoding="utf-8")


def read_metrics(source: Path) -> dict[str, Any] | None:
    """metrics.json in the model's folder; None where there is none that can be read."""
    folder = source if source.is_dir() else source.parent
    try:
        found = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def drawn_pictures(folder: Path) -> list[Path]:
    """Pictures of many sizes and modes, written into `folder`."""
    rng, files = Random(0), []
    for number, (size, mode) in enumerate(DRAWN):
        picture = draw_shape(SHAPES[number % len(SHAPES)], rng, size=256).resize(size)
        if mode in ("RGBA", "LA"):
            picture.putalpha(picture.convert("L"))
        if mode == "I;16":
            deep = picture.convert("I").point(lambda value: value * 257)
            picture = deep.convert("I;16")
        else:
            picture = picture.convert(mode)
        file = folder / f"drawn-{number}{'.tif' if mode == 'CMYK' else '.png'}"
        picture.save(file)
        files.append(file)
    return files


def _held_out_pictures(source: Path, given: Path | Sequence[Path] | None) -> list[Path]:
    """The pictures to ask about, at most `MOST_PICTURES`, taken evenly."""
    if given is None:
        given = (source if source.is_dir() else source.parent) / COPIES_FOLDER
    if isinstance(given, Path):
        found = sorted(p for p in given.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    else:
        found = list(given)
    step = max(1, -(-len(found) // MOST_PICTURES))
    return found[::step]


@contextmanager
def _both_or_nothing(out: Path) -> Iterator[tuple[Path, Path]]:
    """A folder and a zip to write to. They become `out` and its zip where the block ends well;
    else nothing is left of them."""
    packed = zip_beside(out)
    for path in (out, packed):
        if path.exists() and not (path == out and path.is_dir() and not any(path.iterdir())):
            raise UserError("export.taken", name=path.name)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out.parent)
        scratch = temporary_folder("export", beside=out.parent)
    except OSError as error:
        raise UserError("export.no_place", name=out.name, why=error.strerror) from error
    try:
        folder, zipped = scratch / "bundle", scratch / "bundle.zip"
        folder.mkdir()
        yield folder, zipped
        zipped.replace(packed)
        if out.is_dir():  # empty; Windows puts no folder in the place of one
            out.rmdir()
        try:
            folder.replace(out)
        except OSError:
            packed.unlink()
            raise
    except OSError as error:
        raise UserError("export.disk", name=out.name, why=error.strerror) from error
    finally:
        remove(scratch)


def _pack(folder: Path, packed: Path, name: str) -> None:
    """The folder as a zip, under its name; weights hardly shrink, so nothing is compressed."""
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{name}/{file.name}")

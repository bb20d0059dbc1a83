#!/usr/bin/env python3
"""Coverage-guided fuzzing, by atheris: any bytes make a result or a `UserError`, nothing else.

    .ci/fuzz.py [--seconds 30] [TARGET …]    each in a process of its own; one that fails says how

Pillow, zipfile and our own code are traced; the decoders in C are run as they are.
"""

import argparse
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRACED = ["vgg", "PIL", "zipfile", "json", "safetensors"]


def picture_seeds() -> list[bytes]:
    """A small picture in each format."""
    from PIL import Image

    image, seeds = Image.linear_gradient("L").resize((24, 16)).convert("RGB"), []
    for kind, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {}),
        ("AVIF", {}),
        ("PPM", {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        seeds.append(buffer.getvalue())
    return [*seeds, b"P3 2 1\n255\n1 2 3 4 5 6\n", b"P1 2 2\n0 1 1 0\n"]


def zip_seeds() -> list[bytes]:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("cat/1.png", "개/2.png", "dog/"):
            archive.writestr(name, picture_seeds()[2])
    return [buffer.getvalue()]


def checkpoint_seeds() -> list[bytes]:
    import torch
    from safetensors.torch import save

    state = {"features.0.weight": torch.ones(4, 3, 3, 3), "features.0.bias": torch.ones(4)}
    buffer = io.BytesIO()
    torch.save({"state_dict": state, "epoch": 3}, buffer)
    return [save(state), buffer.getvalue()]


def config_seeds() -> list[bytes]:
    from vgg.network.config import ModelConfig, dump_config

    return [dump_config(ModelConfig()).encode()]


def read_picture(data: bytes, _: Path) -> None:
    from vgg.data.images import ImageError, probe_size, read_image

    with suppress(ImageError):
        image = read_image(data, min_side=8, max_pixels=100_000)
        assert image.mode == "RGB"
        assert image.width * image.height <= 100_000
    with suppress(ImageError):
        probe_size(data)


def unpack_zip(data: bytes, scratch: Path) -> None:
    from vgg.data.zips import ZipLimits, open_zip
    from vgg.errors import UserError

    limits = ZipLimits(max_entries=50, max_bytes=100_000, max_file_bytes=20_000)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        with suppress(UserError):
            open_zip(io.BytesIO(data), Path(folder) / "new", limits=limits)
        assert {path.name for path in Path(folder).iterdir()} <= {"new"}


def read_checkpoint(data: bytes, scratch: Path) -> None:
    from vgg.checkpoints.folder import read_checkpoint
    from vgg.errors import UserError

    file = scratch / "model.pth"
    file.write_bytes(data)
    with suppress(UserError):
        read_checkpoint(file)


def read_config(data: bytes, scratch: Path) -> None:
    from vgg.errors import UserError
    from vgg.network.config import read_config

    file = scratch / "config.json"
    file.write_bytes(data)
    with suppress(UserError):
        read_config(file)


def read_table(data: bytes, scratch: Path) -> None:
    from vgg.data.labels import by_table
    from vgg.errors import UserError

    table = scratch / "labels.csv"
    table.write_bytes(data)
    with suppress(UserError):
        by_table(table, [scratch / f"{name}.png" for name in "abcd"], lambda file: file.name)


def read_names(data: bytes, scratch: Path) -> None:
    from vgg.checkpoints.class_names import names_of_file
    from vgg.errors import UserError

    for name in ("names.txt", "names.json"):
        (scratch / name).write_bytes(data)
        with suppress(UserError):
            names_of_file(scratch / name)


Target = Callable[[bytes, Path], None]
TARGETS: dict[str, tuple[Target, Callable[[], list[bytes]]]] = {
    "pictures": (read_picture, picture_seeds),
    "zips": (unpack_zip, zip_seeds),
    "checkpoints": (read_checkpoint, checkpoint_seeds),
    "configs": (read_config, config_seeds),
    "tables": (read_table, lambda: [b"file,class\na.png,cat\nb,dog\n", b"a;1\nb;2\n"]),
    "names": (read_names, lambda: [b"cat\ndog\n", b'["cat", "dog"]', b'{"cat": 0, "dog": 1}']),
}


def fuzz(name: str, seconds: int, seed: int, folder: Path) -> None:
    """Runs one target in this process, and ends it: libFuzzer says how often it ran."""
    import atheris

    sys.path.insert(0, str(ROOT))
    target, seeds = TARGETS[name]
    corpus, scratch = folder / "corpus", folder / "scratch"
    for place in (corpus, scratch):
        place.mkdir()
    with atheris.instrument_imports(include=TRACED):
        for number, content in enumerate(seeds()):
            (corpus / str(number)).write_bytes(content)
            target(content, scratch)  # imports what it needs
    limits = ["-timeout=20", "-rss_limit_mb=4096", f"-max_total_time={seconds}", f"-seed={seed}"]
    options = [*limits, "-max_len=8192", f"-artifact_prefix={folder}/", "-verbosity=0"]
    options = [sys.argv[0], *options, "-print_final_stats=1", str(corpus)]
    atheris.Setup(options, lambda data: target(data, scratch))
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1, help="the same seed tries about the same")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)  # in this process
    options = parser.parse_args()
    if options.here:
        fuzz(options.targets[0], options.seconds, options.seed, options.here)
        return 0
    failed = 0
    for name in options.targets:
        with tempfile.TemporaryDirectory(prefix="vgg-fuzz-") as folder:
            command = [sys.executable, __file__, name, "--here", folder]
            done = subprocess.run(
                [*command, "--seconds", str(options.seconds), "--seed", str(options.seed)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            runs = re.search(r"number_of_executed_units: (\d+)", done.stdout)
            print(f"{name}: {runs[1] if runs else 'no'} runs in {options.seconds} s, ", end="")
            print("nothing found" if done.returncode == 0 else f"status {done.returncode}")
            if done.returncode:
                failed = 1
                said = [line for line in done.stdout.splitlines() if "INFO: " not in line]
                print(*said[-60:], sep="\n")
                for found in Path(folder).glob("*-*"):
                    print(found.name, found.read_bytes().hex())
    return failed


if __name__ == "__main__":
    sys.exit(main())

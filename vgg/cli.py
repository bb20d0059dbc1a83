"""The command line: `python -m vgg …`, thin over the library.

Exit status: 0; 2 for what the user can mend, with one line that says what and how; 1 for our bug.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from vgg.options import PRECISIONS, ModelConfig, count_macs, count_parameters, describe_count

PROGRAM = "vgg"
ENVIRONMENT_PREFIX = "VGG_STUDIO_"


class UsageError(ValueError):
    """The command line asks for something that there is not."""


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose options can also be set as `VGG_STUDIO_<OPTION>`, and whose errors
    are one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `{self.prog} --help` lists what there is")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        for action in self._actions:
            if option := next((o for o in action.option_strings if o.startswith("--")), None):
                self._set_from_environment(action, option)
        return super().parse_known_args(args, namespace)

    def _set_from_environment(self, action: argparse.Action, option: str) -> None:
        name = ENVIRONMENT_PREFIX + option.lstrip("-").replace("-", "_").upper()
        value = os.environ.get(name)
        if value is None or action.dest in ("help", argparse.SUPPRESS):
            return
        if action.nargs == 0:  # a switch
            action.default = value.lower() not in ("", "0", "false", "no", "off")
            return
        if action.choices is not None and value not in action.choices:
            self.error(f"{name}={value} is none of {', '.join(map(str, action.choices))}")
        action.default = value
        action.required = False


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command and the page have."""
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N, mps or xpu (default: auto)"
    )
    parser.add_argument(
        "--precision", default="auto", choices=PRECISIONS, help="default: auto, the fastest here"
    )
    parser.add_argument(
        "--weights-dir", type=Path, help="the folder with models (default: the project's weights/)"
    )


def build_parser() -> Parser:
    """All commands with their options; defaults stand in the library's option classes."""
    parser = Parser(prog="python -m vgg", description="VGG Studio without a page.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    predict = commands.add_parser("predict", help="say what is in pictures")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE|FOLDER")
    predict.add_argument("--model", default="starter", help="default: starter")
    predict.add_argument("--top-k", type=int, default=5, help="classes a picture (default: 5)")
    predict.add_argument("--json", action="store_true", help="print one JSON document")
    predict.add_argument("--csv", type=Path, metavar="FILE", help="write a table, a row a picture")
    predict.add_argument("--flip", action="store_true", help="average with the mirror image")
    predict.set_defaults(run=run_predict)

    shapes = commands.add_parser("shapes", help="draw the sample folder")
    shapes.add_argument("out", type=Path, metavar="OUT")
    shapes.add_argument("--count", type=int, default=400, help="pictures a class (default: 400)")
    shapes.add_argument("--seed", type=int, default=0, help="default: 0")
    shapes.add_argument("--size", type=int, default=96, help="pixels a side (default: 96)")
    shapes.set_defaults(run=run_shapes)

    info = commands.add_parser("info", help="say what a model is, and what this machine has")
    info.add_argument("--model", help="default: all that are here")
    info.set_defaults(run=run_info)

    for command in commands.choices.values():
        add_run_options(command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        options = build_parser().parse_args(arguments)
        return options.run(options) or 0
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"{PROGRAM}: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped", file=sys.stderr)
        return 130


def one_line(error: Exception) -> str:
    """An error's message on one line."""
    if isinstance(error, OSError) and error.strerror:
        name = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{name}"
    return " ".join(str(error).split())


def run_predict(options: argparse.Namespace) -> int:
    if options.top_k < 1:
        raise UsageError(f"--top-k must be 1 or more, not {options.top_k}")
    found = [entry for path in options.images for entry in find_images(path)]
    if all(error for _, error in found):
        raise UsageError(found[0][1] if len(found) == 1 else f"none can be read: {found[0][1]}")
    if options.csv is not None:
        check_writable(options.csv)
    from vgg.predictor import Predictor
    from vgg.weights import load_model

    model = load_model(options.model, weights_dir=options.weights_dir)
    check_trained(model.config, options.model)
    predictor = Predictor(model, options.device, options.precision, flip=options.flip)
    read, first_error = 0, ""

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal read, first_error
        good = (path for path, error in found if error is None)
        results = predictor.predict_files(good, options.top_k)
        for path, error in found:
            prediction, failure = (None, error) if error else next(results)
            read += prediction is not None
            first_error = first_error or failure or ""
            top = prediction.to_json() if prediction else []
            yield {"image": str(path), "top": top, "error": failure}

    with write_rows(options.csv, min(options.top_k, predictor.config.num_classes)) as keep:
        if options.json:
            print_json_list(keep(rows()))
        else:
            for row in keep(rows()):
                print_prediction(row)
    if not read:
        raise UsageError(first_error)
    if not options.json and (run := predictor.last_run):
        size = f"{run.image_size} x {run.image_size}"
        print(f"{run.milliseconds:.0f} ms a picture on {run.device}, {run.precision}, {size}")
    return 0


def find_images(path: Path) -> list[tuple[Path, str | None]]:
    """A file as it is, or a folder's pictures in order; the second item says why there is none."""
    from vgg.images import IMAGE_SUFFIXES

    if not path.is_dir():
        return [(path, None if path.exists() else f"{path}: there is no such file or folder")]
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.is_file()
    ]
    if not found:
        return [(path, f"{path}: the folder holds no pictures; name one that does")]
    return [(file, None) for file in found]


def check_trained(config: ModelConfig, spec: str) -> None:
    """Percentages of an untrained network would be a guess in the clothes of an answer."""
    if config.num_classes and not config.trained:
        raise ValueError(
            f"{spec} has not been trained, so its answers would be guesses; train it first"
        )


def check_writable(file: Path) -> None:
    if file.is_dir() or not file.parent.is_dir():
        raise UsageError(f"can't write {file}: name a file in a folder that exists")


def print_prediction(row: dict[str, Any]) -> None:
    if row["error"]:
        print(f"{row['image']}\n  not read: {row['error']}")
        return
    print(row["image"])
    for place in row["top"]:
        print(f"  {100 * place['probability']:5.1f} %  {place['class']}")


def print_json_list(rows: Iterable[dict[str, Any]]) -> None:
    """One JSON list, written row by row: memory stays flat."""
    lead = "["
    for row in rows:
        sys.stdout.write(f"{lead}\n  {json.dumps(row, ensure_ascii=False)}")
        lead = ","
    print("[]" if lead == "[" else "\n]")


Rows = Iterable[dict[str, Any]]


@contextmanager
def write_rows(file: Path | None, places: int) -> Iterator[Callable[[Rows], Rows]]:
    """Gives a function that passes rows through and writes each into a CSV table.

    The table stands under its name once all rows are in it, and not before.
    """
    if file is None:
        yield lambda rows: rows
        return
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("w", newline="", encoding="utf-8") as opened:
            yield lambda rows: _csv_rows(rows, opened, places)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _csv_rows(rows: Rows, opened: TextIO, places: int) -> Iterator[dict[str, Any]]:
    table = csv.writer(opened)
    columns = [f"{name}_{place}" for place in range(1, places + 1) for name in ("class", "prob")]
    table.writerow(["image", *columns, "error"])
    for row in rows:
        table.writerow(csv_row(row, places))
        yield row


def csv_row(row: dict[str, Any], places: int) -> list[str]:
    """`image`, class and probability of each place, `error`."""
    cells = [cell for p in row["top"] for cell in (p["class"], f"{p['probability']:.6f}")]
    return [row["image"], *cells, *[""] * (2 * places - len(cells)), row["error"] or ""]


def run_shapes(options: argparse.Namespace) -> int:
    from vgg.shapes import draw_folder

    with progress_line("drawn") as tell:
        draw_folder(
            options.out,
            count=options.count,
            seed=options.seed,
            size=options.size,
            on_progress=tell,
        )
    print(options.out)
    return 0


@contextmanager
def progress_line(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function (done, total) that keeps one line on a terminal, and is silent elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    shown = -1

    def tell(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // max(1, total)
        if percent != shown:
            shown = percent
            print(f"\r{percent:3d} % {what} ({done} of {total})", end="", file=sys.stderr)

    try:
        yield tell
    finally:
        if shown >= 0:
            print(file=sys.stderr)


def run_info(options: argparse.Namespace) -> int:
    from vgg.weights import available_models, find_config

    if options.model:
        config = find_config(options.model, weights_dir=options.weights_dir)
        for name, value in describe_config(config):
            print(f"{name + ':':15} {value}")
        return 0
    import torch

    from vgg.device import choose_device, choose_precision, device_name, precision_name

    device = choose_device(options.device)
    precision = precision_name(choose_precision(device, options.precision))
    print(f"{'device:':15} {device_name(device)}, {precision}")
    print(f"{'torch:':15} {torch.__version__}")
    for model in available_models(options.weights_dir):
        print(f"{model.name + ':':15} {model.summary}")
    return 0


def describe_config(config: ModelConfig) -> list[tuple[str, str]]:
    """What a person wants to know of a model: (name, value) pairs."""
    cfg = config.pretrained_cfg
    parameters = count_parameters(config)
    names = ", ".join(config.label_names[:10]) + (", …" if config.num_classes > 10 else "")
    return [
        ("architecture", config.architecture),
        ("head", f"{config.head}, width {config.width:g}"),
        ("classes", f"{config.num_classes} ({names})" if names else "0, a trunk to train on"),
        ("trained", "yes" if config.trained else "no"),
        ("weights", f"{describe_count(parameters)} ({4 * parameters / 1e6:.3g} MB in fp32)"),
        ("one picture", f"{describe_count(count_macs(config))}MAC at {cfg.size} x {cfg.size}"),
        ("preprocessing", f"{cfg.crop_mode}, crop_pct {cfg.crop_pct:g}, {cfg.interpolation}"),
    ]

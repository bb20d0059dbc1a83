"""The command line: `python -m vgg …`, thin over the library.

Exit status: 0; 2 for what the user can mend, with one line that says what and how; 1 for our bug.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from vgg import distributed
from vgg.options import (
    DEFAULT_BUDGET,
    DEFAULT_MODEL,
    HEADS,
    MODES,
    PRECISIONS,
    ModelConfig,
    TrainOptions,
)
from vgg.terminal import (
    describe_config,
    one_line,
    print_json_list,
    print_prediction,
    progress_line,
    told_events,
    write_rows,
)

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
        if not value or action.dest in ("help", argparse.SUPPRESS):
            return
        if action.nargs == 0:  # a switch
            action.default = value.lower() not in ("0", "false", "no", "off")
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
    predict.add_argument(
        "--heatmaps",
        type=Path,
        metavar="DIR",
        help="write each picture with what speaks for its top answer",
    )
    predict.add_argument("--flip", action="store_true", help="average with the mirror image")
    predict.set_defaults(run=run_predict)

    train = commands.add_parser("train", help="train a classifier on a folder")
    train.add_argument("folder", type=Path, metavar="FOLDER|ZIP")
    train.add_argument(
        "--model", help=f"pretrained network to start from (default: {DEFAULT_MODEL})"
    )
    train.add_argument("--depth", type=int, help="11, 13, 16 or 19, instead of --model")
    train.add_argument("--no-batch-norm", action="store_true", help="with --depth")
    train.add_argument("--width", type=float, help="scales every channel count, with --depth")
    train.add_argument("--head", choices=HEADS, help="default: stages on a trunk, else gap")
    train.add_argument("--mode", choices=MODES, default=TrainOptions.mode, help="default: auto")
    train.add_argument("--epochs", type=int, help="how long, instead of --budget")
    train.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help=f"how long, evaluation included (default from scratch: {DEFAULT_BUDGET:g})",
    )
    train.add_argument("--image-size", type=int, metavar="PX", help="default: chosen")
    train.add_argument("--seed", type=int, default=TrainOptions.seed, help="default: 0")
    train.add_argument("--out", type=Path, help="default: weights/NAME, as the folder's name")
    train.add_argument("--resume", action="store_true", help="go on with a killed training")
    train.add_argument("--json", action="store_true", help="print one JSON document")
    train.set_defaults(run=run_train)

    evaluate = commands.add_parser("evaluate", help="measure a model on a folder")
    evaluate.add_argument("folder", type=Path, metavar="FOLDER|ZIP")
    evaluate.add_argument("--model", required=True)
    evaluate.add_argument("--json", action="store_true", help="print one JSON document")
    evaluate.set_defaults(run=run_evaluate)

    shapes = commands.add_parser("shapes", help="draw the sample folder")
    shapes.add_argument("out", type=Path, metavar="OUT")
    shapes.add_argument("--count", type=int, default=400, help="pictures a class (default: 400)")
    shapes.add_argument("--seed", type=int, default=0, help="default: 0")
    shapes.add_argument("--size", type=int, default=96, help="pixels a side (default: 96)")
    shapes.set_defaults(run=run_shapes)

    bench = commands.add_parser("bench", help="measure against named rivals, on this machine")
    bench.add_argument("--quick", action="store_true", help="under a minute")
    bench.add_argument("--json", action="store_true", help="print one JSON document")
    bench.set_defaults(run=run_benchmark)

    info = commands.add_parser("info", help="say what a model is, and what this machine has")
    info.add_argument("--model", help="default: all that are here")
    info.set_defaults(run=run_info)

    for command in commands.choices.values():
        add_run_options(command)
    return parser


def wait_politely() -> None:
    """Let torch's threads sleep while they wait, before torch is loaded: spinning, as they do by
    default, makes a machine that others use as well ten times slower."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    wait_politely()
    for stream in (sys.stdout, sys.stderr):  # a file's name need not be text that they can write
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = build_parser().parse_args(arguments)
        if distributed.world() > 1 and options.run not in (run_predict, run_train):
            raise UsageError(f"{options.command} runs in one process: start it without torchrun")
        with distributed.one_voice():
            return options.run(options) or 0
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        which = f" (process {distributed.rank()})" if not distributed.is_first() else ""
        print(f"{PROGRAM}{which}: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped", file=sys.stderr)
        return 130


def run_predict(options: argparse.Namespace) -> int:
    if options.top_k < 1:
        raise UsageError(f"--top-k must be 1 or more, not {options.top_k}")
    found = [entry for path in options.images for entry in find_images(path)]
    if all(error for _, error in found):
        raise UsageError(found[0][1] if len(found) == 1 else f"none can be read: {found[0][1]}")
    if options.csv is not None:
        check_writable(options.csv)
    if options.heatmaps is not None:
        if distributed.world() > 1:
            raise UsageError("--heatmaps is for one process: start it without torchrun")
        options.heatmaps.mkdir(parents=True, exist_ok=True)
    from vgg.weights import find_weights, load_model

    # First of all, because what follows imports torch and that takes seconds.
    find_weights(options.model, weights_dir=options.weights_dir)
    from vgg.predictor import Predictor

    model = load_model(options.model, weights_dir=options.weights_dir)
    check_trained(model.config, options.model)
    predictor = Predictor(model, options.device, options.precision, flip=options.flip)

    def heatmap_of(path: Path) -> str | None:
        from vgg.explanation import write_heatmap

        written = write_heatmap(predictor, path, options.heatmaps)
        return str(written) if written else None

    def answers(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
        predictions = predictor.predict_files(files, options.top_k)
        for path, (prediction, failure) in zip(files, predictions, strict=True):
            yield row_of(path, prediction.to_json() if prediction else [], failure)

    def rows() -> Iterator[dict[str, Any]]:
        unread: list[dict[str, Any]] | None = []  # held back until one picture could be read
        good = [path for path, error in found if error is None]
        results = distributed.in_chunks(good, predictor.batch_size, answers)
        for path, error in found:
            row = row_of(path, [], error) if error else next(results)
            failure = row["error"]
            if options.heatmaps is not None and not failure:
                row["heatmap"] = heatmap_of(path)
            if unread is not None and failure:
                unread.append(row)
                continue
            yield from unread or ()
            unread = None
            yield row
        if unread:
            raise UsageError(unread[0]["error"])

    table = options.csv if distributed.is_first() else None
    places = min(options.top_k, predictor.config.num_classes)
    with distributed.joined(), write_rows(table, places) as keep:
        distributed.check_same(found, "pictures")
        if options.json:
            print_json_list(keep(rows()))
        else:
            for row in keep(rows()):
                print_prediction(row)
    if not options.json and (run := predictor.last_run):
        size = f"{run.image_size} x {run.image_size}"
        print(f"{run.milliseconds:.0f} ms a picture on {run.device}, {run.precision}, {size}")
    return 0


def row_of(path: Path, top: list[dict[str, Any]], error: str | None) -> dict[str, Any]:
    """What is printed and written of one picture."""
    return {"image": str(path), "top": top, "error": error}


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


def run_train(options: argparse.Namespace) -> int:
    if options.no_batch_norm and options.model:
        raise UsageError("--no-batch-norm goes with --depth; a model has its own layers")
    choices = TrainOptions(
        model=options.model,
        depth=options.depth,
        batch_norm=False if options.no_batch_norm else None,
        width=options.width,
        head=options.head,
        mode=options.mode,
        epochs=options.epochs,
        budget_s=options.budget,
        image_size=options.image_size,
        seed=options.seed,
        device=options.device,
        precision=options.precision,
    )
    from vgg.training import train

    with interruptible() as stopped, told_events() as tell:
        result = train(
            options.folder,
            out=options.out,
            options=choices,
            resume=options.resume,
            weights_dir=options.weights_dir,
            on_event=tell,
            should_stop=stopped,
        )
    if options.json:
        print(json.dumps(result.to_json(), ensure_ascii=False, indent=1))
        return 0
    low, high = result.accuracy_interval
    print(
        f"{100 * result.accuracy:.1f} % of {result.held_out} held-out pictures are named right "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    )
    print(f"{result.out}: use it with --model {result.out}")
    return 0


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether Ctrl-C was pressed; a second Ctrl-C ends the program."""
    pressed = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        print("\nstopping; the best model so far is kept", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def run_evaluate(options: argparse.Namespace) -> int:
    from vgg.evaluation import evaluate
    from vgg.intake import scan_folder
    from vgg.predictor import Predictor
    from vgg.training import pictures_of
    from vgg.weights import load_model

    with pictures_of(options.folder) as (root, _):
        index = scan_folder(root, least=1)
        model = load_model(options.model, weights_dir=options.weights_dir)
        check_trained(model.config, options.model)
        predictor = Predictor(model, options.device, options.precision)
        with progress_line("pictures measured") as tell:
            found = evaluate(predictor, index, on_progress=tell)
    if options.json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=1))
        return 0
    low, high = found.accuracy_interval
    print(
        f"{100 * found.accuracy:.1f} % of {found.images} pictures are named right "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %), "
        f"{100 * found.top5:.1f} % among the best five"
    )
    width = max(map(len, found.per_class))
    print(f"{'class':{width}}  pictures  precision  recall     F1")
    for name, score in found.per_class.items():
        shares = (score.precision, score.recall, score.f1)
        cells = "  ".join(
            f"{100 * share:7.1f}" if share is not None else "      –" for share in shares
        )
        print(f"{name:{width}}  {score.support:8d}  {cells}")
    for hint in found.hints:
        print(f"note: {hint}")
    return 0


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


def run_benchmark(options: argparse.Namespace) -> int:
    from vgg.bench import run_bench

    def tell(row: Any) -> None:
        print(f"{row.name}: {row.ratio:.2f} of {row.rival}", file=sys.stderr, flush=True)

    report = run_bench(
        quick=options.quick, on_row=tell, device=options.device, precision=options.precision
    )
    print(json.dumps(report.to_json(), indent=1) if options.json else report.table())
    return 0


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

"""The command line: `python -m vgg …`, thin over the library.

Exit status: 0; 2 for what the user can mend, with one line that says what and how; 1 for our bug.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vgg import distributed
from vgg.commands import (
    run_benchmark,
    run_deploy,
    run_evaluate,
    run_export,
    run_info,
    run_push,
    run_shapes,
    run_train,
)
from vgg.data.folder_names import CLASSES
from vgg.data.shapes import SAMPLE_COUNT, SAMPLE_SEED, SAMPLE_SIZE
from vgg.errors import ProcessLostError, StoppedError, UserError
from vgg.inference.options import PredictOptions
from vgg.network.config import AUTO, PRECISIONS
from vgg.network.heads import HEADS
from vgg.predict_command import run_predict
from vgg.terminal import UsageError, one_line
from vgg.training.options import DEFAULT_BUDGET, DEFAULT_MODEL, MODES, TrainOptions

PROGRAM = "vgg"
ENVIRONMENT_PREFIX = "VGG_STUDIO_"


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose options can also be set as `VGG_STUDIO_<OPTION>`, and whose errors
    are one line. Of options that exclude each other, two sides each in `either`, what is typed
    wins over what is set."""

    either: tuple[tuple[set[str], set[str]], ...] = ()

    def error(self, message: str) -> NoReturn:
        raise UsageError("cli.usage", message=message, program=self.prog)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        excluded = self._excluded_by_what_is_typed(args)
        for action in self._actions:
            option = next((o for o in action.option_strings if o.startswith("--")), None)
            if option and action.dest not in excluded:
                self._set_from_environment(action, option)
        return super().parse_known_args(args, namespace)

    def _excluded_by_what_is_typed(self, args: Any) -> set[str]:
        if not self.either:
            return set()
        found = vars(super().parse_known_args(args)[0])  # nothing of the environment yet
        typed = {a.dest for a in self._actions if found.get(a.dest) != a.default}
        sides = [side for pair in self.either for side in (pair, pair[::-1])]
        return {name for one, other in sides if typed & one for name in other}

    def _set_from_environment(self, action: argparse.Action, option: str) -> None:
        name = ENVIRONMENT_PREFIX + option.lstrip("-").replace("-", "_").upper()
        value = os.environ.get(name)
        if not value or action.dest in ("help", argparse.SUPPRESS):
            return
        if action.nargs == 0:  # a switch
            action.default = value.lower() not in ("0", "false", "no", "off")
            return
        if action.choices is not None and value not in action.choices:
            raise UsageError("cli.environment", name=name, value=value, choices=[*action.choices])
        action.default = value
        action.required = False


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Parser]  # argparse has no public name for it


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command and the page have."""
    parser.add_argument(
        "--device", default=AUTO, help=f"auto, cpu, cuda, cuda:N, mps or xpu (default: {AUTO})"
    )
    parser.add_argument(
        "--precision", default=AUTO, choices=PRECISIONS, help=f"default: {AUTO}, the fastest here"
    )
    parser.add_argument(
        "--weights-dir", type=Path, help="the folder with models (default: the project's weights/)"
    )


def build_parser() -> Parser:
    """All commands with their options; defaults stand in the library's option classes."""
    parser = Parser(prog="python -m vgg", description="VGG Studio without a page.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add_to in (add_predict, add_train, add_models, add_shapes, add_hub, add_machine):
        add_to(commands)
    for command in commands.choices.values():
        add_run_options(command)
    return parser


def add_predict(commands: "Commands") -> None:
    predict = commands.add_parser("predict", help="say what is in pictures")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE|FOLDER")
    asked = PredictOptions()
    predict.add_argument("--model", default=asked.model, help=f"default: {asked.model}")
    add_class_names(predict)
    predict.add_argument(
        "--top-k", type=int, default=asked.top_k, help=f"classes a picture (default: {asked.top_k})"
    )
    add_json(predict, run_predict)
    predict.add_argument("--csv", type=Path, metavar="FILE", help="write a table, a row a picture")
    predict.add_argument(
        "--heatmaps",
        type=Path,
        metavar="DIR",
        help="write each picture with what speaks for its top answer",
    )
    predict.add_argument("--flip", action="store_true", help="average with the mirror image")


def add_train(commands: "Commands") -> None:
    train = commands.add_parser("train", help="train a classifier on a folder")
    train.add_argument("folder", type=Path, metavar="FOLDER|ZIP")
    train.add_argument(
        "--model", help=f"pretrained network to start from (default: {DEFAULT_MODEL})"
    )
    add_class_names(train)
    train.add_argument("--depth", type=int, help="11, 13, 16 or 19, instead of --model")
    train.add_argument("--no-batch-norm", action="store_true", help="with --depth")
    train.add_argument("--width", type=float, help="scales every channel count, with --depth")
    train.add_argument("--head", choices=tuple(HEADS), help="default: stages on a trunk, else gap")
    mode, seed = TrainOptions.mode, TrainOptions.seed
    train.add_argument("--mode", choices=MODES, default=mode, help=f"default: {mode}")
    train.add_argument("--epochs", type=int, help="how long, instead of --budget")
    train.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help=f"how long, evaluation included (default from scratch: {DEFAULT_BUDGET:g})",
    )
    train.add_argument("--image-size", type=int, metavar="PX", help="default: chosen")
    train.add_argument(
        "--no-mirror",
        action="store_true",
        help="no mirror images (default: unless classes are each other's)",
    )
    add_labels(train)
    train.add_argument("--seed", type=int, default=seed, help=f"default: {seed}")
    train.add_argument("--out", type=Path, help="default: weights/NAME, as the folder's name")
    train.add_argument("--resume", action="store_true", help="go on with a killed training")
    train.either = (
        ({"model"}, {"depth", "no_batch_norm", "width"}),
        ({"epochs"}, {"budget"}),
    )
    add_json(train, run_train)


def add_class_names(command: Parser) -> None:
    command.add_argument(
        "--class-names",
        metavar="FILE|a,b,c",
        help="names of the model's classes, where its file has none: a text file with one a line, "
        "a JSON list, or as they are",
    )


def add_labels(command: Parser) -> None:
    """Where the classes of a folder's pictures stand."""
    command.add_argument(
        "--labels",
        metavar="FILE.csv|names",
        help="a table of files and classes, or the files' own names (default: the sub-folders)",
    )
    command.add_argument(
        "--classes",
        choices=CLASSES,
        default=TrainOptions.classes,
        help="which folders of a tree are classes (default: top)",
    )


def add_models(commands: "Commands") -> None:
    """What is done with a finished model."""
    evaluate = commands.add_parser("evaluate", help="measure a model on a folder")
    evaluate.add_argument("folder", type=Path, metavar="FOLDER|ZIP")
    evaluate.add_argument("--model", required=True)
    add_class_names(evaluate)
    add_labels(evaluate)
    add_json(evaluate, run_evaluate)

    export = commands.add_parser("export", help="write a model as files that work elsewhere")
    export.add_argument("--model", required=True)
    add_class_names(export)
    export.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    add_json(export, run_export)


def add_shapes(commands: "Commands") -> None:
    shapes = commands.add_parser("shapes", help="draw the sample folder")
    shapes.add_argument("out", type=Path, metavar="OUT")
    for name, default, unit in (
        ("--count", SAMPLE_COUNT, "pictures a class"),
        ("--seed", SAMPLE_SEED, "of the chance"),
        ("--size", SAMPLE_SIZE, "pixels a side"),
    ):
        shapes.add_argument(name, type=int, default=default, help=f"{unit} (default: {default})")
    shapes.set_defaults(run=run_shapes)


def add_hub(commands: "Commands") -> None:
    """What goes to the Hugging Face Hub."""
    push = commands.add_parser("push", help="put a model into a repository on the Hub")
    push.add_argument("--model", required=True)
    push.add_argument("--to", required=True, metavar="OWNER/NAME", help="the repository")
    push.set_defaults(run=run_push)

    deploy = commands.add_parser("deploy", help="make a Hugging Face Space of this program")
    deploy.add_argument("--to", required=True, metavar="OWNER/SPACE")
    deploy.add_argument(
        "--model", help=f"what visitors meet first (default: {PredictOptions.model})"
    )
    deploy.add_argument(
        "--hardware", help="the Hub's name of a machine, such as t4-small or zero-a10g"
    )
    deploy.add_argument("--dry-run", action="store_true", help="list the files, send nothing")
    add_json(deploy, run_deploy)

    for command in (push, deploy):
        command.add_argument("--private", action="store_true", help="seen by its owner only")
        command.add_argument(
            "--token", help="yours, that may write (default: the one of `hf auth login`)"
        )


def add_machine(commands: "Commands") -> None:
    """What this machine can do, and what it has."""
    bench = commands.add_parser("bench", help="measure against named rivals, on this machine")
    bench.add_argument("--quick", action="store_true", help="under a minute")
    add_json(bench, run_benchmark)

    info = commands.add_parser("info", help="say what a model is, and what this machine has")
    info.add_argument("--model", help="default: all that are here")
    add_class_names(info)
    info.set_defaults(run=run_info)


def add_json(command: Parser, run: Callable[[argparse.Namespace], int]) -> None:
    """The option of a command that has a document to print, and what the command does."""
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(run=run)


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
            raise UsageError("cli.one_process", command=options.command)
        with distributed.stdout_of_rank_0():
            return options.run(options) or 0
    except (UserError, OSError, ProcessLostError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        which = f" (process {distributed.rank()})" if not distributed.is_rank_0() else ""
        print(f"{PROGRAM}{which}: {one_line(error)}", file=sys.stderr)
        return 2
    except (StoppedError, KeyboardInterrupt) as stop:
        print(f"{PROGRAM}: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130

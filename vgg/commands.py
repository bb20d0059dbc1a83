"""What each command of `python -m vgg …` but `predict` does: the library's functions, and what is
printed.

Each `run_…` gets the parsed options and returns the exit status.
"""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from vgg.checkpoints.class_names import class_names_of
from vgg.terminal import UsageError, accuracy_sentence, describe_config, progress_line, told_events
from vgg.training.options import DEFAULT_MODEL, TrainOptions


def run_train(options: argparse.Namespace) -> int:
    if options.no_batch_norm and options.model:
        raise UsageError("cli.batch_norm")
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
        mirror=False if options.no_mirror else None,
        labels=options.labels,
        classes=options.classes,
        seed=options.seed,
        device=options.device,
        precision=options.precision,
    )
    if options.class_names:  # the new model has the folder's classes: these are checked alone
        from vgg.checkpoints.loading import find_config

        named = options.model or DEFAULT_MODEL
        names = class_names_of(options.class_names)
        find_config(named, weights_dir=options.weights_dir, class_names=names)
    from vgg.training.trainer import train

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
    print(
        accuracy_sentence(result.accuracy, result.accuracy_interval, f"{result.held_out} held-out")
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
    from vgg.checkpoints.loading import load_model
    from vgg.data.folder import scan_folder
    from vgg.data.sources import pictures_of
    from vgg.inference.evaluation import evaluate
    from vgg.inference.predictor import Predictor, check_trained

    with ExitStack() as stack:
        fetched = stack.enter_context(progress_line("bytes fetched"))
        tell_size = partial(print, file=sys.stderr)
        root, _ = stack.enter_context(
            pictures_of(options.folder, on_message=tell_size, on_progress=fetched)
        )
        with progress_line("files looked at") as tell:
            index = scan_folder(
                root, least=1, labels=options.labels, classes=options.classes, on_progress=tell
            )
        for note in index.notes:
            print(f"note: {note}", file=sys.stderr)
        names = class_names_of(options.class_names)
        model = load_model(options.model, weights_dir=options.weights_dir, class_names=names)
        check_trained(model.config, options.model)
        predictor = Predictor(model, options.device, options.precision)
        with progress_line("pictures measured") as tell:
            found = evaluate(predictor, index, on_progress=tell)
    if options.json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=1))
        return 0
    said = accuracy_sentence(found.accuracy, found.accuracy_interval, str(found.images))
    print(f"{said}, {100 * found.top5:.1f} % among the best five")
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


def run_export(options: argparse.Namespace) -> int:
    from vgg.export.bundle import export_bundle

    def tell(event: dict[str, Any]) -> None:
        print(event["message"], file=sys.stderr, flush=True)

    bundle = export_bundle(
        options.model,
        options.out,
        weights_dir=options.weights_dir,
        class_names=class_names_of(options.class_names),
        on_event=tell,
    )
    if options.json:
        print(json.dumps(bundle.to_json(), ensure_ascii=False, indent=1))
        return 0
    print(
        f"{bundle.folder} and {bundle.zip.name}: {bundle.bytes / 1e6:.1f} MB, the same best class "
        f"as here on {bundle.images} pictures ({bundle.held_out} held out by its training), "
        f"probabilities within {bundle.largest_difference:.4f}"
    )
    return 0


def run_push(options: argparse.Namespace) -> int:
    from vgg.export.hub import push

    def tell(event: dict[str, Any]) -> None:
        if event["kind"] == "send":
            megabytes = event["bytes"] / 1e6
            print(f"sending {event['files']} files, {megabytes:.1f} MB", file=sys.stderr)

    url = push(
        options.model,
        options.to,
        token=own_token(options),
        private=options.private,
        weights_dir=options.weights_dir,
        on_event=tell,
    )
    print(f"{url}: load it with --model hf-hub:{options.to}")
    return 0


def own_token(options: argparse.Namespace) -> str | None:
    """The token that was given, else the one with which the person at this machine signed in."""
    from huggingface_hub import get_token

    return options.token or get_token()


def run_deploy(options: argparse.Namespace) -> int:
    from vgg.export.space import deploy

    found = deploy(
        options.to,
        model=options.model,
        hardware=options.hardware,
        private=options.private,
        token=None if options.dry_run else own_token(options),
        dry_run=options.dry_run,
        weights_dir=options.weights_dir,
    )
    if options.json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=1))
        return 0
    if options.dry_run:
        for path, size in found.files:
            print(f"{size / 1000:10.1f} kB  {path}")
    total = f"{len(found.files)} files, {found.total / 1e6:.1f} MB"
    done = f"{total}, would go to" if options.dry_run else f"{total}, went to"
    print(f"{done} {found.url}; it starts with {found.model}")
    return 0


def run_shapes(options: argparse.Namespace) -> int:
    from vgg.data.shapes import draw_folder

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
    from vgg.bench.suite import run_bench

    def tell(row: Any) -> None:
        print(f"{row.name}: {row.ratio:.2f} of {row.rival}", file=sys.stderr, flush=True)

    report = run_bench(
        quick=options.quick, on_row=tell, device=options.device, precision=options.precision
    )
    print(json.dumps(report.to_json(), indent=1) if options.json else report.table())
    return 0


def run_info(options: argparse.Namespace) -> int:
    from vgg.checkpoints.loading import available_models, find_config

    if options.model:
        names = class_names_of(options.class_names)
        config = find_config(options.model, weights_dir=options.weights_dir, class_names=names)
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

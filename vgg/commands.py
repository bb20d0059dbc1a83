"""What each command of `python -m vgg …` does: the library's functions, and what is printed.

Each `run_…` gets the parsed options and returns the exit status.
"""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg import distributed
from vgg.options import ModelConfig, TrainOptions
from vgg.terminal import (
    UsageError,
    describe_config,
    print_json_list,
    print_prediction,
    progress_line,
    told_events,
)

if TYPE_CHECKING:
    from vgg.predictor import Predictor

MANY_FILES = 2000  # from so many on it pays to start processes that read: seconds, once
MOST_PROCESSES = 16  # that read; each takes some 300 MB of memory
Found = list[tuple[Path, str | None]]  # a file, or what is wrong with it


def run_predict(options: argparse.Namespace) -> int:
    from vgg.table import key_of, rows_done, write_rows

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
    weights = find_weights(options.model, weights_dir=options.weights_dir)
    from vgg.predictor import Predictor

    model = load_model(options.model, weights_dir=options.weights_dir)
    check_trained(model.config, options.model)
    flip = options.flip or None  # else as the model says
    predictor = Predictor(model, options.device, options.precision, flip=flip)

    def heatmap_of(path: Path) -> str | None:
        from vgg.explanation import write_heatmap

        written = write_heatmap(predictor, path, options.heatmaps)
        return str(written) if written else None

    def answers(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
        workers = reading_processes(predictor, len(files))
        predictions = predictor.predict_files(files, options.top_k, workers=workers)
        for path, (prediction, failure) in zip(files, predictions, strict=True):
            yield row_of(path, prediction.to_json() if prediction else [], failure)

    def rows(done: int) -> Iterator[dict[str, Any]]:
        # Held back until one picture could be read.
        unread: list[dict[str, Any]] | None = None if done else []
        good = [path for path, error in found[done:] if error is None]
        results = distributed.in_chunks(good, predictor.batch_size, answers)
        for path, error in found[done:]:
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
    key, images = "", [str(path) for path, _ in found]
    if table and not options.json and options.heatmaps is None:  # all that is asked for is rows
        asked = (weights, weights_time(weights), options.top_k, options.flip, str(predictor.dtype))
        key = key_of(asked, (path for path, _ in found))
    with distributed.joined():
        distributed.check_same(found, "pictures")
        done = distributed.from_first(
            lambda: rows_done(options.csv, places, key, images) if key else 0
        )
        done = whole_batches(found, done, predictor.batch_size)
        if predictor.device.type == "cuda":
            from vgg.compiled import PICTURES

            if len(found) - done >= PICTURES * distributed.world():
                predictor.compile()
                distributed.meet()  # it takes one process longer than another
        if done and distributed.is_first():
            print(f"{done} of {len(found)} were answered before the break", file=sys.stderr)
        with write_rows(table, places, key=key, done=done) as keep:
            if options.json:
                print_json_list(keep(rows(0)))
            else:
                for row in keep(rows(done)):
                    print_prediction(row)
    if not options.json and (run := predictor.last_run):
        size = f"{run.image_size} x {run.image_size}"
        print(f"{run.milliseconds:.0f} ms a picture on {run.device}, {run.precision}, {size}")
    return 0


def reading_processes(predictor: "Predictor", files: int) -> int:
    """How many processes read the files. On a processor none: the model has all of it anyway, and
    threads are there at once. A GPU would wait for the threads of one Python."""
    if predictor.device.type == "cpu" or files < MANY_FILES:
        return 0
    from vgg.device import cpu_cores
    from vgg.stream import room_for_processes

    cfg = predictor.config.pretrained_cfg
    most = min(cpu_cores(), MOST_PROCESSES, room_for_processes(cfg, predictor.batch_size))
    return most // distributed.local_world()


def row_of(path: Path, top: list[dict[str, Any]], error: str | None) -> dict[str, Any]:
    """What is printed and written of one picture."""
    return {"image": str(path), "top": top, "error": error}


def whole_batches(found: Found, done: int, batch_size: int) -> int:
    """So many of the first `done` that the rest falls into the same batches as without a break:
    a picture's answer depends on its batch in the last digits."""
    good = sum(error is None for _, error in found[:done])
    while done and good % batch_size:
        done -= 1
        good -= found[done][1] is None
    return done


def weights_time(weights: Path) -> float:
    """When the model was last changed."""
    files = weights.iterdir() if weights.is_dir() else [weights]
    return max((file.stat().st_mtime for file in files), default=0.0)


def find_images(path: Path) -> Found:
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


def run_export(options: argparse.Namespace) -> int:
    from vgg.export import export_bundle

    def tell(event: dict[str, Any]) -> None:
        print(event["message"], file=sys.stderr, flush=True)

    bundle = export_bundle(
        options.model, options.out, weights_dir=options.weights_dir, on_event=tell
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
    from vgg.hub import push

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
    from vgg.space import deploy

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

"""`python -m vgg predict`: pictures and folders in, answers on the terminal, as JSON or in a
table."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg import distributed
from vgg.checkpoints.class_names import class_names_of
from vgg.inference.options import PredictOptions
from vgg.terminal import UsageError, print_json_list, print_prediction, progress_line

if TYPE_CHECKING:
    from vgg.inference.predictor import Predictor

MANY_FILES = 2000  # from so many on it pays to start processes that read: seconds, once
MOST_PROCESSES = 16  # that read; each takes some 300 MB of memory
Found = list[tuple[Path, str | None]]  # a file, or what is wrong with it


def run_predict(options: argparse.Namespace) -> int:
    choices = PredictOptions(
        top_k=options.top_k,
        flip=options.flip or None,  # else as the model says
        device=options.device,
        precision=options.precision,
    )
    found = asked_pictures(options)
    from vgg.checkpoints.loading import find_weights, load_model

    # First of all, because what follows imports torch and that takes seconds.
    weights = find_weights(options.model, weights_dir=options.weights_dir)
    from vgg.inference.predictor import Predictor, check_trained

    names = class_names_of(options.class_names)
    model = load_model(options.model, weights_dir=options.weights_dir, class_names=names)
    check_trained(model.config, options.model)
    predictor = Predictor(model, choices.device, choices.precision, flip=choices.flip)
    with distributed.joined():
        distributed.check_same(found, "pictures")
        print_answers(Answers(options, found, predictor), weights)
    if not options.json and (run := predictor.last_run):
        size = f"{run.image_size} x {run.image_size}"
        print(f"{run.milliseconds:.0f} ms a picture on {run.device}, {run.precision}, {size}")
    return 0


def asked_pictures(options: argparse.Namespace) -> Found:
    """The pictures that the command line names, once it makes sense."""
    found = [entry for path in options.images for entry in find_images(at_hand(path))]
    if all(error for _, error in found):
        raise UsageError("cli.unread" if len(found) == 1 else "cli.none_read", why=found[0][1])
    if options.csv is not None:
        check_writable(options.csv)
    if options.heatmaps is not None:
        if distributed.world() > 1:
            raise UsageError("cli.heatmaps")
        options.heatmaps.mkdir(parents=True, exist_ok=True)
    return found


@dataclass(frozen=True)
class Answers:
    """What is asked for, and the model that answers."""

    options: argparse.Namespace
    found: Found
    predictor: "Predictor"

    def rows(self, done: int) -> Iterator[dict[str, Any]]:
        """A row a picture, but for the first `done`; `UsageError` where none can be read."""
        # Held back until one picture could be read.
        unread: list[dict[str, Any]] | None = None if done else []
        good = [path for path, error in self.found[done:] if error is None]
        results = distributed.in_chunks(good, self.predictor.batch_size, self._answered)
        for path, error in self.found[done:]:
            row = row_of(path, [], error) if error else next(results)
            if unread is not None and row["error"]:
                unread.append(row)
                continue
            yield from unread or ()
            unread = None
            yield row
        if unread:
            raise UsageError("cli.unread", why=unread[0]["error"])

    def _answered(self, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
        if self.options.heatmaps is not None:
            yield from self._with_maps(files)
            return
        workers = reading_processes(self.predictor, len(files))
        predictions = self.predictor.predict_files(files, self.options.top_k, workers=workers)
        for path, (prediction, failure) in zip(files, predictions, strict=True):
            yield row_of(path, prediction.to_json() if prediction else [], failure)

    def _with_maps(self, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
        """Answers and, of the same pass, what speaks for them, written as pictures."""
        from vgg.data.images import ImageError
        from vgg.inference.heatmap import explain, write_heatmap

        for path in files:
            try:
                found = explain(self.predictor, self.predictor.read(path))
            except ImageError as error:
                yield row_of(path, [], str(error))
                continue
            written = write_heatmap(found, path.stem, self.options.heatmaps)
            (prediction,) = self.predictor.top(found.probs[None], self.options.top_k)
            row = row_of(path, prediction.to_json(), None)
            yield {**row, "heatmap": str(written) if written else None}


def print_answers(answers: Answers, weights: Path) -> None:
    """The rows on the terminal, as JSON or in a table; where all that is asked for is rows, a table
    that was broken off goes on."""
    from vgg.inference.csv_table import key_of, rows_done, write_rows

    options, found, predictor = answers.options, answers.found, answers.predictor
    table = options.csv if distributed.is_rank_0() else None
    places = min(options.top_k, predictor.config.num_classes)
    key, images = "", [str(path) for path, _ in found]
    if table and not options.json and options.heatmaps is None:
        precision = options.precision, str(predictor.dtype)
        names = predictor.config.label_names
        asked = (weights, weights_time(weights), options.top_k, options.flip, names, *precision)
        key = key_of(asked, (path for path, _ in found))
    done = distributed.run_on_rank_0(
        lambda: rows_done(options.csv, places, key, images) if key else 0
    )
    done = whole_batches(found, done, predictor.batch_size)
    if predictor.device.type == "cuda":
        from vgg.network.compiling import PICTURES

        if len(found) - done >= PICTURES * distributed.world():
            predictor.compile()
            distributed.barrier()  # it takes one process longer than another
    if done and distributed.is_rank_0():
        print(f"{done} of {len(found)} were answered before the break", file=sys.stderr)
    with write_rows(table, places, key=key, done=done) as keep:
        if options.json:
            print_json_list(keep(answers.rows(0)))
        else:
            for row in keep(answers.rows(done)):
                print_prediction(row)


def reading_processes(predictor: "Predictor", files: int) -> int:
    """How many processes read the files. On a processor none: the model has all of it anyway, and
    threads are there at once. A GPU would wait for the threads of one Python."""
    if predictor.device.type == "cpu" or files < MANY_FILES:
        return 0
    from vgg.data.batches import room_for_processes
    from vgg.device import cpu_cores

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


def at_hand(path: Path) -> Path:
    """The path itself, or the folder that a dataset on the Hub becomes."""
    from vgg.data.hub_datasets import is_hub_address

    if not is_hub_address(path):
        return path
    from vgg.data.sources import fetch

    with progress_line("bytes fetched") as tell:
        return distributed.run_on_rank_0(
            lambda: fetch(path, lambda text: print(text, file=sys.stderr), tell)
        )


def find_images(path: Path) -> Found:
    """A file as it is, or a folder's pictures in order; the second item says why there is none."""
    from vgg.data.walk import pictures_below

    if not path.is_dir():
        return [(path, None if path.exists() else str(UsageError("cli.no_file", path=path)))]
    found = pictures_below(path)
    if not found:
        return [(path, str(UsageError("cli.no_pictures", path=path)))]
    return [(file, None) for file in found]


def check_writable(file: Path) -> None:
    if file.is_dir() or not file.parent.is_dir():
        raise UsageError("cli.not_written", file=file)

"""What is kept of a training on disk until it ends, so that the next start of the page can go on
with it: its choices, and the pictures that were uploaded for it."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from vgg.data import temporary
from vgg.errors import UserError
from vgg.training.options import TrainOptions
from vgg.ui.server.job import UNFINISHED, Job
from vgg.ui.server.private_models import Owner

PREFIX = ".unfinished-"  # a folder of the weights folder; a name with a dot is not listed
FILE = "job.json"
PICTURES = "pictures"


def begin(job: Job, home: Path) -> None:
    """Write a job down in a folder of its own, which takes its uploaded pictures in."""
    home.mkdir(parents=True, exist_ok=True)
    record = Path(tempfile.mkdtemp(prefix=PREFIX, dir=home))
    temporary.keep(record)
    try:
        if job.owned:
            temporary.let_go(job.folder)
            shutil.move(job.folder, record / PICTURES)
            job.folder = record / PICTURES
        job.record = record
        content = {
            "id": job.id,
            "folder": None if job.owned else str(job.folder),
            "out": str(job.out),
            "options": asdict(job.options),
            "owner": job.owner.key,
            "created": job.created,
        }
        part = record / f"{FILE}.part"
        part.write_text(json.dumps(content, ensure_ascii=False, default=str), encoding="utf-8")
        part.replace(record / FILE)
    except BaseException:
        temporary.remove(record)
        raise


def end(job: Job) -> None:
    """Nothing needs to be gone on with: the job is over, or its owner gives it up."""
    if job.record is not None:
        temporary.remove(job.record)
        job.record = None


def unfinished(home: Path) -> Iterator[Job]:
    """The jobs of processes that have died; those of a living one, such as another page on the same
    weights folder, are left to it. A record that can't be read goes."""
    for record in sorted(home.glob(f"{PREFIX}*")):
        if temporary.is_in_use(record):
            continue
        temporary.keep(record)
        try:
            content = json.loads((record / FILE).read_text(encoding="utf-8"))
            folder = content["folder"]
            yield Job(
                folder=record / PICTURES if folder is None else Path(folder),
                out=Path(content["out"]),
                options=TrainOptions(**content["options"]),
                owned=folder is None,
                id=content["id"],
                owner=Owner(key=content["owner"]),
                state=UNFINISHED,
                created=float(content["created"]),
                record=record,
            )
        except (OSError, ValueError, KeyError, TypeError, UserError):
            temporary.remove(record)

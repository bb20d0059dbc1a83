"""What a person names as pictures, brought to a folder: a folder, a zip, a dataset on the Hub."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vgg import distributed
from vgg.data.hub_datasets import fetch_dataset, find_dataset, is_hub_address
from vgg.data.index import Skipped
from vgg.data.temporary import temporary
from vgg.data.zips import open_zip


@contextmanager
def pictures_of(
    source: str | Path,
    *,
    on_message: Callable[[str], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] = bool,
) -> Iterator[tuple[Path, tuple[Skipped, ...]]]:
    """The folder of pictures that `source` means, while the block lasts, and what was left out.

    A zip is unpacked into a temporary folder. Of `hf://datasets/…` `on_message` gets the size
    before anything comes down, `on_progress` (bytes so far, bytes in all).
    """
    if is_hub_address(source):
        source = distributed.run_on_rank_0(
            lambda: fetch(source, on_message, on_progress, should_stop)
        )
    path = Path(source)
    if not path.is_file() or not zipfile.is_zipfile(path):
        yield path, ()
        return
    with temporary("zip") as scratch:
        yield open_zip(path, scratch / path.stem, should_stop=should_stop)


def fetch(
    source: str | Path,
    on_message: Callable[[str], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] = bool,
) -> Path:
    """The folder, or the zip, of a dataset on the Hub, on this machine."""
    dataset = find_dataset(source)
    if on_message:
        on_message(dataset.describe())
    return fetch_dataset(dataset, on_progress=on_progress, should_stop=should_stop)

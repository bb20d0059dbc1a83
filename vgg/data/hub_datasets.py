"""Pictures from the Hub: `hf://datasets/owner/name[@revision][/folder]`, a folder in the end.

Three forms are understood: pictures in folders, zips of pictures, and parquet tables with a column
of pictures and one of labels (as the `datasets` library writes them). Files come into the Hub's
own cache, so that a broken download goes on; what is unpacked of them lies in ours.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

from vgg.data.cache import cache_dir
from vgg.data.images import IMAGE_SUFFIXES
from vgg.data.zips import open_zip
from vgg.downloads import hub_errors, reach_hub
from vgg.errors import StoppedError, UserError

ADDRESS = re.compile(r"hf:/{1,2}datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+?))?/?")
LABEL_FILES = (".csv", ".jsonl")
AT_ONCE = 8  # files; each small one costs a round trip
ROWS_AT_ONCE = 64
# Of several columns of labels the first of these names is taken.
LABEL_NAMES = ("label", "labels", "class", "target", "category", "fine_label")
FOLDER_LETTERS = re.compile(r'[\\/:*?"<>|\x00-\x1f]')

Progress = Callable[[int, int], None]  # bytes so far, bytes in all; raising ends it


@dataclass(frozen=True)
class HubDataset:
    """What a dataset on the Hub holds: its files of one form, (path, bytes) each."""

    repo_id: str
    revision: str
    folder: str
    form: str  # "pictures", "zips" or "parquet"
    files: tuple[tuple[str, int], ...]

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.files)

    def describe(self) -> str:
        return f"{self.repo_id}: {len(self.files)} files ({self.form}), {self.bytes / 1e6:.1f} MB"


def is_hub_address(source: str | Path) -> bool:
    """Whether `source` is `hf://datasets/…` (a `Path` of it has lost one of the slashes)."""
    return ADDRESS.fullmatch(Path(source).as_posix()) is not None


def find_dataset(source: str | Path) -> HubDataset:
    """List the files of the dataset at an address, without fetching any."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    match = ADDRESS.fullmatch(Path(source).as_posix())
    if match is None:
        raise UserError("data.hub_address", address=str(source))
    repo_id, revision, folder = match[1], match[2], match[3] or ""
    reach_hub(repo_id, repo_id, pictures=True)
    with hub_errors(repo_id, pictures=True):
        api = HfApi()
        sha = api.dataset_info(repo_id, revision=revision).sha or revision or "main"
        entries = api.list_repo_tree(
            repo_id, folder or None, recursive=True, revision=sha, repo_type="dataset"
        )
        files = sorted((e.path, e.size) for e in entries if isinstance(e, RepoFile))
    for form, suffixes in (
        ("parquet", (".parquet",)), ("zips", (".zip",)), ("pictures", IMAGE_SUFFIXES),
    ):  # fmt: skip
        chosen = [f for f in files if PurePosixPath(f[0]).suffix.lower() in suffixes]
        if chosen:
            if form == "pictures":
                chosen += [f for f in files if PurePosixPath(f[0]).suffix in LABEL_FILES]
            return HubDataset(repo_id, sha, folder, form, tuple(chosen))
    raise UserError("data.hub_no_pictures", name=repo_id)


def fetch_dataset(
    dataset: HubDataset,
    *,
    on_progress: Progress | None = None,
    should_stop: Callable[[], bool] = bool,
) -> Path:
    """Fetch what is not here yet and return a folder of pictures, or the one zip there is."""
    files = _download(dataset, on_progress, should_stop)
    if dataset.form == "pictures":
        root = files[0]
        for _ in PurePosixPath(dataset.files[0][0]).parts:
            root = root.parent
        return root / dataset.folder
    if dataset.form == "zips" and len(files) == 1:
        return files[0]
    name = f"{dataset.repo_id.replace('/', '--')}-{dataset.revision[:12]}"
    if dataset.folder:
        name += f"-{dataset.folder.replace('/', '-')}"
    target = cache_dir() / "hub-datasets" / name / PurePosixPath(dataset.repo_id).name
    if target.is_dir():
        return target
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        if dataset.form == "zips":
            for file, (path, _) in zip(files, dataset.files, strict=True):
                _check(should_stop)
                open_zip(file, part / PurePosixPath(path).stem)
        else:
            _unpack_tables(dataset, files, part, should_stop)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _check(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise StoppedError("data.stopped")


def _download(
    dataset: HubDataset, on_progress: Progress | None, should_stop: Callable[[], bool]
) -> list[Path]:
    """All files in the Hub's cache, in the order of the dataset's list."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import tqdm

    done, total, lock = 0, dataset.bytes, Lock()
    constants.HF_HUB_DISABLE_XET = True  # it could not be stopped

    def tell(count: float) -> None:
        nonlocal done
        _check(should_stop)
        with lock:
            done += int(count)
            if on_progress:
                on_progress(min(done, total), total)

    class Counting(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            tell(n or 0)

    def fetch(path: str) -> Path:
        _check(should_stop)
        return Path(
            hf_hub_download(
                dataset.repo_id, path, repo_type="dataset", revision=dataset.revision,
                tqdm_class=Counting,
            )
        )  # fmt: skip

    with hub_errors(dataset.repo_id, pictures=True), ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            return list(pool.map(fetch, [path for path, _ in dataset.files]))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


# Parquet


def _unpack_tables(
    dataset: HubDataset, files: Sequence[Path], into: Path, should_stop: Callable[[], bool]
) -> None:
    """Write the pictures of parquet tables as files: `split/class/picture`."""
    splits = [_split_of(path) for path, _ in dataset.files]
    several = len(set(splits)) > 1
    number = 0
    for file, split in zip(files, splits, strict=True):
        home = into / split if several else into
        for picture, label, name in _rows(dataset, file):
            _check(should_stop)
            number += 1
            folder = home / (FOLDER_LETTERS.sub("_", label).strip(" .") or "unnamed")
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / FOLDER_LETTERS.sub("_", name or f"{number:06d}{_suffix(picture)}")
            if target.exists():
                target = target.with_name(f"{target.stem}-{number:06d}{target.suffix}")
            target.write_bytes(picture)


def _split_of(path: str) -> str:
    """`data/train-00000-of-00002.parquet` and `default/train/0000.parquet` → `train`."""
    file = PurePosixPath(path)
    found = re.fullmatch(r"(.+?)-\d{5}-of-\d{5}.*", file.stem)
    if found:
        return found[1]
    if re.fullmatch(r"\d+", file.stem) and file.parent.name:
        return file.parent.name
    return file.stem


def _rows(dataset: HubDataset, file: Path) -> Iterator[tuple[bytes, str, str]]:
    """(bytes of the picture, label, file name or "") of each row that has a picture."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError("data.hub_needs_pyarrow", name=dataset.repo_id) from error
    try:
        with ParquetFile(file) as table:
            picture, label, names = _columns(dataset, table.schema_arrow)
            for batch in table.iter_batches(ROWS_AT_ONCE, columns=[picture, label]):
                for row in batch.to_pylist():
                    image, value = row[picture], row[label]
                    content = image.get("bytes") if isinstance(image, dict) else image
                    if not content or value is None or value == -1:
                        continue
                    path = image.get("path") if isinstance(image, dict) else None
                    text = names[value] if names and isinstance(value, int) else str(value)
                    yield content, text, PurePosixPath(path or "").name
    except (ArrowException, OSError, IndexError) as error:
        raise UserError("data.hub_table", name=dataset.repo_id) from error


def _columns(dataset: HubDataset, schema: Any) -> tuple[str, str, list[str]]:
    """(column of pictures, column of labels, names of the labels) of a table."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    kinds = {name: (features.get(name) or {}) for name in schema.names}
    kinds = {name: kind if isinstance(kind, dict) else {} for name, kind in kinds.items()}
    pictures = [n for n in schema.names if kinds[n].get("_type") == "Image"]
    pictures = pictures or [n for n in schema.names if _holds_bytes(schema.field(n).type)]
    labels = [n for n in schema.names if kinds[n].get("_type") == "ClassLabel"]
    labels = labels or [n for n in LABEL_NAMES if n in schema.names]
    if not pictures or not labels:
        raise UserError("data.hub_columns", name=dataset.repo_id, columns=tuple(schema.names))
    label = next((n for n in LABEL_NAMES if n in labels), labels[0])
    names = kinds[label].get("names") or []
    return pictures[0], label, [str(name) for name in names]


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _suffix(picture: bytes) -> str:
    known = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"))
    return next((suffix for head, suffix in known if picture.startswith(head)), ".jpg")

"""Only the convolutions of a model on the Hub: 59 of the 553 MB of a VGG-16.

A safetensors file begins with a header that says where each tensor lies (the format's README:
eight bytes with the header's length, then JSON), so range requests bring the part that is wanted.
What has come stays in a `.part` file and is gone on with after a break.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from vgg.checkpoints.file_names import CONFIG_FILE, WEIGHTS_FILE
from vgg.data.cache import cache_dir
from vgg.downloads import DownloadProgress, RangesNotServedError, RemoteFile, small_file
from vgg.network.config import dump_config, read_config

FIRST_BYTES = 16 * 1024  # a VGG's header takes 3 to 6 kB
LARGEST_HEADER = 1024 * 1024
WORTH_IT = 0.9  # of the file: where the trunk is more, the whole file comes
TRUNK_PREFIX = "features."

Entries = dict[str, dict[str, Any]]  # of a safetensors header: dtype, shape, data_offsets by name


@dataclass(frozen=True)
class Block:
    """Bytes `start` to `stop` of the remote file: tensors that lie side by side."""

    start: int
    stop: int


def cached_trunk(repository: str) -> Path | None:
    """The folder with a repository's trunk (`config.json` with `num_classes` 0, and the weights)
    that was fetched before; None where it was not. With several revisions, the newest."""
    home = _home(repository)
    found = [file.parent for file in home.glob(f"*/{WEIGHTS_FILE}")] if home.is_dir() else []
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)


def download_trunk(
    repository: str, *, on_progress: DownloadProgress | None = None, name: str | None = None
) -> Path | None:
    """Fetch the trunk of a Hub repository `owner/name[@revision]` into the cache: a folder.

    None where the whole file has to come: no ranges are served, the file is no safetensors file of
    a VGG, or hardly more than a trunk. `on_progress` raising ends it; the next call goes on.
    """
    with RemoteFile.open(repository, WEIGHTS_FILE, wanted=name or repository) as remote:
        try:
            layout = _layout(remote)
        except RangesNotServedError:
            return None
        if layout is None:
            return None
        entries, offset = layout
        config = read_config(small_file(repository, CONFIG_FILE))
        folder = _home(repository) / remote.version
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{WEIGHTS_FILE}.part"
        with FileLock(folder / ".lock"):  # of several processes one fetches
            if (folder / WEIGHTS_FILE).is_file():
                return folder
            _fetch(remote, part, entries, offset, on_progress)
            trunk = replace(config, num_classes=0, label_names=(), trained=False, extra={})
            (folder / CONFIG_FILE).write_text(dump_config(trunk), encoding="utf-8")
            part.replace(folder / WEIGHTS_FILE)  # last: it makes the folder a trunk
    return folder


def _layout(remote: RemoteFile) -> tuple[Entries, int] | None:
    """The entries of the trunk, in the order of the file, and where the tensors begin; None where
    there is nothing to gain."""
    head = remote.read(0, min(FIRST_BYTES, remote.size))
    length = int.from_bytes(head[:8], "little")
    if not 2 <= length <= min(LARGEST_HEADER, remote.size - 8):
        return None
    if len(head) < 8 + length:
        head += remote.read(len(head), 8 + length)
    try:
        entries = _trunk_entries(json.loads(head[8 : 8 + length]))
        size = sum(block.stop - block.start for block in _blocks(entries))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # damaged or no such file: reading the whole of it will say so
    return (entries, 8 + length) if 0 < size <= WORTH_IT * remote.size else None


def _home(repository: str) -> Path:
    return cache_dir() / "trunks" / repository.replace("/", "--")


def _trunk_entries(header: Entries) -> Entries:
    """The header's entries of the convolutions and their batch norm, in the order of the file."""
    chosen = {key: entry for key, entry in header.items() if key.startswith(TRUNK_PREFIX)}
    return dict(sorted(chosen.items(), key=lambda item: item[1]["data_offsets"]))


def _blocks(entries: Entries) -> list[Block]:
    """Where the entries lie, behind the header; neighbours are one block."""
    blocks: list[Block] = []
    for entry in entries.values():
        start, stop = map(int, entry["data_offsets"])
        if not 0 <= start <= stop or (blocks and start < blocks[-1].stop):
            raise ValueError("offsets are out of order")
        if blocks and start == blocks[-1].stop:
            blocks[-1] = Block(blocks[-1].start, stop)
        else:
            blocks.append(Block(start, stop))
    return blocks


def _file_head(entries: Entries) -> bytes:
    """Length and header of a safetensors file that holds the entries one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for key, entry in entries.items():
        start, stop = entry["data_offsets"]
        header[key] = {**entry, "data_offsets": [at, at + stop - start]}
        at += stop - start
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def _fetch(
    remote: RemoteFile,
    part: Path,
    entries: Entries,
    offset: int,
    on_progress: DownloadProgress | None,
) -> None:
    """Write a safetensors file of the entries into `part`, going on from where it ends. `offset` is
    where the tensors begin in the remote file."""
    head, blocks = _file_head(entries), _blocks(entries)
    total = sum(block.stop - block.start for block in blocks)
    have = part.stat().st_size if part.is_file() else 0
    if not len(head) <= have <= len(head) + total or not _begins_with(part, head):
        part.write_bytes(head)
        have = len(head)
    done = have - len(head)
    passed = 0
    with part.open("ab") as file:
        for block in blocks:
            size = block.stop - block.start
            skip = min(max(0, done - passed), size)
            passed += size
            if skip == size:
                continue
            for chunk in remote.stream(offset + block.start + skip, offset + block.stop):
                file.write(chunk)
                done += len(chunk)
                if on_progress:
                    on_progress(done, total)


def _begins_with(file: Path, head: bytes) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(head)) == head

"""Room for pictures, in memory and on the disk, asked for before it is used.

This module never imports torch.
"""

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

from vgg.errors import UserError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def memory_available() -> int | None:
    """Bytes that this process can still take without swapping; None where no one tells."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = (line.split() for line in meminfo.read_text().splitlines())
        found += [1024 * int(line[1]) for line in lines if line[0] == "MemAvailable:"]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdecimal():
        found.append(max(0, int(text) - int(used.read_text())))
    return min(found, default=None)


def temporary_file(size: int) -> IO[bytes]:
    """A file of `size` bytes, zeros, in the cache's folder, which goes when it is closed.

    Its room on the disk is reserved: a mapped file that the disk has no room for ends the process
    where it is written to. `UserError` where there is too little.
    """
    from vgg.data.cache import cache_dir  # it imports NumPy, which a look at the memory needs not

    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(prefix="vgg-pixels-", dir=folder)  # noqa: SIM115
    except OSError:  # nothing can be written there
        folder = Path(tempfile.gettempdir())
        file = tempfile.TemporaryFile(prefix="vgg-pixels-", dir=folder)  # noqa: SIM115
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            file.truncate(size)
    except OSError as error:
        file.close()
        if error.errno not in _NO_ROOM:
            raise
        free = shutil.disk_usage(folder).free
        raise UserError("data.no_disk", megabytes=size / 1e6, free=free / 1e6) from None
    return file

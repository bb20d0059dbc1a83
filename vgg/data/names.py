"""Names of files and folders, as every system takes them: Windows is the strictest."""

import re
import sys

ON_WINDOWS = sys.platform == "win32"
MAX_LETTERS = 100  # of a name that we make: below the limit of every disk

_FORBIDDEN = re.compile(r'[\x00-\x1f/\\:*?"<>|]')
_DEVICES = {"con", "prn", "aux", "nul"} | {
    f"{d}{n}" for d in ("com", "lpt") for n in "123456789¹²³"
}


def windows_takes(name: str) -> bool:
    """Whether Windows takes a name as it stands. It forbids some signs, drops dots and spaces at
    the end, and has devices of old, such as `nul`, which `nul.txt` means, too."""
    device = name.partition(".")[0].rstrip(" ").lower() in _DEVICES
    return not (device or _FORBIDDEN.search(name) or name != name.rstrip(". ") or not name)


def file_name(text: str, default: str, *, windows: bool = ON_WINDOWS) -> str:
    """`text` as the name of a file or folder: the same, less what no system should meet in one.
    `default` stands for a text of which nothing is left; `windows`: devices' names change, too."""
    plain = _FORBIDDEN.sub("-", text).strip(". ")[:MAX_LETTERS].rstrip(". ") or default
    return f"_{plain}" if windows and not windows_takes(plain) else plain

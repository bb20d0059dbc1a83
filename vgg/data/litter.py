"""What systems and programs leave behind in people's folders: passed over, and named once."""

import re
from collections.abc import Sequence

from vgg.data.index import Skipped

# Patterns of whole names, in any case, and who leaves them.
_LEFT_BY = {
    "macOS": r"\.ds_store|\._.*|__macosx|\.appledouble|\.lsoverride|\.spotlight-v100|\.trashes"
    r"|\.fseventsd|\.temporaryitems|temporary items|network trash folder|\.localized|icon\r"
    r"|\.documentrevisions-v100|\.volumeicon\.icns",
    "Windows": r"thumbs\.db(:encryptable)?|ehthumbs(_vista)?\.db|desktop\.ini|\$recycle\.bin"
    r"|system volume information|recycler|~\$.*|folder\.htt|.*zone\.identifier",
    "Synology": r"@eadir|#recycle|#snapshot|@tmp|@sharesnap|synofile_thumb.*"
    r"|\.synologyworkingdirectory",
    "QNAP": r"@recycle|\.@__thumb|@recently-snapshot",
    "Linux": r"lost\+found|\.trash(-.*)?|\.directory|\.thumbnails|\.nfs.*|\.fuse_hidden.*|.*[^~]~",
    "Jupyter": r"\.ipynb_checkpoints",
    "Python": r"__pycache__",
    "Git": r"\.git.*",
    "Picasa": r"\.?picasa\.ini|\.picasaoriginals",
    "a cloud folder": r"\.dropbox.*|\.stfolder|\.stversions|\.sync|\.owncloud.*|\.cache",
}
_ANY = re.compile("|".join(_LEFT_BY.values()), re.IGNORECASE)  # most names are none: once is enough
_PATTERNS = {who: re.compile(pattern, re.IGNORECASE) for who, pattern in _LEFT_BY.items()}


def litter_of(name: str) -> str:
    """Who leaves a file or folder of this name behind; empty where a person named it so."""
    if _ANY.fullmatch(name):
        return next(who for who, pattern in _PATTERNS.items() if pattern.fullmatch(name))
    return "a program (hidden)" * name.startswith(".")


class Litter:
    """What was left behind in one folder or zip."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def takes(self, parts: Sequence[str]) -> bool:
        """Whether a path, by its parts, is or lies in what a system leaves behind; it is counted
        then."""
        left_by = [litter_of(part) for part in parts]
        first = next((k for k, who in enumerate(left_by) if who), None)
        if first is not None:
            name = "/".join(parts[: first + 1]).encode(errors="replace").decode()
            self._names.setdefault(left_by[first], []).append(name)
        return first is not None

    @property
    def skipped(self) -> list[Skipped]:
        """What each system left, named once with its count."""
        found = []
        for who, names in self._names.items():
            more = len(names) - 1
            count = f", as {'are' if more > 1 else 'is'} {more} more" if more else ""
            found.append(Skipped(names[0], f"is left behind by {who}{count}"))
        return found


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or what systems leave behind."""
    return bool(litter_of(name))

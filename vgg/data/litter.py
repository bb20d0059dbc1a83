"""What systems and programs leave behind in people's folders: passed over, and named once."""

import re

# Patterns of whole names, in any case, and who leaves them.
_LEFT_BY = {
    "macOS": r"\.ds_store|\._.*|__macosx|\.appledouble|\.lsoverride|\.spotlight-v100|\.trashes"
    r"|\.fseventsd|\.temporaryitems|temporary items|network trash folder|\.localized|icon\r"
    r"|\.documentrevisions-v100|\.volumeicon\.icns",
    "Windows": r"thumbs\.db(:encryptable)?|ehthumbs(_vista)?\.db|desktop\.ini|\$recycle\.bin"
    r"|system volume information|recycler|~\$.*|folder\.htt",
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


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or what systems leave behind."""
    return bool(litter_of(name))

"""The door for paths that come from a browser: only what was uploaded to this page goes on."""

from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder

from vgg.errors import UserError


def uploaded(path: Any) -> Path:
    """The file at `path`, where it is an upload; `ValueError` for any other.

    Gradio looks at the path of a gallery's picture, or of what `gr.api` gets, only where the sender
    marks it as a file. Who leaves the mark out could name any file of the server.
    """
    try:
        home = Path(get_upload_folder()).resolve()
        if isinstance(path, str) and Path(path).resolve().is_relative_to(home):
            return Path(path)
    except (OSError, RuntimeError, ValueError):  # too long, a circle of links, a zero byte
        pass
    raise UserError("ui.not_uploaded")

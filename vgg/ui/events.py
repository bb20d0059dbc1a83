"""How events of the page behave: programs don't see them, and what a person can mend is said."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from vgg.errors import StoppedError
from vgg.ui.words import sentence, told

log = logging.getLogger(__name__)

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUIET: dict[str, Any] = {"show_progress": "hidden", **PRIVATE}
# A click on a button within HTML is an event that carries the button's data.
SEND_CLICKS = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button && Object.keys(button.dataset).length) trigger("click", { ...button.dataset });
});"""


@contextmanager
def said(words: Callable[[str], str] = sentence, title: str = "Error") -> Iterator[None]:
    """What the library refuses is said to who asked, without a traceback or a path."""
    try:
        yield
    except gr.Error:
        raise
    except (ValueError, TypeError, OverflowError, StoppedError) as error:
        raise gr.Error(words(told(error)), title=title, print_exception=False) from error
    except OSError as error:
        log.exception("the disk refuses")
        raise gr.Error(f"The disk refuses: {error.strerror}.", print_exception=False) from error

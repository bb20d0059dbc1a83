"""A call that fails leaves one short line in the log, however much was sent with it."""

import logging
import traceback
from pathlib import Path
from typing import Any

import gradio as gr

from vgg.errors import StoppedError, UserError
from vgg.ui.words import sentence, told

log = logging.getLogger(__name__)

_OURS = f"{Path(__file__).resolve().parents[2]}/"


class QuietBlocks(gr.Blocks):
    """Gradio's blocks, which print a traceback with all that was sent for each call that fails, and
    tell who called nothing. These tell what went wrong, without a place on the server.

    With `traces` a failure in our own code leaves its traceback, too: for a page that only its
    owner reaches.
    """

    traces = False

    async def process_api(self, *args: Any, **words: Any) -> dict[str, Any]:
        """As Gradio's; `words` are its keyword arguments."""
        try:
            return await super().process_api(*args, **words)
        except gr.Error as error:
            if error.print_exception:  # Gradio's own, of a value that the page does not send
                self._write_line(error, words.get("block_fn"))
                error.print_exception = False
            raise
        except Exception as error:
            if not isinstance(error, UserError | StoppedError):
                is_ours = self._write_line(error, words.get("block_fn"))
                if is_ours:
                    error = UserError("ui.failed", kind=type(error).__name__)
            raise gr.Error(sentence(told(error)), print_exception=False) from None

    def _write_line(self, error: Exception, event: Any) -> bool:
        """Whether it failed in our own code; else the call did not come so far."""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
        ours = [f for f in frames if f.filename.startswith(_OURS)]
        where = f" in {ours[-1].filename[len(_OURS) :]}:{ours[-1].lineno}" if ours else ""
        name = getattr(event, "api_name", None) or getattr(event, "name", "?")
        trace = error if self.traces and ours else None
        log.warning("%s failed: %s%s", name, type(error).__name__, where, exc_info=trace)
        return bool(ours)


class _OneLine(logging.Filter):
    """Keeps of a record's exception its type alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and (kind := record.exc_info[0]):
            record.msg, record.args = f"a request failed: {kind.__name__}", ()
            record.exc_info = record.exc_text = None
        return True


def quiet_web_server() -> None:
    """The same for requests that fail before they come to an event of the page."""
    server = logging.getLogger("uvicorn.error")
    if not any(isinstance(found, _OneLine) for found in server.filters):
        server.addFilter(_OneLine())

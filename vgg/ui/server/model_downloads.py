"""Downloads of weights under way, one a model, shared by all visitors of the page."""

import queue
import threading

from vgg.errors import StoppedError, UserError
from vgg.ui.server.model_store import ModelStore


class Downloads:
    """The running downloads; they go on when a tab closes."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self._running: dict[str, Download] = {}
        self._lock = threading.Lock()

    def start(self, name: str) -> "Download":
        """The running download of this model, or a new one."""
        with self._lock:
            running = self._running.get(name)
            if running is None or not running.is_alive():
                running = self._running[name] = Download(self.store, name)
                running.start()
            running.asked.add(self.store.visitor())
            return running

    def stop(self, name: str) -> None:
        """Stop the download of this model; on a public page it goes on for others who asked."""
        with self._lock:
            if running := self._running.get(name):
                running.asked.discard(self.store.visitor())
                if not (self.store.settings.public and running.asked):
                    running.stopped.set()


class Download(threading.Thread):
    """One download in its own thread; what it has to say is read by `wait`."""

    def __init__(self, store: ModelStore, name: str) -> None:
        super().__init__(name=f"download-{name}", daemon=True)
        self.store, self.model_name = store, name
        self.stopped = threading.Event()
        self.asked = set[str | None]()  # the sessions that wait for it
        self._text = f"Asking the Hub for {name} …"
        self._result: queue.Queue[str] = queue.Queue()

    def run(self) -> None:
        try:
            self.store.predictor(self.model_name, on_progress=self._tell)
            self._result.put("")
        except (UserError, StoppedError) as error:
            self._result.put(str(error))
        except Exception as error:
            self._result.put(f"the download failed ({type(error).__name__}); try again")
            raise

    def wait(self, seconds: float = 0.4) -> tuple[str, str]:
        """("progress", how far) or ("done", what went wrong or nothing)."""
        try:
            text = self._result.get(timeout=seconds)
        except queue.Empty:
            return "progress", self._text
        self._result.put(text)  # another visitor may wait for it too
        return "done", text

    def _tell(self, received: int, expected: int) -> None:
        if self.stopped.is_set():
            raise StoppedError("ui.download_stopped")
        percent = 100 * received // max(1, expected)
        megabytes = f"{received / 1e6:.0f} of {expected / 1e6:.0f} MB"
        self._text = f"Downloading {self.model_name}: {percent} % ({megabytes})"
